/**
 * What does each number format cost in bits and in accuracy? On a normal distribution, and on a heavy-tailed one (Student's t
 * with three degrees of freedom), which has outliers as weights do.
 *
 * `npm run bench -- formats --write` puts the table into docs/formats.md and draws the pictures beside it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import lowbit from '../dist/index.js';
import { normal } from './support/measure.mjs';
import { barPicture, layoutPicture } from './support/pictures.mjs';
import { markdownTable } from './support/report.mjs';

const [ROWS, COLUMNS] = [1024, 4096];
const COUNT = ROWS * COLUMNS;

/** t = z / √(χ²₃ / 3) */
function heavyTailed() {
  const [z, a, b, c] = [2, 3, 4, 5].map((seed) => normal(COUNT, seed));
  return z.map((value, i) => value / Math.sqrt((a[i] ** 2 + b[i] ** 2 + c[i] ** 2) / 3));
}

const group = (dtype, groupSize) => ({ dtype, granularity: 'per-group', groupSize, scaleDtype: 'float16' });

/** Formats, with the bits that their scales take in files. */
const FORMATS = [
  ['int8, per channel', { dtype: 'int8', granularity: 'per-channel' }, 8 + 32 / COLUMNS],
  ['mxint8', { dtype: 'mxint8' }, 8.25],
  ['q8_0', 'q8_0'],
  ['float8_e4m3fn, per channel', { dtype: 'float8_e4m3fn', granularity: 'per-channel' }, 8 + 32 / COLUMNS],
  ['float8_e5m2, per channel', { dtype: 'float8_e5m2', granularity: 'per-channel' }, 8 + 32 / COLUMNS],
  ['mxfp8_e4m3', { dtype: 'mxfp8_e4m3' }, 8.25],
  ['mxfp8_e5m2', { dtype: 'mxfp8_e5m2' }, 8.25],
  ['q6_k', 'q6_k'],
  ['mxfp6_e2m3', { dtype: 'mxfp6_e2m3' }, 6.25],
  ['mxfp6_e3m2', { dtype: 'mxfp6_e3m2' }, 6.25],
  ['q5_1', 'q5_1'],
  ['q5_0', 'q5_0'],
  ['q5_k', 'q5_k'],
  ['q4_1', 'q4_1'],
  ['int4, groups of 32', group('int4', 32), 4.5],
  ['uint4, groups of 128', { ...group('uint4', 128) }, 4 + 20 / 128],
  ['q4_0', 'q4_0'],
  ['q4_k', 'q4_k'],
  ['iq4_nl', 'iq4_nl'],
  ['iq4_xs', 'iq4_xs'],
  ['nf4, blocks of 64', { dtype: 'nf4' }, 4.5],
  ['nf4, nested', { dtype: 'nf4', nested: true }, 4 + 8 / 64 + 32 / (64 * 256)],
  ['fp4, blocks of 64', { dtype: 'fp4' }, 4.5],
  ['nvfp4', { dtype: 'nvfp4' }, 4.5],
  ['mxfp4', { dtype: 'mxfp4' }, 4.25],
  ['q3_k', 'q3_k'],
  ['int3, groups of 32', group('int3', 32), 3.5],
  ['q2_k', 'q2_k'],
  ['int2, groups of 32', group('int2', 32), 2.5],
  ['tq2_0', 'tq2_0'],
  ['tq1_0', 'tq1_0'],
  ['ternary, per channel', { dtype: 'ternary', granularity: 'per-channel' }, 2 + 32 / COLUMNS],
  ['binary, per channel', { dtype: 'binary', granularity: 'per-channel' }, 1 + 32 / COLUMNS],
];

function quality(how, x) {
  if (typeof how === 'string') {
    const options = { type: how, rowLength: COLUMNS };
    const blocks = lowbit.quantizeBlocks(x, options);
    const { sqnrDb } = lowbit.compareTensors(x, lowbit.dequantizeBlocks(blocks, options));
    return { sqnrDb, bits: (8 * blocks.length) / x.length };
  }
  const q = lowbit.quantizeTensor(x, { shape: [ROWS, COLUMNS], ...how });
  return { sqnrDb: lowbit.compareTensors(x, lowbit.dequantizeTensor(q)).sqnrDb };
}

const distributions = [normal(COUNT, 1), heavyTailed()];
const rows = FORMATS.map(([name, how, fileBits]) => {
  const results = distributions.map((x) => quality(how, x));
  return { name, bits: fileBits ?? results[0].bits, values: results.map(({ sqnrDb }) => sqnrDb) };
});

