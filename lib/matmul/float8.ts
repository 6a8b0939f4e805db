/**
 * Products of two matrices of 8-bit floats, with scales.
 *
 * @module
 */
import { explain } from '../addon.js';
import { CPU, type Device, isUnsupported, placeOf, unsupported } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  type DeviceTensor,
  elementCount,
  isDeviceTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { floatCodeOf, LARGE_FLOAT_DTYPES, type LargeFloatDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import { castTensor, castTensorAsync, type FloatArrayOf, type FloatInputOf } from '../tensor/cast.js';
import * as validate from '../validate.js';
import type { ProductSize } from './integer-product.js';
import { linear, linearAsync } from './linear.js';
import { prepack, prepackAsync } from './prepack.js';

/** Options of {@link matmulFloat8}. */
export interface MatmulFloat8Options<D extends LargeFloatDtype = LargeFloatDtype> extends ProductSize {
  /** What a is multiplied with: a number, or one for each row (`[m]`); finite. Default 1. */
  aScale?: number | Float32Array;
  /** What b is multiplied with: a number, or one for each row (`[n]`); finite. Default 1. */
  bScale?: number | Float32Array;
  /** `[n]`, added to every row of the result. */
  bias?: Float32Array;
  /** The type of the result. Default `'float32'`. */
  outDtype?: D;
  /** `[m, n]`: the array to write to and return. */
  out?: FloatInputOf<D>;
  /** Where to compute. Default `'cpu'`. */
  device?: Device;
}

/** Options of {@link matmulFloat8} for what is on a device; scales and bias may be there too, where nobody looks at them. */
export interface DeviceMatmulFloat8Options<D extends LargeFloatDtype = LargeFloatDtype> extends ProductSize {
  /** As in {@link MatmulFloat8Options}; a tensor has one element, or m. */
  aScale?: number | Float32Array | DeviceTensor<'float32'>;
  /** As in {@link MatmulFloat8Options}; a tensor has one element, or n. */
  bScale?: number | Float32Array | DeviceTensor<'float32'>;
  /** `[n]`, added to every row of the result. */
  bias?: Float32Array | DeviceTensor<'float32'>;
  /** The type of the result. Default `'float32'`. */
  outDtype?: D;
  /** `[m, n]`: the tensor to write to and return. */
  out?: DeviceTensor<D>;
  /** Where the codes are, which it must not contradict. */
  device?: Device;
}

const OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'aScale', 'bScale', 'bias', 'outDtype', 'out', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);
const CODES = ['uint8', 'float8_e4m3fn'] as const;

type Out = Float32Array | Uint16Array;

interface Prepared {
  /** A device's number, or {@link CPU}: then nothing is on a device. */
  readonly index: number;
  readonly size: ProductSize;
  readonly a: Data<Uint8Array>;
  readonly b: Data<Uint8Array>;
  /** One, or one for each row. */
  readonly aScales: Data<Float32Array>;
  readonly bScales: Data<Float32Array>;
  readonly bias: Data<Float32Array> | null;
  readonly outDtype: LargeFloatDtype;
  /** What the addon writes to: a Float16Array's bits. */
  readonly out: Data<Out>;
  readonly result: unknown;
  readonly fresh: boolean;
}

function codesOf(argument: string, value: unknown, count: number): Data<Uint8Array> {
  return checkEither(argument, value, CODES, count, () => validate.uint8Array(argument, value, count));
}

function scalesOf(argument: string, value: unknown, rows: number): Data<Float32Array> {
  if (value === undefined) return Float32Array.of(1);
  if (isDeviceTensor(value)) {
    return checkEither(argument, value, ['float32'], elementCount(value) === 1 ? 1 : rows, () => new Float32Array(0));
  }
  if (value instanceof Float32Array) {
    const scales = validate.float32Array(argument, value, rows);
    const wrong = scales.findIndex((scale) => !Number.isFinite(scale));
    if (wrong === -1) return scales;
    throw new InvalidArgumentError(
      argument,
      `Expected ${argument} to be finite but received ${scales[wrong]} at index ${wrong}.`,
    );
  }
  if (typeof value !== 'number') throw invalidArgument(argument, 'a number or a Float32Array', value);
  return Float32Array.of(validate.finite(argument, Math.fround(value), false));
}

