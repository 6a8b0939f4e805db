import { describe, expect, it } from 'vitest';
import {
  capabilities,
  castTensor,
  type DeviceQuantizedTensor,
  DeviceTensor,
  dequantizeTensor,
  linear,
  linearAsync,
  llmInt8Linear,
  matmulInteger,
  type PackedWeight,
  prepack,
  prepackAsync,
  prepackInteger,
  type QuantizedTensor,
  quantizedMatmul,
  quantizeTensor,
  savePacked,
  ternaryMatmul,
} from '../../lib/index.js';
import { freeBytes, hasDevice, hasTwoDevices } from '../support/cuda.js';
import { normal } from '../support/random.js';

const [m, n, k] = [5, 48, 256];
const x = castTensor(castTensor(normal(m * k, 1), { from: 'float32', to: 'float16' }), {
  from: 'float16',
  to: 'float32',
});
const bias = normal(n, 2);
const invalid = (argument: string, message: RegExp) =>
  expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });

/** x·Wᵀ + bias in float64. */
function product(w: Float32Array, withBias = true): Float64Array {
  return Float64Array.from({ length: m * n }, (_, i) => {
    const [row, column] = [Math.floor(i / n), i % n];
    let sum = withBias ? (bias[column] as number) : 0;
    for (let j = 0; j < k; j++) sum += (x[row * k + j] as number) * (w[column * k + j] as number);
    return sum;
  });
}
const silu = (v: number) => v / (1 + Math.exp(-v));

/** Relative to the largest result. */
function expectClose(y: ArrayLike<number>, exact: Float64Array, bound: number): void {
  const largest = exact.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const error = exact.reduce((a, v, i) => Math.max(a, Math.abs(v - (y[i] as number))), 0);
  expect(y.length).toBe(exact.length);
  expect(error / largest).toBeLessThan(bound);
}

