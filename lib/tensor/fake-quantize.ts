/**
 * Quantize and dequantize in one step, for training and for measuring what a format would cost; and its gradients.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  checkTensor,
  type DeviceTensor,
  downloadElement,
  elementCount,
  isDeviceTensor,
  newTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { codeTypeOf } from '../dtype.js';
import { invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { type Channels, channelsFrom, shapeFrom } from './channels.js';
import {
  type ChannelOptions,
  copied,
  type Given,
  INTEGER_OPTIONS,
  type IntegerRangeOptions,
  rangeFrom,
  recordOf,
  refuse,
  roundedToEven,
  scalesFrom,
  zeroPointsFrom,
} from './quantizer-options.js';

/**
 * Formats whose elements share a scale in blocks along the last axis: the OCP microscaling (MX) formats, 32 elements with a
 * power of two, and NVFP4, 16 elements with a float8_e4m3fn over one number for the tensor.
 */
export type BlockFloatDtype = 'mxfp4' | 'mxfp6_e2m3' | 'mxfp6_e3m2' | 'mxfp8_e4m3' | 'mxfp8_e5m2' | 'mxint8' | 'nvfp4';

/** The result of {@link fakeQuantize}. */
export interface FakeQuantized {
  /** The values that the format would hold. */
  output: Float32Array;
  /** One byte per element: 1 where the gradient passes, 0 where the value was clipped. */
  mask: Uint8Array;
}

/** The result of {@link fakeQuantize} of what is on a device, in the shape of the input. */
export interface DeviceFakeQuantized {
  /** The values that the format would hold. */
  output: DeviceTensor<'float32'>;
  /** 1 where the gradient passes, 0 where the value was clipped. */
  mask: DeviceTensor<'uint8'>;
}

/** The format of {@link fakeQuantize}, with what may be its scales and zero points. */
export type FakeQuantizeFormat<S = Float32Array, Z = Int32Array | Float32Array> =
  | (ChannelOptions &
      IntegerRangeOptions & {
        /** One per tensor or channel, greater than 2^−128. */
        scales: S;
        /**
         * As many, default 0: integers from `quantMin` to `quantMax`, or learned ones as floats, which are rounded to nearest
         * even and clamped.
         */
        zeroPoints?: Z;
        /**
         * `'half-even'` (default): `round(x · (1/scale)) + zeroPoint`, ties to even. `'half-away'`:
         * `round(x · (1/scale) + zeroPoint)`, ties away from zero, which newer versions of PyTorch do per channel.
         */
        rounding?: 'half-even' | 'half-away';
      })
  | (ChannelOptions & { dtype: 'float8_e4m3fn' | 'float8_e5m2'; scales: S })
  | { dtype: Exclude<BlockFloatDtype, 'nvfp4'> }
  | {
      dtype: 'nvfp4';
      /** What scales of blocks are multiplied with before they are rounded: default `448 · 6 / max|x|`. */
      globalScale?: number;
    };

/** Options of {@link fakeQuantize}. */
export type FakeQuantizeOptions = FakeQuantizeFormat & {
  /** Row-major. Default `[input.length]`. */
  shape?: readonly number[];
  /** Arrays to write to and return, each with as many elements as the input. */
  out?: FakeQuantized;
  /** Where to compute. Default `'cpu'`. */
  device?: Device;
};

/**
 * Options of {@link fakeQuantize} for what is on a device. Parameters may be there too, where nobody looks at their values;
 * zero points are integers then.
 */
export type DeviceFakeQuantizeOptions = FakeQuantizeFormat<
  Float32Array | DeviceTensor<'float32'>,
  Int32Array | Float32Array | DeviceTensor<'int32'>
> & {
  /** Row-major. Default: the shape of the input. */
  shape?: readonly number[];
  /** Tensors to write to and return, each with as many elements as the input. */
  out?: DeviceFakeQuantized;
  /** Where the input is, which it must not contradict. */
  device?: Device;
};

