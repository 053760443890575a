"""arq as a contestant: `arq_peer.py CASE PORT COUNT`. It prints one number: seconds, or milliseconds of the latency."""

import asyncio
import sys
import time

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

WHAT, PORT, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SETTINGS = RedisSettings(port=PORT)
state = {"first": 0.0, "done": 0, "started": None}


async def noop(_ctx, n, body):
    state["first"] = state["first"] or time.perf_counter()
    state["done"] += 1
    if state["started"]:
        state["started"].set_result(time.perf_counter())


async def main():
    pool = await create_pool(SETTINGS)
    if WHAT == "bulk":
        begin = time.perf_counter()
        for n in range(0, COUNT, 500):
            await asyncio.gather(*(pool.enqueue_job("noop", n + i, "x" * 80) for i in range(min(500, COUNT - n))))
        print(time.perf_counter() - begin)
        return
    # No results are kept, and it asks for more as soon as it can.
    worker = Worker(
        functions=[noop], redis_settings=SETTINGS, max_jobs=1000, keep_result=0, poll_delay=0.001 if WHAT == "work" else 0.005,
        queue_read_limit=5000, handle_signals=False, log_results=False,
    )
    running = asyncio.create_task(worker.async_run())
    if WHAT == "work":
        while state["done"] < COUNT or await pool.zcard("arq:queue"):
            await asyncio.sleep(0.005)
        print(time.perf_counter() - state["first"])
    else:
        await asyncio.sleep(0.5)
        waits = []
        for n in range(COUNT):
            state["started"] = asyncio.get_running_loop().create_future()
            begin = time.perf_counter()
            await pool.enqueue_job("noop", n, "x" * 80)
            waits.append((await state["started"] - begin) * 1000)
            await asyncio.sleep(0.002)
        print(sorted(waits)[len(waits) // 2])
    running.cancel()


import logging

logging.disable(logging.CRITICAL)
asyncio.run(main())
