// Node's worker with batching off: node drain.mjs URL SCHEMA CONCURRENCY. Ends when its standard input is closed.
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { run, Logger } = await import(require.resolve("graphile-worker"));

const [url, schema, concurrency] = process.argv.slice(2);
process.env.NO_LOG_SUCCESS = "1";
const runner = await run({
  connectionString: url,
  schema,
  concurrency: Number(concurrency),
  maxPoolSize: Number(concurrency) + 2,
  noHandleSignals: true,
  logger: new Logger(() => () => {}),
  taskList: { noop: async () => {} },
});
process.stdin.resume();
process.stdin.on("end", async () => {
  await runner.stop();
  process.exit(0);
});
