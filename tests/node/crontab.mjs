// What Node makes of crontab lines: node crontab.mjs < one JSON request a line, > one JSON answer a line.
// A request is {"line": text, "times": [unix milliseconds, …]}.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { parseCrontab } = await import(require.resolve("graphile-worker"));

function understand({ line, times }) {
  let items;
  try {
    items = parseCrontab(line);
  } catch (error) {
    return { error: error.message };
  }
  return items.map((item) => ({
    identifier: item.identifier,
    task: item.task,
    options: item.options,
    payload: item.payload ?? {},
    due: times.map((time) => {
      const date = new Date(time);
      return item.match({
        min: date.getUTCMinutes(),
        hour: date.getUTCHours(),
        date: date.getUTCDate(),
        month: date.getUTCMonth() + 1,
        dow: date.getUTCDay(),
      });
    }),
  }));
}

for await (const text of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(understand(JSON.parse(text))));
}
