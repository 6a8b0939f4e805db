import { describe, expect, it } from 'vitest';
import { capabilities, DeviceTensor, type GptqOptions, gptq, gram, type InputSums, rtn } from '../../lib/index.js';
import { freeBytes, hasDevice, hasTwoDevices } from '../support/cuda.js';
import { normal } from '../support/random.js';

/** Statistics of inputs whose neighbouring columns depend on each other, some of them large, some never seen. */
function inputs(rows: number, k: number, seed: number, dead = false): InputSums {
  const x = normal(rows * k, seed);
  for (let i = 0; i < x.length; i++) {
    const column = i % k;
    if (column > 0) x[i] = 0.7 * (x[i - 1] as number) + (x[i] as number);
  }
  for (let i = 0; i < x.length; i++) {
    if ((i % k) % 11 === 3) x[i] = 6 * (x[i] as number);
    if (dead && (i % k) % 13 === 5) x[i] = 0;
  }
  return sumsOf(gram(x, { k }), rows);
}

function sumsOf(hessian: Float32Array, rows: number): InputSums {
  const columns = Math.sqrt(hessian.length);
  const diagonal = Float64Array.from({ length: columns }, (_, i) => hessian[i * columns + i] as number);
  return { columns, rows, gram: hessian, sumOfSquares: diagonal };
}

