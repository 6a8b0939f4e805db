import { describe, expect, it } from 'vitest';
import {
  capabilities,
  castTensor,
  castTensorAsync,
  type DeviceQuantizedTensor,
  DeviceTensor,
  dequantizeBlocks,
  dequantizeBlocksAsync,
  dequantizeTensor,
  dequantizeTensorAsync,
  type GgufType,
  gram,
  gramAsync,
  matmulInteger,
  matmulIntegerAsync,
  prepackInteger,
  prepackIntegerAsync,
  type QuantizedTensor,
  quantizeBlocks,
  quantizeBlocksAsync,
  quantizeTensor,
  quantizeTensorAsync,
} from '../../lib/index.js';
import { freeBytes, hasDevice, hasTwoDevices, otherDevice } from '../support/cuda.js';
import { normal, random } from '../support/random.js';

const invalid = (argument: string, message: RegExp) =>
  expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });
const codes = (count: number, seed: number, signed: boolean) => {
  const next = random(seed);
  const values = Array.from({ length: count }, () => Math.floor(next() * 256) - (signed ? 128 : 0));
  return signed ? Int8Array.from(values) : Uint8Array.from(values);
};

/** The tensor as plain data. */
function downloaded(q: DeviceQuantizedTensor): QuantizedTensor {
  const { data, scales, zeroPoints, nestedScales, ...rest } = q;
  return {
    ...rest,
    data: data.download(),
    scales: scales.download(),
    zeroPoints: zeroPoints?.download() ?? null,
    ...(nestedScales === undefined
      ? {}
      : {
          nestedScales: { ...nestedScales, data: nestedScales.data.download(), absmax: nestedScales.absmax.download() },
        }),
  };
}
function uploaded(q: QuantizedTensor): DeviceQuantizedTensor {
  const { nestedScales: _, ...rest } = q;
  return {
    ...rest,
    data: DeviceTensor.upload(q.data),
    scales: DeviceTensor.upload(q.scales),
    zeroPoints: q.zeroPoints === null ? null : DeviceTensor.upload(q.zeroPoints),
  };
}
function dispose(q: DeviceQuantizedTensor): void {
  for (const part of [q.data, q.scales, q.zeroPoints, q.nestedScales?.data, q.nestedScales?.absmax]) part?.dispose();
}

