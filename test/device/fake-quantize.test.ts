import { describe, expect, it } from 'vitest';
import {
  capabilities,
  type DeviceFakeQuantized,
  type DeviceQuantizerGradients,
  DeviceTensor,
  type FakeQuantizeOptions,
  fakeQuantize,
  fakeQuantizeAsync,
  fakeQuantizeBackward,
  fakeQuantizeBackwardAsync,
  type LearnedQuantizeBackwardOptions,
  learnedQuantizeBackward,
  learnedQuantizeBackwardAsync,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { freeBytes, hasDevice, hasTwoDevices, otherDevice } from '../support/cuda.js';
import { normal } from '../support/random.js';

const invalid = (argument: string, message: RegExp) =>
  expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });

function downloaded(result: DeviceFakeQuantized | DeviceQuantizerGradients): object {
  const entries = Object.entries(result) as [string, DeviceTensor][];
  return Object.fromEntries(entries.map(([name, tensor]) => [name, tensor.download()]));
}
function dispose(result: DeviceFakeQuantized | DeviceQuantizerGradients): void {
  for (const tensor of Object.values(result) as DeviceTensor[]) tensor.dispose();
}

/** NaN has bits as well. */
function expectSame(got: object, expected: object): void {
  expect(Object.keys(got)).toEqual(Object.keys(expected));
  for (const [name, array] of Object.entries(expected) as [keyof typeof got, Float32Array][]) {
    expectSameArray(got[name], array);
  }
}
function expectSameArray(got: ArrayBufferView, expected: ArrayBufferView): void {
  expect(got.constructor).toBe(expected.constructor);
  expect(sameBytes(got, expected)).toBe(true);
}

