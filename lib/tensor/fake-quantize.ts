/**
 * Quantize and dequantize in one step, for training and for measuring what a format would cost; and its gradients.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
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

/** Options of {@link fakeQuantize}. */
export type FakeQuantizeOptions = {
  /** Row-major. Default `[input.length]`. */
  shape?: readonly number[];
  /** Arrays to write to and return, each with as many elements as the input. */
  out?: FakeQuantized;
} & (
  | (ChannelOptions &
      IntegerRangeOptions & {
        /** One per tensor or channel, greater than 2^−128. */
        scales: Float32Array;
        /**
         * As many, default 0: integers from `quantMin` to `quantMax`, or learned ones as floats, which are rounded to nearest
         * even and clamped.
         */
        zeroPoints?: Int32Array | Float32Array;
        /**
         * `'half-even'` (default): `round(x · (1/scale)) + zeroPoint`, ties to even. `'half-away'`:
         * `round(x · (1/scale) + zeroPoint)`, ties away from zero, which newer versions of PyTorch do per channel.
         */
        rounding?: 'half-even' | 'half-away';
      })
  | (ChannelOptions & { dtype: 'float8_e4m3fn' | 'float8_e5m2'; scales: Float32Array })
  | { dtype: Exclude<BlockFloatDtype, 'nvfp4'> }
  | {
      dtype: 'nvfp4';
      /** What scales of blocks are multiplied with before they are rounded: default `448 · 6 / max|x|`. */
      globalScale?: number;
    }
);

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
}

/** The same, with a signal that ends the work early. */
export interface FakeQuantizeBackwardAsyncOptions extends FakeQuantizeBackwardOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set([...INTEGER_OPTIONS, 'rounding', 'globalScale', 'out']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);
const BACKWARD_OPTIONS: ReadonlySet<string> = new Set(['mask', 'out']);
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

interface Prepared {
  readonly input: Float32Array;
  readonly result: FakeQuantized;
  readonly fresh: boolean;
  /** The addon's call on an input and outputs, with parameters that are the caller's, or copies of them. */
  readonly call: (input: Float32Array, out: FakeQuantized, copies: boolean) => Call;
}

function outFrom(value: unknown, count: number): { result: FakeQuantized; fresh: boolean } {
  if (value === undefined) {
    const output = validate.allocated(Float32Array, count);
    return { result: { output, mask: validate.allocated(Uint8Array, count) }, fresh: true };
  }
  const out = validate.options<Record<string, unknown>>('out', value, new Set(['output', 'mask']));
  validate.float32Array('out.output', out['output'], count);
  validate.uint8Array('out.mask', out['mask'], count);
  return { result: value as FakeQuantized, fresh: false };
}

function integersCall(given: Given, channels: Channels): Prepared['call'] {
  const range = rangeFrom(given);
  const scales = scalesFrom(given, channels);
  const zeroPoints = zeroPointsFrom(given, channels, range, roundedToEven(range));
  const rounding =
    given['rounding'] === undefined
      ? 'half-even'
      : validate.oneOf('rounding', given['rounding'], ['half-even', 'half-away']);
  const { blocks, count, inner } = channels;
  return (input, { output, mask }, copies) => {
    const [s, z] = copies ? [copied(scales), copied(zeroPoints)] : [scales, zeroPoints];
    const numbers = () => recordOf(blocks, count, inner, range.lowest, range.highest, rounding === 'half-even' ? 0 : 1);
    return [
      () => addon.fakeQuantizeIntegers(numbers(), input, s, z, output, mask),
      (done) => addon.fakeQuantizeIntegersAsync(numbers(), input, s, z, output, mask, done),
    ];
  };
}

function scaledCall(given: Given, channels: Channels, element: number): Prepared['call'] {
  refuse(given, ['quantMin', 'quantMax', 'zeroPoints', 'rounding'], given['dtype']);
  const scales = scalesFrom(given, channels);
  const { blocks, count, inner } = channels;
  return (input, { output, mask }, copies) => {
    const s = copies ? copied(scales) : scales;
    const numbers = () => recordOf(blocks, count, inner, element);
    return [
      () => addon.fakeQuantizeScaled(numbers(), input, s, output, mask),
      (done) => addon.fakeQuantizeScaledAsync(numbers(), input, s, output, mask, done),
    ];
  };
}

