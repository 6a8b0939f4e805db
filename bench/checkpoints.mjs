/**
 * How fast is a checkpoint quantized, against copying the same bytes, and against ggml's quantizer alone? How fast is a header
 * of a million tensors opened?
 *
 * `npm run bench:checkpoints -- [--size=4] [--rounds=5] [--tensors=1000000] [--only=<regex>] [--quick] [--folder=<where>]
 * [--write]` generates a Llama-shaped checkpoint of so many GB in bfloat16 (--quick: 0.8 GB, one round, 100,000 tensors), runs the
 * command line on it from a warm cache, and takes its processor time and resident memory. The copy reads the input and writes as
 * many bytes as the result has, with as many calls at once, and flushes them to disk as well.
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openCheckpoint } from '../dist/checkpoint/checkpoint.js';
import lowbit from '../dist/index.js';
import { normal } from './support/measure.mjs';
import { peer } from './support/peer.mjs';
import { markdownTable, publish } from './support/report.mjs';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    size: { type: 'string' },
    rounds: { type: 'string' },
    tensors: { type: 'string' },
    only: { type: 'string', default: '' },
    write: { type: 'boolean', default: false },
    folder: { type: 'string', default: tmpdir() },
  },
});
const ggml = await peer('ggml');
const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const root = mkdtempSync(join(options.folder, 'lowbit-bench-'));
process.on('exit', () => rmSync(root, { recursive: true, force: true }));

const [HIDDEN, INNER] = [4096, 11008];
const LAYER_BYTES = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER);
const LAYERS = Math.max(1, Math.round((1e9 * Number(options.size ?? (options.quick ? 0.8 : 4))) / LAYER_BYTES));
const ROUNDS = Number(options.rounds ?? (options.quick ? 1 : 5));
const TENSORS = Number(options.tensors ?? (options.quick ? 100_000 : 1_000_000));

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

/** Memory that system calls copy to at full speed: not right behind a page's beginning, where files' pages begin. */
function memory(bytes) {
  return new Uint8Array(new SharedArrayBuffer(bytes + 4096), 2032, bytes);
}

/** Reads one file and writes so many bytes to another, two pieces at a time. Seconds that pass, and of processors. */
async function copy(path, outputBytes) {
  const target = join(root, 'copy');
  const [input, output] = [await open(path, 'r'), await open(target, 'w')];
  const { size } = await input.stat();
  const PIECE = 2 ** 21;
  let next = 0;
  const worker = async () => {
    const buffer = memory(PIECE);
    while (next < size) {
      const begin = next;
      next += PIECE;
      const { bytesRead } = await input.read(buffer, 0, PIECE, begin);
      const from = Math.floor((begin / size) * outputBytes);
      const count = Math.floor(((begin + bytesRead) / size) * outputBytes) - from;
      await output.write(buffer, 0, count, from);
    }
  };
  const [start, before] = [performance.now(), process.cpuUsage()];
  await Promise.all([worker(), worker()]);
  await output.datasync();
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(before);
  await Promise.all([input.close(), output.close()]);
  rmSync(target);
  return { seconds, cpu: (user + system) / 1e6 };
}

/** Runs the command line; seconds that pass and of processors, of the whole process, and its peak of resident memory. */
// Node takes "inspect" for a wish of its own if it comes first.
function run(...args) {
  const script = `process.argv.splice(1, 1); process.on('exit', () => process.stderr.write(JSON.stringify(process.resourceUsage()))); require(${JSON.stringify(
    join(here, '..', 'dist', 'cli', 'main.js'),
  )})`;
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(process.execPath, ['-e', script, 'lowbit', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    child.stderr.on('data', (data) => {
      text += data;
    });
    child.on('close', (status) => {
      const seconds = (performance.now() - start) / 1000;
      if (status !== 0) {
        reject(new Error(`lowbit ended with ${status}: ${text}`));
        return;
      }
      const { maxRSS, userCPUTime, systemCPUTime } = JSON.parse(text.slice(text.lastIndexOf('{"userCPUTime"')));
      resolve({ seconds, cpu: (userCPUTime + systemCPUTime) / 1e6, rss: 1024 * maxRSS });
    });
  });
}

async function quantize(folder, args, output) {
  const result = await run('quantize', folder, '-q', ...args, '-o', output);
  const bytes = sizeOf(output);
  rmSync(output, { recursive: true, force: true });
  rmSync(`${output}.lowbit.json`, { force: true });
  return { ...result, bytes };
}

function sizeOf(output) {
  const status = statSync(output);
  return status.isFile() ? status.size : statSync(join(output, 'model.safetensors')).size;
}