describe.skipIf(!hasDevice)('GPTQ on a device', () => {
  const [n, k] = [5, 136]; // more columns than a panel of the kernels
  const weight = normal(n * k, 1);
  const statistics = inputs(300, k, 2, true);

  it.each<GptqOptions>([
    { dtype: 'int4', groupSize: 32 },
    { dtype: 'uint3', groupSize: 48, scaleDtype: 'float16' },
    { dtype: 'uint4', granularity: 'per-channel' },
    { dtype: 'uint8', scheme: 'symmetric', descAct: true, staticGroups: false, blockSize: 48 },
    { dtype: 'int8', descAct: false, staticGroups: false, range: 'minmax', blockSize: 40, groupSize: 24 },
    { dtype: 'uint2', groupAware: true, deadColumns: 'zero', groupSize: 40 },
    { dtype: 'int4', convention: 'gptq', range: 'mse', groupSize: 64 },
    { dtype: 'uint4', convention: 'gptq', granularity: 'per-channel', deadColumns: 'zero' },
    { dtype: 'int8', codeBits: 5, narrowRange: false, groupSize: 32 },
  ])('gives everything that the processor gives: %o', async (options) => {
    const expected = await gptq(weight, statistics, options);
    const first = await gptq(weight, statistics, { ...options, device: 'cuda' });
    expect(first).toEqual(expected);
    const before = [freeBytes(capabilities), freeBytes(capabilities, 1)];
    expect(await gptq(weight, statistics, { ...options, device: 'cuda:0' })).toEqual(first);
    expect([freeBytes(capabilities), freeBytes(capabilities, 1)]).toEqual(before);
  });

  it.skipIf(!hasTwoDevices)('runs on the second device', async () => {
    const options = { dtype: 'int4', range: 'minmax' } as const;
    const expected = await gptq(weight, statistics, { ...options, device: 'cpu' });
    expect(await gptq(weight, statistics, { ...options, device: 'cuda:1' })).toEqual(expected);
  });

  it('raises the damping as the processor does, and rounds where that does not help', async () => {
    // Two rows of inputs, as often as there are columns: of rank 2, and in float32 not even that.
    const few = inputs(2, k, 3);
    const options = { dtype: 'int4', groupSize: 32, dampPercent: 0, dampAutoIncrement: 1e-6, name: 'q' } as const;
    const expected = await gptq(weight, few, options);
    expect(expected.dampPercent).toBeGreaterThan(0);
    expect(expected.warnings).toEqual([expect.stringContaining('positive definite only with a dampPercent of')]);
    expect(await gptq(weight, few, { ...options, device: 'cuda' })).toEqual(expected);

    const negative = statistics.gram?.slice() as Float32Array;
    negative[k + 1] = -1e6;
    const sums = { ...statistics, gram: negative };
    for (const dampAutoIncrement of [0, 0.1]) {
      const rounded = await gptq(weight, sums, { dtype: 'int4', dampAutoIncrement });
      expect(rounded.warnings).toEqual([expect.stringContaining('not positive definite, whatever the damping')]);
      expect(await gptq(weight, sums, { dtype: 'int4', dampAutoIncrement, device: 'cuda' })).toEqual(rounded);
    }
    const nothing = sumsOf(new Float32Array(k * k), 0);
    const unseen = await gptq(weight, nothing, { dtype: 'int4', device: 'cuda' });
    expect(unseen.tensor).toEqual((await rtn(weight, { shape: [n, k], dtype: 'int4', range: 'mse' })).tensor);
  });

  it('without rows or columns', async () => {
    for (const [rows, columns] of [
      [0, 8],
      [8, 0],
    ] as const) {
      const options = { dtype: 'uint4', shape: [rows, columns] } as const;
      const sums = sumsOf(new Float32Array(columns * columns).fill(1), 1);
      const expected = await gptq(new Float32Array(0), sums, options);
      expect(await gptq(new Float32Array(0), sums, { ...options, device: 'cuda' })).toEqual(expected);
    }
  });

  it('the caller may change its arrays at once', async () => {
    const options = { dtype: 'int4', device: 'cuda' } as const;
    const expected = await gptq(weight, statistics, options);
    const [w, h] = [weight.slice(), statistics.gram?.slice() as Float32Array];
    const both = Promise.all([
      gptq(w, { ...statistics, gram: h }, options),
      gptq(w, { ...statistics, gram: h }, { ...options, dtype: 'uint4', scheme: 'symmetric' }),
    ]);
    w.fill(7);
    h.fill(0);
    const [first, second] = await both;
    expect(first).toEqual(expected);
    expect(second.loss).toBe(
      (await gptq(weight, statistics, { ...options, dtype: 'uint4', scheme: 'symmetric' })).loss,
    );
  });

  it('refuses what the processor refuses, in the same words', async () => {
    const bad = weight.slice();
    bad[3 * k + 7] = Number.NaN;
    const gramWithNaN = statistics.gram?.slice() as Float32Array;
    gramWithNaN[3] = Number.POSITIVE_INFINITY;
    const huge = weight.slice().fill(1e8);
    const cases: [Float32Array, InputSums, GptqOptions][] = [
      [bad, statistics, { dtype: 'int4', name: 'layers.3' }],
      [weight, { ...statistics, gram: gramWithNaN }, { dtype: 'int4', name: 'layers.3' }],
      [huge, statistics, { dtype: 'int4', scaleDtype: 'float16', name: 'layers.3' }],
    ];
    for (const [w, sums, options] of cases) {
      const expected = await gptq(w, sums, options).catch((error: Error) => error);
      expect(expected).toMatchObject({ tensor: 'layers.3' });
      const error = await gptq(w, sums, { ...options, device: 'cuda' }).catch((failed: Error) => failed);
      expect(error).toEqual(expected);
      expect(Object.entries(error)).toEqual(Object.entries(expected));
    }
  });

  it('wrong arguments', async () => {
    const invalid = (argument: string, message: RegExp) =>
      expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });
    for (const device of ['gpu', 'cuda:', 'cuda:-1', 1, null]) {
      await expect(gptq(weight, statistics, { dtype: 'int4', device: device as never })).rejects.toEqual(
        invalid('device', /'cpu', 'cuda' or 'cuda:<n>'/),
      );
    }
    using t = DeviceTensor.upload(weight);
    await expect(gptq(t as never, statistics, { dtype: 'int4' })).rejects.toEqual(invalid('weight', /Float32Array/));
    await expect(gptq(weight, statistics, { dtype: 'int4', device: 'cuda:99' })).rejects.toMatchObject({
      name: 'DeviceError',
      code: 'NO_DEVICE',
      device: 'cuda:99',
    });
  });

  it('ends when the signal aborts, and gives its memory back', async () => {
    await gptq(weight, statistics, { dtype: 'int4', device: 'cuda' });
    const before = freeBytes(capabilities);
    const aborted = AbortSignal.abort(new Error('before'));
    await expect(gptq(weight, statistics, { dtype: 'int4', device: 'cuda', signal: aborted })).rejects.toThrow(
      'before',
    );
    for (let turns = 0; turns < 6; turns++) {
      const stop = new AbortController();
      const result = gptq(weight, statistics, { dtype: 'int4', device: 'cuda', signal: stop.signal });
      result.catch(() => undefined);
      for (let i = 0; i < turns; i++) await new Promise(setImmediate);
      stop.abort(new Error('during'));
      const error = await result.catch((failed: Error) => failed);
      if (error instanceof Error) expect(error.message).toBe('during');
      else expect(turns).toBeGreaterThan(0);
      expect(freeBytes(capabilities)).toBe(before);
    }
  });
});
