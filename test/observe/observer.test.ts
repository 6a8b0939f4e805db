import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  compareTensors,
  dequantizeTensor,
  entropyRange,
  type IntDtype,
  InvalidArgumentError,
  NonFiniteError,
  Observer,
  type ObserverMethod,
  type ObserverOptions,
  type ObserverState,
  quantizeTensor,
  setNumThreads,
} from '../../lib/index.js';
import { anything, detached, survives } from '../support/anything.js';
import { normal, random } from '../support/random.js';

const METHODS: ObserverMethod[] = ['minmax', 'moving-average', 'percentile', 'mse', 'entropy'];
const MERGEABLE = METHODS.filter((method) => method !== 'moving-average');
const DTYPES: IntDtype[] = ['int8', 'uint8', 'int4', 'uint4', 'int3', 'uint3', 'int2', 'uint2'];

/** Batches whose largest magnitude grows, shrinks and vanishes. */
function batchesOf(seed: number, sizes: readonly number[]): Float32Array[] {
  const next = random(seed);
  return sizes.map((size, i) => normal(size, seed + i, next() < 0.1 ? 0 : 2 ** Math.floor(next() * 12 - 6)));
}

function observed(options: ObserverOptions, batches: readonly Float32Array[], shapeOf?: (n: number) => number[]) {
  const observer = new Observer(options);
  for (const batch of batches) observer.observe(batch, shapeOf === undefined ? {} : { shape: shapeOf(batch.length) });
  return observer;
}