/** The same, with a signal that ends the work early. */
export type FakeQuantizeAsyncOptions = FakeQuantizeOptions & {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
};

/** Options of {@link fakeQuantizeBackward}. */
export interface FakeQuantizeBackwardOptions {
  /** What {@link fakeQuantize} returned. Any byte but 0 lets the gradient pass. */
  mask: Uint8Array;
  /** The array to write to and return. */
  out?: Float32Array;
  /** Where to compute. Default `'cpu'`. */
  device?: Device;
}

/** Options of {@link fakeQuantizeBackward} for what is on a device. */
export interface DeviceFakeQuantizeBackwardOptions {
  /** What {@link fakeQuantize} returned. */
  mask: Uint8Array | DeviceTensor<'uint8'>;
  /** The tensor to write to and return. */
  out?: DeviceTensor<'float32'>;
  /** Where the gradient is, which it must not contradict. */
  device?: Device;
}

/** The same, with a signal that ends the work early. */
export interface FakeQuantizeBackwardAsyncOptions extends FakeQuantizeBackwardOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set([...INTEGER_OPTIONS, 'rounding', 'globalScale', 'out', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);
const BACKWARD_OPTIONS: ReadonlySet<string> = new Set(['mask', 'out', 'device']);
const BACKWARD_ASYNC_OPTIONS: ReadonlySet<string> = new Set([...BACKWARD_OPTIONS, 'signal']);
/** ElementType in native/ops/fake_quantize/element_formats.h. */
const SCALED_CODES: ReadonlyMap<unknown, number> = new Map([
  ['float8_e4m3fn', 0],
  ['float8_e5m2', 1],
]);
const BLOCK_CODES: ReadonlyMap<unknown, number> = new Map<BlockFloatDtype, number>([
  ['mxfp8_e4m3', 0],
  ['mxfp8_e5m2', 1],
  ['mxfp6_e2m3', 2],
  ['mxfp6_e3m2', 3],
  ['mxfp4', 4],
  ['mxint8', 5],
  ['nvfp4', 4],
]);

type Call = [run: () => void, start: (done: (error?: RawError) => void) => number];

// --- forward ---------------------------------------------------------------------------------------------------------

/** What a format is computed on, all of it on the host or on a device, but for what a call on a device moves. */
interface Tensors {
  readonly input: Data<Float32Array>;
  readonly output: Data<Float32Array>;
  readonly mask: Data<Uint8Array>;
  /** Whether the outputs are not the caller's. */
  readonly fresh: boolean;
}

/** The addon's calls for a format. */
interface FormatCalls {
  /** On an input and outputs of the host, with parameters that are the caller's, or copies of them. */
  readonly host: (input: Float32Array, out: FakeQuantized, copies: boolean) => Call;
  readonly device: (index: number, tensors: Tensors) => FakeQuantizeCall;
}

type FakeQuantizeCall =
  | DeviceCall<'deviceFakeQuantizeIntegers'>
  | DeviceCall<'deviceFakeQuantizeScaled'>
  | DeviceCall<'deviceFakeQuantizeBlocks'>;

interface Prepared extends Tensors {
  /** A device's number, or {@link CPU}: then nothing is on a device. The result is where the input is. */
  readonly index: number;
  readonly count: number;
  readonly result: FakeQuantized | DeviceFakeQuantized;
  readonly calls: FormatCalls;
}

type Result = Pick<Prepared, 'result' | 'output' | 'mask' | 'fresh'>;

const OUT: ReadonlySet<string> = new Set(['output', 'mask']);

/** `index`: where the result is, and `shape`, if it is on a device. */
function resultFrom(value: unknown, count: number, shape: readonly number[], index: number): Result {
  if (value === undefined) {
    const result =
      index === CPU
        ? { output: validate.allocated(Float32Array, count), mask: validate.allocated(Uint8Array, count) }
        : { output: newTensor(index, 'float32', shape), mask: newTensor(index, 'uint8', shape) };
    return { result, ...result, fresh: true };
  }
  const out = validate.options<Record<string, unknown>>('out', value, OUT);
  const own =
    index === CPU
      ? {
          output: validate.float32Array('out.output', out['output'], count),
          mask: validate.uint8Array('out.mask', out['mask'], count),
        }
      : {
          output: checkTensor('out.output', out['output'], ['float32'], count),
          mask: checkTensor('out.mask', out['mask'], ['uint8'], count),
        };
  return { result: value as FakeQuantized | DeviceFakeQuantized, ...own, fresh: false };
}

/** Parameters of the host, for a call there. */
function ownParameter<T extends Float32Array | Int32Array | null>(value: Data | null, copies: boolean): T {
  return copies ? copied(value as T) : (value as T);
}

function integersCalls(given: Given, channels: Channels): FormatCalls {
  const range = rangeFrom(given);
  const scales = scalesFrom(given, channels);
  const zeroPoints = zeroPointsFrom(given, channels, range, roundedToEven(range));
  const rounding =
    given['rounding'] === undefined
      ? 'half-even'
      : validate.oneOf('rounding', given['rounding'], ['half-even', 'half-away']);
  const { blocks, count, inner } = channels;
  const numbers = () => recordOf(blocks, count, inner, range.lowest, range.highest, rounding === 'half-even' ? 0 : 1);
  return {
    host(input, { output, mask }, copies) {
      const s = ownParameter<Float32Array>(scales, copies);
      const z = ownParameter<Int32Array | null>(zeroPoints, copies);
      return [
        () => addon.fakeQuantizeIntegers(numbers(), input, s, z, output, mask),
        (done) => addon.fakeQuantizeIntegersAsync(numbers(), input, s, z, output, mask, done),
      ];
    },
    device: (index, { input, output, mask, fresh }) =>
      new DeviceCall(index, 'deviceFakeQuantizeIntegers', (on) => [
        numbers(),
        on.reads(input),
        on.reads(scales),
        zeroPoints === null ? null : on.reads(zeroPoints),
        on.writes(output, fresh),
        on.writes(mask, fresh),
      ]),
  };
}

function scaledCalls(given: Given, channels: Channels, element: number): FormatCalls {
  refuse(given, ['quantMin', 'quantMax', 'zeroPoints', 'rounding'], given['dtype']);
  const scales = scalesFrom(given, channels);
  const { blocks, count, inner } = channels;
  const numbers = () => recordOf(blocks, count, inner, element);
  return {
    host(input, { output, mask }, copies) {
      const s = ownParameter<Float32Array>(scales, copies);
      return [
        () => addon.fakeQuantizeScaled(numbers(), input, s, output, mask),
        (done) => addon.fakeQuantizeScaledAsync(numbers(), input, s, output, mask, done),
      ];
    },
    device: (index, { input, output, mask, fresh }) =>
      new DeviceCall(index, 'deviceFakeQuantizeScaled', (on) => [
        numbers(),
        on.reads(input),
        on.reads(scales),
        on.writes(output, fresh),
        on.writes(mask, fresh),
      ]),
  };
}

function blocksCalls(given: Given, shape: readonly number[], element: number): FormatCalls {
  const { dtype, globalScale } = given;
  refuse(given, ['quantMin', 'quantMax', 'granularity', 'axis', 'scales', 'zeroPoints', 'rounding'], dtype);
  const nv = dtype === 'nvfp4';
  if (!nv) refuse(given, ['globalScale'], dtype);
  const global = globalScale === undefined ? 0 : validate.finite('globalScale', globalScale, true);
  const columns = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  const rows = shape.length === 0 ? 1 : validate.product(shape, 0, shape.length - 1);
  const numbers = () => recordOf(rows, columns, nv ? 16 : 32, element, nv ? 0 : 1, global);
  return {
    host: (input, { output, mask }) => [
      () => addon.fakeQuantizeBlocks(numbers(), input, output, mask),
      (done) => addon.fakeQuantizeBlocksAsync(numbers(), input, output, mask, done),
    ],
    device: (index, { input, output, mask, fresh }) =>
      new DeviceCall(index, 'deviceFakeQuantizeBlocks', (on) => [
        numbers(),
        on.reads(input),
        on.writes(output, fresh),
        on.writes(mask, fresh),
      ]),
  };
}

function prepare(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const index = placeOf(given['device'], [
    placeOfTensor('input', inputValue),
    placeOfTensor('scales', given['scales']),
    placeOfTensor('zeroPoints', given['zeroPoints']),
    placeOfTensor('out.output', (given['out'] as Partial<DeviceFakeQuantized> | undefined)?.output),
    placeOfTensor('out.mask', (given['out'] as Partial<DeviceFakeQuantized> | undefined)?.mask),
  ]);
  const isThere = isDeviceTensor(inputValue);
  const input = isThere ? checkTensor('input', inputValue, ['float32']) : validate.float32Array('input', inputValue);
  const count = isDeviceTensor(input) ? elementCount(input) : input.length;
  const shape = shapeFrom(given, count, isDeviceTensor(input) ? input.shape : undefined);
  const dtype = given['dtype'];
  const block = BLOCK_CODES.get(dtype);
  const scaled = SCALED_CODES.get(dtype);
  if (block === undefined && scaled === undefined && dtype !== undefined) checkDtype(dtype);
  if (block === undefined) refuse(given, ['globalScale'], dtype ?? 'of integers');
  const calls =
    block !== undefined
      ? blocksCalls(given, shape, block)
      : scaled !== undefined
        ? scaledCalls(given, channelsFrom(given, shape), scaled)
        : integersCalls(given, channelsFrom(given, shape));
  return { index, input, count, calls, ...resultFrom(given['out'], count, shape, isThere ? index : CPU) };
}

function checkDtype(dtype: unknown): void {
  try {
    codeTypeOf('dtype', dtype);
  } catch {
    const names = 'an integer dtype, float8_e4m3fn, float8_e5m2';
    throw invalidArgument('dtype', `${names} or one of ${[...BLOCK_CODES.keys()].join(', ')}`, dtype);
  }
}

function explained(error: unknown, input: Data<Float32Array>): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'input');
  const value = (isDeviceTensor(input) ? downloadElement(input, index)[0] : input[index]) as number;
  const message = `Expected finite numbers but received ${value} at index ${index} of the input, which leaves no scale. Remove it, or pass globalScale.`;
  return new NonFiniteError(message, index, value);
}

