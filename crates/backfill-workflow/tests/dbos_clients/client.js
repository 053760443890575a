// DBOS's client for TypeScript against a worker of ours. Its argument is the database's URL.

import assert from "node:assert/strict";

import { DBOSClient } from "@dbos-inc/dbos-sdk";

const client = await DBOSClient.create({ systemDatabaseUrl: process.argv[2] });

const enqueue = (name, args = [], options = {}, named = undefined) =>
  client.enqueuePortable({ workflowName: name, queueName: "orders", ...options }, args, named);

const check = (what, found, expected) => {
  assert.deepEqual(found, expected, what);
  console.log(`ok ${what}`);
};

check("a result", await (await enqueue("double", [21])).getResult(), 42);
check("named arguments", await (await enqueue("greet", [], {}, { name: "Ada", times: 1 })).getResult(), "Hello Ada");
await assert.rejects(
  async () => (await enqueue("fails", ["no stock"])).getResult(),
  (error) => {
    check("an error", [error.name, error.message, error.code, error.data], ["NoStock", "no stock", 7, ["a"]]);
    return true;
  },
);

const steps = await enqueue("steps", [], { workflowID: "typescript-1" });
check("the workflow's id", steps.workflowID, "typescript-1");
check("the result of steps", await steps.getResult(), "two");
const recorded = await client.listWorkflowSteps("typescript-1");
check("steps", recorded.map((step) => [step.functionID, step.name]), [[0, "first"], [1, "DBOS.sleep"], [2, "second"]]);
const [listed] = await client.listWorkflows({ workflowIDs: ["typescript-1"] });
check("a list", [listed.status, listed.workflowName, listed.output], ["SUCCESS", "steps", "two"]);

const talks = await enqueue("talks");
check("an event", await client.getEvent(talks.workflowID, "ready", 20), { is: true });
await client.send(talks.workflowID, { text: "hi" }, "chat", undefined, { serializationType: "portable" });
const log = [];
for await (const value of client.readStream(talks.workflowID, "log")) log.push(value);
check("a stream", log, [0, { text: "hi" }]);
check("a message", await talks.getResult(), { text: "hi" });

const cancelled = await enqueue("talks");
await client.getEvent(cancelled.workflowID, "ready", 20);
await client.cancelWorkflow(cancelled.workflowID);
await assert.rejects(async () => cancelled.getResult());
await client.resumeWorkflow(cancelled.workflowID);
await client.send(cancelled.workflowID, "later", "chat", undefined, { serializationType: "portable" });
check("resume", await (client.retrieveWorkflow(cancelled.workflowID)).getResult(), "later");

const fork = await client.forkWorkflow("typescript-1", 2);
check("fork", await client.retrieveWorkflow(typeof fork === "string" ? fork : fork.workflowID).getResult(), "two");

await client.destroy();
console.log("done");
