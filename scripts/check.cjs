/**
 * `npm run check`: everything that is not a test. Format and lint of TypeScript and C++ (warnings are errors), types, the
 * package's entry points, the API reference. What can't run for want of a tool is named; in CI that is an error.
 */
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { prepare, root, tool } = require('./prepare.cjs');
const variants = require('./variants.cjs');

const failures = [];
const cores = os.availableParallelism();

/** Runs commands, as many at a time as there are cores; resolves to the status and output of each. */
async function runAll(commands) {
  const results = [];
  const waiting = [...commands.entries()];
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [index, [command, ...args]] = next;
      results[index] = await new Promise((resolve) => {
        const child = spawn(command, args, { cwd: root });
        let output = '';
        for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data));
        child.on('error', (error) => resolve({ status: 1, output: error.message }));
        child.on('close', (status) => resolve({ status, output }));
      });
    }
  };
  await Promise.all(Array.from({ length: cores }, worker));
  return results;
}

/** One check: commands that must all succeed. */
async function check(name, ...commands) {
  const start = performance.now();
  const failed = (await runAll(commands)).filter(({ status }) => status !== 0);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${failed.length === 0 ? 'ok  ' : 'FAIL'}  ${name} (${seconds} s)`);
  for (const { output } of failed) process.stdout.write(output);
  if (failed.length > 0) failures.push(name);
}

/** Whether a tool is there that npm does not bring. Names what can't run without it; in CI that is a failure. */
function has(tool, name) {
  if (spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0) return true;
  console.log(`skip  ${name}: needs ${tool}`);
  if (process.env.CI) failures.push(`${name} (no ${tool})`);
  return false;
}

function sources(folder, pattern) {
  return fs
    .readdirSync(path.join(root, folder), { recursive: true })
    .map((name) => path.join(folder, name))
    .filter((name) => pattern.test(name) && fs.statSync(path.join(root, name)).isFile());
}

/** Every file under a folder, by name. */
function contents(folder) {
  return new Map(sources(folder, /./).map((file) => [file, fs.readFileSync(path.join(root, file), 'utf8')]));
}

/** The API reference in the repository is what the sources say. */
async function apiReference() {
  const before = contents('docs/api');
  await check('API reference', [node, tool('typedoc', 'bin/typedoc'), '--treatWarningsAsErrors']);
  const after = contents('docs/api');
  const stale = [...new Set([...before.keys(), ...after.keys()])].filter(
    (file) => before.get(file) !== after.get(file),
  );
  if (stale.length === 0) return;
  console.log(`FAIL  API reference: \`npm run docs\` had not been run: ${stale.join(', ')}`);
  failures.push('API reference is stale');
}

const node = process.execPath;

async function main() {
  prepare();
  await check('format and lint of TypeScript', [
    node,
    tool('@biomejs/biome', 'bin/biome'),
    'ci',
    '--error-on-warnings',
    '.',
  ]);
  await check('types, tests included', [node, tool('typescript', 'bin/tsc'), '-p', 'test/tsconfig.json']);

  const cxx = [...sources('native', /\.(h|cc|cu|cuh)$/), ...sources('bench/limits', /\.(h|cc)$/)];
  if (has('clang-format-19', 'format of C++'))
    await check('format of C++', ['clang-format-19', '--dry-run', '--Werror', ...cxx]);

  // Every compiler builds the native code without a warning: in the builds that `npm test` goes on with.
  const warnings = ['-DLOWBIT_WERROR=ON', '-DLOWBIT_BUILD_BENCH=ON', '-DLOWBIT_BUILD_ADDON=ON'];
  for (const [compiler, variant] of [
    [process.env.CXX ?? 'c++', variants.native],
    ['clang++-19', variants.fuzzing()],
  ]) {
    const name = `C++ without warnings: ${compiler}`;
    if (!has(compiler, name)) continue;
    if (variant === null || (variant !== variants.native && variant.compiler !== compiler)) {
      console.log(`skip  ${name}: it has no libFuzzer here (Debian: libclang-rt-19-dev)`);
      if (process.env.CI) failures.push(`${name} (no libFuzzer)`);
      continue;
    }
    await check(`${name}, configure`, ['cmake', ...variants.configuring(variant, ...warnings)]);
    await check(name, ['cmake', '--build', variant.folder, '--parallel', String(cores)]);
    if (compiler === 'clang++-19' && has('clang-tidy-19', 'lint of C++')) {
      // What a kernel of another processor includes does not compile here; the emulator has the names of CUDA.
      const files = cxx.filter(
        (file) =>
          file.endsWith('.cc') && !/_(neon|avx)\w*\.cc$|_stand_in\.cc$|fuzz_|emulat(or|ed_groups)\.cc$/.test(file),
      );
      // The paths through tests are walked under sanitizers; the analyzer takes most of the time to walk them as well.
      const lint = (file) => [
        'clang-tidy-19',
        '-p',
        variant.folder,
        '--quiet',
        ...(/^native.test/.test(file) ? ['--checks=-clang-analyzer-*'] : []),
        file,
      ];
      await check('lint of C++', ...files.map(lint));
    }
  }

  await apiReference();
  await check('package entry points', [node, tool('publint', 'src/cli.js'), '--strict']);
  await check('types of the package', [node, tool('@arethetypeswrong/cli', 'dist/index.js'), '--pack', '.']);

  console.log(
    failures.length === 0 ? 'All checks passed.' : `${failures.length} checks failed: ${failures.join('; ')}`,
  );
  process.exitCode = failures.length === 0 ? 0 : 1;
}

main();
