import { describe, expect, it } from 'vitest';
import {
  dynamicQuantizeMatmul,
  dynamicQuantizeMatmulAsync,
  gram,
  gramAsync,
  linear,
  linearAsync,
  loadPackedAsync,
  matmulInteger,
  matmulIntegerAsync,
  type PackedWeight,
  prepack,
  prepackAsync,
  prepackInteger,
  prepackIntegerAsync,
  quantizedMatmul,
  quantizedMatmulAsync,
  savePacked,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { temporaryFolder } from '../support/files.js';
import { quantizedMatrix } from '../support/products.js';
import { normal } from '../support/random.js';

const [m, n, k] = [33, 70, 160];
const x = normal(m * k, 1);
const q = quantizedMatrix(n, k, { dtype: 'uint4', granularity: 'per-group', groupSize: 32 });
const w = prepack(q);
const bytes = (count: number, seed: number) => Int8Array.from(normal(count, seed, 50));
const [a, b] = [bytes(m * k, 2), bytes(k * n, 3)];
const packedB = prepackInteger(b, { k, n });
const size = { m, n, k };
const zeros = { aZeroPoint: Int32Array.from(bytes(m, 4)), bZeroPoint: Int32Array.from(bytes(n, 5)) };
const bScale = normal(n, 6).map(Math.abs);
const bias = normal(n, 7);
const quantized = { ...size, ...zeros, aScale: 0.1, bScale, outScale: 90, outDtype: 'int8' } as const;
const dynamic = { ...size, bScale, bZeroPoint: zeros.bZeroPoint, bias };

function shared<T extends Float32Array | Int8Array | Int32Array>(array: T): T {
  const memory = new SharedArrayBuffer(array.byteLength);
  const copy = new (array.constructor as new (memory: SharedArrayBuffer) => T)(memory);
  copy.set(array as never);
  return copy;
}

describe('async twins', () => {
  const pairs: [string, () => ArrayBufferView, () => Promise<ArrayBufferView>][] = [
    ['linear', () => linear(x, w), () => linearAsync(x, w)],
    [
      'linear with everything',
      () => linear(x, w, { bias, gate: w, gateBias: bias, activation: 'gelu', computeDtype: 'int8' }),
      () => linearAsync(x, w, { bias, gate: w, gateBias: bias, activation: 'gelu', computeDtype: 'int8' }),
    ],
    [
      'linear in shared memory',
      () => linear(x, w),
      () => linearAsync(shared(x), w, { out: shared(new Float32Array(m * n)) }),
    ],
    ['linear into out', () => linear(x, w), () => linearAsync(x, w, { out: new Float32Array(m * n) })],
    ['matmulInteger', () => matmulInteger(a, b, size), () => matmulIntegerAsync(a, b, size)],
    [
      'matmulInteger, packed, zero points',
      () => matmulInteger(a, b, { ...size, ...zeros }),
      () => matmulIntegerAsync(shared(a), packedB, { ...size, ...zeros, out: new Int32Array(m * n) }),
    ],
    ['quantizedMatmul', () => quantizedMatmul(a, b, quantized), () => quantizedMatmulAsync(a, packedB, quantized)],
    [
      'dynamicQuantizeMatmul',
      () => dynamicQuantizeMatmul(x, b, dynamic),
      () => dynamicQuantizeMatmulAsync(x, packedB, dynamic),
    ],
    [
      'dynamicQuantizeMatmul into out',
      () => dynamicQuantizeMatmul(x, b, dynamic),
      () => dynamicQuantizeMatmulAsync(x, b, { ...dynamic, out: new Float32Array(m * n) }),
    ],
    ['gram', () => gram(x, { k }), () => gramAsync(x, { k })],
    [
      'gram, adding',
      () => gram(x, { k, out: gram(x, { k }) }),
      async () => gramAsync(x, { k, out: await gramAsync(x, { k }) }),
    ],
    [
      'gram, adding in shared memory',
      () => gram(x, { k, out: gram(x, { k }) }),
      () => gramAsync(shared(x), { k, out: shared(gram(x, { k })) }),
    ],
    ['prepack', () => linear(x, w), async () => linear(x, await prepackAsync(q))],
    [
      'prepack by the slower path',
      () =>
        linear(x, prepack({ ...q, groupSize: 40, scales: q.scales.slice(0, 280), zeroPoints: new Int32Array(280) })),
      async () =>
        linear(
          x,
          await prepackAsync({ ...q, groupSize: 40, scales: q.scales.slice(0, 280), zeroPoints: new Int32Array(280) }),
        ),
    ],
    [
      'prepack of floats',
      () => linear(x, prepack(normal(n * k, 9), { shape: [n, k] })),
      async () => linear(x, await prepackAsync(normal(n * k, 9), { shape: [n, k] })),
    ],
    [
      'prepackInteger',
      () => matmulInteger(a, b, size),
      async () => matmulInteger(a, await prepackIntegerAsync(b, { k, n }), size),
    ],
  ];

  it.each(pairs)('%s gives the same bytes', async (_, now, later) => {
    expect(sameBytes(await later(), now())).toBe(true);
  });

  it('return the out that they were given', async () => {
    const [out, sums, floats] = [new Float32Array(m * n), new Int32Array(m * n), new Float32Array(k * k)];
    expect(await linearAsync(x, w, { out })).toBe(out);
    expect(await matmulIntegerAsync(a, b, { ...size, out: sums })).toBe(sums);
    expect(await gramAsync(x, { k, out: floats })).toBe(floats);
  });

  it('are not disturbed when the caller changes or transfers what they read', async () => {
    const changed = Float32Array.from(x);
    const first = linearAsync(changed, w);
    changed.fill(Number.NaN);
    const moved = Float32Array.from(x);
    const second = linearAsync(moved, w);
    structuredClone(moved.buffer, { transfer: [moved.buffer] });
    const third = prepackAsync(structuredClone(q));
    const codes = bytes(k * n, 3);
    const fourth = matmulIntegerAsync(a, codes, size);
    codes.fill(0);
    expect(sameBytes(await first, linear(x, w))).toBe(true);
    expect(sameBytes(await second, linear(x, w))).toBe(true);
    expect(sameBytes(linear(x, await third), linear(x, w))).toBe(true);
    expect(await fourth).toEqual(matmulInteger(a, b, size));
  });

  it('refuse an out that was transferred away meanwhile', async () => {
    const out = new Float32Array(m * n);
    const result = linearAsync(x, w, { out });
    structuredClone(out.buffer, { transfer: [out.buffer] });
    await expect(result).rejects.toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'out' }));
  });

  it('reject with what the synchronous call throws', async () => {
    const bad = Float32Array.from(x);
    bad[777] = Number.NEGATIVE_INFINITY;
    const error = expect.objectContaining({ code: 'NON_FINITE', index: 777, value: Number.NEGATIVE_INFINITY });
    await expect(linearAsync(bad, w)).rejects.toThrow(error);
    await expect(gramAsync(bad, { k })).rejects.toThrow(error);
    await expect(dynamicQuantizeMatmulAsync(bad, b, dynamic)).rejects.toThrow(error);
    const scales = q.scales.slice();
    scales[3] = Number.NaN;
    await expect(prepackAsync({ ...q, scales })).rejects.toThrow(/q.scales to be finite but received NaN at index 3/);
  });

  it('leave the event loop free', async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const large = prepack(normal(1 << 22, 1), { shape: [2048, 2048] });
    await linearAsync(normal(512 * 2048, 2), large);
    clearInterval(timer);
    large.dispose();
    expect(turns).toBeGreaterThan(3);
  });
});

