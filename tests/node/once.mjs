// Runs what is ready, once, with a task that fails: node once.mjs URL SCHEMA
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { runOnce } = await import(require.resolve("graphile-worker"));

const [url, schema] = process.argv.slice(2);
await runOnce({
  connectionString: url,
  schema,
  preset: { worker: { failJobBatchDelay: 0 } },
  taskList: {
    fail: async () => {
      throw new Error("no");
    },
  },
});
