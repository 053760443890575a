"""dbos for Python as a contestant. The environment tells what to measure, as src/child.rs writes it."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, DBOSClient

WHO, ROLE, FLYING, SECONDS, COUNT, URL = os.environ["BACKFILL_BENCH_TOLD"].split(" ")
FLYING, SECONDS, COUNT = int(FLYING), float(SECONDS), int(COUNT)
BEST = WHO.endswith("-best")
STEPS = 10
state = {"listens": False, "at": 0.0}
heard = threading.Event()


@DBOS.step()
def step(n: int) -> int:
    return n


@DBOS.workflow()
def ten(n: int) -> int:
    for number in range(STEPS):
        step(n + number)
    return n


@DBOS.workflow()
def nothing(n: int) -> int:
    if state["listens"]:
        state["at"] = time.perf_counter()
        state["listens"] = False
        heard.set()
    return n


def tell(times):
    times.sort()
    for name, share in (("p50 ms", 0.5), ("p99 ms", 0.99)):
        print(name, times[min(int(len(times) * share), len(times) - 1)] * 1000)


def throughput():
    begin = time.perf_counter()
    end = begin + SECONDS

    def work():
        times = []
        while (start := time.perf_counter()) < end:
            ten(1)
            times.append(time.perf_counter() - start)
        return times

    with ThreadPoolExecutor(FLYING) as pool:
        times = [time for one in [pool.submit(work) for _ in range(FLYING)] for time in one.result()]
    print("s", time.perf_counter() - begin)
    print("workflows", len(times))
    tell(times)


def enqueue(client, n):
    client.enqueue({"workflow_name": "nothing", "queue_name": "queue"}, n)


def wait_for_one(client, n):
    heard.clear()
    state["listens"] = True
    begin = time.perf_counter()
    enqueue(client, n)
    heard.wait()
    return state["at"] - begin


def queued_one(client):
    end = time.perf_counter() + max(SECONDS, 6.0)
    times = []
    while time.perf_counter() < end and len(times) < 500:
        times.append(wait_for_one(client, len(times)))
        time.sleep(0.005)
    tell(times)


def queued_many(client):
    begin = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: enqueue(client, n), range(COUNT)))
    print("s to enqueue all", time.perf_counter() - begin)


config = {"name": "bench", "system_database_url": URL, "application_version": "1", "log_level": "CRITICAL"}
if BEST:
    config["sys_db_pool_size"] = 40
DBOS(config=config)
DBOS.launch()
DBOS.register_queue("queue", polling_interval_sec=0.01 if BEST else 1.0)
client = DBOSClient(system_database_url=URL, application_name="bench")
if ROLE == "throughput":
    for n in range(20):
        ten(n)
else:
    for n in range(2):
        wait_for_one(client, n)
print("ready", flush=True)
sys.stdin.readline()
cpu = time.process_time()
if ROLE == "throughput":
    throughput()
elif ROLE == "queued-one":
    queued_one(client)
else:
    queued_many(client)
    # The others are still at work.
    sys.stdin.readline()
print("cpu s", time.process_time() - cpu)
print("done", flush=True)
sys.stdin.readline()
os._exit(0)