/**
 * What a format would make of every value, as float32: quantize, then dequantize; and a mask of where the gradient passes
 * straight through ("straight-through estimator", STE) and where values were clipped.
 *
 * | dtype | output | mask is 0 |
 * | --- | --- | --- |
 * | integers, q from `quantMin` to `quantMax` | `(clamp(q) − zeroPoint) · scale`, `q = round(x · (1/scale)) + zeroPoint` | where q was clamped |
 * | float8 with `scales` | `cast(x / scale) · scale`, saturating | where the rounded value passes the largest |
 * | mx…, blocks of 32 along the last axis | the same with the scale `2^(⌊log2 max⌋ − e)`, e the exponent of the largest value, at least 2^−127 | the same |
 * | nvfp4, blocks of 16 along the last axis | the same with the scale `cast_e4m3(globalScale · max / 6) / globalScale`, and 0.125 where the cast is 0 | the same |
 *
 * Every operation rounds to float32, integers equal PyTorch's `fake_quantize_per_tensor_affine` and, with the rounding that
 * PyTorch had until version 1.13, `fake_quantize_per_channel_affine` bit for bit; `rounding: 'half-away'` is what later versions
 * do per channel. A last block of a row may be shorter. Infinities are clipped. NaN becomes `quantMin` as in PyTorch, stays NaN in
 * float8, and makes all of its block NaN; so does infinity in a block.
 *
 * The result does not depend on the number of threads, the instruction set or the device.
 *
 * @param input - Floats in row-major order. What becomes of a {@link DeviceTensor} stays on its device.
 * @param options - At least a format and, for integers and float8, `scales`.
 * @returns `output`, the values that codes stand for, and `mask`, 1 where the gradient passes, both with as many elements as the
 *   input, in new arrays or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type, value or combination; {@link NonFiniteError} for NaN or infinity in
 *   nvfp4 without `globalScale`; {@link OutOfMemoryError}; {@link DeviceError} of a device.
 *
 * Sources: PyTorch `aten/src/ATen/native/quantized`; Bengio et al., "Estimating or Propagating Gradients Through Stochastic
 * Neurons" (arXiv:1308.3432); OCP Microscaling Formats 1.0 with the rounding of microsoft/microxcaling; NVFP4 as
 * vllm-project/compressed-tensors computes it.
 *
 * @example
 * ```ts
 * const x = new Float32Array([-0.26, 0.1, 0.24, 0.7]);
 * fakeQuantize(x, { quantMin: -2, quantMax: 2, scales: new Float32Array([0.1]) });
 * // { output: [-0.2, 0.1, 0.2, 0.2], mask: [0, 1, 1, 0] }
 * fakeQuantize(x, { dtype: 'mxfp4' }).output; // Float32Array [ -0.25, 0.09375, 0.25, 0.75 ]
 * ```
 */
