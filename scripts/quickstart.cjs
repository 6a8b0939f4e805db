/**
 * `npm run quickstart`: from a fresh clone to a real model's weights quantized. Quantizes the trained Llama in examples/ to
 * int8 and to int4 in groups of 32, and shows what that cost.
 */
'use strict';

const path = require('node:path');
const { prepare, root, run } = require('./prepare.cjs');

const start = performance.now();
prepare();
console.log(`Installed and built in ${((performance.now() - start) / 1000).toFixed(0)} s.`);

const model = path.join('examples', 'shakespeare-llama');
const variants = [
  ['int8', '--dtype', 'int8', '--granularity', 'per-channel'],
  ['int4', '--dtype', 'int4', '--group-size', '32'],
];
for (const [name, ...options] of variants) {
  const args = [
    'quantize',
    model,
    ...options,
    '--overwrite',
    '-o',
    path.join('examples', 'output', `shakespeare-llama-${name}`),
  ];
  console.log(`\n$ npx lowbit ${args.join(' ')}`);
  run(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), ...args]);
}
console.log(
  '\nBoth folders hold what vLLM and transformers load (compressed-tensors layout). ' +
    'Try your own checkpoint: npx lowbit quantize <folder> --dtype int4 --group-size 32 -o <folder>',
);
