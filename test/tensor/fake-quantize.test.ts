import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type BlockFloatDtype,
  castTensor,
  dequantizeTensor,
  type FakeQuantizeOptions,
  fakeQuantize,
  fakeQuantizeAsync,
  fakeQuantizeBackward,
  fakeQuantizeBackwardAsync,
  InvalidArgumentError,
  type LearnedQuantizeBackwardOptions,
  learnedQuantizeBackward,
  learnedQuantizeBackwardAsync,
  NonFiniteError,
  quantizeTensor,
} from '../../lib/index.js';
import { anything, survives } from '../support/anything.js';
import { sameBytes } from '../support/bytes.js';
import { roundHalfEven } from '../support/plain.js';
import { normal } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface TorchCase {
  op: string;
  tag?: string;
  axis?: number;
  quant_min: number;
  quant_max: number;
  scale: number;
  zero_point: number;
  grad_factor: number;
  scales: EncodedArray;
  zero_points: EncodedArray;
  x: EncodedArray;
  y: EncodedArray;
  mask: EncodedArray;
  dy: EncodedArray;
  dx: EncodedArray;
  dscale: EncodedArray;
  dzero_point: EncodedArray;
  dscales: EncodedArray;
  dzero_points: EncodedArray;
}

function torchCases(op: string): [string, TorchCase][] {
  const { cases } = readJson<{ cases: TorchCase[] }>('torch', 'torch_cases.json');
  return cases
    .filter((c) => c.op === op)
    .map((c) => [`${c.tag ?? `axis ${c.axis}`} [${c.quant_min}, ${c.quant_max}] ${c.zero_point} ${c.grad_factor}`, c]);
}

/** Σ|term| of the gradients of every scale and zero point: what PyTorch adds up in float32. */
function weights(c: TorchCase, scales: Float32Array, zeroPoints: number[], gradFactor: number) {
  const dy = float32(c.dy);
  const result = { scales: scales.map(() => 0), zeroPoints: scales.map(() => 0) };
  const inner = c.axis === undefined ? dy.length : c.x.shape.slice(c.axis + 1).reduce((a, b) => a * b, 1);
  float32(c.x).forEach((x, i) => {
    const p = Math.floor(i / inner) % scales.length;
    const [scale, z] = [scales[p] as number, zeroPoints[p] as number];
    const q = roundHalfEven(x / scale + z);
    const clipped = Math.min(c.quant_max, Math.max(c.quant_min, q));
    const gradient = Math.abs(dy[i] as number) * gradFactor;
    const slope = q === clipped ? clipped - z - x / scale : clipped - z;
    (result.scales[p] as number) += gradient * Math.abs(slope);
    if (q !== clipped) (result.zeroPoints[p] as number) += gradient * scale;
  });
  return result;
}

/** To a part in a million of Σ|term|: where terms cancel, float32 leaves PyTorch no more digits. */
function expectClose(got: Float32Array, expected: EncodedArray, weight: Float32Array): void {
  const wanted = float32(expected);
  expect(got.length).toBe(wanted.length);
  got.forEach((value, i) => {
    const target = wanted[i] as number;
    expect(Math.abs(value - target), `${value} for ${target} at ${i}`).toBeLessThanOrEqual(
      1e-6 * (weight[i] as number),
    );
  });
}