describe.skipIf(!hasDevice)('linear with a weight on a device', () => {
  const weights = normal(n * k, 3);
  const formats = [
    { dtype: 'int4', granularity: 'per-group', groupSize: 32, scaleDtype: 'float16' },
    { dtype: 'uint4', granularity: 'per-group', groupSize: 128 },
    { dtype: 'int8', granularity: 'per-channel' },
    { dtype: 'int4', granularity: 'per-group', groupSize: 16 },
    { dtype: 'uint8', granularity: 'per-channel', axis: 1 },
    { dtype: 'int3' },
    { dtype: 'nf4' },
    { dtype: 'float8_e4m3fn', granularity: 'per-channel' },
    { dtype: 'mxfp4' },
    { dtype: 'nvfp4' },
  ] as const;

  it.each(formats)('computes %o', async (format) => {
    const q = quantizeTensor(weights, { ...format, shape: [n, k] } as never) as QuantizedTensor;
    const exact = product(dequantizeTensor(q));
    const run = async () => {
      using w = prepack(q, { device: 'cuda' });
      expect(w).toMatchObject({ device: 'cuda:0', rows: n, cols: k });
      const y = linear(x, w, { bias });
      expectClose(y, exact, 1e-3);
      using later = await prepackAsync(q, { device: 'cuda' });
      expect(await linearAsync(x, later, { bias })).toEqual(y);

      // The same chain without leaving the device.
      using t = DeviceTensor.upload(weights);
      const on = quantizeTensor(t, { ...format, shape: [n, k] } as never) as DeviceQuantizedTensor;
      using packed = prepack(on);
      expect(packed.nbytes).toBe(w.nbytes);
      for (const part of [on.data, on.scales, on.zeroPoints]) part?.dispose();
      using tx = DeviceTensor.upload(x, { shape: [1, m, k] });
      using ty = linear(tx, packed, { bias });
      expect(ty).toMatchObject({ dtype: 'float32', shape: [1, m, n], device: 'cuda:0' });
      expect(ty.download()).toEqual(y);
      using half = castTensor(tx, { to: 'float16' });
      using tb = DeviceTensor.upload(bias);
      using yh = await linearAsync(half, packed, { bias: tb });
      expect(yh.dtype).toBe('float16');
      expectClose(castTensor(yh.download(), { from: 'float16', to: 'float32' }), exact, 2e-3);
      using out = DeviceTensor.upload(new Float32Array(m * n));
      expect(linear(half, packed, { bias: tb, out })).toBe(out);
      expectClose(out.download(), exact, 1e-3);
    };
    await run();
    const before = freeBytes(capabilities);
    await run();
    expect(freeBytes(capabilities)).toBe(before);
  });

  it('computes floats, gates and activations', () => {
    using w = prepack(weights, { shape: [n, k], device: 'cuda' });
    expect(w.kind).toBe('float');
    expectClose(linear(x, w), product(weights, false), 1e-3);
    using t = DeviceTensor.upload(weights, { shape: [n, k] });
    using same = prepack(t);
    expect(linear(x, same)).toEqual(linear(x, w));
    const q = quantizeTensor(normal(n * k, 4), { dtype: 'int8', shape: [n, k], granularity: 'per-channel' });
    using gate = prepack(q, { device: 'cuda' });
    const [gates, values] = [product(dequantizeTensor(q), false), product(weights)];
    const exact = values.map((v, i) => v * silu((gates[i] as number) + (bias[i % n] as number)));
    expectClose(linear(x, w, { gate, bias, gateBias: bias }), exact, 2e-3);
    expectClose(linear(x, w, { activation: 'silu', bias }), values.map(silu), 2e-3);
    expect(linear(new Float32Array(0), w)).toEqual(new Float32Array(0));
  });

  it('refuses what a device has not, naming the option and what to do', () => {
    using w = prepack(weights, { shape: [n, k], device: 'cuda' });
    for (const options of [{ computeDtype: 'int8' }, { activationGranularity: 'per-token' }] as const) {
      const [argument] = Object.keys(options);
      expect(() => linear(x, w, options)).toThrow(
        expect.objectContaining({
          code: 'DEVICE_UNSUPPORTED',
          argument,
          device: 'cuda:0',
          message: expect.stringMatching(/Use device 'cpu'/),
        }),
      );
    }
    expect(() => linear(x, w, { gateBias: bias })).toThrow(invalid('gateBias', /gate together/));
    expect(() => linear(x.subarray(1), w)).toThrow(invalid('x', /whole rows of 256/));
    expect(() => linear(x, w, { out: new Float32Array(3) })).toThrow(invalid('out', /length 240/));
    const bad = { ...quantizeTensor(weights, { dtype: 'int8', shape: [n, k] }), scales: Float32Array.of(Number.NaN) };
    expect(() => prepack(bad, { device: 'cuda' })).toThrow(invalid('q.scales', /NaN/));
    const on = { ...bad, data: DeviceTensor.upload(bad.data), scales: DeviceTensor.upload(bad.scales) };
    expect(() => prepack(on as never)).toThrow(invalid('q.scales', /finite/));
    const zeros = {
      ...on,
      scheme: 'asymmetric',
      scales: DeviceTensor.upload(Float32Array.of(1)),
      zeroPoints: DeviceTensor.upload(Int32Array.of(300)),
    };
    expect(() => prepack(zeros as never)).toThrow(invalid('q.zeroPoints', /300 at index 0/));
  });

  it('names the first NaN or infinity of x and of weights', async () => {
    using w = prepack(weights, { shape: [n, k], device: 'cuda' });
    const bad = x.slice();
    bad[300] = Number.NaN;
    const error = expect.objectContaining({ code: 'NON_FINITE', index: 300, value: Number.NaN });
    expect(() => linear(bad, w)).toThrow(error);
    using t = DeviceTensor.upload(bad);
    await expect(linearAsync(t, w)).rejects.toEqual(error);
    const before = freeBytes(capabilities);
    expect(() => linear(t, w)).toThrow(error);
    expect(freeBytes(capabilities)).toBe(before);
    const infinite = weights.slice();
    infinite[77] = Number.POSITIVE_INFINITY;
    expect(() => prepack(infinite, { shape: [n, k], device: 'cuda' })).toThrow(
      expect.objectContaining({ code: 'NON_FINITE', index: 77 }),
    );
  });

  it.skipIf(!hasTwoDevices)('refuses weights and tensors of different devices', () => {
    using w = prepack(weights, { shape: [n, k], device: 'cuda:0' });
    using other = prepack(weights, { shape: [n, k], device: 'cuda:1' });
    using host = prepack(weights, { shape: [n, k] });
    using t = DeviceTensor.upload(x, { device: 'cuda:1' });
    expect(other.device).toBe('cuda:1');
    expect(linear(t, other).device).toBe('cuda:1');
    expect(() => linear(t, w)).toThrow(invalid('x', /on cuda:0, as device says, but it is on cuda:1\. Download/));
    expect(() => linear(t, host)).toThrow(invalid('w', /on cuda:1, as x is, but it is on cpu/));
    expect(() => linear(x, w, { gate: other })).toThrow(invalid('gate', /on cuda:0, as w is, but it is on cuda:1/));
    expect(() => linear(x, w, { gate: host })).toThrow(invalid('gate', /but it is on cpu/));
    expect(() => linear(x, w, { bias: DeviceTensor.upload(bias, { device: 'cuda:1' }) } as never)).toThrow(
      invalid('bias', /cuda:1/),
    );
  });

  it('other calls refuse it', () => {
    using w = prepack(weights, { shape: [n, k], device: 'cuda' });
    using b = prepackInteger(new Int8Array(n * k), { k, n, device: 'cuda' });
    expect(() => savePacked(w, 'never.lowbit')).toThrow(invalid('w', /on cuda:0\. Pack it without device/));
    expect(() => ternaryMatmul(new Int8Array(k), w, { m: 1, n, k } as never)).toThrow(invalid('w', /on cuda:0|kind/));
    const size = { m: 1, n, k };
    const scales = { aScale: 1, bScale: 1, outScale: 1, outDtype: 'int8' } as const;
    expect(() => quantizedMatmul(new Int8Array(k), b, { ...size, ...scales })).toThrow(invalid('b', /on cuda:0/));
    expect(() => matmulInteger(new Int8Array(k), w as PackedWeight, size)).toThrow(invalid('b', /kind/));
    expect(() => llmInt8Linear(x, w as never)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    w.dispose();
    expect(() => linear(x, w)).toThrow(invalid('w', /disposed/));
  });
});
