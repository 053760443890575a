#!/usr/bin/env node
// Starts the binary that the package for this system carries, in place of this program where Node can do that.
"use strict";

const { spawn } = require("node:child_process");
const { constants } = require("node:os");

const platform = `${process.platform}-${process.arch}`;
const packageName = `@backfill-queue/${platform}`;

function find() {
  const file = process.platform === "win32" ? "backfill.exe" : "backfill";
  try {
    return require.resolve(`${packageName}/bin/${file}`);
  } catch {
    console.error(
      `error: the npm package ${packageName}, which has the binary for this system, is not installed.\n` +
        "It is an optional dependency: install again without --omit=optional and on the system that runs it.\n" +
        "If there is none for your system, build it with Rust: cargo install backfill-cli"
    );
    process.exit(1);
  }
}

// As a child, for Windows and for Node before 22.15. The worker takes a second signal soon after the first for the same one, so
// a Ctrl-C that reaches both programs does no harm.
function runAsChild(program, args) {
  // A URL among the arguments may have a password in it, and every user of the machine can read a command line.
  process.title = "backfill";
  let child;
  const passOn = (signal) => child.kill(signal);
  const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"].filter((signal) => signal in constants.signals);
  // Before it starts: a signal that comes between would end this program and leave the other one alone.
  for (const signal of signals) process.on(signal, passOn);
  child = spawn(program, args, { stdio: "inherit" });
  child.on("error", (error) => {
    console.error(`error: could not start ${program}: ${error.message}`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => {
    for (const name of signals) process.off(name, passOn);
    if (signal) process.kill(process.pid, signal);
    else process.exit(code);
  });
}

const program = find();
const args = process.argv.slice(2);
// Then signals, exit status and process number are the binary's own, and no second program stays.
if (process.execve && process.platform !== "win32") process.execve(program, [program, ...args], process.env);
else runAsChild(program, args);
