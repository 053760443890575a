#!/usr/bin/env node
// Makes the directories that `npm pack` packs. See the usage below.
//
// There is one small package that people install, and one for each system with the binary in it, as optional dependencies.
// npm fetches only the one whose `os` and `cpu` fit. With all binaries in one package everybody would fetch five of them,
// and a script that downloads the right one at installation would not work offline or with --ignore-scripts.

import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const usage = `usage: make.mjs platform --metadata FILE --target TRIPLE --binary FILE --about FILE --licence FILE... --out DIR
       make.mjs main --metadata FILE --platform NAME... --about FILE --licence FILE... --out DIR
       make.mjs name --target TRIPLE

platform   the package that carries the binary of one system
main       the package that people install; it names the platforms (such as linux-x64) for which there is a binary
name       says what npm calls the system that Rust calls TRIPLE

FILE of --metadata is what \`cargo metadata --no-deps\` says.`;

const NAME = "backfill-queue";
const CRATE = "backfill-cli";
const CPUS = { x86_64: "x64", aarch64: "arm64" };
const SYSTEMS = { linux: "linux", darwin: "darwin", windows: "win32" };
const here = dirname(fileURLToPath(import.meta.url));

/** What npm says of the system that Rust calls `target`. */
export function platformOf(target) {
  const [cpu, , system, libc] = target.split("-");
  if (!CPUS[cpu] || !SYSTEMS[system]) throw new Error(`npm has no name for the target ${target}`);
  const platform = { os: [SYSTEMS[system]], cpu: [CPUS[cpu]] };
  // One for musl is static and runs everywhere, so it says nothing about the C library.
  if (libc === "gnu" && system === "linux") platform.libc = ["glibc"];
  return platform;
}

/** Such as linux-x64: what Node says of itself, process.platform and process.arch. */
export function platformName({ os, cpu }) {
  return `${os[0]}-${cpu[0]}`;
}

/** What package.json says of every package. */
function about(cargo, name) {
  return {
    name,
    version: cargo.version,
    description: cargo.description,
    keywords: cargo.keywords,
    license: cargo.license,
    // npm wants it to say where a package was built that is published by a workflow.
    ...(cargo.repository && { repository: { type: "git", url: `git+${cargo.repository}` } }),
    engines: { node: ">=18" },
  };
}

export function platformPackage(cargo, target) {
  const platform = platformOf(target);
  const package_ = about(cargo, `@${NAME}/${platformName(platform)}`);
  package_.description = `The binary of ${NAME} for ${platformName(platform)}`;
  // `preferUnplugged` has Yarn unpack the package: a program inside a zip file cannot be started.
  return { ...package_, ...platform, preferUnplugged: true, publishConfig: { access: "public" } };
}

export function mainPackage(cargo, platforms) {
  const dependencies = platforms.map((platform) => [`@${NAME}/${platform}`, cargo.version]);
  return {
    ...about(cargo, NAME),
    bin: { backfill: "bin/backfill.js" },
    optionalDependencies: Object.fromEntries(dependencies.sort()),
  };
}

function write(out, package_, files) {
  mkdirSync(join(out, "bin"), { recursive: true });
  writeFileSync(join(out, "package.json"), JSON.stringify(package_, null, 2) + "\n");
  for (const [from, to] of files) copyFileSync(from, join(out, to));
}

function main() {
  const many = { type: "string", multiple: true, default: [] };
  const one = { type: "string" };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { metadata: one, target: one, binary: one, about: one, out: one, platform: many, licence: many },
  });
  if (positionals[0] === "name") return console.log(platformName(platformOf(values.target)));
  if (!["platform", "main"].includes(positionals[0])) throw new Error(usage);
  const cargo = JSON.parse(readFileSync(values.metadata, "utf8")).packages.find(({ name }) => name === CRATE);
  const files = [[values.about, "README.md"], ...values.licence.map((file) => [file, basename(file)])];
  if (positionals[0] === "main") {
    return write(values.out, mainPackage(cargo, values.platform), [
      ...files,
      [join(here, "bin/backfill.js"), "bin/backfill.js"],
    ]);
  }
  const program = values.target.includes("windows") ? "bin/backfill.exe" : "bin/backfill";
  write(values.out, platformPackage(cargo, values.target), [...files, [values.binary, program]]);
  // npm keeps it as it is.
  chmodSync(join(values.out, program), 0o755);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main();
  } catch (error) {
    console.error(error.message);
    process.exit(2);
  }
}