/** Seconds that ggml's quantizer takes for a checkpoint, on one thread: from pieces of its weights. */
function ggmlSeconds(type, path, bytes) {
  if (ggml === null) return null;
  const rows = 256;
  const piece = new Uint8Array(2 * rows * HIDDEN);
  const file = openSync(path, 'r');
  let seconds = 0;
  const pieces = 4;
  for (let i = 0; i < pieces; i++) {
    readSync(file, piece, 0, piece.length, 4096 * Math.floor((bytes * (i + 1)) / (pieces + 1) / 4096));
    const floats = lowbit.castTensor(new Uint16Array(piece.buffer), { from: 'bfloat16', to: 'float32' });
    const out = new Uint8Array(2 * floats.length); // no type has more than 8.5 bits
    const start = performance.now();
    ggml.quantize(type, floats, out, rows, HIDDEN);
    seconds += (performance.now() - start) / 1000;
  }
  closeSync(file);
  return (seconds * bytes) / (pieces * piece.length);
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

/** Seconds in which a header is opened, opened with every weight listed, and inspected by the command line. */
async function headerSeconds(name, write) {
  const path = join(root, name);
  write(path, TENSORS);
  const taken = [[], [], []];
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    let start = performance.now();
    const checkpoint = await openCheckpoint(path);
    taken[0].push((performance.now() - start) / 1000);
    if (checkpoint.tensors.size !== TENSORS) throw new Error(`${checkpoint.tensors.size} tensors in ${name}`);
    await checkpoint.close();
    globalThis.gc?.();
    start = performance.now();
    const { weights } = await lowbit.inspectCheckpoint(path);
    if (weights.length !== TENSORS) throw new Error(`${weights.length} weights in ${name}`);
    taken[1].push((performance.now() - start) / 1000);
    taken[2].push((await run('inspect', path)).seconds);
  }
  return taken.map((seconds) => `${median(seconds).toFixed(2)} s`);
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const { folder, bytes } = generate();
const path = join(folder, 'model.safetensors');
// Without what is done besides: SHA-256 of the input, and reading the result back.
const BARE = ['--no-input-hashes', '--no-verify'];
const SETTINGS = [
  ['int4, groups of 128, compressed-tensors', ['-d', 'int4', ...BARE], null],
  ['int4, groups of 32, compressed-tensors', ['-d', 'int4', '-g', '32', ...BARE], null],
  ['groups of 128, verified', ['-d', 'int4', '--no-input-hashes'], null],
  ['groups of 128, with SHA-256 of the input', ['-d', 'int4', '--no-verify'], null],
  ['groups of 128, both (the default)', ['-d', 'int4'], null],
  ['int4, groups of 128, GPTQ', ['-f', 'gptq', ...BARE], null],
  ['int4, groups of 128, AWQ', ['-f', 'awq', ...BARE], null],
  ['NF4, bitsandbytes', ['-f', 'bnb', ...BARE], null],
  ['FP8, 128 × 128 blocks', ['-f', 'fp8', ...BARE], null],
  ['GGUF Q8_0', ['-f', 'gguf:q8_0', ...BARE], 'q8_0'],
  ['GGUF Q4_K', ['-f', 'gguf:q4_k_s', ...BARE], 'q4_k'],
].filter(([name]) => new RegExp(options.only).test(name));
const rows = [];
for (const [name, args, type] of SETTINGS) {
  const output = join(root, args.some((arg) => arg.startsWith('gguf')) ? 'out.gguf' : 'out');
  const runs = [];
  const copies = [];
  const rounds = type === 'q4_k' ? 1 : ROUNDS;
  const { bytes: written } = await quantize(folder, args, output); // and warms the cache
  await copy(path, written);
  for (let i = 0; i < rounds; i++) {
    copies.push(await copy(path, written));
    runs.push(await quantize(folder, args, output));
  }
  const of = (results, what) => median(results.map((result) => result[what]));
  const [seconds, copying] = [of(runs, 'seconds'), of(copies, 'seconds')];
  const alone = type === null ? null : ggmlSeconds(type, path, bytes);
  rows.push([
    name,
    `${seconds.toFixed(2)} s`,
    `${copying.toFixed(2)} s`,
    `${(seconds / copying).toFixed(2)}×`,
    `${of(runs, 'cpu').toFixed(2)} s`,
    `${of(copies, 'cpu').toFixed(2)} s`,
    `${((bytes + written) / seconds / 1e9).toFixed(2)}`,
    `${(Math.max(...runs.map((result) => result.rss)) / 1e6).toFixed(0)} MB`,
    alone === null ? '' : `${(alone / seconds).toFixed(1)}×`,
  ]);
  console.error(rows.at(-1).join(' | '));
}
const headers = [
  ['safetensors', ...(await headerSeconds('header.safetensors', safetensorsHeader))],
  ['GGUF', ...(await headerSeconds('header.gguf', ggufHeader))],
];
const given = ['quick', 'size', 'rounds', 'tensors', 'only'].filter((name) => options[name]);
const flags = given.map((name) => (name === 'quick' ? '--quick' : `--${name}=${options[name]}`)).join(' ');
const head = [
  'format',
  'time',
  'copying',
  'of copying',
  'processors',
  'copying',
  'GB/s',
  'memory',
  'faster than ggml’s quantizer',
];
publish(
  'Checkpoints',
  `npm run bench:checkpoints${flags === '' ? '' : ` -- ${flags}`}`,
  `${(bytes / 1e9).toFixed(2)} GB of bfloat16 in, from a warm cache to disk; median of ${ROUNDS} runs of the command line, process start included. Without SHA-256 of the input and without verification, unless a line says so. ggml’s quantizer has one thread and reads and writes no file.\n\n${markdownTable(head, rows)}\n\nA header of ${TENSORS.toLocaleString('en')} tensors:\n\n${markdownTable(['container', 'openCheckpoint', 'inspectCheckpoint', 'lowbit inspect'], headers)}`,
);
