import { describe, expect, it } from 'vitest';
import { searchSmoothQuant, smoothQuantScales } from '../../lib/index.js';
import { normal } from '../support/random.js';
import { statisticsOf } from '../support/statistics.js';
import { type EncodedArray, float32, readJson } from '../support/vectors.js';

interface Case {
  alpha: number;
  act_max: EncodedArray;
  W0: EncodedArray;
  W1: EncodedArray;
  scales: EncodedArray;
}

const { cases } = readJson<{ cases: Case[] }>('smoothquant', 'smoothquant.json');

function weightOf({ shape: [rows = 0, columns = 0], ...rest }: EncodedArray) {
  return { data: float32({ ...rest, shape: [rows, columns] }), rows, columns };
}

it.each(cases)('the scales of the reference, α = $alpha', ({ alpha, act_max, W0, W1, scales }) => {
  const got = smoothQuantScales([weightOf(W0), weightOf(W1)], float32(act_max), alpha);
  const expected = float32(scales);
  expect(got).toHaveLength(expected.length);
  for (const [k, scale] of got.entries()) expect(Math.abs(scale / (expected[k] as number) - 1)).toBeLessThan(1e-6);
});

/** int8 with one scale for each row, or for all, in float64. */
function stored(values: ArrayLike<number>, columns: number, scaleOf: (row: number) => number): Float64Array {
  return Float64Array.from(values, (value, i) => {
    const scale = scaleOf(Math.floor(i / columns)) || 1;
    return Math.min(127, Math.max(-127, Math.round(value / scale))) * scale;
  });
}

function largest(values: ArrayLike<number>): number {
  return Array.from(values).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
}

describe('searchSmoothQuant', () => {
  const columns = 48;
  const x = normal(60 * columns, 1).map((value, i) => value * (i % columns === 5 ? 60 : 1));
  const weight = { data: normal(16 * columns, 2), rows: 16, columns };

  it.each(['dynamic', 'static'] as const)('%s: its error is that of the product', async (activations) => {
    const found = await searchSmoothQuant([weight], statisticsOf(x, columns), { activations });
    const errorOf = (scales: ArrayLike<number>) => {
      const smooth = Float32Array.from(x, (value, i) => value / (scales[i % columns] as number));
      const scaled = weight.data.map((value, i) => value * (scales[i % columns] as number));
      const rowsOf = (values: Float32Array, row: number) => values.subarray(row * columns, (row + 1) * columns);
      const all = largest(smooth) / 127;
      const xs = stored(smooth, columns, (row) =>
        activations === 'static' ? all : largest(rowsOf(smooth, row)) / 127,
      );
      const ws = stored(scaled, columns, (row) => largest(rowsOf(scaled, row)) / 127);
      let error = 0;
      for (let t = 0; t < 60; t++) {
        for (let n = 0; n < 16; n++) {
          let sum = 0;
          for (let k = 0; k < columns; k++) {
            sum += (xs[t * columns + k] as number) * (ws[n * columns + k] as number);
            sum -= (x[t * columns + k] as number) * (weight.data[n * columns + k] as number);
          }
          error += sum * sum;
        }
      }
      return error;
    };
    expect(found.alpha).not.toBeNull();
    expect(found.error / errorOf(found.scales)).toBeCloseTo(1, 1);
    expect(found.unsmoothedError / errorOf(new Float32Array(columns).fill(1))).toBeCloseTo(1, 1);
    expect(found.error).toBeLessThan(0.3 * found.unsmoothedError);
  });

  it('one α that is given', async () => {
    const { alpha, scales } = await searchSmoothQuant([weight], statisticsOf(x, columns), { alphas: [0.5] });
    expect(alpha).toBe(0.5);
    expect(scales).toEqual(smoothQuantScales([weight], statisticsOf(x, columns).absMax, 0.5));
  });

  it('a channel that was always zero stays as it is', async () => {
    const silent = x.map((value, i) => (i % columns === 7 ? 0 : value));
    const { scales, alpha } = await searchSmoothQuant([weight], statisticsOf(silent, columns), { alphas: [0.5] });
    expect(alpha).toBe(0.5);
    expect(scales[7]).toBe(1);
    expect(scales[8]).not.toBe(1);
  });

  it('refuses what does not fit', async () => {
    const statistics = statisticsOf(x, columns);
    expect(() => smoothQuantScales([weight], statistics.absMax, 1.5)).toThrow(/alpha/);
    expect(() => smoothQuantScales([], statistics.absMax)).toThrow(/weights/);
    await expect(searchSmoothQuant([weight], { ...statistics, sample: new Float32Array(0) })).rejects.toMatchObject({
      argument: 'statistics',
    });
  });
});
