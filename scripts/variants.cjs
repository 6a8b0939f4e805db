/**
 * How the native code is compiled for lint and tests. Both use the same folders and flags, so that nothing is compiled twice:
 * the usual compiler's opinion is the build whose tests run, clang's the one with fuzzers.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const has = (command, args = ['--version']) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/** Whether the compiler can build a program with sanitizers (and unless it is a fuzzer, run it). */
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

const TESTS = ['-DLOWBIT_BUILD_TESTS=ON', '-DCMAKE_BUILD_TYPE=Release'];

/** The build whose native tests run. */
const native = { folder: 'build-test', options: TESTS };

/** The CUDA module's kernels compiled for the processor, and the tests that run them. */
const emulated = { folder: 'build-cuda', options: [...TESTS, '-DLOWBIT_WERROR=ON', '-DLOWBIT_CUDA=OFF'] };

/** The CUDA module for every GPU that it is for. */
const cuda = { folder: 'build-nvcc', options: [...TESTS, '-DLOWBIT_WERROR=ON', '-DLOWBIT_CUDA=ON'] };

/** The build with fuzzers, which is also clang's opinion; null without a clang that has libFuzzer. */
function fuzzing() {
  const names = 'address,undefined';
  const compiler = ['clang++-19', 'clang++'].find((name) => has(name));
  if (compiler === undefined || !hasSanitizer(compiler, `fuzzer,${names}`)) return null;
  const options = [`-DCMAKE_CXX_COMPILER=${compiler}`, '-DLOWBIT_BUILD_FUZZERS=ON', `-DLOWBIT_SANITIZE=${names}`];
  return { folder: 'build-fuzz', options: [...TESTS, ...options], compiler };
}

/** Arguments of `cmake` that configure a variant. */
function configuring({ folder, options }, ...more) {
  return ['-S', '.', '-B', folder, ...(has('ninja') ? ['-G', 'Ninja'] : []), ...options, ...more];
}

module.exports = { configuring, cuda, emulated, fuzzing, has, hasSanitizer, native, TESTS };
