import { describe, expect, it } from 'vitest';
import { awqClip, awqScales, dequantizeTensor, quantizeTensor } from '../../lib/index.js';
import { searchClip, searchScales } from '../../lib/methods/awq.js';
import { type RoundTrip, scaleColumns } from '../../lib/methods/linear-weight.js';
import { normal } from '../support/random.js';
import { outputError, statisticsOf } from '../support/statistics.js';
import { type EncodedArray, float32, readJson } from '../support/vectors.js';

interface Case {
  group_size: number;
  W: EncodedArray;
  search: {
    X: EncodedArray;
    w_mean: EncodedArray;
    x_mean: EncodedArray;
    best_scales: EncodedArray;
    best_clip: EncodedArray;
    n_grid: number;
    max_shrink: number;
  };
}

const { cases } = readJson<{ cases: Case[] }>('awq', 'search.json');

/** AutoAWQ's rounding of weights with zero points, whose ranges need not contain zero. */
function autoAwq(groupSize: number): RoundTrip {
  return async (weights) => {
    const result = new Float32Array(weights.length);
    for (let begin = 0; begin < weights.length; begin += groupSize) {
      const group = weights.subarray(begin, begin + groupSize);
      const [least, most] = [Math.min(...group), Math.max(...group)];
      const scale = Math.fround(Math.max(Math.fround(most - least), 1e-5) / 15);
      const zero = Math.min(15, Math.max(0, -roundHalfEven(Math.fround(least / scale))));
      group.forEach((w, i) => {
        const code = Math.min(15, Math.max(0, roundHalfEven(Math.fround(w / scale)) + zero));
        result[begin + i] = Math.fround(Math.fround(code - zero) * scale);
      });
    }
    return result;
  };
}

