/**
 * `npm run quickstart`: from a fresh clone to proof. Calibrates the trained Llama in examples/, quantizes it to int4 by three
 * methods, and shows what each cost: size, perplexity, distance from the original, speed; in the terminal and on a page.
 */
'use strict';

const path = require('node:path');
const { prepare, root, run } = require('./prepare.cjs');

const start = performance.now();
prepare();
console.log(`Installed and built in ${((performance.now() - start) / 1000).toFixed(0)} s.`);

const model = path.join('examples', 'shakespeare-llama');
const text = (name) => path.join('examples', 'text', `sampled-${name}.txt`);
const output = (name) => path.join('examples', 'output', name);

function lowbit(...args) {
  console.log(`\n$ npx lowbit ${args.join(' ')}`);
  run(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), ...args]);
}

const statistics = output('statistics.safetensors');
lowbit('calibrate', model, '--text', text('calib'), '--window-length', '256', '--overwrite', '-o', statistics, '-q');
const folders = [];
for (const method of ['rtn', 'awq', 'gptq']) {
  const folder = output(`shakespeare-llama-int4-${method}`);
  const source = method === 'rtn' ? [] : ['--statistics', statistics];
  const how = ['--dtype', 'int4', '--group-size', '32', '--method', method, ...source];
  lowbit('quantize', model, ...how, '--overwrite', '-o', folder, '-q');
  folders.push(folder);
}
const report = output('report.html');
const evaluation = ['--text', text('eval'), '--window-length', '256', '--max-windows', '64', '--against', model];
lowbit('eval', ...folders, ...evaluation, '--html', report);
console.log(
  `\n${report} has the same with a chart. The folders hold what vLLM and transformers load (compressed-tensors layout). ` +
    'Try your own model: npx lowbit quantize <folder> --method gptq --text <file> -o <folder>',
);
console.log(`${((performance.now() - start) / 1000).toFixed(0)} s in all.`);
