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
const variants = require('./variants.cjs');

const { has, hasSanitizer, TESTS } = variants;

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

/** Runs a program without its output; whether it succeeded. */
function quietly(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
    child.on('error', () => resolve(false));
    child.on('close', (status) => resolve(status === 0));
  });
}

/** Builds wait for each other: each takes all cores. */
let building = Promise.resolve();

/**
 * Configures and builds a native variant, as soon as the ones before are built; meanwhile, the tests of those run. Resolves to
 * whether it succeeded.
 */
function build(stage, folder, options, ...targets) {
  const work = async () => {
    const begin = performance.now();
    const parallel = String(os.availableParallelism());
    const arguments_ = variants.configuring({ folder, options }, '-DLOWBIT_BUILD_ADDON=OFF');
    const done =
      (await quietly('cmake', arguments_)) &&
      (await quietly('cmake', [
        '--build',
        folder,
        '--config',
        'Release',
        '--parallel',
        parallel,
        '--target',
        ...targets,
      ]));
    console.log(`\n=== ${stage}: built in ${((performance.now() - begin) / 1000).toFixed(0)} s`);
    if (!done) record(stage, { failed: 1 }, ' (does not build)');
    return done;
  };
  const result = building.then(work);
  building = result.catch(() => undefined);
  return result;
}

/** The path of a native program: some generators put it into a folder of the configuration. */
function program(folder, name) {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const candidates = [path.join(root, folder, name + suffix), path.join(root, folder, 'Release', name + suffix)];
  return candidates.find((candidate) => fs.existsSync(candidate)) ?? candidates[0];
}

const NATIVE = 'lowbit_native_test';
/** The instruction sets that the addon has on this machine. */
function instructionSets() {
  return require(path.join(root, 'dist', 'index.js')).capabilities().isas;
}

function native() {
  const { folder, options } = variants.native;
  const built = build('native', folder, options, NATIVE);
  return async () => {
    if (await built) await runNative(program(folder, NATIVE));
  };
}

async function runNative(test) {
  await counted('native', test, []);
  // The kernels were all compared with the scalar ones; what drives them runs on the table in use.
  for (const isa of instructionSets().slice(1))
    await counted(`native, LOWBIT_ISA=${isa}`, test, ['tensor'], { LOWBIT_ISA: isa });
}

const CORPUS = path.join('native', 'test', 'fuzz', 'corpus');

/** Runs the inputs that fuzzing found, or that were made for it. */
function fuzzCorpus(folder, name) {
  const stage = `fuzzing corpus: ${name}`;
  const corpus = path.join(CORPUS, name);
  const inputs = fs.readdirSync(path.join(root, corpus)).length;
  console.log(`\n=== ${stage}`);
  const run = spawnSync(program(folder, `fuzz_${name}`), ['-runs=0', corpus], { cwd: root, encoding: 'utf8' });
  if (run.status !== 0) process.stdout.write(run.stderr ?? String(run.error));
  record(stage, run.status === 0 ? { passed: inputs } : { failed: 1 });
}

function fuzzing() {
  const variant = variants.fuzzing();
  if (variant === null) {
    skip('fuzzing corpus', 'needs clang with libFuzzer (Debian: clang-19, libclang-rt-19-dev)');
    return async () => {};
  }
  const names = fs.readdirSync(path.join(root, CORPUS));
  const targets = names.map((name) => `fuzz_${name}`);
  const built = build('fuzzing corpus', variant.folder, variant.options, ...targets);
  return async () => {
    if (await built) for (const name of names) fuzzCorpus(variant.folder, name);
  };
}

const ADDRESS = { names: 'address,undefined', folder: 'build-asan' };

/** The native tests under a sanitizer. */
function sanitized(stage, names, folder, args) {
  const compiler = process.env.CXX ?? 'c++';
  if (!hasSanitizer(compiler, names)) {
    skip(stage, `${compiler} has no -fsanitize=${names} here`);
    return async () => {};
  }
  const built = build(stage, folder, [...TESTS, `-DLOWBIT_SANITIZE=${names}`], NATIVE);
  return async () => {
    if (await built) await counted(stage, program(folder, NATIVE), args, { LOWBIT_TEST_QUICK: '1' });
  };
}