describe('observers', () => {
  it.each(MERGEABLE)('%s: any partition, order and merging of the same values gives the same state', (method) => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 700 }), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 0, max: 10_000 }),
        fc.boolean(),
        (sizes, seed, perChannel) => {
          const options: ObserverOptions = perChannel ? { method, granularity: 'per-channel', axis: 1 } : { method };
          const shapeOf = (n: number) => [n / 3, 3];
          const batches = batchesOf(
            seed,
            sizes.map((size) => size * 3),
          );
          const all = new Float32Array(batches.reduce((sum, { length }) => sum + length, 0));
          let at = 0;
          for (const batch of batches) {
            all.set(batch, at);
            at += batch.length;
          }
          const whole = observed(options, [all], shapeOf).toState();
          expect(observed(options, batches, shapeOf).toState()).toEqual(whole);
          expect(observed(options, [...batches].reverse(), shapeOf).toState()).toEqual(whole);
          const parts = batches.map((batch) => observed(options, [batch], shapeOf));
          const left = new Observer(options);
          for (const part of parts) left.merge(part);
          expect(left.toState()).toEqual(whole);
          const right = parts.reduceRight((sum, part) => {
            part.merge(sum);
            return part;
          });
          expect(right.toState()).toEqual(whole);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('any number of threads gives the same state', () => {
    const x = normal(400_000, 5);
    const states = [1, 2, 7].map((threads) => {
      setNumThreads(threads);
      return [
        observed({ method: 'mse' }, [x]).toState(),
        observed({ method: 'mse', granularity: 'per-channel' }, [x], (n) => [4, n / 4]).toState(),
      ];
    });
    setNumThreads(2);
    expect(states[1]).toEqual(states[0]);
    expect(states[2]).toEqual(states[0]);
  });

  it('counts are those of the values, bin by bin', () => {
    const x = normal(10_000, 1, 3);
    x[0] = -0;
    const { counts, edges } = observed({ method: 'mse', bins: 512 }, [
      x.subarray(0, 5000),
      x.subarray(5000),
    ]).histogram();
    const expected = new Float64Array(512);
    const width = (edges[1] as number) - (edges[0] as number);
    for (const v of x) {
      const m = Math.floor(Math.abs(v) / width);
      (expected[v < 0 ? 255 - m : 256 + m] as number) += 1;
    }
    expect(counts).toEqual(expected);
    expect(edges[256]).toBe(0);
    expect(-(edges[0] as number)).toBe(edges[512]);
    const largest = x.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    expect(largest).toBeLessThan(edges[512] as number);
    expect(largest).toBeGreaterThanOrEqual((edges[512] as number) / 2);
    const magnitudes = observed({ method: 'mse', bins: 512 }, [x]).histogram({ magnitudes: true });
    expect(magnitudes.counts).toEqual(counts.slice(256).map((n, i) => n + (counts[255 - i] as number)));
    expect(magnitudes.edges).toEqual(edges.slice(256));
  });

  it.each(DTYPES)('minmax: parameters for %s are those of quantizeTensor', (dtype) => {
    const samples = [
      normal(900, 2),
      normal(900, 3).map(Math.abs),
      normal(900, 4).map((v) => -Math.abs(v) - 1),
      new Float32Array(900),
      new Float32Array(900).fill(1e-45),
      new Float32Array(900).map((_, i) => (i % 2 === 0 ? 3e38 : -3e38)),
    ];
    for (const x of samples) {
      for (const scheme of ['symmetric', 'asymmetric'] as const) {
        const whole = observed({ method: 'minmax' }, [x.subarray(0, 100), x.subarray(100)]);
        const given = whole.parameters(dtype, { scheme });
        const q = quantizeTensor(x, { dtype, scheme });
        expect(given.scales).toEqual(q.scales);
        expect(given.zeroPoints).toEqual(q.zeroPoints ?? new Int32Array(1));
        expect(quantizeTensor(x, { dtype, ...given }).scales).toEqual(q.scales);
        const channels = { granularity: 'per-channel', axis: -2 } as const;
        const each = observed({ method: 'minmax', ...channels }, [x], () => [3, 30, 10]).parameters(dtype, { scheme });
        const expected = quantizeTensor(x, { dtype, scheme, shape: [3, 30, 10], ...channels });
        expect(each.scales).toEqual(expected.scales);
        expect(each.zeroPoints).toEqual(expected.zeroPoints ?? new Int32Array(30));
      }
    }
  });

  it('percentile: no more than the rest is clipped, and no more than a bin too little', () => {
    const x = normal(100_000, 7);
    x[5] = 100; // which alone would make the scale twenty times too large
    const sorted = Float32Array.from(x, Math.abs).sort();
    const observer = observed({ method: 'percentile', percentile: 99, bins: 65536 }, [x]);
    const exact = sorted[98_999] as number;
    const chosen = (observer.parameters('int8').scales[0] as number) * 127;
    expect(chosen).toBeGreaterThanOrEqual(exact);
    expect(chosen).toBeLessThan(exact + 2 * (128 / 32768));
    const ends = observer.parameters('uint8');
    const values = Float32Array.from(x).sort();
    const width = (values[98_999] as number) - (values[1000] as number);
    expect((ends.scales[0] as number) * 255).toBeCloseTo(width, 1);
    const all = observed({ method: 'percentile', percentile: 100 }, [x]);
    expect(all.parameters('int8')).toEqual(observed({ method: 'minmax' }, [x]).parameters('int8'));
    expect(all.parameters('uint8')).toEqual(observed({ method: 'minmax' }, [x]).parameters('uint8'));
  });

  it('mse: near the best of the elements themselves, and never worse than all of the range', () => {
    for (const dtype of DTYPES) {
      const x = normal(50_000, 11).map((v, i) => (i % 1000 === 0 ? 4 * v : v));
      const error = (scales: Float32Array, zeroPoints: Int32Array, scheme: 'symmetric' | 'asymmetric') =>
        compareTensors(x, dequantizeTensor(quantizeTensor(x, { dtype, scheme, scales, zeroPoints })) as Float32Array)
          .mse;
      const got = observed({ method: 'mse' }, [x]).parameters(dtype);
      const best = quantizeTensor(x, { dtype, range: 'mse' });
      const least = compareTensors(x, dequantizeTensor(best) as Float32Array).mse;
      expect(error(got.scales, got.zeroPoints, got.scheme)).toBeLessThanOrEqual(1.01 * least);
    }
  });

  it('entropy: the range of entropyRange, which clips a heavy tail and keeps all of a uniform distribution', () => {
    const heavy = normal(300_000, 13).map((v) => v ** 3);
    const observer = observed({ method: 'entropy' }, [heavy]);
    const { counts, edges } = observer.histogram({ magnitudes: true });
    const used = counts.findLastIndex((n) => n > 0) + 1;
    for (const [dtype, bits] of [
      ['int8', 8],
      ['int4', 4],
    ] as const) {
      const amax = entropyRange({ counts: counts.subarray(0, used), edges: edges.subarray(0, used + 1) }, { bits });
      const { max, min } = observer.range();
      expect(amax).toBeLessThan(0.9 * Math.max(max[0] as number, -(min[0] as number)));
      expect(observer.parameters(dtype).scales[0]).toBe(Math.fround(amax / (2 ** (bits - 1) - 1)));
    }
    const scale = (batch: Float32Array, dtype: IntDtype) =>
      observed({ method: 'entropy' }, [batch]).parameters(dtype).scales[0] as number;
    const uniform = Float32Array.from({ length: 100_000 }, (_, i) => i / 50_000 - 1);
    expect(scale(uniform, 'int8')).toBeCloseTo(1 / 127, 4);
    expect(scale(uniform.map(Math.abs), 'uint8')).toBeCloseTo(1 / 255, 4);
    expect(scale(new Float32Array(100).fill(2.5), 'int8')).toBeCloseTo(2.5 / 127, 6);
    expect(scale(new Float32Array(100), 'int8')).toBe(1);
  });

  it.each(METHODS)('%s: survives JSON and structuredClone', (method) => {
    const options = { method, granularity: 'per-channel', axis: 1 } as const;
    const batches = batchesOf(3, [60, 600, 60]);
    const shapeOf = (n: number) => [n / 6, 6];
    const observer = observed(options, batches.slice(0, 2), shapeOf);
    for (const state of [JSON.parse(JSON.stringify(observer.toState())), structuredClone(observer.toState())]) {
      const copy = Observer.fromState(state as ObserverState);
      expect(copy.toState()).toEqual(observer.toState());
      expect(copy.parameters('int4')).toEqual(observer.parameters('int4'));
      copy.observe(batches[2] as Float32Array, { shape: [10, 6] });
      expect(copy.toState()).toEqual(observed(options, batches, shapeOf).toState());
    }
    const none = Observer.fromState(JSON.parse(JSON.stringify(new Observer({ method }).toState())));
    expect(none.channels).toBe(0);
  });

  it.each(METHODS)('%s: the same off the event loop, however calls overlap', async (method) => {
    for (const options of [{ method }, { method, granularity: 'per-channel', axis: 1 }] as ObserverOptions[]) {
      const batches = batchesOf(9, [600, 6000, 60]);
      const shapeOf = (n: number) => [n / 6, 6];
      const observer = new Observer(options);
      const calls = batches.map((batch) => observer.observeAsync(batch, { shape: shapeOf(batch.length) }));
      (batches[0] as Float32Array).fill(0.5, 0, 1); // too late to be seen
      expect(() => observer.toState()).toThrow(/await them first/);
      expect(() => observer.observe(new Float32Array(6), { shape: [1, 6] })).toThrow(InvalidArgumentError);
      await Promise.all(calls);
      const again = batchesOf(9, [600, 6000, 60]);
      const expected = observed(options, again, shapeOf);
      expect(observer.toState()).toEqual(expected.toState());
      expect(await observer.parametersAsync('uint4')).toEqual(expected.parameters('uint4'));
      const before = observer.toState();
      const bad = new Float32Array(12).fill(1);
      bad[7] = Number.NaN;
      const [refused, fine] = await Promise.allSettled([
        observer.observeAsync(bad, { shape: [2, 6] }),
        observer.observeAsync(new Float32Array(0), { shape: [0, 6] }),
      ]);
      expect(refused.status === 'rejected' && refused.reason).toMatchObject({ code: 'NON_FINITE', index: 7 });
      expect(fine.status).toBe('fulfilled');
      await expect(observer.observeAsync(bad, { shape: [2, 6], signal: AbortSignal.abort() })).rejects.toThrow(
        /abort/i,
      );
      expect(observer.toState()).toEqual(before);
    }
  });

  it.each(METHODS)('%s: NaN and infinity are named, and nothing of the batch is counted', (method) => {
    for (const options of [{ method }, { method, granularity: 'per-channel' }] as ObserverOptions[]) {
      const observer = observed(options, [normal(60, 1)], () => [6, 10]);
      const before = observer.toState();
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const batch = normal(60, 2);
        batch[41] = value;
        batch[55] = Number.NaN;
        expect(() => observer.observe(batch, { shape: [6, 10] })).toThrow(NonFiniteError);
        expect(() => observer.observe(batch, { shape: [6, 10] })).toThrow(
          expect.objectContaining({ index: 41, value, message: expect.stringContaining(`${value} at index 41`) }),
        );
      }
      expect(observer.toState()).toEqual(before);
    }
  });

  it('shared memory, and empty batches', () => {
    const shared = new Float32Array(new SharedArrayBuffer(4000)).map((_, i) => Math.sin(i));
    for (const method of METHODS) {
      const observer = observed({ method }, [new Float32Array(0), shared, new Float32Array(0)]);
      expect(observer.toState()).toEqual(observed({ method }, [shared]).toState());
      expect(observer.observed).toBe(1000);
    }
  });

  it('a moving average is not merged, nor are observers that differ', () => {
    const average = observed({ method: 'moving-average' }, [normal(10, 1)]);
    expect(() => average.merge(observed({ method: 'moving-average' }, [normal(10, 2)]))).toThrow(
      /order of its batches/,
    );
    const minmax = observed({ method: 'minmax' }, [normal(10, 1)]);
    expect(() => minmax.merge(average)).toThrow('Expected other to have the method minmax but it has moving-average.');
    const channels = { method: 'mse', granularity: 'per-channel' } as const;
    const two = observed(channels, [normal(10, 1)], () => [2, 5]);
    expect(() => two.merge(observed(channels, [normal(10, 1)], () => [5, 2]))).toThrow(/as many channels, 2,/);
    expect(() => two.observe(normal(10, 1), { shape: [5, 2] })).toThrow(
      /as many channels as before, 2, but received 5/,
    );
    expect(() => two.merge({} as Observer)).toThrow(InvalidArgumentError);
  });
});