function prepare(aValue: unknown, bValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const { aScale, bScale, bias, out } = given;
  const index = placeOf(given['device'], [
    placeOfTensor('a', aValue),
    placeOfTensor('b', bValue),
    placeOfTensor('aScale', aScale),
    placeOfTensor('bScale', bScale),
    placeOfTensor('bias', bias),
    placeOfTensor('out', out),
  ]);
  const [m, n, k] = (['m', 'n', 'k'] as const).map((name) => validate.integer(name, given[name], 0)) as [
    number,
    number,
    number,
  ];
  const a = codesOf('a', aValue, m * k);
  const outDtype = validate.oneOf('outDtype', given['outDtype'] ?? 'float32', LARGE_FLOAT_DTYPES);
  const own = isDeviceTensor(a)
    ? resultTensor(out, outDtype, [m, n], index)
    : out === undefined
      ? validate.allocated<Out>(outDtype === 'float32' ? Float32Array : Uint16Array, m * n)
      : validate.floatsOut('out', out, floatCodeOf('outDtype', outDtype), m * n);
  return {
    index,
    size: { m, n, k },
    a,
    b: codesOf('b', bValue, n * k),
    aScales: scalesOf('aScale', aScale, m),
    bScales: scalesOf('bScale', bScale, n),
    bias:
      bias === undefined
        ? null
        : checkEither('bias', bias, ['float32'], n, () => validate.float32Array('bias', bias, n)),
    outDtype,
    out: own,
    result: out ?? own,
    fresh: out === undefined,
  };
}

const record = new Float64Array(4);

function onDevice(p: Prepared): DeviceCall<'deviceMatmulFloat8'> {
  const { m, n, k } = p.size;
  record.set([m, n, k, floatCodeOf('outDtype', p.outDtype)]);
  return new DeviceCall(p.index, 'deviceMatmulFloat8', (on) => [
    record,
    on.reads(p.a),
    on.reads(p.b),
    on.reads(p.aScales),
    on.reads(p.bScales),
    p.bias === null ? null : on.reads(p.bias),
    on.writes(p.out, p.fresh),
  ]);
}

function explained(error: unknown, index: number): unknown {
  if (!isUnsupported(error)) return explain(error, 'out');
  return unsupported('device', 'compute capability 8.9 or newer, which has products of float8,', index, error);
}

// --- on the processor: products of float32 ---------------------------------------------------------------------------

/** Codes without those that are NaN, and the rows that had one: all results of theirs are NaN. */
function withoutNaN(codes: Uint8Array, k: number): { codes: Uint8Array; spoilt: ReadonlySet<number> } {
  const spoilt = new Set<number>();
  for (let i = 0; i < codes.length; i++) if (((codes[i] as number) & 0x7f) === 0x7f) spoilt.add(Math.floor(i / k));
  return spoilt.size === 0
    ? { codes, spoilt }
    : { codes: codes.map((code) => ((code & 0x7f) === 0x7f ? 0 : code)), spoilt };
}

/** The operands of a product on the processor. */
interface HostProduct {
  readonly size: ProductSize;
  readonly aScales: Float32Array;
  readonly bScales: Float32Array;
  readonly bias: Float32Array | null;
}

/** What becomes of sums, in their place. */
function finish(
  sums: Float32Array,
  { size: { m, n }, aScales, bScales, bias }: HostProduct,
  spoilt: { readonly a: ReadonlySet<number>; readonly b: ReadonlySet<number> },
): Float32Array {
  for (let row = 0; row < m; row++) {
    const aScale = aScales[aScales.length === 1 ? 0 : row] as number;
    for (let column = 0; column < n; column++) {
      const bScale = bScales[bScales.length === 1 ? 0 : column] as number;
      const at = row * n + column;
      const scaled = Math.fround(Math.fround((sums[at] as number) * bScale) * aScale);
      sums[at] = bias === null ? scaled : scaled + (bias[column] as number);
    }
    if (spoilt.a.has(row)) sums.fill(Number.NaN, row * n, (row + 1) * n);
    for (const column of spoilt.b) sums[row * n + column] = Number.NaN;
  }
  return sums;
}

const FROM = { from: 'float8_e4m3fn', to: 'float32' } as const;

function runOnHost(p: Prepared): void {
  const { m, n, k } = p.size;
  const [a, b] = [withoutNaN(p.a as Uint8Array, k), withoutNaN(p.b as Uint8Array, k)];
  let sums = new Float32Array(m * n);
  if (k > 0) {
    const weight = prepack(castTensor(b.codes, FROM), { shape: [n, k] });
    try {
      sums = linear(castTensor(a.codes, FROM), weight) as Float32Array<ArrayBuffer>;
    } finally {
      weight.dispose();
    }
  }
  const values = finish(sums, p as HostProduct, { a: a.spoilt, b: b.spoilt });
  const out = p.out as Out;
  if (p.outDtype === 'float32') out.set(values);
  else castTensor(values, { from: 'float32', to: p.outDtype, out: out as Uint16Array });
}

