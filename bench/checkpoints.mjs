/**
 * How fast is a checkpoint quantized, against copying the same bytes, and against ggml's quantizer alone?
 *
 * `npm run bench:checkpoints -- [--quick] [--write] [--folder=<where>]` generates a Llama-shaped checkpoint of 4 GB in bfloat16
 * (--quick: 0.8 GB), runs the command line on it from a warm cache, and takes its resident memory. The copy reads the input
 * and writes as many bytes as the result has, with the same calls and as many of them at once.
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { normal } from './support/measure.mjs';
import { peer } from './support/peer.mjs';
import { markdownTable, publish } from './support/report.mjs';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    folder: { type: 'string', default: tmpdir() },
  },
});
const ggml = await peer('ggml');
const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const root = mkdtempSync(join(options.folder, 'lowbit-bench-'));
process.on('exit', () => rmSync(root, { recursive: true, force: true }));

const [HIDDEN, INNER, LAYERS] = [4096, 11008, options.quick ? 2 : 10];
const ROUNDS = 5;

/** Names and shapes of a Llama. */
function tensorsOf() {
  const tensors = [['model.embed_tokens.weight', [259, HIDDEN]]];
  for (let i = 0; i < LAYERS; i++) {
    const layer = `model.layers.${i}`;
    for (const name of ['q', 'k', 'v', 'o']) tensors.push([`${layer}.self_attn.${name}_proj.weight`, [HIDDEN, HIDDEN]]);
    for (const name of ['gate', 'up']) tensors.push([`${layer}.mlp.${name}_proj.weight`, [INNER, HIDDEN]]);
    tensors.push([`${layer}.mlp.down_proj.weight`, [HIDDEN, INNER]]);
    for (const name of ['input', 'post_attention']) tensors.push([`${layer}.${name}_layernorm.weight`, [HIDDEN]]);
  }
  return [...tensors, ['model.norm.weight', [HIDDEN]], ['lm_head.weight', [259, HIDDEN]]];
}

/** Writes the checkpoint; returns its folder and bytes. */
function generate() {
  const folder = join(root, 'model');
  mkdirSync(folder);
  const example = join(here, '..', 'examples', 'shakespeare-llama');
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
    copyFileSync(join(example, name), join(folder, name));
  }
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      hidden_size: HIDDEN,
      intermediate_size: INNER,
      num_hidden_layers: LAYERS,
      num_attention_heads: 32,
      num_key_value_heads: 32,
      max_position_embeddings: 4096,
      rms_norm_eps: 1e-5,
      vocab_size: 259,
      tie_word_embeddings: false,
      torch_dtype: 'bfloat16',
      bos_token_id: 1,
      eos_token_id: 2,
    }),
  );
  const block = lowbit.castTensor(normal(1 << 22, 1, 0.02), { from: 'float32', to: 'bfloat16' });
  const source = new Uint8Array(block.buffer);
  const entries = {};
  let end = 0;
  for (const [name, shape] of tensorsOf()) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    entries[name] = { dtype: 'BF16', shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  const header = Buffer.from(JSON.stringify(entries));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const file = openSync(join(folder, 'model.safetensors'), 'w');
  writeSync(file, length);
  writeSync(file, header);
  // Another place of the block each time, so that no two layers are the same.
  for (let written = 0, turn = 0; written < end; turn++) {
    const from = 2 * ((turn * 7919) % 1024);
    const part = source.subarray(from, from + Math.min(source.length - from, end - written));
    written += writeSync(file, part);
  }
  closeSync(file);
  return { folder, bytes: statSync(join(folder, 'model.safetensors')).size };
}

/** Reads one file and writes so many bytes to another, two pieces at a time. */
async function copy(path, outputBytes) {
  const target = join(root, 'copy');
  const [input, output] = [await open(path, 'r'), await open(target, 'w')];
  const { size } = await input.stat();
  const PIECE = 2 ** 21;
  let next = 0;
  const worker = async () => {
    const buffer = new Uint8Array(PIECE);
    while (next < size) {
      const begin = next;
      next += PIECE;
      const { bytesRead } = await input.read(buffer, 0, PIECE, begin);
      const from = Math.floor((begin / size) * outputBytes);
      const count = Math.floor(((begin + bytesRead) / size) * outputBytes) - from;
      await output.write(buffer, 0, count, from);
    }
  };
  const start = performance.now();
  await Promise.all([worker(), worker()]);
  await output.datasync();
  const seconds = (performance.now() - start) / 1000;
  await Promise.all([input.close(), output.close()]);
  rmSync(target);
  return seconds;
}

/** Runs the command line; seconds of the whole process, and its peak of resident memory. */
function quantize(folder, args, output) {
  const script = `process.argv.splice(1, 0, 'lowbit'); process.on('exit', () => console.log(process.resourceUsage().maxRSS)); require(${JSON.stringify(
    join(here, '..', 'dist', 'cli', 'main.js'),
  )})`;
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(process.execPath, ['-e', script, 'quantize', folder, '-q', ...args, '-o', output], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.on('data', (data) => {
      text += data;
    });
    child.on('close', (status) => {
      const seconds = (performance.now() - start) / 1000;
      const bytes = status === 0 ? sizeOf(output) : 0;
      rmSync(output, { recursive: true, force: true });
      rmSync(`${output}.lowbit.json`, { force: true });
      if (status === 0) resolve({ seconds, rss: 1024 * Number(text), bytes });
      else reject(new Error(`lowbit ended with ${status}`));
    });
  });
}