function roundHalfEven(x: number): number {
  const low = Math.floor(x);
  return x - low > 0.5 || (x - low === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

describe.each(cases)('AutoAWQ, groups of $group_size', ({ group_size: groupSize, W, search }) => {
  const data = float32(W);
  const [rows = 0, columns = 0] = W.shape;
  const x = float32(search.X);
  const format = { roundTrip: autoAwq(groupSize), groupSize };
  const weight = { data, rows, columns };

  it('the same scales', async () => {
    // On the CPU, AutoAWQ's copy of the weights shares their memory, so that from the second exponent on it scales weights that
    // have been scaled by the first one. Its choice is that of a search which does the same.
    const plain = autoAwq(groupSize);
    let calls = 0;
    let first = new Float32Array(0);
    const scalesOf = (scaled: Float32Array) =>
      Float32Array.from({ length: columns }, (_, k) => {
        const at = data.findIndex((w, i) => i % columns === k && w !== 0);
        return (scaled[at] as number) / (data[at] as number);
      });
    const roundTrip: RoundTrip = async (scaled) => {
      calls++;
      if (calls === 2) first = scalesOf(scaled);
      return plain(
        calls <= 2 ? scaled : scaled.map((value, i) => value * (first[i % columns] as number)),
        rows,
        columns,
      );
    };
    const options = { grid: search.n_grid, scaling: 'duo' } as const;
    const { scales } = await searchScales([weight], statisticsOf(x, columns), [{ roundTrip, groupSize }], options);
    const expected = float32(search.best_scales);
    for (const [k, scale] of scales.entries()) {
      expect(Math.abs(scale / (expected[k] as number) - 1)).toBeLessThan(1e-6);
    }
  });

  it('the same limits', async () => {
    const options = { grid: search.n_grid, maxShrink: search.max_shrink };
    const { limits, data: clipped } = await searchClip(weight, statisticsOf(x, columns), format, options);
    const expected = float32(search.best_clip);
    expect(limits).toHaveLength(expected.length);
    const same = limits.filter((limit, i) => Math.abs(limit - (expected[i] as number)) <= 1e-6 * limit).length;
    expect(same / limits.length).toBeGreaterThanOrEqual(0.995);
    clipped.forEach((value, i) => {
      const limit = limits[Math.floor(i / groupSize)] as number;
      expect(value).toBe(Math.fround(Math.min(limit, Math.max(-limit, data[i] as number))));
    });
  });
});

/** Activations with a few channels much larger than the others, and weights that do not know of it. */
function layer(rows: number, columns: number, seed: number) {
  const x = normal(50 * columns, seed).map((value, i) => value * (i % columns < 4 ? 20 : 1));
  return { x, weight: { data: normal(rows * columns, seed + 1), rows, columns } };
}

describe('awqScales', () => {
  const weights = { dtype: 'int3', granularity: 'per-group', groupSize: 16, scaleDtype: 'float16' } as const;

  it.each([true, false])('its error is that of the outputs (Gram matrix: %s)', async (hasGram) => {
    const { x, weight } = layer(12, 48, 1);
    const statistics = statisticsOf(x, 48);
    const found = await awqScales([weight], hasGram ? statistics : { ...statistics, gram: null }, { weights });
    const stored = dequantizeTensor(
      quantizeTensor(scaleColumns(weight, found.scales).data, { ...weights, shape: [12, 48] }),
    );
    const back = stored.map((value, i) => value / (found.scales[i % 48] as number));
    const plain = dequantizeTensor(quantizeTensor(weight.data, { ...weights, shape: [12, 48] }));
    const error = outputError(x, back, weight.data, 48);
    if (hasGram) {
      expect(found.error / error).toBeCloseTo(1, 4);
      expect(found.unscaledError / outputError(x, plain, weight.data, 48)).toBeCloseTo(1, 4);
    }
    expect(error).toBeLessThan(0.7 * outputError(x, plain, weight.data, 48));
  });

  it('of several layers together', async () => {
    const { x, weight } = layer(8, 32, 3);
    const other = { data: normal(20 * 32, 9, 3), rows: 20, columns: 32 };
    const statistics = statisticsOf(x, 32);
    const together = await awqScales([weight, other], statistics, { weights });
    const joined = { data: Float32Array.of(...weight.data, ...other.data), rows: 28, columns: 32 };
    const alone = await awqScales([joined], statistics, { weights });
    expect(together.scales).toEqual(alone.scales);
    expect(together.error / alone.error).toBeCloseTo(1, 6);
  });

  it('leaves weights alone that nothing helps', async () => {
    const weight = { data: new Float32Array(4 * 16), rows: 4, columns: 16 };
    const { scales, error } = await awqScales([weight], statisticsOf(normal(16 * 10, 1), 16), { weights });
    expect(scales).toEqual(new Float32Array(16).fill(1));
    expect(error).toBe(0);
  });

  it('activations that are all zero give finite scales', async () => {
    const { weight } = layer(4, 16, 1);
    const { scales } = await awqScales([weight], statisticsOf(new Float32Array(16 * 3), 16), { weights });
    expect(scales.every((s) => Number.isFinite(s) && s > 0)).toBe(true);
  });

  it('refuses what does not fit', async () => {
    const { x, weight } = layer(4, 16, 1);
    const statistics = statisticsOf(x, 16);
    await expect(awqScales([], statistics, { weights })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument: 'weights',
    });
    await expect(awqScales([{ ...weight, columns: 8, rows: 8 }], statistics, { weights })).rejects.toMatchObject({
      argument: 'weights',
    });
    await expect(awqScales([weight], statistics, { weights, grid: 0 })).rejects.toMatchObject({ argument: 'grid' });
    const reason = new Error('enough');
    await expect(awqScales([weight], statistics, { weights, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('awqClip', () => {
  it('costs no group anything', async () => {
    const weights = { dtype: 'uint4', scheme: 'asymmetric', granularity: 'per-group', groupSize: 16 } as const;
    const { x, weight } = layer(10, 40, 5);
    weight.data[3] = 9; // an outlier: it alone makes the scale of its group
    const { data, limits } = await awqClip(weight, statisticsOf(x, 40), { weights });
    expect(limits).toHaveLength(10 * 3);
    const store = (w: Float32Array) => dequantizeTensor(quantizeTensor(w, { ...weights, shape: [10, 40] }));
    const [clipped, plain] = [store(data), store(weight.data)];
    for (let g = 0; g < 3; g++) {
      const only = (w: Float32Array) => w.map((value, i) => (Math.floor((i % 40) / 16) === g ? value : 0));
      for (let row = 0; row < 10; row++) {
        const rowOf = (w: Float32Array) => only(w).subarray(row * 40, (row + 1) * 40);
        const before = outputError(x, rowOf(plain), rowOf(weight.data), 40);
        const after = outputError(x, rowOf(clipped), rowOf(weight.data), 40);
        expect(after).toBeLessThanOrEqual(before * (1 + 1e-4));
      }
    }
  });
});
