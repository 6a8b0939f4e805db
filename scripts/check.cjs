/**
 * `npm run check`: everything that is not a test. Format and lint of TypeScript and C++ (warnings are errors), types, the
 * package's entry points, the API reference. What can't run for want of a tool is named; in CI that is an error.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { prepare, root, tool } = require('./prepare.cjs');

const failures = [];

function check(name, command, args) {
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${status === 0 ? 'ok  ' : 'FAIL'}  ${name} (${seconds} s)`);
  if (status === 0) return;
  process.stdout.write(`${stdout ?? ''}${stderr ?? ''}`);
  failures.push(name);
}

/** A check that needs a tool which npm does not bring. */
function withTool(name, candidates, args) {
  const found = candidates.find((candidate) => spawnSync(candidate, ['--version'], { stdio: 'ignore' }).status === 0);
  if (found !== undefined) return check(name, found, args);
  console.log(`skip  ${name}: needs ${candidates.join(' or ')}`);
  if (process.env.CI) failures.push(`${name} (no ${candidates[0]})`);
}

function sources(folder, pattern) {
  return fs
    .readdirSync(path.join(root, folder), { recursive: true })
    .map((name) => path.join(folder, name))
    .filter((name) => pattern.test(name) && fs.statSync(path.join(root, name)).isFile());
}

prepare();
const node = process.execPath;
check('format and lint of TypeScript', node, [tool('@biomejs/biome', 'bin/biome'), 'ci', '--error-on-warnings', '.']);
check('types, tests included', node, [tool('typescript', 'bin/tsc'), '-p', 'test/tsconfig.json']);

const cxx = [...sources('native', /\.(h|cc)$/), ...sources('bench/limits', /\.(h|cc)$/)];
withTool('format of C++', ['clang-format-19'], ['--dry-run', '--Werror', ...cxx]);

// Every compiler that is there builds the native code without a warning.
const parallel = String(os.availableParallelism());
for (const compiler of ['g++', 'clang++-19']) {
  const name = `C++ without warnings: ${compiler}`;
  const folder = `build-check-${compiler.replaceAll('+', 'x')}`;
  if (spawnSync(compiler, ['--version'], { stdio: 'ignore' }).status !== 0) {
    withTool(name, [compiler], []);
    continue;
  }
  const options = [
    `-DCMAKE_CXX_COMPILER=${compiler}`,
    '-DLOWBIT_WERROR=ON',
    '-DLOWBIT_BUILD_TESTS=ON',
    '-DLOWBIT_BUILD_BENCH=ON',
  ];
  check(`${name}, configure`, 'cmake', ['-S', '.', '-B', folder, ...options]);
  check(name, 'cmake', ['--build', folder, '--parallel', parallel]);
  if (compiler.startsWith('clang')) {
    // What a kernel of another processor includes does not compile here.
    const files = cxx.filter((file) => file.endsWith('.cc') && !/_(neon|avx2|avx512)\.cc$|fuzz_/.test(file));
    withTool('lint of C++', ['clang-tidy-19'], ['-p', folder, '--quiet', ...files]);
  }
}

check('API reference', node, [tool('typedoc', 'bin/typedoc'), '--treatWarningsAsErrors']);
check('package entry points', node, [tool('publint', 'src/cli.js'), '--strict']);
check('types of the package', node, [tool('@arethetypeswrong/cli', 'dist/index.js'), '--pack', '.']);

console.log(failures.length === 0 ? 'All checks passed.' : `${failures.length} checks failed: ${failures.join('; ')}`);
process.exitCode = failures.length === 0 ? 0 : 1;