describe('fakeQuantize equals PyTorch', () => {
  it.each(torchCases('fake_quantize_per_tensor_affine'))('per tensor, %s', (_, c) => {
    const { output, mask } = fakeQuantize(float32(c.x), {
      quantMin: c.quant_min,
      quantMax: c.quant_max,
      scales: new Float32Array([c.scale]),
      zeroPoints: new Int32Array([c.zero_point]),
    });
    expect(sameBytes(output, float32(c.y))).toBe(true);
    expect(sameBytes(mask, Buffer.from(c.mask.b64, 'base64'))).toBe(true);
    expect(sameBytes(fakeQuantizeBackward(float32(c.dy), { mask }), float32(c.dx))).toBe(true);
  });

  it.each(torchCases('fake_quantize_per_channel_affine'))('per channel, %s', (_, c) => {
    const { output, mask } = fakeQuantize(float32(c.x), {
      quantMin: c.quant_min,
      quantMax: c.quant_max,
      shape: c.x.shape,
      granularity: 'per-channel',
      axis: c.axis as number,
      scales: float32(c.scales),
      zeroPoints: Int32Array.from(numbers(c.zero_points)),
    });
    expect(sameBytes(output, float32(c.y))).toBe(true);
    expect(sameBytes(fakeQuantizeBackward(float32(c.dy), { mask }), float32(c.dx))).toBe(true);
  });

  it.each(torchCases('fake_quantize_learnable_per_tensor_affine'))('learned, per tensor, %s', (_, c) => {
    const quantizer = {
      quantMin: c.quant_min,
      quantMax: c.quant_max,
      scales: new Float32Array([c.scale]),
      zeroPoints: new Float32Array([c.zero_point]),
    };
    const input = float32(c.x);
    expect(sameBytes(fakeQuantize(input, quantizer).output, float32(c.y))).toBe(true);
    const gradients = learnedQuantizeBackward(float32(c.dy), { input, ...quantizer, gradFactor: c.grad_factor });
    expect(sameBytes(gradients.input, float32(c.dx))).toBe(true);
    const z = Math.trunc(Math.min(c.quant_max, Math.max(c.quant_min, c.zero_point + 0.5)));
    const weight = weights(c, quantizer.scales, [z], c.grad_factor);
    expectClose(gradients.scales, c.dscale, weight.scales);
    expectClose(gradients.zeroPoints, c.dzero_point, weight.zeroPoints);
  });

  it.each(torchCases('fake_quantize_learnable_per_channel_affine'))('learned, per channel, %s', (_, c) => {
    const quantizer = {
      quantMin: c.quant_min,
      quantMax: c.quant_max,
      shape: c.x.shape,
      granularity: 'per-channel',
      axis: c.axis as number,
      scales: float32(c.scales),
      zeroPoints: float32(c.zero_points),
    } as const;
    const input = float32(c.x);
    expect(sameBytes(fakeQuantize(input, quantizer).output, float32(c.y))).toBe(true);
    const gradients = learnedQuantizeBackward(float32(c.dy), { input, ...quantizer, gradFactor: c.grad_factor });
    expect(sameBytes(gradients.input, float32(c.dx))).toBe(true);
    const weight = weights(c, quantizer.scales, numbers(c.zero_points), c.grad_factor);
    expectClose(gradients.scales, c.dscales, weight.scales);
    expectClose(gradients.zeroPoints, c.dzero_points, weight.zeroPoints);
  });
});

describe('fakeQuantize equals microxcaling', () => {
  const DTYPES: Record<string, BlockFloatDtype> = {
    fp8_e5m2: 'mxfp8_e5m2',
    fp8_e4m3: 'mxfp8_e4m3',
    fp6_e3m2: 'mxfp6_e3m2',
    fp6_e2m3: 'mxfp6_e2m3',
    fp4_e2m1: 'mxfp4',
    int8: 'mxint8',
  };
  const { cases } = readJson<{ cases: { elem_format: string; round: string; x: EncodedArray; y: EncodedArray }[] }>(
    'mx',
    'mx.json',
  );
  it.each(cases.filter(({ round }) => round === 'even'))('$elem_format', ({ elem_format, x, y }) => {
    const dtype = DTYPES[elem_format] as 'mxfp4';
    const { output } = fakeQuantize(float32(x), { dtype, shape: x.shape });
    expect(sameBytes(output, float32(y))).toBe(true);
  });
});

