/**
 * Floats to codes.
 *
 * @module
 */
import { addon, explain, type RawError, type RawFloats, runJob } from '../addon.js';
import { CPU, type Device, isUnsupported, unsupported } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import { type DeviceTensor, downloadElement, isDeviceTensor, memoryOf, newTensor } from '../device/device-tensor.js';
import type {
  CodebookDtype,
  Float16ArrayLike,
  IntDtype,
  LargeFloatDtype,
  QuantDtype,
  SignedIntDtype,
} from '../dtype.js';
import { NonFiniteError, ScaleOverflowError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { floatAt } from './cast.js';
import { nestedBlocks, nestScales } from './nested-scales.js';
import { ASYNC_OPTIONS, OPTIONS, type Prepared, prepare } from './quantize-arguments.js';
import {
  type AnyQuantizedTensor,
  type DeviceQuantizedTensor,
  type Granularity,
  type QuantizedTensor,
  type Scheme,
  writeLayout,
} from './quantized-tensor.js';

/** The element type of the input follows from its array; a Uint16Array can hold two. */
export type QuantizeInput = Float32Array | Uint16Array | Float16ArrayLike;

/** Which float type the input holds: it must be said for a Uint16Array, and must not contradict other arrays. */
export type InputOptions<I> = I extends Uint16Array
  ? { inputDtype: 'float16' | 'bfloat16' }
  : I extends Float32Array
    ? { inputDtype?: 'float32' }
    : I extends Float16ArrayLike
      ? { inputDtype?: 'float16' }
      : { inputDtype?: LargeFloatDtype };

// The first member of each union lets a variable stand for any of the names.

/**
 * What shares a scale. `axis` goes with per-channel (default 0), `groupSize` with per-group (default 128, nf4 and fp4: 64),
 * `blockShape` with per-block (default [128, 128]).
 */
export type GranularityOptions =
  | { granularity?: Granularity; axis?: never; groupSize?: never; blockShape?: never }
  | { granularity: 'per-channel'; axis?: number; groupSize?: never; blockShape?: never }
  | { granularity: 'per-group'; axis?: never; groupSize?: number; blockShape?: never }
  | { granularity: 'per-block'; axis?: never; groupSize?: never; blockShape?: readonly [number, number] };

/** Where zero lies. `narrowRange` (default true) keeps symmetric codes of signed dtypes within ±(2^(b−1) − 1). */
export type SchemeOptions<D> =
  | { scheme?: D extends IntDtype ? Scheme : 'symmetric'; narrowRange?: never }
  | { scheme?: 'symmetric'; narrowRange?: D extends SignedIntDtype ? boolean : never };

/**
 * How the range is chosen (default `'minmax'`; ternary and binary: `'absmean'`), or the parameters themselves.
 */
export type RangeOptions<D> =
  | {
      range?:
        | 'minmax'
        | { percentile: number }
        | (D extends IntDtype ? 'mse' : never)
        | (D extends 'ternary' | 'binary' ? 'absmean' : never)
        | (D extends 'ternary' ? 'twn' : never);
      scales?: never;
      zeroPoints?: never;
    }
  | { range?: never; scales: Float32Array; zeroPoints?: D extends CodebookDtype ? never : Int32Array };

/**
 * Whether scales are quantized as well (default false): to 8 bits, as bitsandbytes does. The tensor's `scales` are then those
 * that came back, its `nestedScales` what they came from.
 */
export type NestedOptions<D> = { nested?: D extends 'nf4' | 'fp4' ? boolean : false };

/**
 * The number that `nvfp4` multiplies scales with for their E4M3 numbers, where a part of a tensor is quantized and the rest
 * shares it. Default `448 · 6 / max|x|`; a positive number.
 */
export type GlobalScaleOptions<D> = { globalScale?: D extends 'nvfp4' ? number : never };

/** Options of {@link quantizeTensor}. Combinations that can't work do not compile. */
export type QuantizeOptions<D extends QuantDtype = QuantDtype, I = QuantizeInput> = InputOptions<I> &
  GranularityOptions &
  SchemeOptions<D> &
  RangeOptions<D> &
  NestedOptions<D> &
  GlobalScaleOptions<D> & {
    /** Row-major. Default `[input.length]`. */
    shape?: readonly number[];
    /** The code type. */
    dtype: D;
    /** The type to which scales are rounded before they are used. Default `'float32'`. */
    scaleDtype?: 'float32' | 'float16' | 'bfloat16';
    /**
     * What to do about NaN and infinities. `'throw'` (default) names the first one. `'saturate'` leaves them out of the
     * range; infinities then become the outermost codes and NaN the lowest, as in ONNX Runtime.
     */
    nonFinite?: 'throw' | 'saturate';
    /** A tensor of the same dtype, shape and granularity, whose buffers are overwritten; it is also the result. */
    out?: QuantizedTensor;
    /** Where to quantize. Default `'cpu'`. */
    device?: Device;
  };

/**
 * Options of {@link quantizeTensor} for what is on a device. The element type of the input is known, and parameters may be
 * on the device too, where nobody looks at their values.
 */
export type DeviceQuantizeOptions<D extends QuantDtype = QuantDtype> = GranularityOptions &
  SchemeOptions<D> &
  NestedOptions<D> &
  GlobalScaleOptions<D> & {
    /** Row-major. Default: the shape of the input. */
    shape?: readonly number[];
    /** The element type of the input, which it must not contradict. */
    inputDtype?: LargeFloatDtype;
    /** As in {@link QuantizeOptions}. */
    dtype: D;
    /** As in {@link QuantizeOptions}: default `'float32'`. */
    scaleDtype?: LargeFloatDtype;
    /** As in {@link QuantizeOptions}: default `'throw'`. */
    nonFinite?: 'throw' | 'saturate';
    /** As in {@link QuantizeOptions}; devices have `'minmax'` alone. */
    range?: RangeOptions<D>['range'];
    /** One for each tensor, channel, group or block, finite and greater than 0; on a device nobody looks at them. */
    scales?: Float32Array | DeviceTensor<'float32'>;
    /** As many, within the codes of `dtype`. Default: 0 if asymmetric, the middle of the codes if symmetric and unsigned. */
    zeroPoints?: D extends CodebookDtype ? never : Int32Array | DeviceTensor<'int32'>;
    /** A tensor on the same device, of the same dtype, shape and granularity; it is also the result. */
    out?: DeviceQuantizedTensor;
    /** Where the input is, which it must not contradict. */
    device?: Device;
  };

/** The same, with a signal that ends the work early. */
export type QuantizeAsyncOptions<D extends QuantDtype = QuantDtype, I = QuantizeInput> = QuantizeOptions<D, I> & {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
};

/** What the parameters are before a call: those given, with the missing zero points of the scheme. */
function first(p: Prepared): { scales: Data<Float32Array> | undefined; zeroPoints: Data<Int32Array> | undefined } {
  const { zeroPoints } = p.result;
  if (p.given === undefined) return { scales: undefined, zeroPoints: undefined };
  if (zeroPoints === null || p.given.zeroPoints !== null) {
    return { scales: p.given.scales, zeroPoints: p.given.zeroPoints ?? undefined };
  }
  const middle = p.symmetric ? 2 ** (p.layout.code.bits - 1) : 0;
  return { scales: p.given.scales, zeroPoints: new Int32Array(p.layout.parameterCount).fill(middle) };
}

function onDevice(
  p: Prepared,
  globalScale: Float32Array,
): DeviceCall<'deviceQuantizeAffine'> | DeviceCall<'deviceQuantizeCodebook'> {
  const { data, scales, zeroPoints } = p.result;
  const before = first(p);
  if (p.layout.code.codebook !== undefined) {
    return new DeviceCall(p.index, 'deviceQuantizeCodebook', (on) => [
      recordOf(p),
      on.reads(p.input),
      on.writes(scales, p.fresh, before.scales),
      on.writes(globalScale, true, globalScale),
      on.writes(data, p.fresh),
    ]);
  }
  return new DeviceCall(p.index, 'deviceQuantizeAffine', (on) => [
    recordOf(p),
    on.reads(p.input),
    on.writes(scales, p.fresh, before.scales),
    zeroPoints === null ? null : on.writes(zeroPoints, p.fresh, before.zeroPoints),
    on.writes(data, p.fresh),
  ]);
}

/** The parameters of an empty tensor, on a device. */
function uploadEmpty(p: Prepared, { scales, zeroPoints }: DeviceQuantizedTensor): void {
  const before = first(p);
  const empty = new Int32Array(p.layout.parameterCount);
  const fill = (tensor: DeviceTensor, values: Data) => {
    if (isDeviceTensor(values)) addon.copyMemory(memoryOf(values), memoryOf(tensor));
    else addon.upload(memoryOf(tensor), values);
  };
  fill(scales, before.scales ?? new Float32Array(p.layout.parameterCount).fill(1));
  if (zeroPoints !== null) fill(zeroPoints, before.zeroPoints ?? empty.fill(zeroPointOfZeros(p)));
}

/** The scales of a tensor on a device, nested there. */
function nestingCall(
  p: Prepared,
  offset: Float32Array,
): { call: DeviceCall<'deviceNestScales'>; nested: { data: DeviceTensor<'uint8'>; absmax: DeviceTensor<'float32'> } } {
  const { parameterCount } = p.layout;
  const data = newTensor(p.index, 'uint8', [parameterCount]);
  const absmax = newTensor(p.index, 'float32', [nestedBlocks(parameterCount)]);
  const call = new DeviceCall(p.index, 'deviceNestScales', (on) => [
    on.reads(p.result.scales),
    on.writes(data, true),
    on.writes(absmax, true),
    on.writes(offset, true),
  ]);
  return { call, nested: { data, absmax } };
}

/** After a call that failed: nobody gets the tensors. */
function disposeResult({ result }: Prepared): void {
  for (const part of [result.data, result.scales, result.zeroPoints]) if (isDeviceTensor(part)) part.dispose();
}

/** The zero point of a group of zeros. */
function zeroPointOfZeros(p: Prepared): number {
  return p.symmetric ? 2 ** (p.layout.code.bits - 1) : p.layout.code.lowest;
}

/** An empty tensor has parameters, but nothing to compute them from: scale 1, and the zero point of a group of zeros. */
function fillEmpty(p: Prepared, target: QuantizedTensor): void {
  if (p.given !== undefined) return;
  target.scales.fill(1);
  target.zeroPoints?.fill(zeroPointOfZeros(p));
}

/** Given parameters go into the result; missing zero points are those of the scheme. */
function copyGiven(p: Prepared, target: QuantizedTensor): void {
  const { scales, zeroPoints } = first(p) as { scales?: Float32Array; zeroPoints?: Int32Array };
  if (scales !== undefined && target.scales !== scales) target.scales.set(scales);
  if (zeroPoints !== undefined && target.zeroPoints !== zeroPoints) target.zeroPoints?.set(zeroPoints);
}

/** The numbers of the addon's calls; it reads them before it returns, so one array of a length serves every call. */
const affineRecord = new Float64Array(15);
const codebookRecord = new Float64Array(14);

function recordOf(p: Prepared): Float64Array {
  const { codebook } = p.layout.code;
  const record = codebook === undefined ? affineRecord : codebookRecord;
  let i = writeLayout(record, p.layout);
  if (codebook === undefined) {
    record[i++] = p.inputType;
    record[i++] = p.symmetric ? 1 : 0;
    record[i++] = p.lowest;
    record[i++] = p.layout.code.highest;
  } else {
    record[i++] = codebook.book;
    record[i++] = p.range.rule;
    record[i++] = p.inputType;
  }
  record[i++] = p.scaleType;
  record[i++] = p.range.rangeCode;
  record[i++] = p.range.percentile;
  record[i] = p.saturate ? 1 : 0;
  return record;
}

/** What else a codebook's tensor has, once its scales are known. */
function completed(p: Prepared, globalScale: Float32Array): AnyQuantizedTensor {
  if (p.result.dtype === 'nvfp4') {
    const [value = 1] = globalScale;
    if (p.fresh) return { ...p.result, globalScale: value };
    (p.result as { globalScale: number }).globalScale = value;
  }
  if (!p.nested || isDeviceTensor(p.input)) return p.result;
  return { ...(p.result as QuantizedTensor), nestedScales: nestScales((p.result as QuantizedTensor).scales) };
}

/** The addon's error in the words of the caller's arguments. */
function explained(error: unknown, p: Prepared, input: Data<RawFloats> = p.input): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (isUnsupported(error)) return unsupported('range', "range 'minmax', which devices have,", p.index, error);
  switch (code) {
    case 'NON_FINITE': {
      const value = isDeviceTensor(input)
        ? floatAt(downloadElement(input, index), p.inputType, 0)
        : floatAt(input, p.inputType, index);
      return new NonFiniteError(
        `Expected finite numbers but received ${value} at index ${index} of the input. ` +
          "Remove it, or pass nonFinite: 'saturate'.",
        index,
        value,
      );
    }
    case 'SCALE_OVERFLOW':
      return new ScaleOverflowError(
        `The scale at index ${index} is too large for ${p.scaleDtype}. Use scaleDtype 'float32' or 'bfloat16'.`,
        index,
      );
    default:
      return explain(error, 'input');
  }
}

