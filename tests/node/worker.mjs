// A Node worker for the tests: node worker.mjs URL SCHEMA CONCURRENCY [POLL_MS]
//
// Its task `record` writes each start and end into the table `runs` of the schema `test`, if there is one. It ends in an
// orderly way when its standard input is closed. (Node's own signal handling ends before finished jobs are written.)
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { run } = await import(require.resolve("graphile-worker"));

const [url, schema, concurrency, poll] = process.argv.slice(2);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

const runner = await run({
  connectionString: url,
  schema,
  concurrency: Number(concurrency),
  pollInterval: Number(poll ?? 100),
  noHandleSignals: true,
  maxPoolSize: Number(concurrency) + 4,
  preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  taskList: {
    record: async (payload, helpers) => {
      const queue = await helpers.getQueueName();
      const recorded = payload?.recorded === true;
      if (recorded) {
        await helpers.query("insert into test.runs (job, queue, pool, side, began) values ($1, $2, $3, 'node', clock_timestamp())", [helpers.job.id, queue, helpers.job.locked_by]);
        if (payload.ms) await wait(payload.ms);
        await helpers.query("update test.runs set ended = clock_timestamp() where job = $1 and side = 'node'", [helpers.job.id]);
      }
    },
    fail: async () => {
      throw new Error("no");
    },
  },
});
console.log("ready");
process.stdin.resume();
process.stdin.on("end", async () => {
  await runner.stop();
  process.exit(0);
});