describe('AbortSignal', () => {
  const large = prepack(quantizedMatrix(4096, 2048, { dtype: 'int8' }));
  const rows = normal(512 * 2048, 2);
  const aborted = AbortSignal.abort(new Error('before'));
  const folder = temporaryFolder();
  savePacked(large, `${folder}/large`);

  const calls: [string, (signal: AbortSignal) => Promise<unknown>][] = [
    ['linearAsync', (signal) => linearAsync(rows, large, { computeDtype: 'float32', signal })],
    [
      'matmulIntegerAsync',
      (signal) =>
        matmulIntegerAsync(bytes(512 * 2048, 1), new Int8Array(1 << 22), { m: 512, n: 2048, k: 2048, signal }),
    ],
    ['gramAsync', (signal) => gramAsync(rows, { k: 2048, signal })],
    [
      'dynamicQuantizeMatmulAsync',
      (signal) =>
        dynamicQuantizeMatmulAsync(rows, new Int8Array(1 << 22), { m: 512, n: 2048, k: 2048, bScale: 1, signal }),
    ],
    ['prepackAsync', (signal) => prepackAsync(new Float32Array(1 << 22), { shape: [2048, 2048], signal })],
    ['prepackIntegerAsync', (signal) => prepackIntegerAsync(new Int8Array(1 << 22), { k: 2048, n: 2048, signal })],
    ['loadPackedAsync', (signal) => loadPackedAsync(`${folder}/large`, { signal })],
  ];

  it.each(calls)('refuses %s before it begins', async (_, call) => {
    await expect(call(aborted)).rejects.toThrow('before');
  });

  it.each(calls)('ends %s while it waits for its turn', async (_, call) => {
    const first = linearAsync(rows, large, { computeDtype: 'float32' });
    const controller = new AbortController();
    const second = call(controller.signal);
    setImmediate(() => controller.abort(new Error('enough')));
    await expect(second).rejects.toThrow('enough');
    await first;
  });

  it('ends a product early', async () => {
    const controller = new AbortController();
    const started = performance.now();
    const result = linearAsync(rows, large, { computeDtype: 'float32', signal: controller.signal });
    setTimeout(() => controller.abort(), 5);
    await expect(result).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    const ended = performance.now() - started;
    const whole = performance.now();
    linear(rows, large, { computeDtype: 'float32' });
    expect(ended).toBeLessThan(performance.now() - whole);
  });

  it('gives back any reason as it is', async () => {
    for (const reason of [null, 0, 'text', { code: 'INVALID_ARGUMENT', message: 'mine' }]) {
      const controller = new AbortController();
      const result = linearAsync(rows, large, { signal: controller.signal });
      controller.abort(reason);
      await expect(
        result.then(
          () => 'resolved',
          (thrown) => ({ thrown }),
        ),
      ).resolves.toEqual({ thrown: reason });
    }
  });

  it('leaves weights in order', () => {
    const check = (weight: PackedWeight) => linear(x, weight);
    expect(check(w)).toHaveLength(m * n);
  });
});
