// Node's side of the example: node worker.mjs URL. Ends when its standard input is closed.
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { run, Logger } = await import(require.resolve("graphile-worker"));

const runner = await run({
  connectionString: process.argv[2],
  noHandleSignals: true,
  logger: new Logger(() => () => {}),
  preset: { worker: { completeJobBatchDelay: 0 } },
  taskList: {
    in_node: async (payload, helpers) => {
      console.log(`Node runs job ${helpers.job.id}, which Rust added, and adds one for Rust`);
      await helpers.addJob("in_rust", "Node");
    },
  },
});
process.stdin.resume();
process.stdin.on("end", async () => {
  await runner.stop();
  process.exit(0);
});
