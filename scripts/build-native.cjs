/**
 * Builds the addon into build/Release/lowbit.node, or does nothing where that is up to date.
 *
 * In a checkout cmake-js configures the build. A user who has to compile lowbit does not have it, because it would
 * bring forty packages with it, and does not need it either: CMakeLists.txt finds the headers by itself.
 *
 * LOWBIT_CMAKE_ARGS="A=1 B=2" sets CMake variables. LOWBIT_CUDA is one: ON builds the CUDA module, which needs nvcc; OFF leaves
 * it out; AUTO (default) builds it where nvcc and an NVIDIA driver are. It lands beside the addon.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const requirements = require('./requirements.cjs');

const root = path.dirname(__dirname);

/** The command line of cmake-js, or undefined. Older ones download headers, and installing lowbit downloads nothing. */
function findCmakeJs() {
  try {
    const { version } = require('cmake-js/package.json');
    return Number.parseInt(version, 10) >= 8 ? require.resolve('cmake-js/bin/cmake-js') : undefined;
  } catch {
    return undefined;
  }
}

function run(command, args, stdio) {
  const env = {
    ...process.env,
    // CMakeLists.txt asks `node` for the headers: this one, also where it is not on the PATH.
    PATH: `${path.dirname(process.execPath)}${path.delimiter}${process.env.PATH ?? process.env.Path ?? ''}`,
    CMAKE_BUILD_PARALLEL_LEVEL: process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism()),
  };
  return spawnSync(command, args, { cwd: root, env, stdio, encoding: 'utf8' });
}

/** The command that configures the build folder `out`. */
function configureCommand(out, { arch, target, definitions }) {
  const cmakeJs = findCmakeJs();
  if (cmakeJs !== undefined) {
    const args = [cmakeJs, 'configure', '--directory', root, '--out', out];
    if (arch !== undefined) args.push('--arch', arch);
    if (target !== undefined) args.push('--runtime', 'node', '--runtime-version', target);
    return [process.execPath, [...args, ...definitions.map((definition) => `--CD${definition}`)]];
  }
  if (process.platform === 'win32') {
    throw new Error(
      'Compiling lowbit on Windows needs cmake-js, which links with node.exe: ' +
        'run `npm install --save-dev cmake-js@8`, then `npm rebuild lowbit --build-from-source`.',
    );
  }
  const ninja = spawnSync('ninja', ['--version']).status === 0;
  const args = ['-S', root, '-B', out, '-G', process.env.CMAKE_GENERATOR || (ninja ? 'Ninja' : 'Unix Makefiles')];
  args.push('--no-warn-unused-cli', '-DCMAKE_BUILD_TYPE=Release');
  // Where node-gyp-build looks, and cmake-js puts it.
  args.push(`-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${path.join(out, 'Release')}`);
  return ['cmake', [...args, ...definitions.map((definition) => `-D${definition}`)]];
}

function configure(out, options) {
  const cache = path.join(out, 'CMakeCache.txt');
  const wanted = (process.env.LOWBIT_CMAKE_ARGS ?? '').trim();
  const definitions = wanted.split(/\s+/).filter(Boolean);
  const [command, args] = configureCommand(out, {
    ...options,
    // The cache remembers every variable, also one that is not given any more. So it remembers what was given as well.
    definitions: wanted === '' ? [] : [...definitions, `LOWBIT_CMAKE_ARGS=${wanted}`],
  });
  const cached = fs.existsSync(cache) ? fs.readFileSync(cache, 'utf8') : '';
  const given = /^LOWBIT_CMAKE_ARGS:\w+=(.*)$/m.exec(cached)?.[1] ?? '';
  if (given !== wanted) fs.rmSync(cache, { force: true });

  let result = run(command, args, 'pipe');
  if (result.status !== 0 && cached !== '') {
    // A folder that was moved, or that another generator configured, can only be configured anew.
    fs.rmSync(cache, { force: true });
    fs.rmSync(path.join(out, 'CMakeFiles'), { recursive: true, force: true });
    result = run(command, args, 'pipe');
  }
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
    throw new Error('CMake could not configure the build of lowbit: its message is above.');
  }
}

/**
 * Builds the addon and returns its path.
 *
 * @param {{ out?: string, arch?: string, target?: string }} [options] - The build folder (default build/); the
 *   architecture and Node version to build for, with cmake-js.
 * @throws An Error with one sentence, below what the tools had to say.
 */
function build({ out = path.join(root, 'build'), arch, target } = {}) {
  requirements.check();
  configure(out, { arch, target });
  const result = run('cmake', ['--build', out, '--config', 'Release'], 'inherit');
  const addon = path.join(out, 'Release', 'lowbit.node');
  if (result.status !== 0 || !fs.existsSync(addon)) {
    throw new Error('Compiling lowbit failed: the message of the compiler is above.');
  }
  return addon;
}

module.exports = { build };

if (require.main === module) {
  try {
    build();
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