export function fakeQuantize(input: Float32Array, options: FakeQuantizeOptions): FakeQuantized;
export function fakeQuantize(input: DeviceTensor<'float32'>, options: DeviceFakeQuantizeOptions): DeviceFakeQuantized;
export function fakeQuantize(input: unknown, options: unknown): unknown {
  const p = prepare(input, options, OPTIONS);
  if (p.count === 0) return p.result;
  if (p.index !== CPU) {
    p.calls.device(p.index, p).now((error) => explained(error, p.input));
    return p.result;
  }
  const own = p.input as Float32Array;
  try {
    p.calls.host(own, p.result as FakeQuantized, false)[0]();
  } catch (error) {
    throw explained(error, own);
  }
  return p.result;
}

/**
 * {@link fakeQuantize} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link fakeQuantize}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export function fakeQuantizeAsync(input: Float32Array, options: FakeQuantizeAsyncOptions): Promise<FakeQuantized>;
export function fakeQuantizeAsync(
  input: DeviceTensor<'float32'>,
  options: DeviceFakeQuantizeOptions & { signal?: AbortSignal },
): Promise<DeviceFakeQuantized>;
export async function fakeQuantizeAsync(input: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const p = prepare(input, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.count === 0) return p.result;
  if (p.index !== CPU) {
    await p.calls.device(p.index, p).later(signal, (error, seen) => explained(error, seen(p.input)));
    return p.result;
  }
  const { output, mask } = p.result as FakeQuantized;
  const target = p.fresh
    ? { output, mask }
    : { output: detachedFromCaller.output(output), mask: detachedFromCaller.output(mask) };
  const own = copied(p.input as Float32Array);
  await runJob(p.calls.host(own, target, true)[1], signal, (error) => explained(error, own));
  detachedFromCaller.copyBack('out.output', target.output, output);
  detachedFromCaller.copyBack('out.mask', target.mask, mask);
  return p.result;
}

// --- backward --------------------------------------------------------------------------------------------------------

interface PreparedBackward {
  /** A device's number, or {@link CPU}: then nothing is on a device. */
  readonly index: number;
  readonly count: number;
  readonly gradient: Data<Float32Array>;
  readonly mask: Data<Uint8Array>;
  readonly out: Data<Float32Array>;
  readonly fresh: boolean;
}