/**
 * Quantizes floats to integer codes with a scale (and zero point) per tensor, channel or group:
 * `code = clamp(round(x / scale) + zeroPoint)`, rounding half to even, the division exact in float32, as ONNX
 * QuantizeLinear defines it.
 *
 * - **symmetric**: `scale = max|x| / (2^(b−1) − 1)`; the zero point is 0, or 2^(b−1) for unsigned dtypes.
 * - **asymmetric**: the range is widened to contain 0, `scale = (max − min) / (2^b − 1)`,
 *   `zeroPoint = clamp(round(lowest − min / scale))`.
 * - A group of zeros has scale 1, and its codes are the zero point.
 *
 * The range is that of the elements (`'minmax'`, default), of a percentile of them (linear interpolation between elements,
 * symmetric schemes take it of |x|), the one of 80 shrunk ranges with the least squared error (`'mse'`, the grid of GPTQ's
 * `mse` option), or none if `scales` (and `zeroPoints`, default 0 for asymmetric) are given.
 *
 * A {@link CodebookDtype} has codes for the values of a table instead, scaled by a number for each tensor, channel, group or
 * block; its scheme is symmetric, and its zero points are null. Codes are those of the nearest value.
 *
 * - `nf4`, `fp4`: groups of 64 unless something else is said; `nested: true` quantizes their scales as well.
 * - `float8_e4m3fn`, `float8_e5m2`: any granularity, rounded to nearest even.
 * - `mxfp8_e4m3` … `mxint8`: groups of 32, scales `2^(⌊log₂ max|x|⌋ − e)` with the exponent e of the largest value.
 * - `nvfp4`: groups of 16, scales `e4m3(globalScale · max|x| / 6) / globalScale` with `globalScale = 448 · 6 / max|x|` over the
 *   whole tensor.
 * - `binary`: `scale = mean|x|`, code 1 for x ≥ 0. `ternary`: `scale = mean|x|` (at least 1e-5) and the nearest of −1, 0, 1
 *   (`'absmean'`, default); or 0 up to 0.7 · mean|x| and the mean magnitude of what lies above (`'twn'`). With `'minmax'` or a
 *   percentile the scale is that magnitude.
 *
 * The result does not depend on the number of threads or the instruction set.
 *
 * @param input - Floats in row-major order. It may be a view of a SharedArrayBuffer. A {@link DeviceTensor} is quantized where
 *   it is.
 * @param options - At least `dtype`. Defaults: per-tensor; `scheme` symmetric for signed and asymmetric for unsigned dtypes
 *   (asymmetric too if `zeroPoints` are given); `axis` 0; `groupSize` 128; `narrowRange` true, which keeps symmetric signed
 *   codes within ±(2^(b−1) − 1).
 * @returns Codes, scales and zero points, with what says how they belong together: new, or `out`; for a tensor on a device
 *   a {@link DeviceQuantizedTensor}.
 * @throws {@link InvalidArgumentError} for a wrong type, value or combination; {@link NonFiniteError} for NaN or infinity
 *   (unless `nonFinite` is `'saturate'`); {@link ScaleOverflowError} if a scale does not fit `scaleDtype`; {@link DeviceError}
 *   of a device, among others for a `range` that devices do not have.
 *
 * Sources: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
 * (arXiv:1712.05877); ONNX QuantizeLinear, opset 21; Dettmers et al., "QLoRA" (arXiv:2305.14314); OCP 8-bit Floating
 * Point (OFP8) and Microscaling Formats (MX) 1.0; NVFP4 as compressed-tensors has it; Rastegari et al., "XNOR-Net"
 * (arXiv:1603.05279); Ma et al., "The Era of 1-bit LLMs" (arXiv:2402.17764); Li and Liu, "Ternary Weight Networks"
 * (arXiv:1605.04711).
 *
 * @example
 * ```ts
 * const weights = new Float32Array([0.1, 0.2, 1.2, 3, 2.1, -2.1, -3.5]);
 * const q = quantizeTensor(weights, { dtype: 'int4' });
 * q.scales[0]; // 0.5
 * unpackCodes(q); // Int8Array [0, 0, 2, 6, 4, -4, -7]
 * dequantizeTensor(q); // Float32Array [0, 0, 1, 3, 2, -2, -3.5]
 * ```
 */