async function runOnHostLater(p: Prepared, signal: AbortSignal | undefined): Promise<void> {
  const { m, n, k } = p.size;
  const options = signal === undefined ? {} : { signal };
  const [a, b] = [withoutNaN((p.a as Uint8Array).slice(), k), withoutNaN((p.b as Uint8Array).slice(), k)];
  const product: HostProduct = {
    size: p.size,
    aScales: (p.aScales as Float32Array).slice(),
    bScales: (p.bScales as Float32Array).slice(),
    bias: p.bias === null ? null : (p.bias as Float32Array).slice(),
  };
  let sums = new Float32Array(m * n);
  if (k > 0) {
    const floats = await castTensorAsync(b.codes, { ...FROM, ...options });
    const weight = await prepackAsync(floats, { shape: [n, k], ...options });
    try {
      const x = await castTensorAsync(a.codes, { ...FROM, ...options });
      sums = (await linearAsync(x, weight, options)) as Float32Array<ArrayBuffer>;
    } finally {
      weight.dispose();
    }
  }
  const values = finish(sums, product, { a: a.spoilt, b: b.spoilt });
  const to = p.outDtype;
  const rounded = to === 'float32' ? values : await castTensorAsync(values, { from: 'float32', to, ...options });
  detachedFromCaller.copyBack('out', rounded, p.out as Out);
}

/**
 * The product of two matrices of float8_e4m3fn, `y = (a · bᵀ) · bScale · aScale + bias`, with scales for the whole of a and b or
 * for each of their rows: a linear layer whose activations and weights are codes (W8A8).
 *
 * Products are exact. On a device tensor cores add up 32 of them at a time, dropping what lies more than 13 bits below the
 * largest, and sums over 128 columns are added in float32: an error of less than 2^−8 of the sum of the magnitudes, and usually
 * of much less. On the processor values become float32 and sums are float32's, by the kernels of {@link linear}; this is for
 * comparing rather than for speed, and takes memory for the float32 values of all codes.
 *
 * Scales and bias are applied in float32, then the result is rounded; what `'float16'` can't hold becomes infinity. A NaN among
 * the codes makes NaN of the results that it takes part in.
 *
 * @param a - Codes `[m, k]` in row-major order.
 * @param b - Codes `[n, k]` in row-major order, as the weights of linear layers are stored.
 * @param options - `m`, `n` and `k`; scales, default 1; `bias`; `outDtype`; `out`; `device`.
 * @returns `[m, n]` in row-major order, in a new array or in `out`; for an `a` on a device a {@link DeviceTensor}.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or scales that are not finite; {@link OutOfMemoryError};
 *   {@link DeviceError} of a device: `DEVICE_UNSUPPORTED` before compute capability 8.9.
 *
 * Sources: OCP 8-bit Floating Point Specification (OFP8); Micikevicius et al., "FP8 Formats for Deep Learning"
 * (arXiv:2209.05433).
 *
 * @example
 * ```ts
 * const perRow = { dtype: 'float8_e4m3fn', granularity: 'per-channel' } as const;
 * const w = quantizeTensor(weights, { ...perRow, shape: [n, k] }); // on the device, if the weights are there
 * const x = quantizeTensor(activations, { ...perRow, shape: [m, k] });
 * const y = matmulFloat8(x.data, w.data, { m, n, k, aScale: x.scales, bScale: w.scales, outDtype: 'bfloat16' });
 * ```
 */
export function matmulFloat8<D extends LargeFloatDtype = 'float32'>(
  a: Uint8Array,
  b: Uint8Array,
  options: MatmulFloat8Options<D>,
): FloatArrayOf<D>;
export function matmulFloat8<D extends LargeFloatDtype = 'float32'>(
  a: DeviceTensor<'uint8'> | DeviceTensor<'float8_e4m3fn'>,
  b: DeviceTensor<'uint8'> | DeviceTensor<'float8_e4m3fn'> | Uint8Array,
  options: DeviceMatmulFloat8Options<D>,
): DeviceTensor<D>;
export function matmulFloat8(a: unknown, b: unknown, options: unknown): unknown {
  const p = prepare(a, b, options, OPTIONS);
  if (p.size.m * p.size.n === 0) return p.result;
  if (p.index === CPU) runOnHost(p);
  else onDevice(p).now((error) => explained(error, p.index));
  return p.result;
}

/**
 * {@link matmulFloat8} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link matmulFloat8}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export function matmulFloat8Async<D extends LargeFloatDtype = 'float32'>(
  a: Uint8Array,
  b: Uint8Array,
  options: MatmulFloat8Options<D> & { signal?: AbortSignal },
): Promise<FloatArrayOf<D>>;
export function matmulFloat8Async<D extends LargeFloatDtype = 'float32'>(
  a: DeviceTensor<'uint8'> | DeviceTensor<'float8_e4m3fn'>,
  b: DeviceTensor<'uint8'> | DeviceTensor<'float8_e4m3fn'> | Uint8Array,
  options: DeviceMatmulFloat8Options<D> & { signal?: AbortSignal },
): Promise<DeviceTensor<D>>;
export async function matmulFloat8Async(a: unknown, b: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const p = prepare(a, b, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.size.m * p.size.n === 0) return p.result;
  if (p.index === CPU) await runOnHostLater(p, signal);
  else await onDevice(p).later(signal, (error) => explained(error, p.index));
  return p.result;
}
