/**
 * Runs checks.cjs under every runtime that lowbit supports: this Node, other Nodes, Bun, Deno, and Node for arm64 in
 * an emulator with a cross-compiled prebuild. The runtimes are npm packages, installed here on first use. What can't run
 * on this machine is named, with the reason, and counts as skipped.
 *
 * node test/runtimes/run.cjs [name …]    default: all of them
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..', '..');
const modules = path.join(__dirname, 'node_modules');
const sysroot = '/usr/aarch64-linux-gnu';

/** Long enough for an emulator on a busy machine; a process that does not end by itself fails. */
const TIMEOUT_MS = 15 * 60 * 1000;

/** `binary` is an npm package's, for linux-x64 with glibc. */
const RUNTIMES = [
  { name: 'this-node', command: [process.execPath] },
  { name: 'node-22', binary: 'node-22/bin/node' },
  { name: 'node-24', binary: 'node-24/bin/node' },
  { name: 'node-26', binary: 'node-26/bin/node' },
  { name: 'bun', binary: '@oven/bun-linux-x64/bin/bun' },
  { name: 'deno', binary: '@deno/linux-x64-glibc/deno', args: ['run', '--allow-all'] },
  {
    name: 'node-arm64',
    binary: 'node-arm64/bin/node',
    command: ['qemu-aarch64', '-L', sysroot],
    prepare: prepareArm64,
  },
];

function isLinuxX64() {
  const { glibcVersionRuntime } = process.report.getReport().header;
  return process.platform === 'linux' && process.arch === 'x64' && glibcVersionRuntime !== undefined;
}

const canRun = (command, args) => spawnSync(command, args).status === 0;

/** Installs the runtimes if one is missing; returns what went wrong. */
function install(runtimes) {
  const complete = runtimes.every(({ binary }) => binary === undefined || fs.existsSync(path.join(modules, binary)));
  if (complete) return undefined;
  console.log('Installing the runtimes …');
  // --force: the Node for arm64 is not for this machine, which npm would take for a mistake.
  const { status, stderr } = spawnSync('npm', ['ci', '--force', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: __dirname,
    encoding: 'utf8',
  });
  return status === 0 ? undefined : `npm ci failed in test/runtimes:\n${stderr}`;
}

/** Cross-compiles the prebuild; returns why not, or what failed. */
function prepareArm64() {
  if (!canRun('qemu-aarch64', ['--version']))
    return { skipped: 'qemu-aarch64 is not installed (apt-get install qemu-user)' };
  if (!canRun('aarch64-linux-gnu-g++', ['--version'])) {
    return { skipped: 'there is no arm64 compiler (apt-get install g++-aarch64-linux-gnu)' };
  }
  const args = [path.join(root, 'scripts', 'prebuild.cjs'), '--arch', 'arm64'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (status !== 0) return { failed: `the prebuild failed:\n${stdout}${stderr}` };
  // build/ is for this machine.
  return { env: { ...process.env, PREBUILDS_ONLY: '1' } };
}

/** Runs the checks under one runtime; returns the counts and prints everything but what passed. */
function run({ binary, command = [], args = [], prepare }) {
  if (binary !== undefined && !isLinuxX64()) return skip('it is for x64 Linux with glibc');
  const { env = process.env, skipped, failed } = prepare?.() ?? {};
  if (skipped !== undefined) return skip(skipped);
  if (failed !== undefined) return fail(failed);
  const program = binary === undefined ? [] : [path.join(modules, binary)];
  const [executable, ...rest] = [...command, ...program, ...args, path.join(__dirname, 'checks.cjs'), root];
  const { status, signal, stdout, stderr } = spawnSync(executable, rest, {
    encoding: 'utf8',
    env: { ...env, NO_COLOR: '1' },
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
    maxBuffer: 1 << 28,
  });
  const lines = stdout.trimEnd().split('\n');
  const summary = /^(\d+) passed, (\d+) failed, (\d+) skipped$/.exec(lines.at(-1));
  console.log(lines.filter((line) => !line.startsWith('ok ')).join('\n'));
  const counts = {
    passed: Number(summary?.[1] ?? 0),
    failed: Number(summary?.[2] ?? 0),
    skipped: Number(summary?.[3] ?? 0),
  };
  const asExpected = summary !== null && status === (counts.failed > 0 ? 1 : 0);
  if (asExpected) return counts;
  counts.passed = lines.filter((line) => line.startsWith('ok ')).length;
  counts.failed++;
  console.log(`FAIL it ended with ${signal ?? `status ${status}`} after "${lines.at(-1)}"\n${stderr}`);
  return counts;
}

function skip(reason) {
  console.log(`skip: ${reason}`);
  return { passed: 0, failed: 0, skipped: 1 };
}

function fail(reason) {
  console.log(`FAIL ${reason}`);
  return { passed: 0, failed: 1, skipped: 0 };
}

function main() {
  if (!fs.existsSync(path.join(root, 'dist', 'index.js'))) {
    console.error('The package is not built yet: run `npm run build` first.');
    process.exit(1);
  }
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !RUNTIMES.some((runtime) => runtime.name === name));
  if (unknown.length > 0) {
    console.error(
      `Expected names out of ${RUNTIMES.map(({ name }) => name).join(', ')} but received ${unknown.join(', ')}.`,
    );
    process.exit(1);
  }
  const runtimes = RUNTIMES.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
  const problem = isLinuxX64() ? install(runtimes) : undefined;

  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const runtime of runtimes) {
    console.log(`\n[${runtime.name}]`);
    const counts = problem !== undefined && runtime.binary !== undefined ? fail(problem) : run(runtime);
    for (const key of Object.keys(total)) total[key] += counts[key];
  }
  console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  process.exitCode = total.failed > 0 ? 1 : 0;
}

main();