function emulatedAvx512() {
  const stage = 'native, AVX-512 in an emulator';
  const none = async () => {};
  if (process.arch !== 'x64' || process.platform !== 'linux') {
    skip(stage, 'needs Linux on x86-64');
    return none;
  }
  if (instructionSets().includes('avx512')) {
    console.log(`\n=== ${stage}: not needed, this processor has it`);
    return none;
  }
  if (!process.env.LOWBIT_EMU_DIR) {
    skip(
      stage,
      'this processor has no AVX-512; scripts/emulate-avx512.sh says how to prepare an emulator (LOWBIT_EMU_DIR)',
    );
    return none;
  }
  const built = build(stage, 'build-static', [...TESTS, '-DCMAKE_EXE_LINKER_FLAGS=-static'], NATIVE);
  return async () => {
    if (!(await built)) return;
    const env = { LOWBIT_TEST_QUICK: '1', LOWBIT_EMU_ENV: 'LOWBIT_TEST_QUICK' };
    await counted(stage, 'bash', [path.join('scripts', 'emulate-avx512.sh'), program('build-static', NATIVE)], env);
  };
}

function emulatedNeon() {
  const stage = 'native, NEON in an emulator';
  if (process.arch === 'arm64') {
    console.log(`\n=== ${stage}: not needed, this processor has it`);
    return async () => {};
  }
  if (!has('aarch64-linux-gnu-g++') || !has('qemu-aarch64')) {
    skip(stage, 'needs g++-aarch64-linux-gnu and qemu-user');
    return async () => {};
  }
  const options = [...TESTS, '-DCMAKE_TOOLCHAIN_FILE=cmake/toolchain-aarch64.cmake'];
  const built = build(stage, 'build-arm64', options, NATIVE);
  return async () => {
    if (!(await built)) return;
    const args = ['-L', '/usr/aarch64-linux-gnu', program('build-arm64', NATIVE)];
    await counted(stage, 'qemu-aarch64', args, { LOWBIT_TEST_QUICK: '1' });
    for (const isa of ['neondot', 'neon']) {
      await counted(`${stage}, LOWBIT_ISA=${isa}`, 'qemu-aarch64', [...args, 'tensor'], {
        LOWBIT_TEST_QUICK: '1',
        LOWBIT_ISA: isa,
      });
    }
  };
}

const KERNELS_EMULATED = 'CUDA kernels on the processor';
const CUDA_TEST = 'lowbit_cuda_test';
const DEVICE_CHECKS = path.join('test', 'runtimes', 'device.cjs');
const EMULATED = 'lowbit_cuda_emulated';

/** The module whose kernels run on the processor: tests of the API look for it by this name. */
function emulatedModule(folder) {
  const candidates = [path.join(root, folder, `${EMULATED}.so`), path.join(root, folder, 'Release', `${EMULATED}.so`)];
  return candidates.find((candidate) => fs.existsSync(candidate)) ?? candidates[0];
}