function prepareBackward(gradientValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): PreparedBackward {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const fresh = given['out'] === undefined;
  const index = placeOf(given['device'], [
    placeOfTensor('gradient', gradientValue),
    placeOfTensor('mask', given['mask']),
    placeOfTensor('out', given['out']),
  ]);
  const maskOf = (count: number) =>
    checkEither('mask', given['mask'], ['uint8'], count, () => validate.uint8Array('mask', given['mask'], count));
  if (isDeviceTensor(gradientValue)) {
    const gradient = checkTensor('gradient', gradientValue, ['float32']);
    const count = elementCount(gradient);
    const mask = maskOf(count);
    return { index, count, gradient, mask, out: resultTensor(given['out'], 'float32', gradient.shape, index), fresh };
  }
  const gradient = validate.float32Array('gradient', gradientValue);
  const count = gradient.length;
  const mask = maskOf(count);
  return { index, count, gradient, mask, out: validate.result(given['out'], Float32Array, count), fresh };
}

function backwardOnDevice({
  index,
  gradient,
  mask,
  out,
  fresh,
}: PreparedBackward): DeviceCall<'deviceStraightThrough'> {
  return new DeviceCall(index, 'deviceStraightThrough', (on) => [
    on.reads(gradient),
    on.reads(mask),
    on.writes(out, fresh),
  ]);
}

