"""DBOS's client for Python against a worker of ours: everything that a client does. Its argument is the database's URL."""

import sys
import time
import uuid

from dbos import DBOSClient, EnqueueOptions
from dbos._error import DBOSAwaitedWorkflowCancelledError, DBOSQueueDeduplicatedError
from dbos._serialization import PortableWorkflowError, WorkflowSerializationFormat

PORTABLE = WorkflowSerializationFormat.PORTABLE

client = DBOSClient(system_database_url=sys.argv[1])


def enqueue(workflow, *args, options=None, **kwargs):
    settings: EnqueueOptions = {"workflow_name": workflow, "queue_name": "orders", "serialization_type": PORTABLE}
    settings.update(options or {})
    return client.enqueue(settings, *args, **kwargs)


def check(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"
    print(f"ok {what}")


# Results and errors.
check("a result", enqueue("double", 21).get_result(), 42)
check("named arguments", enqueue("greet", name="Ada", times=2).get_result(), "Hello Ada Hello Ada")
check("several arguments", enqueue("add", 1, 2).get_result(), 3)
check("no result", enqueue("nothing").get_result(), None)
try:
    enqueue("fails", "no stock").get_result()
    raise AssertionError("it did not fail")
except PortableWorkflowError as error:
    check("an error", (error.name, error.message, error.code, error.data), ("NoStock", "no stock", 7, ["a"]))

# Identity, attributes, the workflow's own id.
identity = {"workflow_id": "python-1", "authenticated_user": "ada", "authenticated_roles": ["clerk"], "attributes": {"order": 17}}
check("identity", enqueue("who", options=identity).get_result(), ["python-1", "ada", ["clerk"]])
status = client.retrieve_workflow("python-1").get_status()
check("status", (status.status, status.name, status.authenticated_user, status.output), ("SUCCESS", "who", "ada", ["python-1", "ada", ["clerk"]]))
check("attributes", status.attributes, {"order": 17})

# Lists.
found = client.list_workflows(name="double")
check("a list", [(one.status, one.input["args"], one.output) for one in found], [("SUCCESS", (21,), 42)])

# Steps.
handle = enqueue("steps")
handle.get_result()
steps = client.list_workflow_steps(handle.workflow_id)
check("steps", [(s["function_id"], s["function_name"], s["output"]) for s in steps], [(0, "first", 1), (1, "DBOS.sleep", steps[1]["output"]), (2, "second", "two")])

# Deduplication, priority, delay.
held = enqueue("talks", options={"deduplication_id": "one"})
try:
    enqueue("talks", options={"deduplication_id": "one"})
    raise AssertionError("it was admitted twice")
except DBOSQueueDeduplicatedError:
    print("ok deduplication")
again = enqueue("talks", options={"deduplication_id": "one", "duplication_policy": "return-existing"})
check("the holder", again.workflow_id, held.workflow_id)
begin = time.time()
check("a delay", enqueue("double", 2, options={"delay_seconds": 0.3}).get_result(), 4)
assert time.time() - begin >= 0.3

# Messages, events, streams.
check("an event", client.get_event(held.workflow_id, "ready", timeout_seconds=20), {"is": True})
client.send(held.workflow_id, {"text": "hi"}, topic="chat", serialization_type=PORTABLE)
check("a stream", list(client.read_stream(held.workflow_id, "log")), [0, {"text": "hi"}])
check("a message", held.get_result(), {"text": "hi"})

# Cancel and resume.
waiting = enqueue("talks")
client.get_event(waiting.workflow_id, "ready", timeout_seconds=20)
client.cancel_workflow(waiting.workflow_id)
try:
    waiting.get_result()
    raise AssertionError("it was not cancelled")
except DBOSAwaitedWorkflowCancelledError:
    print("ok cancel")
resumed = client.resume_workflow(waiting.workflow_id)
client.send(waiting.workflow_id, "later", topic="chat", serialization_type=PORTABLE)
check("resume", resumed.get_result(), "later")

# Resume a running one: another execution takes over.
running = enqueue("talks")
client.get_event(running.workflow_id, "ready", timeout_seconds=20)
client.resume_workflow(running.workflow_id)
client.send(running.workflow_id, "once", topic="chat", serialization_type=PORTABLE)
check("resume of a running one", running.get_result(), "once")

# Fork: a new one with the steps before this one.
fork = client.fork_workflow(handle.workflow_id, 2)
check("fork", fork.get_result(), "two")
forked = client.list_workflow_steps(fork.workflow_id)
check("steps of a fork", [s["function_name"] for s in forked], ["first", "DBOS.sleep", "second"])
check("the sleep of a fork", forked[1]["output"], steps[1]["output"])

# A timeout.
late = enqueue("talks", options={"workflow_timeout": 0.3})
try:
    late.get_result()
    raise AssertionError("its time was not up")
except DBOSAwaitedWorkflowCancelledError:
    print("ok timeout")

# A pickled input is an error, and hangs nobody.
pickled = client.enqueue({"workflow_name": "double", "queue_name": "orders", "workflow_id": "pickled"}, uuid.uuid4())
try:
    pickled.get_result()
    raise AssertionError("it was read")
except Exception as error:
    assert "py_pickle" in str(error), error
    print("ok pickled input")
assert len(client.list_workflows()) > 10

# Queues and versions.
names = sorted(queue.name for queue in client.list_queues())
check("queues", names, ["orders"])
check("versions", client.get_latest_application_version()["version_name"], "v1")

# Schedules.
client.create_schedule(schedule_name="python", workflow_name="tick", schedule="0 0 1 * * *", context={"a": 1})
tick = client.trigger_schedule("python")
deadline = time.time() + 20
while client.retrieve_workflow(tick.workflow_id).get_status().status not in ("SUCCESS", "ERROR") and time.time() < deadline:
    time.sleep(0.05)
check("schedules", [s["schedule_name"] for s in client.list_schedules()], ["python"])
client.delete_workflow(handle.workflow_id)
check("delete", client.list_workflows(workflow_ids=[handle.workflow_id]), [])
client.destroy()
print("done")
