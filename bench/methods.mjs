/**
 * What does each method gain? The bundled Llama is quantized by every method to four, three and two bits, calibrated on one text
 * and evaluated on another, in the layout that files have (scales in bfloat16). The reference columns were computed by an
 * independent program in numpy and torch, with scales in float32.
 *
 * `npm run bench -- methods [--windows=n] [--only=regex] [--write]`: evaluates so many of the 256 windows, evenly spaced, of the
 * settings whose name matches. `--eval=file --calibration=file` take other texts, for which there is no reference.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { markdownTable, publish } from './support/report.mjs';

const { values } = parseArgs({
  options: {
    windows: { type: 'string' },
    only: { type: 'string', default: '' },
    eval: { type: 'string' },
    calibration: { type: 'string' },
    write: { type: 'boolean' },
  },
});
const examples = join(import.meta.dirname, '..', 'examples');
const model = join(examples, 'shakespeare-llama');
const text = readFileSync(values.eval ?? join(examples, 'text', 'sampled-eval.txt'), 'utf8');
const calibration = { text: [values.calibration ?? join(examples, 'text', 'sampled-calib.txt')], windowLength: 256 };
const work = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
process.on('exit', () => rmSync(work, { recursive: true, force: true }));

/** Name, settings, what the reference has for each method: Δ nats. */
const SETTINGS = [
  ['int4, groups of 32, symmetric', { dtype: 'int4', groupSize: 32 }, { rtn: 0.00381, awq: 0.0036, gptq: 0.00144 }],
  ['int4, groups of 32, asymmetric', { dtype: 'int4', groupSize: 32, scheme: 'asymmetric' }, { rtn: 0.00248 }],
  ['int4, groups of 128, symmetric', { dtype: 'int4', groupSize: 128 }, { rtn: 0.00658, gptq: 0.00198 }],
  [
    'int3, groups of 128, asymmetric',
    { dtype: 'int3', groupSize: 128, scheme: 'asymmetric' },
    { rtn: 0.01974, gptq: 0.00631 },
  ],
  [
    'int2, groups of 32, asymmetric',
    { dtype: 'int2', groupSize: 32, scheme: 'asymmetric' },
    { rtn: 0.07864, gptq: 0.03022 },
  ],
];
const METHODS = ['rtn', 'hqq', 'awq', 'gptq', 'awq-gptq'];
/** The same with activations of eight bits: in files with static ones their scales are, dynamic ones are the evaluation's. */
const W8 = { dtype: 'int8', groupSize: null };
const ACTIVATION_SETTINGS = [
  ['int8 per channel, int8 activations per token', W8, { rtn: 0.00043 }, 'int8-dynamic'],
  ['int8 per channel, static int8 activations', { ...W8, activations: 'int8-static' }, {}, 'stored'],
  [
    'int8 per channel, static int8 activations by least squared error',
    { ...W8, activations: 'int8-static', activationRange: 'mse' },
    {},
    'stored',
  ],
];
const ACTIVATION_METHODS = ['rtn', 'smoothquant'];

const rows = [];
for (const [name, layout, reference, activations] of [...SETTINGS, ...ACTIVATION_SETTINGS]) {
  for (const method of activations === undefined ? METHODS : ACTIVATION_METHODS) {
    if (method === 'hqq' && layout.scheme !== 'asymmetric') continue;
    if (!new RegExp(values.only).test(`${name}: ${method}`)) continue;
    const output = join(work, `${rows.length}`);
    const needs = (method !== 'rtn' && method !== 'hqq') || layout.activations !== undefined;
    const { bitsPerWeight } = await lowbit.quantizeCheckpoint(model, {
      ...layout,
      method,
      ...(needs ? { calibration } : {}),
      output,
    });
    const result = await lowbit.evaluateModel(output, {
      text,
      against: model,
      windowLength: 256,
      ...(activations === undefined ? {} : { activations }),
      ...(values.windows === undefined ? {} : { maxWindows: Number(values.windows) }),
    });
    const { natsChange: nats, klDivergence, topAgreement } = result.against;
    const known = values.eval === undefined ? reference[method] : undefined;
    rows.push([
      `${name}: \`${method}\``,
      bitsPerWeight.toFixed(2),
      result.perplexity.value.toFixed(4),
      `${nats.value < 0 ? '−' : '+'}${Math.abs(nats.value).toFixed(5)} ± ${nats.standardError.toFixed(5)}`,
      known === undefined ? '' : `+${known.toFixed(5)}`,
      klDivergence.value.toFixed(5),
      `${(100 * topAgreement.value).toFixed(1)} %`,
    ]);
    console.error(rows.at(-1).join(' | '));
  }
}
const head = [
  'weights: method',
  'bits/weight',
  'perplexity',
  'Δ nats',
  'Δ nats, reference',
  'KL divergence',
  'same top token',
];
publish('Methods', 'npm run bench -- methods', markdownTable(head, rows));
