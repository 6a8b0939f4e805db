/**
 * `npm test`: installs and builds what is missing and runs every test: the native ones for every instruction set that this
 * machine has (and, where the tools are there, for those that it has not, in emulators), those under sanitizers, the fuzzing
 * corpus, the tests of the API, the command line and the package, and those in other runtimes.
 *
 * What can't run is named, with the reason. The last line counts everything: `N passed, N failed, N skipped`.
 */
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { prepare, root, tool } = require('./prepare.cjs');

const total = { passed: 0, failed: 0, skipped: 0 };
const summary = [];

function record(stage, { passed = 0, failed = 0, skipped = 0 }, note = '') {
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
  summary.push(
    `${failed > 0 ? 'FAIL' : 'ok  '}  ${stage}: ${passed} passed, ${failed} failed, ${skipped} skipped${note}`,
  );
}

function skip(stage, reason) {
  total.skipped++;
  summary.push(`skip  ${stage}: ${reason}`);
  console.log(`\n=== ${stage}: SKIPPED, ${reason}`);
}

/** Runs a command; shows its output and returns it. */
function show(command, args, env = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (data) => {
      output += data;
      process.stdout.write(data);
    });
    child.on('error', (error) => resolve({ status: 1, output: error.message }));
    child.on('close', (status) => resolve({ status, output }));
  });
}

const has = (command, args = ['--version']) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/** A stage whose program ends with `N passed, N failed, N skipped`. */
async function counted(stage, command, args, env) {
  console.log(`\n=== ${stage}`);
  const { status, output } = await show(command, args, env);
  const last = [...output.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$/gm)].at(-1);
  if (last === undefined) return record(stage, { failed: 1 }, ` (ended with status ${status} and no result)`);
  const [passed, failed, skipped] = last.slice(1).map((n) => Number(n ?? 0));
  // A sanitizer's complaint or a crash at exit fails the stage, whatever was counted.
  record(stage, { passed, failed: failed === 0 && status !== 0 ? 1 : failed, skipped });
}

/** Configures and builds a native variant; false if that fails. */
async function build(stage, folder, options, target) {
  console.log(`\n=== ${stage}: building`);
  const generator = has('ninja') ? ['-G', 'Ninja'] : [];
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'], cwd: root };
  const parallel = String(os.availableParallelism());
  const done =
    spawnSync('cmake', ['-S', '.', '-B', folder, ...generator, '-DLOWBIT_BUILD_ADDON=OFF', ...options], quiet)
      .status === 0 &&
    spawnSync('cmake', ['--build', folder, '--config', 'Release', '--parallel', parallel, '--target', target], quiet)
      .status === 0;
  if (!done) record(stage, { failed: 1 }, ' (does not build)');
  return done;
}

/** The path of a native program: some generators put it into a folder of the configuration. */
function program(folder, name) {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const candidates = [path.join(root, folder, name + suffix), path.join(root, folder, 'Release', name + suffix)];
  return candidates.find((candidate) => fs.existsSync(candidate)) ?? candidates[0];
}

const NATIVE = 'lowbit_native_test';
const TESTS = ['-DLOWBIT_BUILD_TESTS=ON', '-DCMAKE_BUILD_TYPE=Release'];

/** The instruction sets that the addon has on this machine. */
function instructionSets() {
  return require(path.join(root, 'dist', 'index.js')).capabilities().isas;
}

async function native() {
  if (!(await build('native', 'build-test', TESTS, NATIVE))) return;
  const test = program('build-test', NATIVE);
  await counted('native', test, []);
  // The kernels were all compared with the scalar ones; what drives them runs on the table in use.
  for (const isa of instructionSets().slice(1))
    await counted(`native, LOWBIT_ISA=${isa}`, test, ['tensor'], { LOWBIT_ISA: isa });
}

/** Whether the compiler can build and run a program with a sanitizer. */
function hasSanitizer(compiler, names) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lowbit-'));
  try {
    const source = path.join(folder, 'probe.cc');
    const binary = path.join(folder, 'probe');
    fs.writeFileSync(
      source,
      names.includes('fuzzer')
        ? 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }'
        : 'int main() {}',
    );
    if (spawnSync(compiler, [`-fsanitize=${names}`, source, '-o', binary], { stdio: 'ignore' }).status !== 0)
      return false;
    return names.includes('fuzzer') || spawnSync(binary, [], { stdio: 'ignore' }).status === 0;
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

const defaultCompiler = process.env.CXX ?? 'c++';

async function sanitizers() {
  for (const [stage, names, folder, args] of [
    ['native, address and undefined behaviour sanitizers', 'address,undefined', 'build-asan', []],
    ['native, thread sanitizer', 'thread', 'build-tsan', ['thread']],
  ]) {
    if (!hasSanitizer(defaultCompiler, names)) {
      skip(stage, `${defaultCompiler} has no -fsanitize=${names} here`);
    } else if (await build(stage, folder, [...TESTS, `-DLOWBIT_SANITIZE=${names}`], NATIVE)) {
      await counted(stage, program(folder, NATIVE), args, { LOWBIT_TEST_QUICK: '1' });
    }
  }
}