describe.skipIf(!hasDevice)('fake quantization on a device', () => {
  async function withoutLeak(run: () => unknown): Promise<void> {
    await run();
    const before = [freeBytes(capabilities), freeBytes(capabilities, 1)];
    await run();
    expect([freeBytes(capabilities), freeBytes(capabilities, 1)]).toEqual(before);
  }

  const shape = [6, 5, 41] as const;
  const x = normal(6 * 5 * 41, 1, 2);
  x.set([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0], 300);
  const finite = normal(x.length, 2, 3);
  const five = Float32Array.of(0.1, 0.25, 0.03, 1, 0.5);
  const formats: FakeQuantizeOptions[] = [
    { dtype: 'int8', scales: Float32Array.of(0.05) },
    { quantMin: -5, quantMax: 9, scales: Float32Array.of(0.3), zeroPoints: Int32Array.of(2) },
    { dtype: 'uint4', granularity: 'per-channel', axis: 1, scales: five, zeroPoints: Int32Array.of(1, 2, 3, 15, 0) },
    {
      dtype: 'uint8',
      granularity: 'per-channel',
      axis: -2,
      scales: five,
      zeroPoints: Float32Array.of(1.5, 2.5, 300, 7, 0.2),
      rounding: 'half-away',
    },
    { dtype: 'float8_e4m3fn', granularity: 'per-channel', axis: 1, scales: five },
    { dtype: 'float8_e5m2', scales: Float32Array.of(0.001) },
    { dtype: 'mxfp4' },
    { dtype: 'mxfp6_e2m3' },
    { dtype: 'mxint8' },
    { dtype: 'nvfp4', globalScale: 3 },
  ];

  it.each(formats)('gives the bits of the processor: %o', async (format) => {
    const options = { ...format, shape };
    const expected = fakeQuantize(x, options);
    await withoutLeak(async () => {
      expectSame(fakeQuantize(x, { ...options, device: 'cuda' }), expected);
      expectSame(await fakeQuantizeAsync(x, { ...options, device: otherDevice }), expected);
      const out = { output: new Float32Array(x.length), mask: new Uint8Array(x.length) };
      expect(fakeQuantize(x, { ...options, device: 'cuda', out })).toBe(out);
      expectSame(out, expected);
      out.output.fill(0);
      expect(await fakeQuantizeAsync(x, { ...options, device: 'cuda', out })).toBe(out);
      expectSame(out, expected);

      using t = DeviceTensor.upload(x, { shape });
      const there = fakeQuantize(t, format as never);
      expect(there.output).toMatchObject({ dtype: 'float32', shape, device: 'cuda:0' });
      expect(there.mask).toMatchObject({ dtype: 'uint8', shape, device: 'cuda:0' });
      expectSame(downloaded(there), expected);
      const later = await fakeQuantizeAsync(t, options as never);
      expectSame(downloaded(later), expected);
      const again = { ...options, out: later } as never;
      expect(fakeQuantize(t, again)).toBe(later);
      expect(await fakeQuantizeAsync(t, again)).toBe(later);
      expectSame(downloaded(later), expected);
      dispose(there);
      dispose(later);
    });
  });

  it('nvfp4 finds its scale, unless there is none', async () => {
    const expected = fakeQuantize(finite, { dtype: 'nvfp4', shape });
    expectSame(fakeQuantize(finite, { dtype: 'nvfp4', shape, device: 'cuda' }), expected);
    using t = DeviceTensor.upload(x, { shape });
    await withoutLeak(async () => {
      const error = { name: 'NonFiniteError', index: 300, value: Number.NaN };
      expect(() => fakeQuantize(x, { dtype: 'nvfp4', device: 'cuda' })).toThrow(expect.objectContaining(error));
      expect(() => fakeQuantize(t, { dtype: 'nvfp4' })).toThrow(expect.objectContaining(error));
      await expect(fakeQuantizeAsync(t, { dtype: 'nvfp4' })).rejects.toMatchObject(error);
    });
  });

  it('parameters may be on the device already', () => {
    const zeroPoints = Int32Array.of(1, 2, 3, 15, 0);
    const options = { dtype: 'uint4', granularity: 'per-channel', axis: 1, shape } as const;
    const expected = fakeQuantize(x, { ...options, scales: five, zeroPoints });
    using t = DeviceTensor.upload(x);
    using s = DeviceTensor.upload(five);
    using z = DeviceTensor.upload(zeroPoints);
    const there = fakeQuantize(t, { ...options, scales: s, zeroPoints: z });
    expectSame(downloaded(there), expected);
    dispose(there);
    const gradient = normal(x.length, 3);
    const gradients = learnedQuantizeBackward(gradient, { ...options, input: finite, scales: five, zeroPoints });
    using dy = DeviceTensor.upload(gradient);
    const own = learnedQuantizeBackward(dy, { ...options, input: finite, scales: s, zeroPoints: z });
    expectSame(downloaded(own), gradients);
    dispose(own);
  });

  it('gradients pass where the mask says', async () => {
    const { mask } = fakeQuantize(x, { dtype: 'int8', scales: Float32Array.of(0.01) });
    const gradient = normal(x.length, 3);
    gradient.set([Number.NaN, Number.POSITIVE_INFINITY, -0], 10);
    const expected = fakeQuantizeBackward(gradient, { mask });
    await withoutLeak(async () => {
      expectSameArray(fakeQuantizeBackward(gradient, { mask, device: 'cuda' }), expected);
      expectSameArray(await fakeQuantizeBackwardAsync(gradient, { mask, device: otherDevice }), expected);
      const out = new Float32Array(x.length);
      expect(await fakeQuantizeBackwardAsync(gradient, { mask, device: 'cuda', out })).toBe(out);
      expectSameArray(out, expected);
      using dy = DeviceTensor.upload(gradient, { shape });
      using m = DeviceTensor.upload(mask);
      using dx = fakeQuantizeBackward(dy, { mask: m });
      expect(dx).toMatchObject({ dtype: 'float32', shape, device: 'cuda:0' });
      expectSameArray(dx.download(), expected);
      using later = await fakeQuantizeBackwardAsync(dy, { mask });
      expectSameArray(later.download(), expected);
      expect(fakeQuantizeBackward(dy, { mask, out: later })).toBe(later);
    });
  });

  it.each<Omit<LearnedQuantizeBackwardOptions, 'input'>>([
    { dtype: 'int4', scales: Float32Array.of(0.3), gradFactor: 0.01 } as never,
    { dtype: 'uint8', scales: Float32Array.of(0.02), zeroPoints: Float32Array.of(100.5) } as never,
    { dtype: 'uint4', granularity: 'per-channel', axis: 1, scales: five, zeroPoints: Int32Array.of(1, 2, 3, 15, 0) },
    { quantMin: -3, quantMax: 3, granularity: 'per-channel', axis: 2, scales: new Float32Array(41).fill(0.5) } as never,
  ])('gradients of learned quantizers have the bits of the processor: %o', async (quantizer) => {
    const gradient = normal(finite.length, 3);
    const options = { ...quantizer, input: finite, shape } as LearnedQuantizeBackwardOptions;
    const expected = learnedQuantizeBackward(gradient, options);
    await withoutLeak(async () => {
      expectSame(learnedQuantizeBackward(gradient, { ...options, device: 'cuda' }), expected);
      expectSame(await learnedQuantizeBackwardAsync(gradient, { ...options, device: otherDevice }), expected);
      const out = structuredClone(expected);
      for (const array of Object.values(out)) array.fill(0);
      expect(await learnedQuantizeBackwardAsync(gradient, { ...options, device: 'cuda', out })).toBe(out);
      expectSame(out, expected);
      using dy = DeviceTensor.upload(gradient, { shape });
      using input = DeviceTensor.upload(finite);
      const there = learnedQuantizeBackward(dy, { ...quantizer, input } as never);
      expect(there.input).toMatchObject({ shape, device: 'cuda:0' });
      expectSame(downloaded(there), expected);
      const again = { ...quantizer, input: finite, out: there } as never;
      expect(await learnedQuantizeBackwardAsync(dy, again)).toBe(there);
      expectSame(downloaded(there), expected);
      dispose(there);
    });
  });

  it('tensors without elements', async () => {
    using t = DeviceTensor.upload(new Float32Array(0), { shape: [0, 3] });
    const scales = Float32Array.of(1, 2, 3);
    const options = { dtype: 'int8', granularity: 'per-channel', axis: 1, scales } as const;
    const there = fakeQuantize(t, options);
    expect(there.output.shape).toEqual([0, 3]);
    expect(there.mask.download()).toEqual(new Uint8Array(0));
    expect((await fakeQuantizeAsync(t, { dtype: 'mxfp4' })).output.download()).toEqual(new Float32Array(0));
    using dx = fakeQuantizeBackward(t, { mask: there.mask });
    expect(dx.download()).toEqual(new Float32Array(0));
    for (const gradients of [
      learnedQuantizeBackward(t, { ...options, input: t }),
      await learnedQuantizeBackwardAsync(t, { ...options, input: t }),
    ]) {
      expect(gradients.scales.download()).toEqual(new Float32Array(3));
      expect(gradients.zeroPoints.download()).toEqual(new Float32Array(3));
      dispose(gradients);
    }
    dispose(there);
  });

  it.skipIf(!hasTwoDevices)('wrong arguments', async () => {
    const scales = Float32Array.of(1);
    using t = DeviceTensor.upload(finite);
    using half = DeviceTensor.upload(new Uint16Array(4), { dtype: 'float16' });
    using other = DeviceTensor.upload(scales, { device: 'cuda:1' });
    using short = DeviceTensor.upload(new Float32Array(3));
    const disposed = DeviceTensor.upload(finite);
    disposed.dispose();
    const mask = new Uint8Array(finite.length);
    const calls: [string, RegExp, () => unknown][] = [
      ['device', /'cpu', 'cuda'/, () => fakeQuantize(finite, { dtype: 'int8', scales, device: 'gpu' as never })],
      ['input', /as device says/, () => fakeQuantize(t, { dtype: 'int8', scales, device: 'cpu' })],
      ['input', /float32 for input but its dtype is float16/, () => fakeQuantize(half as never, { dtype: 'mxfp4' })],
      ['input', /has been disposed/, () => fakeQuantize(disposed, { dtype: 'mxfp4' })],
      ['scales', /on cuda:0, as input is/, () => fakeQuantize(t, { dtype: 'int8', scales: other })],
      ['scales', /Expected 1 elements/, () => fakeQuantize(t, { dtype: 'int8', scales: short })],
      ['scales', /greater than/, () => fakeQuantize(t, { dtype: 'int8', scales: Float32Array.of(0) })],
      ['zeroPoints', /int32 for/, () => fakeQuantize(t, { dtype: 'int8', scales, zeroPoints: short as never })],
      ['shape', /as many elements/, () => fakeQuantize(t, { dtype: 'int8', scales, shape: [3] })],
      [
        'out.output',
        /a DeviceTensor/,
        () => fakeQuantize(t, { dtype: 'mxfp4', out: { output: finite, mask } as never }),
      ],
      ['out.mask', /of uint8/, () => fakeQuantize(t, { dtype: 'mxfp4', out: { output: t, mask: t } as never })],
      ['out.output', /not to be read/, () => fakeQuantize(t, { dtype: 'mxfp4', out: { output: t, mask: maskOf() } })],
      ['mask', /elements for mask/, () => fakeQuantizeBackward(short, { mask: maskOf() })],
      ['gradient', /as mask is|on cpu|as device/, () => fakeQuantizeBackward(t, { mask, device: 'cpu' })],
      ['out', /a DeviceTensor/, () => fakeQuantizeBackward(t, { mask, out: finite as never })],
      ['input', /elements for input/, () => learnedQuantizeBackward(t, { dtype: 'int8', scales, input: short })],
      ['scales', /as gradient is/, () => learnedQuantizeBackward(t, { dtype: 'int8', scales: other, input: t })],
    ];
    const masks: DeviceTensor<'uint8'>[] = [];
    function maskOf(): DeviceTensor<'uint8'> {
      const made = DeviceTensor.upload(mask);
      masks.push(made);
      return made;
    }
    for (const [argument, message, call] of calls) expect(call, String(message)).toThrow(invalid(argument, message));
    await expect(fakeQuantizeAsync(t, { dtype: 'int8', scales: other })).rejects.toEqual(
      invalid('scales', /on cuda:0/),
    );
    const missing = { name: 'DeviceError', code: 'NO_DEVICE', device: 'cuda:5' };
    await expect(fakeQuantizeAsync(finite, { dtype: 'mxfp4', device: 'cuda:5' })).rejects.toMatchObject(missing);
    for (const made of masks) made.dispose();
  });

  it('ends when the signal aborts', async () => {
    using t = DeviceTensor.upload(finite);
    await fakeQuantizeAsync(t, { dtype: 'mxfp4' }).then(dispose);
    const before = freeBytes(capabilities);
    const aborted = { signal: AbortSignal.abort(new Error('stop')) };
    await expect(fakeQuantizeAsync(t, { dtype: 'mxfp4', ...aborted })).rejects.toThrow('stop');
    const mask = new Uint8Array(finite.length);
    await expect(fakeQuantizeBackwardAsync(t, { mask, ...aborted })).rejects.toThrow('stop');
    const stop = new AbortController();
    const result = fakeQuantizeAsync(finite, { dtype: 'mxfp4', device: 'cuda', signal: stop.signal });
    stop.abort(new Error('during'));
    await expect(result).rejects.toThrow('during');
    expect(freeBytes(capabilities)).toBe(before);
  });
});
