import { describe, expect, it } from 'vitest';
import {
  castTensor,
  dequantizeBlocks,
  dequantizeTensor,
  type QuantizedTensor,
  quantizeBlocks,
  quantizeTensor,
  setNumThreads,
} from '../../lib/index.js';
import { compareRowsAsync, type FloatRows, type OtherRows } from '../../lib/tensor/compare-rows.js';
import { normal } from '../support/random.js';

/** Rows in each float type. */
function references(floats: Float32Array): FloatRows[] {
  return [
    { kind: 'float', dtype: 'float32', data: floats },
    { kind: 'float', dtype: 'bfloat16', data: castTensor(floats, { from: 'float32', to: 'bfloat16' }) },
    { kind: 'float', dtype: 'float16', data: castTensor(floats, { from: 'float32', to: 'float16' }) },
  ];
}

function floatsOf(rows: FloatRows): Float32Array {
  return rows.data instanceof Float32Array
    ? rows.data
    : castTensor(rows.data, { from: rows.dtype as 'float16', to: 'float32' });
}

/** The sums of a row in float64, one after the other: right to a rounding for each addend. */
function expected(r: Float32Array, o: Float32Array, columns: number): number[] {
  const sums: number[] = [];
  for (let begin = 0; begin < r.length; begin += columns) {
    let [rr, oo, ro, ee, most] = [0, 0, 0, 0, 0];
    for (let i = begin; i < begin + columns; i++) {
      const [x, y] = [r[i] as number, o[i] as number];
      rr += x * x;
      oo += y * y;
      ro += x * y;
      ee += (x - y) ** 2;
      most = Math.max(most, Math.abs(x - y));
    }
    sums.push(rr, oo, ro, ee, most);
  }
  return sums;
}

const quantized = (tensor: QuantizedTensor): [OtherRows, Float32Array] => [
  { kind: 'quantized', tensor },
  dequantizeTensor(tensor),
];

type Make = (floats: Float32Array, rows: number, columns: number) => [OtherRows, Float32Array];

/** Everything that rows can become, and what shapes it takes. */
const KINDS: [string, Make, (columns: number) => boolean][] = [
  ...(['float32', 'float16', 'bfloat16'] as const).map((dtype): [string, Make, () => boolean] => [
    dtype,
    (floats) => {
      const noisy = floats.map((x) => x * 1.01 + 1e-3);
      const other = references(noisy).find((rows) => rows.dtype === dtype) as FloatRows;
      return [other, floatsOf(other)];
    },
    () => true,
  ]),
  ...(['int8', 'uint4', 'int3', 'uint2'] as const).flatMap((dtype): [string, Make, () => boolean][] =>
    [
      { granularity: 'per-tensor' },
      { granularity: 'per-channel' },
      { granularity: 'per-group', groupSize: 48 },
      { granularity: 'per-block', blockShape: [6, 40] },
    ].map((sharing) => [
      `${dtype} ${sharing.granularity}`,
      (floats, rows, columns) =>
        quantized(quantizeTensor(floats, { dtype, shape: [rows, columns], ...sharing } as never)),
      () => true,
    ]),
  ),
  [
    'int4 asymmetric',
    (floats, rows, columns) =>
      quantized(
        quantizeTensor(floats, {
          dtype: 'int4',
          scheme: 'asymmetric',
          granularity: 'per-channel',
          shape: [rows, columns],
        }),
      ),
    () => true,
  ],
  ...(['nf4', 'float8_e4m3fn', 'mxfp4', 'mxfp6_e2m3', 'nvfp4', 'ternary'] as const).map(
    (dtype): [string, Make, () => boolean] => [
      dtype,
      (floats, rows, columns) => quantized(quantizeTensor(floats, { dtype, shape: [rows, columns] } as never)),
      () => true,
    ],
  ),
  ...(['q4_0', 'q4_k', 'nvfp4'] as const).map((type): [string, Make, (columns: number) => boolean] => [
    `block ${type}`,
    (floats, _rows, columns) => {
      const data = quantizeBlocks(floats, { type, rowLength: columns });
      return [{ kind: 'blocks', type, data }, dequantizeBlocks(data, { type, rowLength: columns })];
    },
    (columns) => columns % 256 === 0,
  ]),
];

// Short rows, rows that fill no byte, more than a tile has, and rows longer than a tile.
const SHAPES = [
  [1, 1],
  [7, 3],
  [300, 131],
  [5, 40_003],
  [2, 98_304],
  [129, 512],
] as const;

describe('sums of rows', () => {
  it.each(KINDS)('%s: as float64 arithmetic on what is dequantized', async (_, make, takes) => {
    for (const [rows, columns] of SHAPES) {
      if (!takes(columns)) continue;
      const floats = normal(rows * columns, rows + columns);
      const [other, values] = make(floats, rows, columns);
      for (const reference of references(floats)) {
        const sums = await compareRowsAsync(reference, other, rows, columns, undefined);
        const right = expected(floatsOf(reference), values, columns);
        expect(sums).toHaveLength(5 * rows);
        for (let i = 0; i < sums.length; i++) {
          const [got, want] = [sums[i] as number, right[i] as number];
          const scale = i % 5 === 2 ? Math.sqrt((right[i - 2] as number) * (right[i - 1] as number)) : want;
          if (i % 5 === 4) expect(got).toBe(want);
          else if (!(Math.abs(got - want) <= (columns + 1) * 2 ** -52 * scale))
            expect([rows, columns, i, got]).toEqual([rows, columns, i, want]);
        }
      }
    }
  });

  it('have the same bits for any number of threads', async () => {
    const [rows, columns] = [40, 33_000];
    const floats = normal(rows * columns, 1);
    const tensor = quantizeTensor(floats, {
      dtype: 'int4',
      granularity: 'per-group',
      groupSize: 100,
      shape: [rows, columns],
    });
    const reference: FloatRows = { kind: 'float', dtype: 'float32', data: floats };
    const all: Float64Array[] = [];
    for (const threads of [1, 2, 7]) {
      setNumThreads(threads);
      all.push(await compareRowsAsync(reference, { kind: 'quantized', tensor }, rows, columns, undefined));
    }
    setNumThreads(2);
    for (const sums of all) expect(sums).toEqual(all[0]);
  });

  it('of nothing are none, and NaN is refused', async () => {
    const none: FloatRows = { kind: 'float', dtype: 'float32', data: new Float32Array(0) };
    expect(await compareRowsAsync(none, none, 0, 5, undefined)).toEqual(new Float64Array(0));
    const bad: FloatRows = { kind: 'float', dtype: 'float32', data: Float32Array.of(1, 2, Number.NaN, 4) };
    const good: FloatRows = { kind: 'float', dtype: 'float32', data: Float32Array.of(1, 2, 3, 4) };
    await expect(compareRowsAsync(good, bad, 2, 2, undefined)).rejects.toMatchObject({ code: 'NON_FINITE', index: 2 });
  });
});
