/**
 * How fast is a checkpoint quantized, from file to file, and a header of a million tensors read?
 *
 * The file is generated: eight layers of a model of some size, bfloat16. A plain copy of the same file, flushed to disk as
 * the output is, is the limit. What the page cache holds is the same for both.
 */
import {
  closeSync,
  copyFileSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { SafetensorsFile } from '../dist/checkpoint/safetensors.js';
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const HIDDEN = 2048;
const LAYERS = 8;

function writeModel(folder) {
  mkdirSync(folder, { recursive: true });
  const shapes = {};
  for (let layer = 0; layer < LAYERS; layer++) {
    const at = (name) => `model.layers.${layer}.${name}.weight`;
    for (const part of ['q', 'k', 'v', 'o']) shapes[at(`self_attn.${part}_proj`)] = [HIDDEN, HIDDEN];
    for (const part of ['gate', 'up']) shapes[at(`mlp.${part}_proj`)] = [4 * HIDDEN, HIDDEN];
    shapes[at('mlp.down_proj')] = [HIDDEN, 4 * HIDDEN];
  }
  const header = {};
  let end = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const begin = end;
    end += 2 * shape[0] * shape[1];
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(folder, 'model.safetensors'), 'w');
  writeSync(file, length);
  writeSync(file, text);
  const chunk = lowbit.castTensor(normal(HIDDEN * HIDDEN), { from: 'float32', to: 'bfloat16' });
  for (let written = 0; written < end; written += chunk.byteLength) writeSync(file, chunk);
  closeSync(file);
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({ model_type: 'llama', architectures: ['LlamaForCausalLM'] }),
  );
  return { bytes: end, tensors: Object.keys(shapes).length };
}

function writeHeader(path, count) {
  const parts = [];
  for (let i = 0; i < count; i++)
    parts.push(`"model.layers.${i}.weight":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`);
  const text = Buffer.from(`{${parts.join(',')}}`);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, Buffer.alloc(count)]));
  return text.length;
}

function copyToDisk(from, to) {
  copyFileSync(from, to);
  const file = openSync(to, 'r+');
  fsyncSync(file);
  closeSync(file);
}

const folder = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
try {
  const model = join(folder, 'model');
  const { bytes, tensors } = writeModel(model);
  const rows = [];
  const ALL = lowbit.capabilities().threads;
  for (const threads of ALL > 1 ? [1, ALL] : [1]) {
    lowbit.setNumThreads(threads);
    for (const [label, spec] of [
      ['int8, per channel', { dtype: 'int8', groupSize: null }],
      ['int4, groups of 32', { dtype: 'int4', groupSize: 32 }],
    ]) {
      const output = join(folder, 'quantized');
      const seconds = await medians(
        {
          quantize: () => lowbit.quantizeCheckpoint(model, { ...spec, output, overwrite: true }),
          copy: () => copyToDisk(join(model, 'model.safetensors'), join(folder, 'copy')),
        },
        { rounds: 5 },
      );
      rows.push([
        label,
        String(threads),
        time(seconds.quantize),
        gigabytes(bytes, seconds.quantize),
        gigabytes(bytes, seconds.copy),
      ]);
    }
  }
  const header = join(folder, 'header.safetensors');
  const headerBytes = writeHeader(header, 1_000_000);
  const start = performance.now();
  const file = await SafetensorsFile.open(header);
  const seconds = (performance.now() - start) / 1000;
  await file.close();
  publish(
    'Checkpoints',
    'npm run bench -- checkpoints',
    `### ${tensors} tensors of bfloat16, ${(bytes / 2 ** 30).toFixed(2)} GiB, file to file

Reads the weights, quantizes, measures what it cost (SQNR of every tensor), writes and flushes to disk.

${markdownTable(['dtype', 'threads', 'time', 'GB/s of input', 'GB/s, copy of the input'], rows)}

A header of 1,000,000 tensors (${(headerBytes / 2 ** 20).toFixed(0)} MiB) is read and checked in ${time(seconds)}.`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