function blocksCall(given: Given, shape: readonly number[], element: number): Prepared['call'] {
  const { dtype, globalScale } = given;
  refuse(given, ['quantMin', 'quantMax', 'granularity', 'axis', 'scales', 'zeroPoints', 'rounding'], dtype);
  const nv = dtype === 'nvfp4';
  if (!nv) refuse(given, ['globalScale'], dtype);
  const global = globalScale === undefined ? 0 : validate.finite('globalScale', globalScale, true);
  const columns = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  const rows = shape.length === 0 ? 1 : validate.product(shape, 0, shape.length - 1);
  return (input, { output, mask }) => {
    const numbers = () => recordOf(rows, columns, nv ? 16 : 32, element, nv ? 0 : 1, global);
    return [
      () => addon.fakeQuantizeBlocks(numbers(), input, output, mask),
      (done) => addon.fakeQuantizeBlocksAsync(numbers(), input, output, mask, done),
    ];
  };
}

function prepare(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const input = validate.float32Array('input', inputValue);
  const shape = shapeFrom(given, input.length);
  const dtype = given['dtype'];
  const block = BLOCK_CODES.get(dtype);
  const scaled = SCALED_CODES.get(dtype);
  if (block === undefined && scaled === undefined && dtype !== undefined) checkDtype(dtype);
  if (block === undefined) refuse(given, ['globalScale'], dtype ?? 'of integers');
  const call =
    block !== undefined
      ? blocksCall(given, shape, block)
      : scaled !== undefined
        ? scaledCall(given, channelsFrom(given, shape), scaled)
        : integersCall(given, channelsFrom(given, shape));
  return { input, call, ...outFrom(given['out'], input.length) };
}

function checkDtype(dtype: unknown): void {
  try {
    codeTypeOf('dtype', dtype);
  } catch {
    const names = 'an integer dtype, float8_e4m3fn, float8_e5m2';
    throw invalidArgument('dtype', `${names} or one of ${[...BLOCK_CODES.keys()].join(', ')}`, dtype);
  }
}

function explained(error: unknown, input: Float32Array): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'input');
  const value = input[index] as number;
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
 * The result does not depend on the number of threads or the instruction set.
 *
 * @param input - Floats in row-major order.
 * @param options - At least a format and, for integers and float8, `scales`.
 * @throws {@link InvalidArgumentError} for a wrong type, value or combination; {@link NonFiniteError} for NaN or infinity in
 *   nvfp4 without `globalScale`; {@link OutOfMemoryError}.
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
export function fakeQuantize(input: Float32Array, options: FakeQuantizeOptions): FakeQuantized {
  const p = prepare(input, options, OPTIONS);
  if (p.input.length > 0) {
    try {
      p.call(p.input, p.result, false)[0]();
    } catch (error) {
      throw explained(error, p.input);
    }
  }
  return p.result;
}

/**
 * {@link fakeQuantize} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link fakeQuantize}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function fakeQuantizeAsync(
  input: Float32Array,
  options: FakeQuantizeAsyncOptions,
): Promise<FakeQuantized> {
  const p = prepare(input, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.input.length === 0) return p.result;
  const { output, mask } = p.result;
  const target = p.fresh
    ? p.result
    : { output: detachedFromCaller.output(output), mask: detachedFromCaller.output(mask) };
  const own = copied(p.input);
  await runJob(p.call(own, target, true)[1], signal, (error) => explained(error, own));
  detachedFromCaller.copyBack('out.output', target.output, output);
  detachedFromCaller.copyBack('out.mask', target.mask, mask);
  return p.result;
}

// --- backward --------------------------------------------------------------------------------------------------------

function prepareBackward(gradientValue: unknown, optionsValue: unknown, known: ReadonlySet<string>) {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const gradient = validate.float32Array('gradient', gradientValue);
  const mask = validate.uint8Array('mask', given['mask'], gradient.length);
  return { gradient, mask, out: validate.result(given['out'], Float32Array, gradient.length) };
}

/**
 * The gradient of {@link fakeQuantize} for its input: that of the output where the mask is set, times 0 elsewhere.
 *
 * @param gradient - The gradient of the loss for the output.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps an input.
 *
 * @example
 * ```ts
 * const { output, mask } = fakeQuantize(x, { dtype: 'int8', scales });
 * const dx = fakeQuantizeBackward(dy, { mask });
 * ```
 */
export function fakeQuantizeBackward(gradient: Float32Array, options: FakeQuantizeBackwardOptions): Float32Array {
  const p = prepareBackward(gradient, options, BACKWARD_OPTIONS);
  try {
    addon.straightThrough(p.gradient, p.mask, p.out);
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
export async function fakeQuantizeBackwardAsync(
  gradient: Float32Array,
  options: FakeQuantizeBackwardAsyncOptions,
): Promise<Float32Array> {
  const p = prepareBackward(gradient, options, BACKWARD_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const out = options.out === undefined ? p.out : detachedFromCaller.output(p.out);
  const [gradients, mask] = [copied(p.gradient), copied(p.mask)];
  await runJob(
    (done) => addon.straightThroughAsync(gradients, mask, out, done),
    signal,
    (error) => explain(error, 'gradient'),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