export function quantizeTensor<D extends QuantDtype, I extends QuantizeInput>(
  input: I,
  options: QuantizeOptions<D, I>,
): QuantizedTensor<D>;
/** The same of a tensor on a device, which the result does not leave. */
export function quantizeTensor<D extends QuantDtype>(
  input: DeviceTensor,
  options: DeviceQuantizeOptions<D>,
): DeviceQuantizedTensor<D>;
export function quantizeTensor(input: unknown, options: unknown): unknown {
  const p = prepare(input, options, OPTIONS);
  const globalScale = Float32Array.of(p.globalScale);
  if (p.index !== CPU && p.layout.elementCount > 0) {
    onDevice(p, globalScale).now((error) => explained(error, p));
    return nestedNow(p, completed(p, globalScale));
  }
  if (isDeviceTensor(p.input)) return emptyOnDevice(p, globalScale);
  const result = p.result as QuantizedTensor;
  const { scales, zeroPoints, data } = result;
  copyGiven(p, result);
  if (p.layout.elementCount === 0) {
    globalScale[0] ||= 1;
    fillEmpty(p, result);
  } else {
    try {
      if (p.layout.code.codebook === undefined) addon.quantizeAffine(recordOf(p), p.input, scales, zeroPoints, data);
      else addon.quantizeCodebook(recordOf(p), p.input, scales, globalScale, data);
    } catch (error) {
      throw explained(error, p);
    }
  }
  return completed(p, globalScale);
}

