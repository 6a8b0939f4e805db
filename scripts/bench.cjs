/**
 * `npm run bench [-- <question> …] [--write]`: runs the benchmarks in bench/, all or those named, side by side with the
 * peers that are installed (`npm ci --prefix bench/peers --ignore-scripts`), and prints their tables; --write keeps them in
 * bench/RESULTS.md.
 */
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { prepare, root, run } = require('./prepare.cjs');

const questions = fs
  .readdirSync(path.join(root, 'bench'))
  .filter((name) => name.endsWith('.mjs'))
  .map((name) => name.slice(0, -4));
const args = process.argv.slice(2);
const flags = args.filter((arg) => arg.startsWith('--'));
const wanted = args.filter((arg) => !arg.startsWith('--'));
const unknown = wanted.filter((name) => !questions.includes(name));
if (unknown.length > 0) {
  console.error(`There is no benchmark ${unknown.join(', ')}. There are: ${questions.join(', ')}.`);
  process.exit(2);
}
prepare();
const build = ['-DLOWBIT_BUILD_ADDON=OFF', '-DLOWBIT_BUILD_BENCH=ON', '-DCMAKE_BUILD_TYPE=Release'];
run('cmake', ['-S', '.', '-B', 'build-bench', ...build], { stdio: ['ignore', 'ignore', 'inherit'] });
run('cmake', ['--build', 'build-bench', '--config', 'Release', '--parallel'], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
for (const question of wanted.length > 0 ? wanted : questions) {
  run(process.execPath, ['--expose-gc', path.join('bench', `${question}.mjs`), ...flags]);
}
