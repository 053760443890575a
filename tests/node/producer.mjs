// Adds jobs as a Node producer does: node producer.mjs URL SCHEMA COUNT
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { makeWorkerUtils } = await import(require.resolve("graphile-worker"));

const [url, schema, count] = process.argv.slice(2);
const utils = await makeWorkerUtils({ connectionString: url, schema });
const specs = Array.from({ length: Number(count) }, (_, n) => ({
  identifier: "record",
  payload: { recorded: true, ms: n % 3, from: "node", n },
  queueName: n % 2 === 0 ? `queue ${n % 40}` : undefined,
  jobKey: n % 10 === 1 ? `node ${n}` : undefined,
  priority: n % 3,
}));
for (const spec of specs.slice(0, 200)) {
  const { identifier, payload, ...options } = spec;
  await utils.addJob(identifier, payload, options);
}
await utils.addJobs(specs.slice(200));
await utils.release();
console.log(`added ${count}`);
