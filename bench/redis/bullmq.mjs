// BullMQ as a contestant: `bullmq.mjs CASE PORT COUNT`. It prints one number: seconds, or milliseconds of the latency.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { Queue, Worker } = require("bullmq");

const [what, port, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const connection = { host: "127.0.0.1", port };
const options = { removeOnComplete: true, removeOnFail: true };
const queue = new Queue("noop", { connection, defaultJobOptions: options });
const data = (n) => ({ n, body: "x".repeat(80) });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

if (what === "bulk") {
  const begin = performance.now();
  for (let n = 0; n < count; n += 1000) {
    const jobs = Array.from({ length: Math.min(1000, count - n) }, (_, i) => ({ name: "noop", data: data(n + i) }));
    await queue.addBulk(jobs);
  }
  console.log((performance.now() - begin) / 1000);
} else if (what === "work") {
  let [first, done] = [0, 0];
  const worker = new Worker(
    "noop",
    async () => {
      first ||= performance.now();
      done += 1;
    },
    { connection, concurrency: 200, ...options },
  );
  const left = async () => {
    const counts = await queue.getJobCounts("wait", "active", "prioritized", "delayed");
    return Object.values(counts).reduce((sum, n) => sum + n, 0);
  };
  while (done < count || (await left()) > 0) await sleep(5);
  console.log((performance.now() - first) / 1000);
  await worker.close();
} else {
  const waits = [];
  let started;
  const worker = new Worker("noop", async () => started(performance.now()), { connection, concurrency: 24, ...options });
  await worker.waitUntilReady();
  await sleep(500);
  for (let n = 0; n < count; n += 1) {
    const start = new Promise((resolve) => (started = resolve));
    const begin = performance.now();
    await queue.add("noop", data(n));
    waits.push((await start) - begin);
    await sleep(2);
  }
  waits.sort((a, b) => a - b);
  console.log(waits[Math.floor(waits.length / 2)]);
  await worker.close();
}
await queue.close();
process.exit(0);
