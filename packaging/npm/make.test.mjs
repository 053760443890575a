// `./scripts/package test` runs these.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { mainPackage, platformName, platformOf, platformPackage } from "./make.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const cargo = { version: "4.0.0-alpha.1", description: "A queue", keywords: ["job"], license: "MIT OR Apache-2.0" };
const unix = { skip: process.platform === "win32", timeout: 60_000 };

test("a static binary says nothing about the C library, one for glibc does", () => {
  assert.deepEqual(platformOf("x86_64-unknown-linux-musl"), { os: ["linux"], cpu: ["x64"] });
  assert.deepEqual(platformOf("aarch64-unknown-linux-gnu"), { os: ["linux"], cpu: ["arm64"], libc: ["glibc"] });
  assert.deepEqual(platformOf("x86_64-pc-windows-msvc"), { os: ["win32"], cpu: ["x64"] });
  assert.throws(() => platformOf("riscv64gc-unknown-linux-gnu"), /no name/);
});

test("platforms are called as Node calls itself", () => {
  assert.equal(platformName(platformOf("aarch64-apple-darwin")), "darwin-arm64");
});

test("the main package wants exactly its own version of every platform", () => {
  assert.deepEqual(mainPackage(cargo, ["win32-x64", "linux-x64"]).optionalDependencies, {
    "@backfill-queue/linux-x64": "4.0.0-alpha.1",
    "@backfill-queue/win32-x64": "4.0.0-alpha.1",
  });
  assert.equal(platformPackage(cargo, "x86_64-unknown-linux-musl").name, "@backfill-queue/linux-x64");
});

/** An installed package, whose binary is the given shell script. */
function installed(t, script) {
  const root = mkdtempSync(join(tmpdir(), "backfill-npm-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const bin = join(root, "node_modules/backfill-queue/bin");
  mkdirSync(bin, { recursive: true });
  copyFileSync(join(here, "bin/backfill.js"), join(bin, "backfill.js"));
  if (script) {
    const binary = join(root, `node_modules/@backfill-queue/${process.platform}-${process.arch}/bin/backfill`);
    mkdirSync(dirname(binary), { recursive: true });
    writeFileSync(binary, `#!/bin/sh\n${script}\n`);
    chmodSync(binary, 0o755);
  }
  return { root, start: join(bin, "backfill.js") };
}

/** Both ways to start it: in place of Node, where this Node can do that, and as a child. */
function ways(t, root) {
  const without = join(root, "without.cjs");
  writeFileSync(without, "process.execve = undefined;");
  const child = ["--require", without];
  return process.execve ? [[], child] : [child];
}

test("arguments, output and exit status are the binary's", unix, (t) => {
  const { root, start } = installed(t, 'printf "%s|" "$@"; exit 57');
  for (const way of ways(t, root)) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [...way, start, "add", "a b", ""], { encoding: "utf8" });
    assert.deepEqual([status, stdout, stderr], [57, "add|a b||", ""]);
  }
});

test("a signal reaches the binary, and its end by a signal is told", unix, async (t) => {
  const { root, start } = installed(t, 'trap "echo told; trap - TERM; kill -TERM $$" TERM; echo ready; while :; do sleep 0.05; done');
  for (const way of ways(t, root)) {
    const child = spawn(process.execPath, [...way, start]);
    let said = "";
    child.stdout.on("data", (chunk) => {
      if (!said) child.kill("SIGTERM");
      said += chunk;
    });
    const signal = await new Promise((resolve) => child.on("close", (_, signal) => resolve(signal)));
    assert.deepEqual([said, signal], ["ready\ntold\n", "SIGTERM"]);
  }
});

test("no password stays on the command line of Node", { skip: process.platform !== "linux" }, async (t) => {
  const { root, start } = installed(t, "echo ready; read -r end");
  const [child] = [ways(t, root).at(-1)];
  const node = spawn(process.execPath, [...child, start, "-c", "postgres://me:secret@localhost/"]);
  await new Promise((resolve) => node.stdout.once("data", resolve));
  const line = readFileSync(`/proc/${node.pid}/cmdline`, "utf8");
  node.stdin.end("\n");
  await new Promise((resolve) => node.on("close", resolve));
  assert.doesNotMatch(line, /secret/);
});

test("where the binary is not installed, it says what to do", (t) => {
  const { root, start } = installed(t);
  assert.ok(existsSync(root));
  const { status, stderr } = spawnSync(process.execPath, [start, "--version"], { encoding: "utf8" });
  assert.equal(status, 1);
  assert.match(stderr, new RegExp(`@backfill-queue/${process.platform}-${process.arch}.*not installed`));
});