const LAYOUTS = [
  {
    name: 'q4_0',
    fields: [
      ['scale', 'scale', 16],
      ['codes', '32 codes of 4 bits: j low, j + 16 high', 128],
    ],
  },
  {
    name: 'q4_1',
    fields: [
      ['scale', 'scale', 16],
      ['offset', 'min', 16],
      ['codes', '32 codes of 4 bits', 128],
    ],
  },
  {
    name: 'q5_0',
    fields: [
      ['scale', 'scale', 16],
      ['high bits', '32 fifth bits', 32],
      ['codes', '32 × 4 low bits', 128],
    ],
  },
  {
    name: 'q5_1',
    fields: [
      ['scale', 'scale', 16],
      ['offset', 'min', 16],
      ['high bits', 'fifth bits', 32],
      ['codes', '32 × 4 low bits', 128],
    ],
  },
  {
    name: 'q8_0',
    fields: [
      ['scale', 'scale', 16],
      ['codes', '32 codes of 8 bits', 256],
    ],
  },
  {
    name: 'iq4_nl',
    fields: [
      ['scale', 'scale', 16],
      ['codes', '32 indices of 4 bits into 16 levels', 128],
    ],
  },
  {
    name: 'mxfp4',
    fields: [
      ['scale', '2^e', 8],
      ['codes', '32 codes of E2M1', 128],
    ],
  },
  {
    name: 'nvfp4',
    fields: [
      ['scale', '4 × E4M3', 32],
      ['codes', '64 codes of E2M1 in four groups of 16', 256],
    ],
  },
  {
    name: 'q2_k',
    fields: [
      ['scale', '16 × (4-bit scale, 4-bit minimum)', 128],
      ['codes', '256 codes of 2 bits', 512],
      ['scale', 'd', 16],
      ['offset', 'dmin', 16],
    ],
  },
  {
    name: 'q3_k',
    fields: [
      ['high bits', '256 third bits', 256],
      ['codes', '256 × 2 low bits', 512],
      ['scale', '16 × 6-bit scale', 96],
      ['scale', 'd', 16],
    ],
  },
  {
    name: 'q4_k',
    fields: [
      ['scale', 'd', 16],
      ['offset', 'dmin', 16],
      ['scale', '8 × (6, 6)', 96],
      ['codes', '256 codes of 4 bits, 8 groups of 32', 1024],
    ],
  },
  {
    name: 'q5_k',
    fields: [
      ['scale', 'd', 16],
      ['offset', 'dmin', 16],
      ['scale', '8 × (6, 6)', 96],
      ['high bits', '256 fifth bits', 256],
      ['codes', '256 × 4 low bits', 1024],
    ],
  },
  {
    name: 'q6_k',
    fields: [
      ['codes', '256 × 4 low bits', 1024],
      ['high bits', '256 × 2 high bits', 512],
      ['scale', '16 × int8', 128],
      ['scale', 'd', 16],
    ],
  },
  {
    name: 'q8_k',
    fields: [
      ['scale', 'float32', 32],
      ['codes', '256 codes of 8 bits', 2048],
      ['sums', '16 sums of 16 codes', 256],
    ],
  },
  {
    name: 'iq4_xs',
    fields: [
      ['scale', 'd', 16],
      ['scale', 'high', 16],
      ['scale', 'low', 32],
      ['codes', '256 indices of 4 bits into 16 levels', 1024],
    ],
  },
  {
    name: 'tq1_0',
    fields: [
      ['codes', '256 ternary digits, five to a byte', 416],
      ['scale', 'scale', 16],
    ],
  },
  {
    name: 'tq2_0',
    fields: [
      ['codes', '256 ternary digits of 2 bits', 512],
      ['scale', 'scale', 16],
    ],
  },
];

const table = markdownTable(
  ['format', 'bits per weight', 'SQNR on N(0, 1), dB', "SQNR on Student's t₃, dB"],
  rows.map(({ name, bits, values }) => [name, bits.toFixed(2), ...values.map((value) => value.toFixed(1))]),
);
console.log(table);
if (process.argv.includes('--write')) {
  const docs = join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '..', 'docs');
  const series = ['normal', 'heavy-tailed'];
  const title = 'Signal to quantization noise in dB, and bits per weight';
  writeFileSync(join(docs, 'pictures', 'formats-error.svg'), barPicture(title, series, rows));
  writeFileSync(
    join(docs, 'pictures', 'block-layouts.svg'),
    layoutPicture('Where the bits of a GGUF block lie', LAYOUTS),
  );
  const page = readFileSync(join(docs, 'formats.md'), 'utf8');
  const [begin, end] = ['<!-- begin accuracy -->', '<!-- end accuracy -->'];
  const text = `${page.slice(0, page.indexOf(begin))}${begin}\n${table}\n${page.slice(page.indexOf(end))}`;
  writeFileSync(join(docs, 'formats.md'), text);
}
