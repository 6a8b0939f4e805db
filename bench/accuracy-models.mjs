/**
 * What quantization costs a model: the small Llama of examples/, which was really trained, with the linear layers of its blocks
 * quantized in every way that needs no calibration, on text that it wrote itself at temperature 1 (so that the change of the
 * nats is an estimate of the KL divergence). The same rows were computed by an independent program in numpy and torch.
 *
 * `--windows n` evaluates so many of the 256 windows, evenly spaced. The plays it was trained on are used as well where they
 * are at hand (../shared/models/shakespeare-llama/plays).
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { markdownTable, publish } from './support/report.mjs';

const { values } = parseArgs({ options: { windows: { type: 'string' }, write: { type: 'boolean' } } });
const maxWindows = values.windows === undefined ? undefined : Number(values.windows);
const root = join(import.meta.dirname, '..');
const model = join(root, 'examples', 'shakespeare-llama');
const LINEARS = [
  ...['q', 'k', 'v', 'o'].map((name) => `self_attn.${name}_proj`),
  ...['gate', 'up', 'down'].map((name) => `mlp.${name}_proj`),
];

/** Replaces the weights of a block by what `quantize` makes of them. */
function replacing(quantize) {
  return async (block) => {
    for (const name of LINEARS) {
      const bias = block.bias(name);
      if (bias !== null) throw new Error('this model has no biases');
      const weight = await block.weight(name);
      const columns = name === 'mlp.down_proj' ? 768 : 256;
      block.replace(name, quantize(weight, [weight.length / columns, columns]));
    }
  };
}

const integers = (dtype, groupSize, scheme) => (weight, shape) =>
  lowbit.quantizeTensor(weight, { dtype, shape, scheme, granularity: 'per-group', groupSize });
const others = (options) => (weight, shape) => lowbit.quantizeTensor(weight, { shape, ...options });

/** name, bits per weight, nats of the reference on the sampled text, what computes. Scales are float32. */
const IN_MEMORY = [
  ['int8 per channel', 8, 1.27359, { quantize: others({ dtype: 'int8', granularity: 'per-channel' }) }],
  ['int4 g32 symmetric', 4.5, 1.27739, { quantize: integers('int4', 32, 'symmetric') }],
  ['int4 g128 symmetric', 4.125, 1.28016, { quantize: integers('int4', 128, 'symmetric') }],
  ['int4 g32 asymmetric', 4.625, 1.27606, { quantize: integers('int4', 32, 'asymmetric') }],
  ['int4 g128 asymmetric', 4.16, null, { quantize: integers('int4', 128, 'asymmetric') }],
  ['int3 g128 asymmetric', 3.15, 1.29332, { quantize: integers('int3', 128, 'asymmetric') }],
  ['int2 g32 asymmetric', 2.6, 1.35223, { quantize: integers('int2', 32, 'asymmetric') }],
  ['NF4 blocks of 64', 4.5, 1.27706, { quantize: others({ dtype: 'nf4', granularity: 'per-group', groupSize: 64 }) }],
  ['FP8 E4M3 per channel', 8, 1.27391, { quantize: others({ dtype: 'float8_e4m3fn', granularity: 'per-channel' }) }],
  ['MXFP4', 4.25, 1.28052, { quantize: others({ dtype: 'mxfp4' }) }],
  [
    'W8A8 (int8 per channel, activations int8 per token)',
    8,
    1.27401,
    { quantize: others({ dtype: 'int8', granularity: 'per-channel' }), activations: 'int8-dynamic' },
  ],
];

/** As files: scales are rounded to what the formats store. */
const FILES = [
  ['compressed-tensors int4 g32', { format: 'compressed-tensors', dtype: 'int4', groupSize: 32 }],
  ['GPTQ int4 g128', { format: 'gptq', dtype: 'int4', groupSize: 128 }],
  ['AWQ int4 g128', { format: 'awq' }],
  ['bitsandbytes NF4', { format: 'bitsandbytes', dtype: 'nf4' }],
  ['FP8 blocks of 128 × 128', { format: 'fp8' }],
  ['NVFP4', { format: 'compressed-tensors', dtype: 'nvfp4' }],
  ['GGUF Q8_0', { format: 'gguf', dtype: 'q8_0' }],
  ['GGUF Q4_0', { format: 'gguf', dtype: 'q4_0' }],
];

const signed = (value, digits) => `${value < 0 ? '' : '+'}${value.toFixed(digits)}`;

/** Means and standard error of the change of the nats, paired by window. */
function change(windows, originals) {
  const differences = windows.map((nats, i) => nats - originals[i]);
  const mean = differences.reduce((a, b) => a + b, 0) / differences.length;
  const squares = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0);
  return [mean, Math.sqrt(squares / (differences.length - 1) / differences.length)];
}

async function tableOf(text, against) {
  const common = { text, tokenizer: model, ...(maxWindows === undefined ? {} : { maxWindows }) };
  const float = await lowbit.evaluateModel(model, common);
  const rows = [];
  const add = (name, bits, expected, evaluation) => {
    const [mean, error] = change(evaluation.windowNats, float.windowNats);
    const row = [
      name,
      bits.toFixed(2),
      evaluation.natsPerToken.value.toFixed(5),
      evaluation.perplexity.value.toFixed(4),
      `${signed(mean, 5)} ± ${error.toFixed(5)}`,
      ...(against ? [expected === null ? '' : expected.toFixed(5)] : []),
    ];
    rows.push(row);
    console.error(row.join(' | '));
  };
  add('bfloat16 (the original)', 16, 1.27358, float);
  for (const [name, bits, expected, { quantize, activations = 'float32' }] of IN_MEMORY) {
    add(
      name,
      bits,
      expected,
      await lowbit.evaluateModel(model, { ...common, onBlock: replacing(quantize), activations }),
    );
  }
  const folder = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
  try {
    for (const [i, [name, spec]] of FILES.entries()) {
      const output = join(folder, `${i}${spec.format === 'gguf' ? '.gguf' : ''}`);
      await lowbit.quantizeCheckpoint(model, { ...spec, output });
      const evaluation = await lowbit.evaluateModel(output, common);
      add(`${name} (file)`, evaluation.checkpoint.bitsPerWeight, null, evaluation);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  const head = ['weights', 'bits/weight', 'nats/byte', 'perplexity', 'Δ nats'];
  if (against) head.push('reference');
  const { windows, totalWindows, tokens, windowLength } = float;
  const intro = `${windows} of ${totalWindows} windows of ${windowLength} tokens, ${tokens} bytes scored.`;
  return `${intro}\n\n${markdownTable(head, rows)}`;
}

const sampled = readFileSync(join(root, 'examples', 'text', 'sampled-eval.txt'), 'utf8');
const plays = join(root, '..', 'shared', 'models', 'shakespeare-llama', 'plays', 'valid.txt');
let body = `### Text sampled from the model\n\n${await tableOf(sampled, maxWindows === undefined)}`;
if (existsSync(plays))
  body += `\n\n### Plays, of which it saw others\n\n${await tableOf(readFileSync(plays, 'utf8'), false)}`;
else console.error('SKIPPED: the plays are not at hand, only the sampled text is used');
publish('Models', 'npm run bench -- accuracy-models', body);
