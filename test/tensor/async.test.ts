import { describe, expect, it } from 'vitest';
import {
  castTensor,
  castTensorAsync,
  compareTensorsAsync,
  dequantizeTensor,
  dequantizeTensorAsync,
  quantizeTensor,
  quantizeTensorAsync,
} from '../../lib/index.js';
import { expectSameTensor, sameBytes } from '../support/bytes.js';
import { normal } from '../support/random.js';

const big = normal(1 << 22, 1);

describe('async twins', () => {
  it('give the same bytes', async () => {
    const options = { dtype: 'int4', granularity: 'per-group', groupSize: 32, scheme: 'asymmetric' } as const;
    const q = quantizeTensor(big, options);
    expectSameTensor(await quantizeTensorAsync(big, options), q);
    expect(sameBytes(await dequantizeTensorAsync(q), dequantizeTensor(q))).toBe(true);
    const cast = { from: 'float32', to: 'bfloat16' } as const;
    expect(sameBytes(await castTensorAsync(big, cast), castTensor(big, cast))).toBe(true);
  });

  it('run many at once, each with its own result', async () => {
    const inputs = Array.from({ length: 40 }, (_, i) => normal(5000 + i, i));
    const results = await Promise.all(inputs.map((x) => quantizeTensorAsync(x, { dtype: 'int8' })));
    results.forEach((q, i) => expectSameTensor(q, quantizeTensor(inputs[i] as Float32Array, { dtype: 'int8' })));
  });

  it('leave the event loop free', async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await quantizeTensorAsync(big, { dtype: 'int4', granularity: 'per-group', groupSize: 32, range: 'mse' });
    clearInterval(timer);
    expect(turns).toBeGreaterThan(5);
  });

  it('are not disturbed when the caller changes or transfers the input at once', async () => {
    const x = normal(1 << 20, 2);
    const expected = quantizeTensor(x, { dtype: 'int8' });
    const changed = Float32Array.from(x);
    const first = quantizeTensorAsync(changed, { dtype: 'int8' });
    changed.fill(Number.NaN);
    const moved = Float32Array.from(x);
    const second = quantizeTensorAsync(moved, { dtype: 'int8' });
    structuredClone(moved.buffer, { transfer: [moved.buffer] });
    expect(moved).toHaveLength(0);
    expectSameTensor(await first, expected);
    expectSameTensor(await second, expected);
  });

  it('use shared memory in place', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(4 << 16));
    shared.set(normal(1 << 16, 3));
    const out = new Float32Array(new SharedArrayBuffer(4 << 16));
    const q = await quantizeTensorAsync(shared, { dtype: 'uint8' });
    expect(await dequantizeTensorAsync(q, { out })).toBe(out);
    expect(sameBytes(out, dequantizeTensor(q))).toBe(true);
  });

  it('fill a reused tensor', async () => {
    const x = normal(10_000, 4);
    const out = quantizeTensor(
      x.map((v) => -v),
      { dtype: 'uint4' },
    );
    expect(await quantizeTensorAsync(x, { dtype: 'uint4', out })).toBe(out);
    expect(out).toEqual(quantizeTensor(x, { dtype: 'uint4' }));
  });

  it('refuse an out that was transferred away meanwhile', async () => {
    const out = new Uint16Array(big.length);
    const result = castTensorAsync(big, { from: 'float32', to: 'float16', out });
    structuredClone(out.buffer, { transfer: [out.buffer] });
    await expect(result).rejects.toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', argument: 'out' }));
  });

  it('reject with what the synchronous call throws', async () => {
    const bad = Float32Array.from([1, Number.NaN]);
    await expect(quantizeTensorAsync(bad, { dtype: 'int8' })).rejects.toThrow(
      expect.objectContaining({ code: 'NON_FINITE', index: 1 }),
    );
    await expect(compareTensorsAsync(bad, bad)).rejects.toThrow(expect.objectContaining({ code: 'NON_FINITE' }));
    await expect(quantizeTensorAsync(bad, { dtype: 'int5' } as never)).rejects.toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  it('resolve for empty tensors', async () => {
    const q = await quantizeTensorAsync(new Float32Array(0), { dtype: 'int8' });
    expect(await dequantizeTensorAsync(q)).toHaveLength(0);
  });
});

describe('AbortSignal', () => {
  it('ends the work early, with the reason', async () => {
    const controller = new AbortController();
    const started = performance.now();
    const result = quantizeTensorAsync(big, {
      dtype: 'int4',
      granularity: 'per-group',
      groupSize: 32,
      range: 'mse',
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(new Error('enough')), 10);
    await expect(result).rejects.toThrow('enough');
    const aborted = performance.now() - started;
    const whole = performance.now();
    quantizeTensor(big, { dtype: 'int4', granularity: 'per-group', groupSize: 32, range: 'mse' });
    expect(aborted).toBeLessThan(performance.now() - whole);
  });

  it('also while the job still waits for its turn', async () => {
    const controller = new AbortController();
    const first = quantizeTensorAsync(big, { dtype: 'int8', range: 'mse' });
    const second = quantizeTensorAsync(big, { dtype: 'int8', signal: controller.signal });
    controller.abort();
    await expect(second).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    expect((await first).dtype).toBe('int8');
  });

  it('refuses a signal that is aborted already', async () => {
    await expect(
      dequantizeTensorAsync(quantizeTensor(big, { dtype: 'int8' }), { signal: AbortSignal.abort() }),
    ).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
  });

  it('has no effect after the end', async () => {
    const controller = new AbortController();
    await quantizeTensorAsync(normal(10, 5), { dtype: 'int8', signal: controller.signal });
    controller.abort();
  });
});
