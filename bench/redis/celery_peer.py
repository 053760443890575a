"""Celery with Redis as a contestant: `celery_peer.py CASE PORT COUNT`. It prints one number: seconds, or milliseconds of the latency.

A message is acknowledged before its task begins (Celery's default), so what a killed worker ran is lost.
"""

import os
import subprocess
import sys
import time

import redis
from celery import Celery

PORT = int(os.environ.get("PEER_PORT") or sys.argv[2])
app = Celery("celery_peer", broker=f"redis://127.0.0.1:{PORT}/0")
app.conf.update(
    task_ignore_result=True, worker_prefetch_multiplier=256, worker_enable_remote_control=False, task_send_sent_event=False,
    worker_send_task_events=False, broker_connection_retry_on_startup=True, broker_pool_limit=10,
)
client = redis.Redis(port=PORT)


@app.task(name="noop")
def noop(n, body):
    pass


@app.task(name="told")
def told(n, body):
    client.rpush("started", repr(time.time()))


def worker(*more):
    environment = dict(os.environ, PEER_PORT=str(PORT))
    words = [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "--loglevel=CRITICAL", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return subprocess.Popen([*words, *more], env=environment, cwd=os.path.dirname(os.path.abspath(__file__)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def left():
    return client.llen("celery") + client.hlen("unacked")


def main(what, count):
    if what == "bulk":
        begin = time.perf_counter()
        with app.producer_pool.acquire() as producer:
            for n in range(count):
                noop.apply_async((n, "x" * 80), producer=producer)
        print(time.perf_counter() - begin)
    elif what == "work":
        running = worker("-P", "prefork", "-c", "2", "-O", "fair")
        while left() >= count:
            time.sleep(0.001)
        begin = time.perf_counter()
        while left() > 0:
            time.sleep(0.005)
        print(time.perf_counter() - begin)
        running.kill()
    else:
        running = worker("-P", "threads", "-c", "24")
        waits = []
        for n in range(-1, count):
            begin = time.time()
            told.apply_async((n, "x" * 80))
            started = float(client.blpop("started", timeout=60)[1])
            if n >= 0:
                waits.append((started - begin) * 1000)
            time.sleep(0.002)
        print(sorted(waits)[len(waits) // 2])
        running.kill()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]))