/**
 * The gradient of {@link fakeQuantize} for its input: that of the output where the mask is set, times 0 elsewhere.
 *
 * @param gradient - The gradient of the loss for the output. What becomes of a {@link DeviceTensor} stays on its device.
 * @param options - `mask`, with as many elements; `out`; `device`.
 * @returns The gradient for the input, with as many elements, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps an input; {@link DeviceError} and
 *   {@link OutOfMemoryError} of a device.
 *
 * @example
 * ```ts
 * const { output, mask } = fakeQuantize(x, { dtype: 'int8', scales });
 * const dx = fakeQuantizeBackward(dy, { mask });
 * ```
 */
export function fakeQuantizeBackward(gradient: Float32Array, options: FakeQuantizeBackwardOptions): Float32Array;
export function fakeQuantizeBackward(
  gradient: DeviceTensor<'float32'>,
  options: DeviceFakeQuantizeBackwardOptions,
): DeviceTensor<'float32'>;
export function fakeQuantizeBackward(gradient: unknown, options: unknown): unknown {
  const p = prepareBackward(gradient, options, BACKWARD_OPTIONS);
  if (p.index !== CPU) {
    if (p.count > 0) backwardOnDevice(p).now((error) => explain(error, 'gradient'));
    return p.out;
  }
  try {
    addon.straightThrough(p.gradient as Float32Array, p.mask as Uint8Array, p.out as Float32Array);
  } catch (error) {
    throw explain(error, 'gradient');
  }
  return p.out;
}

/**
 * {@link fakeQuantizeBackward} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link fakeQuantizeBackward}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export function fakeQuantizeBackwardAsync(
  gradient: Float32Array,
  options: FakeQuantizeBackwardAsyncOptions,
): Promise<Float32Array>;
export function fakeQuantizeBackwardAsync(
  gradient: DeviceTensor<'float32'>,
  options: DeviceFakeQuantizeBackwardOptions & { signal?: AbortSignal },
): Promise<DeviceTensor<'float32'>>;
export async function fakeQuantizeBackwardAsync(
  gradient: unknown,
  options: { signal?: AbortSignal },
): Promise<unknown> {
  const p = prepareBackward(gradient, options, BACKWARD_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.index !== CPU) {
    if (p.count > 0) await backwardOnDevice(p).later(signal, (error) => explain(error, 'gradient'));
    return p.out;
  }
  const given = p.out as Float32Array;
  const out = p.fresh ? given : detachedFromCaller.output(given);
  const [gradients, mask] = [copied(p.gradient as Float32Array), copied(p.mask as Uint8Array)];
  await runJob(
    (done) => addon.straightThroughAsync(gradients, mask, out, done),
    signal,
    (error) => explain(error, 'gradient'),
  );
  detachedFromCaller.copyBack('out', out, given);
  return p.out;
}
