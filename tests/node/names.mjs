// Adds jobs whose task and queue names come and go: node names.mjs URL SCHEMA COUNT
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { makeWorkerUtils } = await import(require.resolve("graphile-worker"));

const [url, schema, count] = process.argv.slice(2);
const utils = await makeWorkerUtils({ connectionString: url, schema });
for (let n = 0; n < Number(count); n++) {
  const name = `name ${(n * 7) % 29}`;
  await utils.addJob(name, {}, { queueName: name });
}
await utils.release();