function sizeOf(output) {
  const status = statSync(output);
  return status.isFile() ? status.size : statSync(join(output, 'model.safetensors')).size;
}

/** Seconds that ggml's quantizer takes for so many elements, on one thread, from a sample of them. */
function ggmlSeconds(type, elements) {
  if (ggml === null) return null;
  const sample = normal(HIDDEN * 256, 2, 0.02);
  const out = new Uint8Array(sample.length);
  const start = performance.now();
  ggml.quantize(type, sample, out, 256, HIDDEN);
  return ((performance.now() - start) / 1000) * (elements / sample.length);
}

/** A safetensors header of so many tensors. */
function safetensorsHeader(path, count) {
  const parts = [];
  for (let i = 0; i < count; i++)
    parts.push(`"model.layers.${i}.weight":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`);
  const text = Buffer.from(`{${parts.join(',')}}`);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, Buffer.alloc(count)]));
}

/** A GGUF header of so many tensors. */
function ggufHeader(path, count) {
  const head = Buffer.alloc(24);
  head.write('GGUF');
  head.writeUInt32LE(3, 4);
  head.writeBigUInt64LE(BigInt(count), 8);
  const infos = [];
  for (let i = 0; i < count; i++) {
    const name = Buffer.from(`blk.${i}.weight`);
    const info = Buffer.alloc(8 + name.length + 4 + 8 + 4 + 8);
    info.writeBigUInt64LE(BigInt(name.length));
    name.copy(info, 8);
    info.writeUInt32LE(1, 8 + name.length);
    info.writeBigUInt64LE(8n, 12 + name.length);
    info.writeBigUInt64LE(BigInt(32 * i), 24 + name.length);
    infos.push(info);
  }
  const header = Buffer.concat([head, ...infos]);
  writeFileSync(path, Buffer.concat([header, Buffer.alloc(((32 - (header.length % 32)) % 32) + 32 * count)]));
}

/** Seconds in which a header of a million tensors is opened and every weight listed. */
async function headerSeconds(name, write) {
  const path = join(root, name);
  write(path, 1_000_000);
  const seconds = [];
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    const start = performance.now();
    const { weights } = await lowbit.inspectCheckpoint(path);
    if (weights.length !== 1_000_000) throw new Error(`${weights.length} weights in ${name}`);
    seconds.push((performance.now() - start) / 1000);
  }
  return median(seconds);
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const { folder, bytes } = generate();
const path = join(folder, 'model.safetensors');
const elements = bytes / 2;
const SETTINGS = [
  ['int4, groups of 128, compressed-tensors', ['-d', 'int4'], null],
  ['the same without SHA-256 of the input', ['-d', 'int4', '--no-input-hashes'], null],
  ['int4, groups of 128, GPTQ', ['-f', 'gptq', '--no-input-hashes'], null],
  ['int4, groups of 128, AWQ', ['-f', 'awq', '--no-input-hashes'], null],
  ['NF4, bitsandbytes', ['-f', 'bnb', '--no-input-hashes'], null],
  ['FP8, 128 × 128 blocks', ['-f', 'fp8', '--no-input-hashes'], null],
  ['GGUF Q8_0', ['-f', 'gguf:q8_0', '--no-input-hashes'], 'q8_0'],
  ['GGUF Q4_K', ['-f', 'gguf:q4_k_s', '--no-input-hashes'], 'q4_k'],
];
const rows = [];
for (const [name, args, type] of SETTINGS) {
  const output = join(root, args.some((arg) => arg.startsWith('gguf')) ? 'out.gguf' : 'out');
  const runs = [];
  const copies = [];
  const rounds = type === 'q4_k' ? 1 : ROUNDS;
  const { bytes: written } = await quantize(folder, args, output); // and warms the cache
  for (let i = 0; i < rounds; i++) {
    copies.push(await copy(path, written));
    runs.push(await quantize(folder, args, output));
  }
  const seconds = median(runs.map((run) => run.seconds));
  const copying = median(copies);
  const alone = type === null ? null : ggmlSeconds(type, elements);
  rows.push([
    name,
    `${seconds.toFixed(2)} s`,
    `${copying.toFixed(2)} s`,
    `${(seconds / copying).toFixed(2)}×`,
    `${((bytes + written) / seconds / 1e9).toFixed(2)}`,
    `${(Math.max(...runs.map((run) => run.rss)) / 1e6).toFixed(0)} MB`,
    alone === null ? '' : `${(alone / seconds).toFixed(1)}×`,
  ]);
  console.error(rows.at(-1).join(' | '));
}
const headers = [
  ['safetensors', await headerSeconds('header.safetensors', safetensorsHeader)],
  ['GGUF', await headerSeconds('header.gguf', ggufHeader)],
];
const head = ['format', 'time', 'copying', 'of copying', 'GB/s', 'memory', 'faster than ggml’s quantizer'];
publish(
  'Checkpoints',
  `npm run bench:checkpoints${options.quick ? ' -- --quick' : ''}`,
  `${(bytes / 1e9).toFixed(2)} GB of bfloat16 in, median of ${ROUNDS} runs of the command line, process start included.\n\n${markdownTable(head, rows)}\n\nA header of 1,000,000 tensors is opened and listed (\`inspectCheckpoint\`): ${headers
    .map(([name, seconds]) => `${name} in ${seconds.toFixed(2)} s`)
    .join(', ')}.`,
);