function emptyOnDevice(p: Prepared, globalScale: Float32Array): AnyQuantizedTensor {
  globalScale[0] ||= 1;
  try {
    uploadEmpty(p, p.result as DeviceQuantizedTensor);
  } catch (error) {
    if (p.fresh) disposeResult(p);
    throw explain(error, 'input');
  }
  return nestedNow(p, completed(p, globalScale));
}

function nestedNow(p: Prepared, result: AnyQuantizedTensor): AnyQuantizedTensor {
  if (!p.nested || !isDeviceTensor(p.input)) return result;
  const offset = new Float32Array(1);
  const { call, nested } = nestingCall(p, offset);
  call.now((error) => {
    disposeResult(p);
    return explain(error, 'nested');
  });
  return { ...(result as DeviceQuantizedTensor), nestedScales: { ...nested, offset: offset[0] as number } };
}

async function nestedLater(
  p: Prepared,
  result: AnyQuantizedTensor,
  signal: AbortSignal | undefined,
): Promise<AnyQuantizedTensor> {
  if (!p.nested || !isDeviceTensor(p.input)) return result;
  const offset = new Float32Array(1);
  const { call, nested } = nestingCall(p, offset);
  try {
    await call.later(signal, (error) => explain(error, 'nested'));
  } catch (error) {
    disposeResult(p);
    throw error;
  }
  return { ...(result as DeviceQuantizedTensor), nestedScales: { ...nested, offset: offset[0] as number } };
}

