import { describe, expect, it } from 'vitest';
import { dequantizeTensor, gram, InvalidArgumentError, NonFiniteError, quantizeTensor, rtn } from '../../lib/index.js';
import { normal } from '../support/random.js';

const n = 17;
const k = 75;
const w = normal(n * k, 1);
const x = normal(200 * k, 2);
for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) * ((i % k) % 9 === 4 ? 20 : 1);
const hessian = gram(x, { k });
const sumOfSquares = Float64Array.from({ length: k }, (_, i) => hessian[i * k + i] as number);
const statistics = { columns: k, rows: 200, gram: null, sumOfSquares };

/** Σ x²·(w − ŵ)², per row and group of a width. */
function weighted(values: Float32Array, width: number): number[] {
  const sums = new Array<number>(n * Math.ceil(k / width)).fill(0);
  for (let i = 0; i < w.length; i++) {
    const group = Math.floor(i / k) * Math.ceil(k / width) + Math.floor((i % k) / width);
    sums[group] =
      (sums[group] as number) + (sumOfSquares[i % k] as number) * ((w[i] as number) - (values[i] as number)) ** 2;
  }
  return sums;
}

describe('round to nearest', () => {
  it.each(['minmax', 'mse'] as const)('%s is that of quantizeTensor', async (range) => {
    for (const dtype of ['int4', 'uint4', 'int8', 'uint2', 'int3'] as const) {
      for (const scheme of ['symmetric', 'asymmetric'] as const) {
        const result = await rtn(w, { shape: [n, k], dtype, scheme, groupSize: 32, range });
        expect(result).toEqual({
          tensor: quantizeTensor(w, {
            shape: [n, k],
            dtype,
            scheme,
            granularity: 'per-group',
            groupSize: 32,
            range,
          } as never),
          order: null,
          warnings: [],
        });
      }
    }
    const { tensor } = await rtn(w, {
      shape: [n, k],
      dtype: 'int4',
      granularity: 'per-channel',
      narrowRange: false,
      range,
    });
    expect(tensor).toEqual(
      quantizeTensor(w, { shape: [n, k], dtype: 'int4', granularity: 'per-channel', narrowRange: false, range }),
    );
  });

  it('with statistics, no group costs more in the output than without', async () => {
    for (const dtype of ['int4', 'uint4', 'uint3'] as const) {
      for (const scheme of ['symmetric', 'asymmetric'] as const) {
        const options = { dtype, scheme, groupSize: 32, range: 'mse' } as const;
        const blind = weighted(dequantizeTensor((await rtn(w, { ...options, shape: [n, k] })).tensor), 32);
        const seeing = weighted(dequantizeTensor((await rtn(w, { ...options, statistics })).tensor), 32);
        let better = 0;
        for (const [i, cost] of seeing.entries()) {
          expect(cost).toBeLessThanOrEqual((blind[i] as number) * (1 + 1e-5));
          better += cost < 0.99 * (blind[i] as number) ? 1 : 0;
        }
        expect(better).toBeGreaterThan(seeing.length / 4);
      }
    }
  });

  it("the GPTQ code's scales", async () => {
    const row = Float32Array.of(0.5, 3, 1, 0, -1, -3, 2, 1, 0, 0, 0, 0);
    const of = async (scheme: 'symmetric' | 'asymmetric') =>
      (await rtn(row, { shape: [3, 4], dtype: 'uint4', scheme, groupSize: 4, convention: 'gptq' })).tensor;
    const symmetric = await of('symmetric');
    expect(Array.from(symmetric.scales)).toEqual([3 / 15, 6 / 15, 2 / 15].map(Math.fround));
    expect(Array.from(symmetric.zeroPoints as Int32Array)).toEqual([8, 8, 8]);
    const asymmetric = await of('asymmetric');
    expect(Array.from(asymmetric.scales)).toEqual([3 / 15, 5 / 15, 2 / 15].map(Math.fround));
    expect(Array.from(asymmetric.zeroPoints as Int32Array)).toEqual([0, 9, 7]); // 1 / float32(2 / 15) is less than 7.5
  });

  it('the range search of the GPTQ code: no range of its grid has a smaller Σ|error|^2.4', async () => {
    const size = 32;
    const groups = 40;
    const weight = normal(groups * size, 3).map((v) => v ** 3);
    for (const scheme of ['symmetric', 'asymmetric'] as const) {
      const options = { shape: [groups, size], dtype: 'uint4', scheme, groupSize: size } as const;
      const { tensor } = await rtn(weight, { ...options, convention: 'gptq', range: 'mse' });
      let narrowed = 0;
      for (let g = 0; g < groups; g++) {
        const group = weight.subarray(g * size, (g + 1) * size);
        let min = Math.min(0, ...group);
        let max = Math.max(0, ...group);
        if (scheme === 'symmetric') {
          max = Math.max(-min, max);
          if (min < 0) min = -max;
        }
        const grid = Array.from({ length: 80 }, (_, i) => {
          const factor = Math.fround(1 - i / 100);
          const [low, high] = [Math.fround(min * factor), Math.fround(max * factor)];
          const scale = Math.fround(Math.fround(high - low) / 15);
          const zero = scheme === 'symmetric' ? 8 : Math.round(Math.fround(-low / scale));
          let cost = 0;
          for (const v of group) {
            const code = Math.max(0, Math.min(15, Math.round(v / scale) + zero));
            cost += Math.abs(scale * (code - zero) - v) ** 2.4;
          }
          return { scale, zero, cost };
        });
        const least = Math.min(...grid.map(({ cost }) => cost));
        const chosen = grid.find(({ scale }) => scale === tensor.scales[g]);
        expect(chosen?.zero).toBe(tensor.zeroPoints?.[g]);
        expect(chosen?.cost).toBeLessThanOrEqual(least * (1 + 1e-5));
        narrowed += chosen === grid[0] ? 0 : 1;
      }
      expect(narrowed).toBeGreaterThan(groups / 2);
    }
  });

  it('empty weights', async () => {
    expect((await rtn(new Float32Array(0), { shape: [0, 4], dtype: 'int4' })).tensor.shape).toEqual([0, 4]);
    const none = { columns: 0, rows: 0, gram: null, sumOfSquares: new Float64Array(0) };
    const options = { shape: [2, 0], dtype: 'int4', statistics: none, range: 'mse' } as const;
    expect((await rtn(new Float32Array(0), options)).tensor.shape).toEqual([2, 0]);
  });

  it('wrong arguments', async () => {
    for (const wrong of [
      {},
      { shape: [n, k + 1] },
      { shape: [n, k], statistics: { ...statistics, columns: 3, sumOfSquares: new Float64Array(3) } },
      { shape: [n, k], statistics: null },
      { shape: [n, k], range: 'max' },
      { shape: [n, k], convention: 1 },
      { shape: [n, k], groupSize: 0 },
      { shape: [n, k], descAct: true },
    ]) {
      await expect(rtn(w, { dtype: 'int4', ...wrong } as never)).rejects.toThrow(InvalidArgumentError);
    }
    const bad = { ...statistics, sumOfSquares: sumOfSquares.map((v, i) => (i === 3 ? Number.NaN : v)) };
    const error = rtn(w, { dtype: 'int4', statistics: bad, name: 'layers.1' });
    await expect(error).rejects.toBeInstanceOf(NonFiniteError);
    await expect(error).rejects.toMatchObject({ index: 3, message: expect.stringContaining('layers.1') });
  });
});