describe('fakeQuantize', () => {
  it('equals compressed-tensors in nvfp4', () => {
    const { cases } = readJson<{ cases: Record<string, unknown>[] }>('compressed-tensors', 'compressed_tensors.json');
    const c = cases.find(({ op }) => op === 'ct_nvfp4_composed') as {
      W: EncodedArray;
      dequant: EncodedArray;
      weight_global_scale: number;
    };
    const { shape } = c.W;
    const given = fakeQuantize(float32(c.W), { dtype: 'nvfp4', shape, globalScale: c.weight_global_scale });
    expect(Array.from(given.output)).toEqual(numbers(c.dequant).map((v) => (v === 0 ? expect.closeTo(0) : v)));
    expect(fakeQuantize(float32(c.W), { dtype: 'nvfp4', shape })).toEqual(given);
  });

  it('is a cast of x / scale in float8, and masks what saturates', () => {
    const x = Float32Array.from({ length: 20_000 }, (_, i) => (i - 10_000) / 7);
    const scales = new Float32Array([1.7]);
    for (const dtype of ['float8_e4m3fn', 'float8_e5m2'] as const) {
      const { output, mask } = fakeQuantize(x, { dtype, scales });
      const cast = (saturate: boolean) => {
        const codes = castTensor(
          x.map((v) => v / (scales[0] as number)),
          { from: 'float32', to: dtype, saturate },
        );
        return castTensor(codes, { from: dtype, to: 'float32' });
      };
      expect(
        sameBytes(
          output,
          cast(true).map((v) => v * (scales[0] as number)),
        ),
      ).toBe(true);
      expect(Array.from(mask)).toEqual(Array.from(cast(false), (v) => (Number.isFinite(v) ? 1 : 0)));
    }
  });

  it('gives what quantizing and dequantizing gives, where the reciprocal of the scale is exact', () => {
    const x = normal(5000, 3);
    const scales = new Float32Array([2 ** -5]);
    const q = quantizeTensor(x, { dtype: 'int8', scales });
    const { output } = fakeQuantize(x, { dtype: 'int8', quantMin: -127, scales });
    expect(Array.from(output)).toEqual(Array.from(dequantizeTensor(q) as Float32Array));
  });

  it('rounds ties away from zero on request', () => {
    const x = new Float32Array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997]);
    const scales = new Float32Array([1]);
    expect(Array.from(fakeQuantize(x, { dtype: 'int8', scales }).output)).toEqual([0, 2, 2, 0, -2, 0]);
    const away = fakeQuantize(x, { dtype: 'int8', scales, rounding: 'half-away' });
    expect(Array.from(away.output)).toEqual([1, 2, 3, -1, -2, 0]);
  });

  it('clips infinities; NaN becomes the lowest, or stays in float8, or spoils its block', () => {
    const x = new Float32Array([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1]);
    const scales = new Float32Array([0.5]);
    const integers = fakeQuantize(x, { quantMin: -3, quantMax: 3, scales });
    expect(integers).toEqual({ output: new Float32Array([-1.5, 1.5, -1.5, 1]), mask: new Uint8Array([0, 0, 0, 1]) });
    const floats = fakeQuantize(x, { dtype: 'float8_e4m3fn', scales });
    expect(floats).toEqual({
      output: new Float32Array([Number.NaN, 224, -224, 1]),
      mask: new Uint8Array([0, 0, 0, 1]),
    });
    const rows = fakeQuantize(new Float32Array([...x, 1, 2, 3, 4]), { dtype: 'mxfp4', shape: [2, 4] });
    expect(rows.output).toEqual(new Float32Array([Number.NaN, Number.NaN, Number.NaN, Number.NaN, 1, 2, 3, 4]));
    expect(rows.mask).toEqual(new Uint8Array([0, 0, 0, 0, 1, 1, 1, 1]));
    expect(() => fakeQuantize(x, { dtype: 'nvfp4' })).toThrow(NonFiniteError);
    expect(() => fakeQuantize(x, { dtype: 'nvfp4' })).toThrow(/NaN at index 0/);
  });

  it('the gradients of scale and zero point are those of the loss, by differences', () => {
    // Without rounding between them: the slope of the error of clipped elements, where the quantizer is smooth.
    const input = new Float32Array([5, -7, 9]);
    const dy = new Float32Array([0.5, -2, 1.5]);
    const scales = new Float32Array([0.25]);
    const loss = (scale: number) => {
      const { output } = fakeQuantize(input, { dtype: 'int4', scales: new Float32Array([scale]) });
      return output.reduce((sum, y, i) => sum + y * (dy[i] as number), 0);
    };
    const gradients = learnedQuantizeBackward(dy, { input, dtype: 'int4', scales });
    expect(gradients.scales[0]).toBeCloseTo((loss(0.26) - loss(0.24)) / 0.02, 3);
    expect(gradients.zeroPoints[0]).toBeCloseTo(0, 6);
    expect(Array.from(gradients.input, Math.abs)).toEqual([0, 0, 0]);
  });

  const x = normal(3000, 8);
  const dy = normal(3000, 9);
  const shared = (array: Float32Array) => {
    const copy = new Float32Array(new SharedArrayBuffer(array.byteLength));
    copy.set(array);
    return copy;
  };
  const channels = { shape: [10, 30, 10], granularity: 'per-channel', axis: 1 } as const;
  const scales = normal(30, 4).map((v) => Math.abs(v) + 0.01);
  const variants: [string, FakeQuantizeOptions][] = [
    ['integers', { dtype: 'uint4', scales, zeroPoints: new Int32Array(30).fill(7), ...channels }],
    ['float8', { dtype: 'float8_e5m2', scales, ...channels }],
    ['blocks', { dtype: 'mxfp6_e3m2', shape: [30, 100] }],
    ['nvfp4', { dtype: 'nvfp4', shape: [100, 30] }],
  ];

  it.each(variants)('%s: into out, in shared memory, off the event loop', async (_, options) => {
    const expected = fakeQuantize(x, options);
    const out = { output: new Float32Array(x.length), mask: new Uint8Array(x.length) };
    expect(fakeQuantize(shared(x), { ...options, out })).toBe(out);
    expect(out).toEqual(expected);
    expect(await fakeQuantizeAsync(x, options)).toEqual(expected);
    const later = { output: shared(new Float32Array(x.length)), mask: new Uint8Array(x.length) };
    expect(await fakeQuantizeAsync(shared(x), { ...options, out: later })).toBe(later);
    expect(later).toEqual(expected);
    const gradient = fakeQuantizeBackward(dy, { mask: expected.mask });
    expect(gradient).toEqual(dy.map((g, i) => g * (expected.mask[i] as number)));
    const into = new Float32Array(x.length);
    expect(await fakeQuantizeBackwardAsync(shared(dy), { mask: expected.mask, out: into })).toBe(into);
    expect(into).toEqual(gradient);
    expect(fakeQuantizeBackward(dy, { mask: expected.mask, out: into })).toBe(into);
    await expect(fakeQuantizeAsync(x, { ...options, signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
  });

  it('gradients: into out, in shared memory, off the event loop', async () => {
    const options: LearnedQuantizeBackwardOptions = { input: x, dtype: 'int4', scales, ...channels, gradFactor: 0.1 };
    const expected = learnedQuantizeBackward(dy, options);
    const room = () => ({
      input: new Float32Array(x.length),
      scales: new Float32Array(30),
      zeroPoints: new Float32Array(30),
    });
    const out = room();
    expect(learnedQuantizeBackward(shared(dy), { ...options, input: shared(x), out })).toBe(out);
    expect(out).toEqual(expected);
    const later = room();
    expect(await learnedQuantizeBackwardAsync(dy, { ...options, out: later })).toBe(later);
    expect(later).toEqual(expected);
    expect(await learnedQuantizeBackwardAsync(shared(dy), options)).toEqual(expected);
  });

  it('empty tensors', async () => {
    const none = new Float32Array(0);
    const empty = { output: none, mask: new Uint8Array(0) };
    const one = new Float32Array([1]);
    expect(fakeQuantize(none, { dtype: 'int8', scales: one })).toEqual(empty);
    expect(await fakeQuantizeAsync(none, { dtype: 'mxfp4', shape: [0, 32] })).toEqual(empty);
    expect(fakeQuantizeBackward(none, { mask: new Uint8Array(0) })).toEqual(none);
    const gradients = { input: none, scales: new Float32Array(1), zeroPoints: new Float32Array(1) };
    expect(learnedQuantizeBackward(none, { input: none, dtype: 'int8', scales: one })).toEqual(gradients);
    const perChannel = { shape: [0, 4], granularity: 'per-channel' } as const;
    expect(fakeQuantize(none, { dtype: 'int8', scales: none, ...perChannel })).toEqual(empty);
    expect(await learnedQuantizeBackwardAsync(none, { input: none, dtype: 'int8', scales: one })).toEqual(gradients);
  });
});

describe('messages of fakeQuantize', () => {
  const x = new Float32Array(8);
  const scales = new Float32Array([1]);
  const any = (options: object) => options as FakeQuantizeOptions;
  const cases: [string, () => unknown, string | RegExp][] = [
    ['dtype', () => fakeQuantize(x, any({ dtype: 'int5', scales })), /float8_e5m2 or one of .* received "int5"/],
    ['quantMin', () => fakeQuantize(x, any({ scales })), /quantMin but received undefined/],
    ['quantMax', () => fakeQuantize(x, { quantMin: 3, quantMax: 2, scales }), /from 3 to 1048576 for quantMax/],
    ['quantMin', () => fakeQuantize(x, { dtype: 'int4', quantMin: -9, scales }), /from -8 to 7 for quantMin/],
    ['scales', () => fakeQuantize(x, { dtype: 'int4', scales: new Float32Array(2) }), /length 1 for scales/],
    [
      'scales',
      () => fakeQuantize(x, { dtype: 'int4', scales: new Float32Array([1e-40]) }),
      /greater than 2\^-128 but received .* at index 0/,
    ],
    [
      'zeroPoints',
      () => fakeQuantize(x, { dtype: 'int4', scales, zeroPoints: new Int32Array([8]) }),
      'Expected zeroPoints to lie in [-8, 7] but received 8 at index 0.',
    ],
    [
      'zeroPoints',
      () => fakeQuantize(x, { quantMin: 1, quantMax: 3, scales }),
      'Expected zeroPoints, because 0 is not in [1, 3].',
    ],
    [
      'zeroPoints',
      () => fakeQuantize(x, { dtype: 'int4', scales, zeroPoints: new Float32Array([Number.NaN]) }),
      /finite zeroPoints but received NaN at index 0/,
    ],
    ['scales', () => fakeQuantize(x, any({ dtype: 'mxfp4', scales })), 'Expected no scales together with dtype mxfp4.'],
    ['globalScale', () => fakeQuantize(x, any({ dtype: 'mxfp4', globalScale: 1 })), /Expected no globalScale/],
    ['globalScale', () => fakeQuantize(x, { dtype: 'nvfp4', globalScale: 0 }), /greater than 0 for globalScale/],
    ['axis', () => fakeQuantize(x, any({ dtype: 'int4', scales, axis: 0 })), /granularity: 'per-channel'/],
    ['shape', () => fakeQuantize(x, { dtype: 'int4', scales, shape: [3, 3] }), /as many elements as the input, 8/],
    ['out.mask', () => fakeQuantize(x, any({ dtype: 'mxfp4', out: { output: x } })), /Uint8Array for out.mask/],
    ['mask', () => fakeQuantizeBackward(x, { mask: new Uint8Array(7) }), /length 8 for mask/],
    [
      'gradFactor',
      () => learnedQuantizeBackward(x, { input: x, dtype: 'int4', scales, gradFactor: Number.NaN }),
      /a finite number for gradFactor/,
    ],
  ];

  it.each(cases)('%s', (argument, call, message) => {
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(message);
    expect(call).toThrow(expect.objectContaining({ argument }));
  });

  it('overlapping buffers are refused', () => {
    const mask = new Uint8Array(x.buffer, 0, 8);
    expect(() => fakeQuantize(x, { dtype: 'mxfp4', out: { output: new Float32Array(8), mask } })).toThrow(/overlap/);
    expect(() => fakeQuantizeBackward(x, { mask: new Uint8Array(8), out: x })).toThrow(/overlap/);
  });

  it('survives any value for any option', async () => {
    const names = [
      'shape',
      'dtype',
      'quantMin',
      'quantMax',
      'granularity',
      'axis',
      'scales',
      'zeroPoints',
      'rounding',
      'globalScale',
      'gradFactor',
      'input',
      'mask',
      'out',
      'signal',
    ];
    const option = fc.record({ name: fc.constantFrom(...names), value: anything });
    const base = fc.constantFrom<object>(
      { dtype: 'int4', scales },
      { dtype: 'float8_e5m2', scales },
      { dtype: 'nvfp4' },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(option, { minLength: 1, maxLength: 2 }), base, async (options, given) => {
        const changed = Object.fromEntries(options.map(({ name, value }) => [name, value]));
        const forward = { ...given, ...changed } as never;
        const learned = { input: x, dtype: 'int4', scales, ...changed } as never;
        await survives(() => fakeQuantize(x, forward));
        await survives(() => fakeQuantizeAsync(x, forward));
        await survives(() => fakeQuantizeBackward(x, { mask: new Uint8Array(8), ...changed } as never));
        await survives(() => learnedQuantizeBackward(x, learned));
        await survives(() => learnedQuantizeBackwardAsync(x, learned));
      }),
      { numRuns: 500 },
    );
  });
});
