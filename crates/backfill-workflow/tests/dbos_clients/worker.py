"""A worker with DBOS's library for Python, for a client of ours. Its argument is the database's URL; it ends with its standard input."""

import sys

from dbos import DBOS, DBOSConfig

config: DBOSConfig = {
    "name": "python-worker",
    "system_database_url": sys.argv[1],
    "run_admin_server": False,
    "application_version": "python",
}
DBOS(config=config)


@DBOS.step(name="square")
def square(number):
    return number * number


@DBOS.workflow(name="square_it")
def square_it(number):
    return square(number)


@DBOS.workflow(name="fail_it")
def fail_it(message):
    raise ValueError(message)


@DBOS.workflow(name="chat")
def chat():
    message = DBOS.recv("chat", timeout_seconds=60)
    DBOS.write_stream("log", message)
    DBOS.close_stream("log")
    return message


DBOS.launch()
DBOS.register_queue("python")
print("launched", flush=True)
sys.stdin.read()
DBOS.destroy()