describe.skipIf(!hasDevice)('on a device', () => {
  /** Runs a call until its streams exist, then again, and wants all of the device's memory back. */
  async function withoutLeak(run: () => unknown): Promise<void> {
    await run();
    const before = [freeBytes(capabilities), freeBytes(capabilities, 1)];
    await run();
    expect([freeBytes(capabilities), freeBytes(capabilities, 1)]).toEqual(before);
  }

  it('castTensor gives the bits of the processor', async () => {
    const x = normal(1003, 1, 100);
    for (const to of ['float16', 'bfloat16', 'float8_e4m3fn', 'float6_e3m2fn', 'float4_e2m1fn'] as const) {
      for (const saturate of [true, false]) {
        const expected = castTensor(x, { from: 'float32', to, saturate });
        await withoutLeak(async () => {
          expect(castTensor(x, { from: 'float32', to, saturate, device: 'cuda' })).toEqual(expected);
          expect(await castTensorAsync(x, { from: 'float32', to, saturate, device: otherDevice })).toEqual(expected);
          const out = expected.slice().fill(0);
          expect(castTensor(x, { from: 'float32', to, saturate, device: 'cuda', out: out as never })).toBe(out);
          expect(out).toEqual(expected);
          using t = DeviceTensor.upload(x, { shape: [17, 59] });
          using small = castTensor(t, { to, saturate });
          expect(small).toMatchObject({ dtype: to, shape: [17, 59], device: 'cuda:0' });
          expect(small.download()).toEqual(expected);
          using back = await castTensorAsync(small, { to: 'float32' });
          expect(back.download()).toEqual(castTensor(expected as never, { from: to, to: 'float32', count: 1003 }));
          expect(castTensor(small, { to: 'float32', out: back })).toBe(back);
        });
      }
    }
  });

  const schemes = [
    { dtype: 'int8' },
    { dtype: 'uint8', scheme: 'symmetric' },
    { dtype: 'int4', granularity: 'per-group', groupSize: 32 },
    { dtype: 'uint4', granularity: 'per-group', groupSize: 24, scaleDtype: 'float16' },
    { dtype: 'int3', granularity: 'per-channel', axis: 1 },
    { dtype: 'uint2', granularity: 'per-block', blockShape: [4, 40] },
    { dtype: 'nf4' },
    { dtype: 'fp4', nested: true },
    { dtype: 'float8_e4m3fn', granularity: 'per-channel' },
    { dtype: 'mxfp4' },
    { dtype: 'mxfp6_e2m3' },
    { dtype: 'mxint8' },
    { dtype: 'nvfp4' },
    { dtype: 'ternary', range: 'minmax' },
    { dtype: 'binary', scales: Float32Array.of(0.5), granularity: 'per-tensor' },
    { dtype: 'uint8', scales: Float32Array.of(0.25), zeroPoints: Int32Array.of(100) },
    { dtype: 'uint4', scales: Float32Array.of(0.25), scheme: 'symmetric' },
    { dtype: 'int8', nonFinite: 'saturate' },
  ] as const;

  it.each(schemes)('quantizeTensor and dequantizeTensor give the bits of the processor: %o', async (scheme) => {
    const options = { ...scheme, shape: [12, 120] } as never;
    const x = normal(1440, 2);
    if ('nonFinite' in scheme) x.set([Number.NaN, Number.POSITIVE_INFINITY], 100);
    const expected = quantizeTensor(x, options) as QuantizedTensor;
    const floats = dequantizeTensor(expected);
    const on = (device: string) => Object.assign({}, options, { device }) as never;
    await withoutLeak(async () => {
      expect(quantizeTensor(x, on('cuda'))).toEqual(expected);
      expect(await quantizeTensorAsync(x, on(otherDevice))).toEqual(expected);
      expect(dequantizeTensor(expected, { device: 'cuda' })).toEqual(floats);
      expect(await dequantizeTensorAsync(expected, { device: 'cuda' })).toEqual(floats);

      using t = DeviceTensor.upload(x);
      const q = quantizeTensor(t, options) as DeviceQuantizedTensor;
      expect(downloaded(q)).toEqual(expected);
      using y = dequantizeTensor(q);
      expect(y).toMatchObject({ dtype: 'float32', shape: [12, 120] });
      expect(y.download()).toEqual(floats);
      using half = await dequantizeTensorAsync(q, { dtype: 'float16' });
      expect(half.download()).toEqual(dequantizeTensor(expected, { dtype: 'float16' }));
      const again = (await quantizeTensorAsync(t, options)) as DeviceQuantizedTensor;
      expect(downloaded(again)).toEqual(expected);
      if (!('nested' in scheme)) {
        const out = Object.assign({}, options, { out: again }) as never;
        expect(quantizeTensor(t, out)).toBe(again);
        expect(downloaded(again)).toEqual(expected);
      }
      dispose(q);
      dispose(again);
    });
  });

  it('parameters may be on the device already', async () => {
    const x = normal(64, 3);
    const [scales, zeroPoints] = [Float32Array.of(0.1, 0.2), Int32Array.of(7, 9)];
    const options = { dtype: 'uint4', shape: [2, 32], granularity: 'per-channel' } as const;
    const expected = quantizeTensor(x, { ...options, scales, zeroPoints });
    using t = DeviceTensor.upload(x);
    using s = DeviceTensor.upload(scales);
    using z = DeviceTensor.upload(zeroPoints);
    const q = quantizeTensor(t, { ...options, scales: s, zeroPoints: z });
    expect(downloaded(q)).toEqual(expected);
    // Its parameters are its own.
    s.dispose();
    expect(q.scales.download()).toEqual(scales);
    expect(quantizeTensor(x, { ...options, scales, zeroPoints, device: 'cuda' })).toEqual(expected);
    dispose(q);
  });

  it('tensors without elements have parameters as well', async () => {
    for (const options of [
      { dtype: 'uint8', shape: [0, 4] },
      { dtype: 'int4', shape: [3, 0], granularity: 'per-channel' },
      { dtype: 'nvfp4', shape: [0] },
      { dtype: 'uint8', shape: [0], scales: Float32Array.of(2), zeroPoints: Int32Array.of(3) },
    ] as const) {
      const expected = quantizeTensor(new Float32Array(0), options as never) as QuantizedTensor;
      expect(quantizeTensor(new Float32Array(0), { ...options, device: 'cuda' } as never)).toEqual(expected);
      const t = DeviceTensor.upload(new Float32Array(0));
      const q = quantizeTensor(t, options as never) as DeviceQuantizedTensor;
      expect(downloaded(q)).toEqual(expected);
      expect(downloaded((await quantizeTensorAsync(t, options as never)) as DeviceQuantizedTensor)).toEqual(expected);
      expect(dequantizeTensor(q).download()).toEqual(new Float32Array(0));
    }
  });

  it.each(['q4_0', 'q5_1', 'q8_0', 'q8_k', 'tq2_0', 'mxfp4', 'nvfp4'] as GgufType[])('blocks of %s', async (type) => {
    const x = normal(1024, 4);
    const options = { type, rowLength: 256 };
    const expected = quantizeBlocks(x, options);
    const floats = dequantizeBlocks(expected, options);
    await withoutLeak(async () => {
      expect(quantizeBlocks(x, { ...options, device: 'cuda' })).toEqual(expected);
      expect(await quantizeBlocksAsync(x, { ...options, device: 'cuda' })).toEqual(expected);
      expect(dequantizeBlocks(expected, { ...options, device: 'cuda' })).toEqual(floats);
      expect(await dequantizeBlocksAsync(expected, { ...options, device: 'cuda' })).toEqual(floats);
      using t = DeviceTensor.upload(x);
      using blocks = quantizeBlocks(t, options);
      expect(blocks.download()).toEqual(expected);
      using y = await dequantizeBlocksAsync(blocks, options);
      expect(y.shape).toEqual([4, 256]);
      expect(y.download()).toEqual(floats);
      using more = await quantizeBlocksAsync(t, { ...options, out: blocks });
      expect(more).toBe(blocks);
      expect(dequantizeBlocks(blocks, { ...options, out: y })).toBe(y);
    });
  });

  it('blocks of searched types are decoded', () => {
    for (const type of ['q4_k', 'q6_k', 'iq4_xs'] as const) {
      const blocks = quantizeBlocks(normal(512, 5), { type, rowLength: 512 });
      const floats = dequantizeBlocks(blocks, { type, rowLength: 512 });
      expect(dequantizeBlocks(blocks, { type, rowLength: 512, device: 'cuda' })).toEqual(floats);
    }
  });

  it.skipIf(!hasTwoDevices)('goes from one device to the other and back, whatever is current', () => {
    const [m, k] = [9, 20];
    const x = normal(m * k, 31);
    const once = gram(x, { k });
    const expected = gram(x, { k, out: once.slice() });
    const places = (['cuda:0', 'cuda:1'] as const).map((device) => ({
      t: DeviceTensor.upload(x, { device, shape: [m, k] }),
      sums: DeviceTensor.upload(once, { device, shape: [k, k] }),
    }));
    capabilities(); // looks at the last device as well
    for (const { t, sums } of places) gram(t, { k, out: sums });
    for (const { t, sums } of places) {
      expect(sums.download()).toEqual(expected);
      sums.dispose();
      t.dispose();
    }
  });

  it('gram', async () => {
    const [k, m] = [20, 9];
    const x = normal(m * k, 6);
    const expected = gram(x, { k });
    const twice = gram(x, { k, out: expected.slice() });
    await withoutLeak(async () => {
      expect(gram(x, { k, device: 'cuda' })).toEqual(expected);
      const out = (await gramAsync(x, { k, device: otherDevice })) as Float32Array;
      expect(out).toEqual(expected);
      expect(await gramAsync(x, { k, device: otherDevice, out })).toBe(out);
      expect(out).toEqual(twice);
      using t = DeviceTensor.upload(x);
      using sums = gram(t, { k });
      expect(sums).toMatchObject({ shape: [k, k], dtype: 'float32' });
      expect(sums.download()).toEqual(expected);
      expect(await gramAsync(t, { k, out: sums })).toBe(sums);
      expect(sums.download()).toEqual(twice);
      using half = castTensor(t, { to: 'bfloat16' });
      using halfSums = gram(half, { k });
      const rounded = castTensor(half.download(), { from: 'bfloat16', to: 'float32' });
      expect(halfSums.download()).toEqual(gram(rounded, { k }));
    });
    const bad = x.slice();
    bad[45] = Number.NEGATIVE_INFINITY;
    const kept = expected.slice();
    expect(() => gram(bad, { k, device: 'cuda', out: kept })).toThrow(
      expect.objectContaining({ code: 'NON_FINITE', index: 45, value: Number.NEGATIVE_INFINITY }),
    );
    expect(kept).toEqual(expected);
    using t = DeviceTensor.upload(bad);
    await expect(gramAsync(t, { k })).rejects.toMatchObject({ code: 'NON_FINITE', index: 45, value: -Infinity });
  });

  it('matmulInteger', async () => {
    const [m, n, k] = [5, 19, 70];
    for (const [aSigned, bSigned] of [
      [true, true],
      [false, true],
      [false, false],
    ] as const) {
      const [a, b] = [codes(m * k, 7, aSigned), codes(k * n, 8, bSigned)];
      const each = Int32Array.from({ length: n }, (_, i) => i);
      for (const zeros of [
        {},
        { aZeroPoint: 12, bZeroPoint: 3 },
        { aZeroPoint: new Int32Array(m).fill(5), bZeroPoint: each },
      ]) {
        const options = { m, n, k, ...zeros };
        const expected = matmulInteger(a, b, options);
        await withoutLeak(async () => {
          expect(matmulInteger(a, b, { ...options, device: 'cuda' })).toEqual(expected);
          expect(await matmulIntegerAsync(a, b, { ...options, device: 'cuda' })).toEqual(expected);
          using packed = prepackInteger(b, { k, n, device: 'cuda' });
          expect(packed).toMatchObject({ device: 'cuda:0', kind: 'integer', rows: n, cols: k });
          expect(matmulInteger(a, packed, options)).toEqual(expected);
          using ta = DeviceTensor.upload(a as Int8Array);
          using tb = DeviceTensor.upload(b as Int8Array);
          using y = matmulInteger(ta, tb, options);
          expect(y).toMatchObject({ shape: [m, n], dtype: 'int32' });
          expect(y.download()).toEqual(expected);
          using other = await prepackIntegerAsync(tb, { k, n });
          using same = await matmulIntegerAsync(ta, other, { ...options, out: y });
          expect(same).toBe(y);
          expect(y.download()).toEqual(expected);
        });
      }
    }
  });

  it('checks what it checks on the processor', () => {
    const device = 'cuda';
    const x = normal(64, 9);
    expect(() => castTensor(x, { from: 'float16', to: 'float32', device } as never)).toThrow(invalid('from', /./));
    expect(() => quantizeTensor(x, { dtype: 'int8', shape: [63], device })).toThrow(invalid('shape', /63/));
    expect(() => quantizeTensor(x, { dtype: 'int8', scales: Float32Array.of(0), device })).toThrow(
      invalid('scales', /greater than 0 but received 0.* at index 0/),
    );
    expect(() =>
      quantizeTensor(x, { dtype: 'int8', scales: Float32Array.of(1), zeroPoints: Int32Array.of(200), device }),
    ).toThrow(invalid('zeroPoints', /\[-128, 127\] but received 200/));
    const q = quantizeTensor(x, { dtype: 'int4' });
    const bad = { ...q, scales: Float32Array.of(Number.NaN) };
    expect(() => dequantizeTensor(bad, { device })).toThrow(invalid('q.scales', /NaN/));
    expect(() => dequantizeTensor({ ...q, data: q.data.slice(1) }, { device })).toThrow(invalid('q.data', /length/));
    const on = uploaded(q);
    expect(() => dequantizeTensor({ ...on, scales: q.scales as never })).toThrow(invalid('q.scales', /DeviceTensor/));
    expect(() => dequantizeTensor({ ...on, data: on.scales as never })).toThrow(invalid('q.data', /uint8/));
    expect(() => dequantizeTensor({ ...on, shape: [65] })).toThrow(invalid('q.data', /33 elements/));
    expect(() => quantizeBlocks(x, { type: 'q4_0', rowLength: 33, device })).toThrow(invalid('rowLength', /32/));
    expect(() => gram(x, { k: 7, device })).toThrow(invalid('x', /whole rows/));
    expect(() =>
      matmulInteger(codes(4, 1, false), codes(4, 2, false), { m: 2, n: 2, k: 2, aZeroPoint: 256, device }),
    ).toThrow(invalid('aZeroPoint', /255/));
    expect(() =>
      matmulInteger(codes(4, 1, false), codes(4, 2, false), {
        m: 2,
        n: 2,
        k: 2,
        aZeroPoint: Int32Array.of(0, -1),
        device,
      }),
    ).toThrow(invalid('aZeroPoint', /\[0, 255\] but received -1 at index 1/));
    const t = DeviceTensor.upload(x);
    expect(() => castTensor(t, { to: 'float16', from: 'float16' })).toThrow(invalid('from', /float32/));
    expect(() => castTensor(t, { to: 'float16', out: t as never })).toThrow(invalid('out', /float16/));
    expect(() => castTensor(t, { to: 'float32', out: t })).toThrow(invalid('out', /written/));
    expect(() => quantizeTensor(t, { dtype: 'int8', out: quantizeTensor(x, { dtype: 'int8' }) as never })).toThrow(
      invalid('out.data', /DeviceTensor/),
    );
    expect(() => quantizeTensor(x, { dtype: 'int8', out: quantizeTensor(t, { dtype: 'int8' }) as never })).toThrow(
      invalid('out.data', /Uint8Array/),
    );
    for (const call of [
      () => quantizeTensor(t, { dtype: 'int8', device: 'cpu' }),
      () => castTensor(t, { to: 'float16', device: 'cuda:1' }),
      () => gram(t, { k: 8, device: 'cuda:1' }),
    ]) {
      expect(call).toThrow(/as device says, but it is on cuda:0. Download it and upload it there, or pack it there\./);
    }
  });

  it('names the first NaN or infinity, wherever the input is', async () => {
    const x = normal(300, 10);
    x[200] = Number.NaN;
    const error = expect.objectContaining({ code: 'NON_FINITE', index: 200, value: Number.NaN });
    const t = DeviceTensor.upload(x);
    const half = castTensor(t, { to: 'float16' });
    await expectFailures(error, [
      () => quantizeTensor(x, { dtype: 'int8', device: 'cuda' }),
      () => quantizeTensor(t, { dtype: 'uint4' }),
      () => quantizeTensor(half, { dtype: 'nf4' }),
      () => quantizeTensorAsync(half, { dtype: 'int8' }),
      () => quantizeTensorAsync(x, { dtype: 'int8', device: 'cuda' }),
    ]);
    const huge = normal(64, 1, 1e30);
    const overflow = expect.objectContaining({ code: 'SCALE_OVERFLOW', index: 0 });
    await expectFailures(overflow, [
      () => quantizeTensor(huge, { dtype: 'int8', scaleDtype: 'float16', device: 'cuda' }),
      () => quantizeTensorAsync(DeviceTensor.upload(huge), { dtype: 'int8', scaleDtype: 'float16' }),
    ]);
  });

  it('what is asked for later is what was there when it was asked for', async () => {
    const x = normal(64, 11);
    const expected = quantizeTensor(x, { dtype: 'int8' });
    const [later, gramLater] = [
      quantizeTensorAsync(x, { dtype: 'int8', device: 'cuda' }),
      gramAsync(x, { k: 8, device: 'cuda' }),
    ];
    const sums = gram(x, { k: 8 });
    x.fill(0);
    expect(await later).toEqual(expected);
    expect(await gramLater).toEqual(sums);
    // Records are shared by calls: those at the same time must not mix them up.
    const [a, b] = await Promise.all([
      dequantizeTensorAsync(expected, { device: 'cuda' }),
      dequantizeTensorAsync(quantizeTensor(normal(96, 2), { dtype: 'int4' }), { device: 'cuda', dtype: 'float16' }),
    ]);
    expect(a).toEqual(dequantizeTensor(expected));
    expect(b).toEqual(dequantizeTensor(quantizeTensor(normal(96, 2), { dtype: 'int4' }), { dtype: 'float16' }));
  });
});

async function expectFailures(error: unknown, calls: (() => unknown)[]): Promise<void> {
  for (const call of calls) await expect((async () => call())()).rejects.toEqual(error);
}
