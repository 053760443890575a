"""taskiq as a contestant: `taskiq_peer.py CASE PORT COUNT`. It prints one number: seconds, or milliseconds of the latency.

Its list broker takes a message off the list before the task begins, so what a killed worker held is lost.
"""

import asyncio
import os
import sys
import time

import redis.asyncio
from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker

WHAT, PORT, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
broker = ListQueueBroker(f"redis://127.0.0.1:{PORT}", max_connection_pool_size=600)
state = {"first": 0.0, "done": 0, "started": None}


@broker.task(task_name="noop")
async def noop(n: int, body: str) -> None:
    state["first"] = state["first"] or time.perf_counter()
    state["done"] += 1
    if state["started"]:
        state["started"].set_result(time.perf_counter())


async def main():
    await broker.startup()
    if WHAT == "bulk":
        begin = time.perf_counter()
        for n in range(0, COUNT, 500):
            await asyncio.gather(*(noop.kiq(n + i, "x" * 80) for i in range(min(500, COUNT - n))))
        print(time.perf_counter() - begin)
        return
    broker.is_worker_process = True
    running = asyncio.create_task(run_receiver_task(broker, max_async_tasks=1000, max_prefetch=500))
    client = redis.asyncio.Redis(port=PORT)
    if WHAT == "work":
        while state["done"] < COUNT or await client.llen("taskiq"):
            await asyncio.sleep(0.005)
        print(time.perf_counter() - state["first"])
    else:
        await asyncio.sleep(0.5)
        waits = []
        for n in range(COUNT):
            state["started"] = asyncio.get_running_loop().create_future()
            begin = time.perf_counter()
            await noop.kiq(n, "x" * 80)
            waits.append((await state["started"] - begin) * 1000)
            await asyncio.sleep(0.002)
        print(sorted(waits)[len(waits) // 2])
    sys.stdout.flush()
    os._exit(0)


import uvloop

uvloop.run(main())