describe('messages of observers', () => {
  const any = (options: object) => options as ObserverOptions;
  const minmax = observed({ method: 'minmax' }, [normal(10, 1)]);
  const mse = observed({ method: 'mse' }, [normal(10, 1)]);
  const cases: [string, () => unknown, string | RegExp][] = [
    ['method', () => new Observer(any({ method: 'max' })), /one of minmax, moving-average, .* received "max"/],
    ['bins', () => new Observer({ method: 'mse', bins: 1000 }), /a power of two for bins but received 1000/],
    ['bins', () => new Observer({ method: 'mse', bins: 256 }), /an integer from 512 to 65536 for bins/],
    ['bins', () => new Observer({ method: 'minmax', bins: 1024 }), 'Expected no bins together with method minmax.'],
    [
      'axis',
      () => new Observer({ method: 'minmax', axis: 0 }),
      /Expected no axis together with granularity per-tensor/,
    ],
    ['percentile', () => new Observer({ method: 'percentile', percentile: 0.999 }), /greater than 50/],
    ['averagingConstant', () => new Observer({ method: 'moving-average', averagingConstant: 0 }), /greater than 0/],
    ['Bins', () => new Observer(any({ method: 'mse', Bins: 1024 })), /Did you mean bins/],
    ['tensor', () => minmax.observe([1] as unknown as Float32Array), /a Float32Array for tensor/],
    ['tensor', () => minmax.observe(detached()), /transferred away/],
    ['shape', () => minmax.observe(normal(10, 1), { shape: [3, 3] }), /as many elements as the input, 10/],
    ['dtype', () => minmax.parameters('int5' as IntDtype), /one of int8, uint8/],
    ['scheme', () => minmax.parameters('int8', { scheme: 'affine' as 'symmetric' }), /symmetric, asymmetric/],
    ['observer', () => new Observer({ method: 'minmax' }).parameters('int8'), /observed before parameters/],
    ['channel', () => minmax.histogram(), /a method with histograms but it is minmax/],
    ['channel', () => mse.histogram({ channel: 1 }), /from 0 to 0 for channel/],
    ['channel', () => new Observer({ method: 'mse' }).histogram(), /something to have been observed/],
    [
      'axis',
      () => observed({ method: 'minmax', granularity: 'per-channel', axis: 2 }, [normal(10, 1)], () => [2, 5]),
      /from -2 to 1 for axis/,
    ],
  ];

  it.each(cases)('%s', (argument, call, message) => {
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(message);
    expect(call).toThrow(expect.objectContaining({ argument }));
  });

  it('states are checked field by field', async () => {
    const good = mse.toState();
    const change = (fields: object) => () => Observer.fromState({ ...good, ...fields } as ObserverState);
    expect(change({})).not.toThrow();
    for (const fields of [
      { observed: -1 },
      { observed: 0 },
      { min: [1, 2] },
      { min: [0.1] },
      { max: [-100] },
      { max: [Number.NaN] },
      { exponents: [] },
      { exponents: [129] },
      { counts: good.counts.slice(1) },
      { counts: good.counts.map(() => 0.5) },
      { method: 'max' },
      { version: 1 },
    ]) {
      expect(change(fields), JSON.stringify(fields).slice(0, 60)).toThrow(InvalidArgumentError);
    }
    const field = fc.record({ name: fc.constantFrom(...Object.keys(good)), value: anything });
    await fc.assert(
      fc.asyncProperty(field, ({ name, value }) => survives(change({ [name]: value }))),
      { numRuns: 300 },
    );
  });

  it('survives any arguments', async () => {
    const option = fc.record({
      name: fc.constantFrom('method', 'granularity', 'axis', 'bins', 'percentile', 'averagingConstant'),
      value: anything,
    });
    await fc.assert(
      fc.asyncProperty(option, anything, anything, async ({ name, value }, a, b) => {
        await survives(() => new Observer(a as ObserverOptions));
        await survives(() => new Observer({ method: 'mse', [name]: value } as ObserverOptions));
        const observer = observed({ method: 'percentile' }, [normal(20, 1)]);
        await survives(() => observer.observe(a as Float32Array, b as object));
        await survives(() => observer.observe(normal(20, 2), b as object));
        await survives(() => observer.observeAsync(a as Float32Array, b as object));
        await survives(() => observer.parameters(a as IntDtype, b as object));
        await survives(() => observer.parametersAsync('int8', b as object));
        await survives(() => observer.merge(a as Observer));
        await survives(() => observer.histogram(a as object));
      }),
      { numRuns: 200 },
    );
  });
});
