import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dequantizeTensor,
  type GptqOptions,
  gptq,
  gram,
  type InputSums,
  InvalidArgumentError,
  layerError,
  type MethodResult,
  NonFiniteError,
  rtn,
  ScaleOverflowError,
  unpackCodes,
} from '../../lib/index.js';
import { normal } from '../support/random.js';

/** Statistics of inputs whose neighbouring columns depend on each other, some of them large; or independent ones. */
function inputs(rows: number, columns: number, seed: number, correlated = true): InputSums {
  const x = normal(rows * columns, seed);
  if (correlated) {
    for (let i = 0; i < x.length; i++) {
      const column = i % columns;
      if (column > 0) x[i] = 0.7 * (x[i - 1] as number) + (x[i] as number);
    }
    for (let i = 0; i < x.length; i++) if ((i % columns) % 11 === 3) x[i] = 6 * (x[i] as number);
  }
  return statisticsOf(gram(x, { k: columns }), rows);
}

function statisticsOf(hessian: Float32Array, rows: number): InputSums {
  const columns = Math.sqrt(hessian.length);
  return {
    columns,
    rows,
    gram: hessian,
    sumOfSquares: Float64Array.from({ length: columns }, (_, i) => hessian[i * columns + i] as number),
  };
}

/** The weight that a result stands for, in the weight's own order. */
function values({ tensor, order }: MethodResult): Float32Array {
  const sorted = dequantizeTensor(tensor);
  if (order === null) return sorted;
  const k = order.length;
  const out = new Float32Array(sorted.length);
  for (let i = 0; i < sorted.length; i++) out[i - (i % k) + (order[i % k] as number)] = sorted[i] as number;
  return out;
}

/** tr((W − Ŵ)·H·(W − Ŵ)ᵀ) in float64. */
function squaredError(w: Float32Array, got: Float32Array, { columns, gram: h }: InputSums, damp = 0): number {
  const hessian = h as Float32Array;
  let mean = 0;
  for (let i = 0; i < columns; i++) mean += (hessian[i * columns + i] as number) / columns;
  let sum = 0;
  for (let begin = 0; begin < w.length; begin += columns) {
    for (let i = 0; i < columns; i++) {
      const e = (w[begin + i] as number) - (got[begin + i] as number);
      let row = damp * mean * e;
      for (let j = 0; j < columns; j++) {
        row += (hessian[i * columns + j] as number) * ((w[begin + j] as number) - (got[begin + j] as number));
      }
      sum += e * row;
    }
  }
  return sum;
}

const ORDERS: readonly Partial<GptqOptions>[] = [
  {},
  { descAct: true, staticGroups: false },
  { descAct: false, staticGroups: false },
  { groupAware: true },
  { groupAware: true, staticGroups: false },
];