/** The kernels of the CUDA module on the processor, as they are and with the address sanitizer. */
function emulatedCuda() {
  const stage = KERNELS_EMULATED;
  if (process.platform !== 'linux') {
    skip(stage, 'needs Linux');
    return async () => {};
  }
  const { folder, options } = variants.emulated;
  const built = build(stage, folder, options, CUDA_TEST, EMULATED);
  const compiler = process.env.CXX ?? 'c++';
  const sanitizes = hasSanitizer(compiler, ADDRESS.names);
  if (!sanitizes) skip(`${stage}, address sanitizer`, `${compiler} has no -fsanitize=${ADDRESS.names} here`);
  // In the folder of the native tests, where everything else is built already.
  const asan = ADDRESS.folder;
  const sanitizing = [...TESTS, `-DLOWBIT_SANITIZE=${ADDRESS.names}`];
  const builtAsan = sanitizes ? build(`${stage}, address sanitizer`, asan, sanitizing, CUDA_TEST, EMULATED) : undefined;
  return async () => {
    if (await built) {
      const LOWBIT_CUDA_MODULE = emulatedModule(folder);
      await counted(stage, program(folder, CUDA_TEST), [], { LOWBIT_CUDA_MODULE });
      const turing = { LOWBIT_CUDA_MODULE, LOWBIT_EMULATED_CAPABILITY: '75' };
      await counted(`${stage}, compute capability 7.5`, program(folder, CUDA_TEST), ['linear'], turing);
    }
    if (await builtAsan) {
      await counted(`${stage}, address sanitizer`, program(asan, CUDA_TEST), [], {
        LOWBIT_CUDA_MODULE: emulatedModule(asan),
        LOWBIT_TEST_QUICK: '1',
      });
    }
  };
}

/** The CUDA module for every target, with warnings as errors; and its tests, where there is a device. */
function cuda() {
  const stage = 'CUDA module for every target';
  const onDevice = 'CUDA on a device';
  const nvcc = process.env.CUDACXX ?? 'nvcc';
  if (!has(nvcc)) {
    skip(stage, `needs CUDA's compiler, and ${nvcc} can't be started`);
    skip(onDevice, 'no module was built');
    return async () => {};
  }
  const { folder, options } = variants.cuda;
  const built = build(stage, folder, options, 'lowbit_cuda', CUDA_TEST);
  return async () => {
    if (!(await built)) return skip(onDevice, 'no module was built');
    record(stage, { passed: 1 });
    if (!has('nvidia-smi', ['-L'])) return skip(onDevice, 'no GPU: `nvidia-smi -L` lists none');
    const module = program(folder, CUDA_TEST).replace(/[^/\\]+$/, 'lowbit_cuda.so');
    await counted(onDevice, program(folder, CUDA_TEST), [], { LOWBIT_CUDA_MODULE: module });
    return counted(`${onDevice}, from JavaScript`, process.execPath, [DEVICE_CHECKS], { LOWBIT_CUDA_MODULE: module });
  };
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

/** The tests of what an instruction set has kernels of its own for; the rest it takes from a lower one. */
function testsOf(isa) {
  const matmul = ['linear', 'integer', 'gram', 'onnx', 'packed-file'].map((name) => `test/matmul/${name}`);
  if (/vpopcnt/.test(isa)) return ['test/tensor/bits', 'test/matmul/binary'];
  return /vnni|dot|i8mm/.test(isa) ? matmul : ['test/tensor', ...matmul];
}

async function main() {
  const start = performance.now();
  prepare();
  // Builds follow each other; what is built is tested while the next is.
  const stages = [
    native(),
    fuzzing(),
    sanitized('native, address and undefined behaviour sanitizers', ADDRESS.names, ADDRESS.folder, []),
    sanitized('native, thread sanitizer', 'thread', 'build-tsan', ['thread']),
    emulatedAvx512(),
    emulatedNeon(),
    emulatedCuda(),
    cuda(),
  ];
  for (const test of stages) await test();
  await vitest('API, command line and package', [], {
    LOWBIT_CUDA_EMULATED: emulatedModule(variants.emulated.folder),
  });
  for (const isa of instructionSets().slice(1))
    await vitest(`API, LOWBIT_ISA=${isa}`, testsOf(isa), { LOWBIT_ISA: isa });
  const emulated = emulatedModule(variants.emulated.folder);
  if (fs.existsSync(emulated)) {
    await counted(`${KERNELS_EMULATED}, from JavaScript`, process.execPath, [DEVICE_CHECKS, '--small'], {
      LOWBIT_CUDA_MODULE: emulated,
    });
  }
  await counted('other runtimes', process.execPath, [path.join('test', 'runtimes', 'run.cjs')]);
  console.log(`\n${summary.join('\n')}\nin ${((performance.now() - start) / 60000).toFixed(1)} minutes\n`);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
}

main();
