/**
 * npm run make-prebuilds [-- --arch arm64]: compiles prebuilds/<platform>-<arch>/lowbit.node, on Linux lowbit.glibc.node or
 * lowbit.musl.node, the names that node-gyp-build looks for. It builds in a folder of its own and leaves build/ alone. With
 * LOWBIT_CMAKE_ARGS=LOWBIT_CUDA=ON the CUDA module lies beside it.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const prebuildify = require('prebuildify');
const { checkPrebuilds } = require('./check-prebuild.cjs');

const root = path.dirname(__dirname);

function fail(sentence) {
  console.error(sentence);
  process.exit(1);
}

const { values } = parseArgs({ options: { arch: { type: 'string', default: process.arch } } });
const { arch } = values;
const { platform } = process;
const linux = platform === 'linux';

let stripBin = 'strip';
// macOS and Windows compilers take the architecture as an option; on Linux another one is another compiler.
if (linux && arch !== process.arch) {
  if (arch !== 'arm64') fail(`There is no toolchain for linux-${arch}: run this on such a machine.`);
  if (spawnSync('aarch64-linux-gnu-g++', ['--version']).status !== 0) {
    fail('Compiling for arm64 needs its compiler: run `apt-get install g++-aarch64-linux-gnu`.');
  }
  stripBin = 'aarch64-linux-gnu-strip';
  const toolchain = 'CMAKE_TOOLCHAIN_FILE=cmake/toolchain-aarch64.cmake';
  process.env.LOWBIT_CMAKE_ARGS = `${toolchain} ${process.env.LOWBIT_CMAKE_ARGS ?? ''}`;
}

const folder = path.join(root, 'build-prebuild', `${platform}-${arch}`);
fs.mkdirSync(folder, { recursive: true });
const shim = path.join(__dirname, 'node-gyp-shim.cjs');

prebuildify(
  {
    name: 'lowbit',
    arch,
    napi: true,
    targets: ['20.0.0'],
    strip: true,
    stripBin,
    tagLibc: linux,
    cwd: folder,
    out: root,
    // Windows runs it through a shell and can't run a script by itself.
    nodeGyp: platform === 'win32' ? `"${process.execPath}" "${shim}"` : shim,
  },
  (error) => {
    if (error) fail(`No prebuild for ${platform}-${arch} was made: ${error.message}.`);
    const cuda = ['lowbit_cuda.so', 'lowbit_cuda.dll'].map((name) => path.join(folder, 'build', 'Release', name));
    for (const file of cuda.filter((candidate) => fs.existsSync(candidate))) {
      fs.copyFileSync(file, path.join(root, 'prebuilds', `${platform}-${arch}`, path.basename(file)));
    }
    if (linux) checkPrebuilds([path.join(root, 'prebuilds', `linux-${arch}`)]);
  },
);