/** What the call writes, in place of the caller's: see {@link detachedFromCaller}. */
function roomFor(out: QuantizedTensor): QuantizedTensor {
  const { output } = detachedFromCaller;
  const { data, scales, zeroPoints } = out;
  return {
    ...out,
    data: output(data),
    scales: output(scales),
    zeroPoints: zeroPoints === null ? null : output(zeroPoints),
  };
}

function copyBack(from: QuantizedTensor, to: QuantizedTensor): void {
  detachedFromCaller.copyBack('out.data', from.data, to.data);
  detachedFromCaller.copyBack('out.scales', from.scales, to.scales);
  if (from.zeroPoints !== null && to.zeroPoints !== null) {
    detachedFromCaller.copyBack('out.zeroPoints', from.zeroPoints, to.zeroPoints);
  }
}

/**
 * {@link quantizeTensor} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied
 * first, so that the caller may change or transfer it at once.
 *
 * @throws As {@link quantizeTensor}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 *
 * @example
 * ```ts
 * const q = await quantizeTensorAsync(weights, { dtype: 'int8', signal: AbortSignal.timeout(1000) });
 * ```
 */
export function quantizeTensorAsync<D extends QuantDtype, I extends QuantizeInput>(
  input: I,
  options: QuantizeAsyncOptions<D, I>,
): Promise<QuantizedTensor<D>>;
/** The same of a tensor on a device, which the result does not leave. */
export function quantizeTensorAsync<D extends QuantDtype>(
  input: DeviceTensor,
  options: DeviceQuantizeOptions<D> & { signal?: AbortSignal },
): Promise<DeviceQuantizedTensor<D>>;
export async function quantizeTensorAsync(input: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const checked = prepare(input, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const globalScale = Float32Array.of(checked.globalScale);
  if (checked.index !== CPU && checked.layout.elementCount > 0) {
    await onDevice(checked, globalScale).later(signal, (error, seen) => explained(error, checked, seen(checked.input)));
    return nestedLater(checked, completed(checked, globalScale), signal);
  }
  if (isDeviceTensor(checked.input)) return emptyOnDevice(checked, globalScale);
  const floats = detachedFromCaller.input(checked.input);
  const p: Prepared = { ...checked, input: floats };
  const result = p.result as QuantizedTensor;
  const target = p.fresh ? result : roomFor(result);
  copyGiven(p, target);
  if (p.layout.elementCount === 0) {
    globalScale[0] ||= 1;
    fillEmpty(p, target);
  } else {
    const { scales, zeroPoints, data } = target;
    await runJob(
      (done) =>
        p.layout.code.codebook === undefined
          ? addon.quantizeAffineAsync(recordOf(p), floats, scales, zeroPoints, data, done)
          : addon.quantizeCodebookAsync(recordOf(p), floats, scales, globalScale, data, done),
      signal,
      (error) => explained(error, p),
    );
  }
  if (!p.fresh) copyBack(target, result);
  return completed(p, globalScale);
}