async function fuzzCorpus() {
  const stage = 'fuzzing corpus';
  const clang = ['clang++-19', 'clang++'].find((name) => has(name));
  if (clang === undefined || !hasSanitizer(clang, 'fuzzer,address,undefined')) {
    return skip(stage, 'needs clang with libFuzzer (Debian: clang-19, libclang-rt-19-dev)');
  }
  const options = [
    `-DCMAKE_CXX_COMPILER=${clang}`,
    '-DLOWBIT_BUILD_FUZZERS=ON',
    '-DLOWBIT_SANITIZE=address,undefined',
    '-DCMAKE_BUILD_TYPE=Release',
  ];
  const folder = path.join('native', 'test', 'fuzz', 'corpus');
  for (const name of fs.readdirSync(path.join(root, folder))) {
    const target = `fuzz_${name}`;
    if (!(await build(`${stage}: ${name}`, 'build-fuzz', options, target))) continue;
    const corpus = path.join(folder, name);
    const inputs = fs.readdirSync(path.join(root, corpus)).length;
    console.log(`\n=== ${stage}: ${name}`);
    const run = spawnSync(program('build-fuzz', target), ['-runs=0', corpus], { cwd: root, encoding: 'utf8' });
    if (run.status !== 0) process.stdout.write(run.stderr);
    record(`${stage}: ${name}`, run.status === 0 ? { passed: inputs } : { failed: 1 });
  }
}

/** The instruction sets of other processors, in emulators. */
async function emulated() {
  const avx512 = 'native, AVX-512 in an emulator';
  if (process.arch !== 'x64' || process.platform !== 'linux') {
    skip(avx512, 'needs Linux on x86-64');
  } else if (instructionSets().includes('avx512')) {
    console.log(`\n=== ${avx512}: not needed, this processor has it`);
  } else if (!process.env.LOWBIT_EMU_DIR) {
    skip(
      avx512,
      'this processor has no AVX-512; scripts/emulate-avx512.sh says how to prepare an emulator (LOWBIT_EMU_DIR)',
    );
  } else if (await build(avx512, 'build-static', [...TESTS, '-DCMAKE_EXE_LINKER_FLAGS=-static'], NATIVE)) {
    const env = { LOWBIT_TEST_QUICK: '1', LOWBIT_EMU_ENV: 'LOWBIT_TEST_QUICK' };
    await counted(avx512, 'bash', [path.join('scripts', 'emulate-avx512.sh'), program('build-static', NATIVE)], env);
  }

  const neon = 'native, NEON in an emulator';
  if (process.arch === 'arm64') {
    console.log(`\n=== ${neon}: not needed, this processor has it`);
  } else if (!has('aarch64-linux-gnu-g++') || !has('qemu-aarch64')) {
    skip(neon, 'needs g++-aarch64-linux-gnu and qemu-user');
  } else if (
    await build(neon, 'build-arm64', [...TESTS, '-DCMAKE_TOOLCHAIN_FILE=cmake/toolchain-aarch64.cmake'], NATIVE)
  ) {
    const args = ['-L', '/usr/aarch64-linux-gnu', program('build-arm64', NATIVE)];
    await counted(neon, 'qemu-aarch64', args, { LOWBIT_TEST_QUICK: '1' });
    for (const isa of ['neondot', 'neon']) {
      await counted(`${neon}, LOWBIT_ISA=${isa}`, 'qemu-aarch64', [...args, 'tensor'], {
        LOWBIT_TEST_QUICK: '1',
        LOWBIT_ISA: isa,
      });
    }
  }
}

/** The tests in TypeScript; `filters` are folders. */
async function vitest(stage, filters, env = {}) {
  console.log(`\n=== ${stage}`);
  const report = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'lowbit-')), 'report.json');
  const args = [
    tool('vitest', 'vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...filters,
  ];
  const { status } = await show(process.execPath, args, env);
  let counts = { failed: 1 };
  try {
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, numFailedTestSuites, testResults } =
      JSON.parse(fs.readFileSync(report, 'utf8'));
    const failed = numFailedTests > 0 || status === 0 ? numFailedTests : Math.max(1, numFailedTestSuites);
    counts = { passed: numPassedTests, failed, skipped: numPendingTests + numTodoTests };
    for (const file of testResults) {
      for (const test of file.assertionResults) {
        if (test.status !== 'passed' && test.status !== 'failed') console.log(`skipped: ${test.fullName}`);
      }
    }
  } catch (error) {
    console.error(`no report: ${error.message}`);
  }
  record(stage, counts);
}

async function main() {
  const start = performance.now();
  prepare();
  await native();
  await sanitizers();
  await fuzzCorpus();
  await emulated();
  await vitest('API, command line and package', []);
  const arithmetic = ['tensor', 'matmul/linear', 'matmul/integer', 'matmul/gram', 'matmul/onnx', 'matmul/packed-file'];
  const folders = arithmetic.map((name) => `test/${name}`);
  for (const isa of instructionSets().slice(1)) await vitest(`API, LOWBIT_ISA=${isa}`, folders, { LOWBIT_ISA: isa });
  await counted('other runtimes', process.execPath, [path.join('test', 'runtimes', 'run.cjs')]);
  console.log(`\n${summary.join('\n')}\nin ${((performance.now() - start) / 60000).toFixed(1)} minutes\n`);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
}

main();