describe('GPTQ', () => {
  const n = 24;
  const k = 96;
  const w = normal(n * k, 1);

  describe.each(['correlated', 'independent'] as const)('%s inputs: better than rounding to nearest', (kind) => {
    const statistics = inputs(400, k, 2, kind === 'correlated');
    it.each([2, 3, 4, 8] as const)('%i bits', async (bits) => {
      for (const signed of [false, true]) {
        for (const scheme of ['symmetric', 'asymmetric'] as const) {
          for (const groupSize of [16, 32, 40, null]) {
            const target = {
              dtype: `${signed ? '' : 'u'}int${bits}`,
              scheme,
              ...(groupSize === null ? { granularity: 'per-channel' as const } : { groupSize }),
            } as const;
            for (const range of ['minmax', 'mse'] as const) {
              const nearest = await rtn(w, { ...target, statistics, range });
              const plain = squaredError(w, values(nearest), statistics);
              for (const order of ORDERS) {
                const result = await gptq(w, statistics, { ...target, ...order, range });
                expect(result.warnings).toEqual([]);
                const sorted = order.descAct === true && groupSize !== null;
                expect(result.order !== null).toBe(sorted);
                const got = squaredError(w, values(result), statistics);
                if (!(got < plain)) {
                  expect.fail(`${JSON.stringify({ ...target, ...order, range })}: ${got}, rtn ${plain}`);
                }
              }
            }
          }
        }
      }
    });
  });

  it('any sizes and options: its loss is the error of its codes, and groups lie where the tensor says', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 90 }),
        fc.integer({ min: 1, max: 100 }),
        fc.integer({ min: 1, max: 140 }),
        fc.constantFrom(...ORDERS),
        fc.constantFrom('minmax', 'mse'),
        fc.constantFrom('affine', 'gptq'),
        fc.constantFrom('uint4', 'int4', 'uint3', 'int2', 'int8'),
        fc.constantFrom('symmetric', 'asymmetric'),
        fc.nat(),
        async (rows, columns, groupSize, blockSize, order, range, convention, dtype, scheme, seed) => {
          const weight = normal(rows * columns, seed);
          const statistics = inputs(2 * columns, columns, seed);
          const options = { ...order, dtype, scheme, groupSize, blockSize, range, convention } as GptqOptions;
          const result = await gptq(weight, statistics, options);
          expect(result.tensor).toMatchObject({
            dtype,
            scheme,
            granularity: 'per-group',
            groupSize,
            shape: [rows, columns],
          });
          const expected = squaredError(weight, values(result), statistics, 0.01);
          const whole = squaredError(weight, new Float32Array(weight.length), statistics);
          const off = Math.abs(Math.sqrt(result.loss) - Math.sqrt(expected));
          // Values are float32.
          if (!(off <= 1e-4 * Math.sqrt(expected) + 2e-7 * Math.sqrt(whole))) {
            expect.fail(`${result.loss}, expected ${expected}`);
          }
          if (result.order !== null)
            expect([...result.order].sort((a, b) => a - b)).toEqual([...weight.subarray(0, columns).keys()]);
        },
      ),
      { numRuns: 80 },
    );
  });

  it('quantizes the columns with the largest inputs first', async () => {
    const statistics = inputs(300, k, 3);
    const { order } = await gptq(w, statistics, { dtype: 'uint4', groupSize: 32, staticGroups: false });
    const sizes = Array.from(order as Int32Array, (i) => statistics.sumOfSquares[i] as number);
    expect(sizes).toEqual([...sizes].sort((a, b) => b - a));
  });

  it('a range that is searched for has a smaller loss', async () => {
    const statistics = inputs(300, k, 4);
    const options = { dtype: 'uint3', groupSize: 32 } as const;
    const whole = await gptq(w, statistics, { ...options, range: 'minmax' });
    const searched = await gptq(w, statistics, { ...options, range: 'mse' });
    expect(searched.loss).toBeLessThan(0.9 * whole.loss);
  });

  it('layerError tells the same error', async () => {
    const statistics = inputs(300, k, 5);
    for (const order of ORDERS) {
      const result = await gptq(w, statistics, { ...order, dtype: 'int4', groupSize: 32 });
      const { squared, relative } = await layerError(w, result, statistics);
      expect(squared / squaredError(w, values(result), statistics)).toBeCloseTo(1, 4);
      expect(relative / (squared / squaredError(w, new Float32Array(w.length), statistics))).toBeCloseTo(1, 4);
    }
  });

  it('scales in float16 and bfloat16 are numbers of that type, and the codes are chosen with them', async () => {
    const statistics = inputs(300, k, 6);
    for (const scaleDtype of ['float16', 'bfloat16'] as const) {
      const result = await gptq(w, statistics, { dtype: 'uint4', groupSize: 32, scaleDtype });
      const digits = scaleDtype === 'float16' ? 11 : 8;
      for (const scale of result.tensor.scales) {
        const unit = 2 ** (Math.floor(Math.log2(scale)) + 1 - digits);
        expect(scale % unit).toBe(0);
      }
      expect(result.loss / squaredError(w, values(result), statistics, 0.01)).toBeCloseTo(1, 4);
    }
  });

  it('narrow ranges', async () => {
    const statistics = inputs(300, k, 7);
    const lowest = async (narrowRange: boolean) => {
      const { tensor } = await gptq(w, statistics, { dtype: 'int4', groupSize: 8, narrowRange });
      return Math.min(...unpackCodes(tensor));
    };
    expect(await lowest(true)).toBe(-7);
    expect(await lowest(false)).toBe(-8);
  });

  it('as the GPTQ code: ranges of whole rows see columns that become zero, those of groups do not', async () => {
    const statistics = inputs(300, k, 8);
    const hessian = (statistics.gram as Float32Array).slice();
    for (let i = 0; i < k; i++) hessian[5 * k + i] = hessian[i * k + 5] = 0;
    const weight = w.map((value, i) => (i % k === 5 ? 9 + (i % 7) : value));
    const largest = (row: number, seen: (column: number) => boolean) =>
      weight
        .subarray(row * k, (row + 1) * k)
        .reduce((a, x, column) => (seen(column) ? Math.max(a, Math.abs(x)) : a), 0);
    const options = { dtype: 'uint4', scheme: 'symmetric', convention: 'gptq', deadColumns: 'zero' } as const;
    const dead = statisticsOf(hessian, 300);
    const rows = await gptq(weight, dead, { ...options, granularity: 'per-channel' });
    const groups = await gptq(weight, dead, { ...options, groupSize: k });
    for (let row = 0; row < n; row++) {
      expect(rows.tensor.scales[row]).toBe(Math.fround((2 * largest(row, () => true)) / 15));
      expect(groups.tensor.scales[row]).toBe(Math.fround((2 * largest(row, (column) => column !== 5)) / 15));
      for (const result of [rows, groups]) expect(values(result)[row * k + 5]).toBe(0);
    }
  });

  it('inputs that were always zero', async () => {
    const statistics = inputs(300, k, 8);
    const hessian = (statistics.gram as Float32Array).slice();
    for (const dead of [5, 40]) {
      for (let i = 0; i < k; i++) hessian[dead * k + i] = hessian[i * k + dead] = 0;
    }
    const dead = statisticsOf(hessian, 300);
    const options = { dtype: 'uint4', groupSize: 32 } as const;
    const zero = values(await gptq(w, dead, { ...options, deadColumns: 'zero' }));
    const round = await gptq(w, dead, options);
    const kept = values(round);
    for (let row = 0; row < n; row++) {
      for (const column of [5, 40]) {
        const i = row * k + column;
        expect(zero[i]).toBe(0);
        const scale = round.tensor.scales[row * 3 + Math.floor(column / 32)] as number;
        expect(Math.abs((kept[i] as number) - (w[i] as number))).toBeLessThan(2 * scale);
      }
    }
    expect(round.warnings).toEqual([]);
    // However large the other inputs are.
    const large = await gptq(
      w,
      statisticsOf(
        hessian.map((value) => value * 2 ** 24),
        300,
      ),
      options,
    );
    expect(large.warnings).toEqual([]);
    expect(large.tensor.data).toEqual(round.tensor.data);
  });

  it('a Gram matrix that needs more damping says so; one that none helps, or of zeros only, rounds to nearest', async () => {
    const statistics = inputs(300, k, 9);
    const options = { dtype: 'uint4', groupSize: 32, name: 'layers.7.q_proj', dampPercent: 0.001 } as const;
    // Not quite positive semidefinite, as sums of many float32 can be.
    const hessian = (statistics.gram as Float32Array).slice();
    let mean = 0;
    for (let i = 0; i < k; i++) mean += (hessian[i * k + i] as number) / k;
    for (let i = 0; i < k; i++) hessian[i * k + i] = (hessian[i * k + i] as number) - 0.1 * mean;
    const more = await gptq(w, statisticsOf(hessian, 300), options);
    expect(more.dampPercent).toBeGreaterThan(0.01);
    expect(more.warnings).toHaveLength(1);
    expect(more.warnings[0]).toContain('layers.7.q_proj: its Gram matrix');
    const nearest = await rtn(w, { dtype: 'uint4', groupSize: 32, shape: [n, k], range: 'mse' });
    const never = await gptq(w, statisticsOf(hessian, 300), { ...options, dampAutoIncrement: 0, range: 'mse' });
    expect(never.warnings).toEqual([expect.stringContaining('layers.7.q_proj was rounded to nearest')]);
    const weighted = { dtype: 'uint4', groupSize: 32, statistics: statisticsOf(hessian, 300), range: 'mse' } as const;
    expect(never.tensor).toEqual((await rtn(w, weighted)).tensor);
    expect(never.loss).toBeNaN();
    const unseen = await gptq(w, statisticsOf(new Float32Array(k * k), 300), { ...options, range: 'mse' });
    expect(unseen.warnings).toEqual([expect.stringContaining('inputs were zero')]);
    expect(unseen.tensor).toEqual(nearest.tensor);
  });

  it('empty weights', async () => {
    const none = await gptq(new Float32Array(0), inputs(10, 8, 1), { dtype: 'int4', groupSize: 4 });
    expect(none.tensor.shape).toEqual([0, 8]);
    const narrow = await gptq(new Float32Array(0), statisticsOf(new Float32Array(0), 0), {
      dtype: 'int4',
      shape: [3, 0],
    });
    expect(narrow.tensor.shape).toEqual([3, 0]);
    expect(dequantizeTensor(narrow.tensor)).toHaveLength(0);
  });

  it('wrong arguments', async () => {
    const statistics = inputs(300, k, 10);
    const good = { dtype: 'uint4' } as const;
    for (const wrong of [
      { dtype: 'nf4' },
      { dtype: undefined },
      { scheme: 'both' },
      { granularity: 'per-tensor' },
      { granularity: 'per-channel', groupSize: 32 },
      { groupSize: 0 },
      { groupSize: -1 },
      { dampPercent: -0.1 },
      { dampPercent: 1 },
      { dampAutoIncrement: Number.NaN },
      { blockSize: 0 },
      { descAct: true, groupAware: true },
      { descAct: 'yes' },
      { range: 'percentile' },
      { convention: 'awq' },
      { deadColumns: 'keep' },
      { shape: [n] },
      { shape: [n, k + 1] },
      { shape: [k, n] },
      { groupsize: 32 },
      { name: 1 },
    ]) {
      await expect(gptq(w, statistics, { ...good, ...wrong } as never)).rejects.toThrow(InvalidArgumentError);
    }
    for (const wrong of [
      null,
      {},
      { ...statistics, gram: null },
      { ...statistics, columns: k - 1 },
      { ...statistics, gram: new Float32Array(4) },
      { ...statistics, sumOfSquares: new Float64Array(4) },
      inputs(20, 5, 1),
    ]) {
      await expect(gptq(w, wrong as never, good)).rejects.toThrow(InvalidArgumentError);
    }
    await expect(gptq(normal(16, 1), inputs(20, 5, 1), good)).rejects.toThrow(InvalidArgumentError);
  });

  it('NaN and infinity, with the name of the layer; scales that are too large', async () => {
    const statistics = inputs(300, k, 11);
    const bad = w.slice();
    bad[100] = Number.POSITIVE_INFINITY;
    const inWeight = gptq(bad, statistics, { dtype: 'uint4', name: 'layers.3' });
    await expect(inWeight).rejects.toBeInstanceOf(NonFiniteError);
    await expect(inWeight).rejects.toMatchObject({ index: 100, value: Number.POSITIVE_INFINITY, tensor: 'layers.3' });
    for (const at of [3 * k + 3, 4 * k + 9]) {
      const hessian = (statistics.gram as Float32Array).slice();
      hessian[at] = Number.NaN;
      const inGram = gptq(w, { ...statistics, gram: hessian }, { dtype: 'uint4', name: 'layers.3' });
      await expect(inGram).rejects.toBeInstanceOf(NonFiniteError);
      await expect(inGram).rejects.toMatchObject({
        index: at,
        message: expect.stringContaining('Gram matrix of layers.3'),
      });
    }
    const large = gptq(normal(n * k, 1, 1e8), statistics, { dtype: 'uint4', scaleDtype: 'float16', name: 'layers.3' });
    await expect(large).rejects.toBeInstanceOf(ScaleOverflowError);
    await expect(large).rejects.toMatchObject({ tensor: 'layers.3' });
  });

  it('ends when the signal aborts, and leaves the caller the arrays at once', async () => {
    const reason = new Error('enough');
    const statistics = inputs(300, k, 12);
    await expect(gptq(w, statistics, { dtype: 'uint4', signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const wide = inputs(4, 600, 13);
    const running = gptq(normal(600 * 600, 1), wide, { dtype: 'uint4', signal: controller.signal });
    controller.abort(reason);
    await expect(running).rejects.toBe(reason);
    const weight = w.slice();
    const hessian = (statistics.gram as Float32Array).slice();
    const expected = await gptq(w, statistics, { dtype: 'uint4' });
    const result = gptq(weight, { ...statistics, gram: hessian }, { dtype: 'uint4' });
    structuredClone(weight, { transfer: [weight.buffer] });
    hessian.fill(0);
    expect(await result).toEqual(expected);
  });
});
