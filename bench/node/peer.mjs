// Node's graphile-worker as a contestant. It is told what to do in BACKFILL_BENCH_TOLD, as the other children are.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.PACKAGES}/package.json`);
const { run, makeWorkerUtils, Logger } = await import(require.resolve("graphile-worker"));

const { url, best, role: told } = JSON.parse(process.env.BACKFILL_BENCH_TOLD);
process.env.NO_LOG_SUCCESS = "1";
const logger = new Logger(() => () => {});
const say = (text) => process.stdout.write(`${text}\n`);
const nanoseconds = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6));
const seconds = (since) => (performance.now() - since) / 1000;

const lines = createInterface({ input: process.stdin });
const closed = new Promise((resolve) => lines.on("close", resolve));
const ready = () => {
  const go = new Promise((resolve) => lines.once("line", resolve));
  say("ready");
  return go;
};

const times = [];
const noop = told.record || told.role === "cron"
  ? async (payload) => {
      times.push(`${payload.n} ${nanoseconds()}`);
    }
  : async () => {};

if (told.role === "work" || told.role === "cron") {
  const crontab = Array.from({ length: told.entries ?? 0 }, (_, n) => `* * * * * noop ?id=entry${n} {n:${n}}`).join("\n");
  const preset = {
    worker: {
      connectionString: url,
      concurrentJobs: told.concurrency ?? 24,
      maxPoolSize: Math.max(10, (told.concurrency ?? 24) + 2),
      ...(best ? { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } : {}),
    },
  };
  await ready();
  const runner = await run({ preset, noHandleSignals: true, logger, crontab, taskList: { noop } });
  await closed;
  await runner.stop();
  for (const time of times) say(time);
} else {
  const utils = await makeWorkerUtils({ connectionString: url, logger });
  await utils.migrate();
  await ready();
  const begin = performance.now();
  if (told.role === "fill") {
    for (let from = 0; from < told.jobs; from += 10_000) {
      const jobs = [];
      for (let n = from; n < Math.min(told.jobs, from + 10_000); n++) {
        jobs.push({
          identifier: "noop",
          payload: { n },
          ...(told.queues ? { queueName: `queue ${n % told.queues}` } : {}),
        });
      }
      await utils.addJobs(jobs);
    }
    say(seconds(begin));
  } else if (told.role === "add-one-by-one") {
    const one = async (task) => {
      for (let n = task; n < told.jobs; n += told.tasks) await utils.addJob("noop", { n });
    };
    await Promise.all(Array.from({ length: told.tasks }, (_, task) => one(task)));
    say(seconds(begin));
  } else if (told.role === "add-slowly") {
    for (let n = 0; n < told.jobs; n++) {
      const called = nanoseconds();
      await utils.addJob("noop", { n });
      say(`${n} ${called} ${nanoseconds()}`);
      await new Promise((resolve) => setTimeout(resolve, told.pause_ms));
    }
    say("end");
  }
  await utils.release();
}
process.exit(0);
