/**
 * The gradients of fake quantization whose scales and zero points are learned.
 *
 * @module
 */
import { addon, explain, runJob } from '../addon.js';
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  checkTensor,
  type DeviceTensor,
  elementCount,
  isDeviceTensor,
  memoryOf,
  newTensor,
  placeOfTensor,
} from '../device/device-tensor.js';
import { invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { type Channels, channelsFrom, shapeFrom } from './channels.js';
import {
  type ChannelOptions,
  copied,
  INTEGER_OPTIONS,
  type IntegerRangeOptions,
  rangeFrom,
  recordOf,
  roundedByHalf,
  roundedToEven,
  scalesFrom,
  zeroPointsFrom,
} from './quantizer-options.js';

/** The gradients that {@link learnedQuantizeBackward} returns. */
export interface QuantizerGradients {
  /** For the input: as many elements. */
  input: Float32Array;
  /** For the scales: as many. */
  scales: Float32Array;
  /** For the zero points: as many as scales. */
  zeroPoints: Float32Array;
}

/** The gradients of what is on a device. */
export interface DeviceQuantizerGradients {
  /** For the input, in its shape. */
  input: DeviceTensor<'float32'>;
  /** For the scales: as many. */
  scales: DeviceTensor<'float32'>;
  /** For the zero points: as many as scales. */
  zeroPoints: DeviceTensor<'float32'>;
}

/** Options of {@link learnedQuantizeBackward}: those of the forward call, and its input. */
export type LearnedQuantizeBackwardOptions = ChannelOptions &
  IntegerRangeOptions & {
    /** What the forward call quantized. */
    input: Float32Array;
    /** Row-major. Default `[input.length]`. */
    shape?: readonly number[];
    /** One per tensor or channel. */
    scales: Float32Array;
    /** As many, default 0. */
    zeroPoints?: Int32Array | Float32Array;
    /** What the gradients of scales and zero points are multiplied with: LSQ takes `1/√(n · quantMax)`. Default 1. */
    gradFactor?: number;
    /** Arrays to write to and return. */
    out?: QuantizerGradients;
    /** Where to compute. Default `'cpu'`. */
    device?: Device;
  };

/**
 * Options of {@link learnedQuantizeBackward} for a gradient that is on a device. Parameters that are there too are not looked at;
 * zero points are integers then.
 */
export type DeviceLearnedQuantizeBackwardOptions = ChannelOptions &
  IntegerRangeOptions & {
    /** What the forward call quantized. */
    input: Float32Array | DeviceTensor<'float32'>;
    /** Row-major. Default: the shape of the gradient. */
    shape?: readonly number[];
    /** One per tensor or channel. */
    scales: Float32Array | DeviceTensor<'float32'>;
    /** As many, default 0. */
    zeroPoints?: Int32Array | Float32Array | DeviceTensor<'int32'>;
    /** As in {@link LearnedQuantizeBackwardOptions}: default 1. */
    gradFactor?: number;
    /** Tensors to write to and return. */
    out?: DeviceQuantizerGradients;
    /** Where the gradient is, which it must not contradict. */
    device?: Device;
  };

/** The same, with a signal that ends the work early. */
export type LearnedQuantizeBackwardAsyncOptions = LearnedQuantizeBackwardOptions & {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
};

const LEARNED_OPTIONS: ReadonlySet<string> = new Set([...INTEGER_OPTIONS, 'input', 'gradFactor', 'out', 'device']);
const LEARNED_ASYNC_OPTIONS: ReadonlySet<string> = new Set([...LEARNED_OPTIONS, 'signal']);

interface PreparedLearned {
  /** A device's number, or {@link CPU}: then nothing is on a device. The result is where the gradient is. */
  readonly index: number;
  readonly gradient: Data<Float32Array>;
  readonly input: Data<Float32Array>;
  readonly scales: Data<Float32Array>;
  readonly zeroPoints: Data<Int32Array> | null;
  readonly channels: Channels;
  readonly record: () => Float64Array;
  readonly result: QuantizerGradients | DeviceQuantizerGradients;
  readonly fresh: boolean;
}

const OUT: ReadonlySet<string> = new Set(['input', 'scales', 'zeroPoints']);

function placeOfAll(gradient: unknown, given: Readonly<Record<string, unknown>>): number {
  const { device, input, scales, zeroPoints, out } = given;
  const own = (out ?? {}) as Partial<DeviceQuantizerGradients>;
  return placeOf(device, [
    placeOfTensor('gradient', gradient),
    placeOfTensor('input', input),
    placeOfTensor('scales', scales),
    placeOfTensor('zeroPoints', zeroPoints),
    placeOfTensor('out.input', own.input),
    placeOfTensor('out.scales', own.scales),
    placeOfTensor('out.zeroPoints', own.zeroPoints),
  ]);
}

/** `index`: where the result is. */
function resultFrom(value: unknown, { shape, elementCount: length, count }: Channels, index: number) {
  const lengths = { input: length, scales: count, zeroPoints: count };
  if (value === undefined) {
    const room = (shapeOf: readonly number[]) =>
      index === CPU
        ? validate.allocated(Float32Array, validate.product(shapeOf))
        : newTensor(index, 'float32', shapeOf);
    return { input: room(shape), scales: room([count]), zeroPoints: room([count]) };
  }
  const out = validate.options<Record<string, unknown>>('out', value, OUT);
  for (const name of ['input', 'scales', 'zeroPoints'] as const) {
    if (index === CPU) validate.float32Array(`out.${name}`, out[name], lengths[name]);
    else checkTensor(`out.${name}`, out[name], ['float32'], lengths[name]);
  }
  return value;
}

function prepareLearned(gradientValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): PreparedLearned {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known) as Record<string, unknown>;
  const index = placeOfAll(gradientValue, given);
  const gradient = isDeviceTensor(gradientValue)
    ? checkTensor('gradient', gradientValue, ['float32'])
    : validate.float32Array('gradient', gradientValue);
  const length = isDeviceTensor(gradient) ? elementCount(gradient) : gradient.length;
  const input = checkEither('input', given['input'], ['float32'], length, () =>
    validate.float32Array('input', given['input'], length),
  );
  const channels = channelsFrom(given, shapeFrom(given, length, isDeviceTensor(gradient) ? gradient.shape : undefined));
  const range = rangeFrom(given);
  const scales = scalesFrom(given, channels);
  const rule = channels.axis === undefined ? roundedByHalf(range) : roundedToEven(range);
  const zeroPoints = zeroPointsFrom(given, channels, range, rule);
  const { gradFactor } = given;
  if (gradFactor !== undefined && !(typeof gradFactor === 'number' && Number.isFinite(gradFactor))) {
    throw invalidArgument('gradFactor', 'a finite number', gradFactor);
  }
  const { blocks, count, inner } = channels;
  const record = () =>
    recordOf(blocks, count, inner, range.lowest, range.highest, gradFactor === undefined ? 1 : gradFactor);
  const result = resultFrom(given['out'], channels, isDeviceTensor(gradient) ? index : CPU);
  return {
    index,
    gradient,
    input,
    scales,
    zeroPoints,
    channels,
    record,
    result: result as QuantizerGradients | DeviceQuantizerGradients,
    fresh: given['out'] === undefined,
  };
}

/** The sums over an empty tensor. */
function nothing<T extends QuantizerGradients | DeviceQuantizerGradients>(result: T): T {
  for (const sums of [result.scales, result.zeroPoints]) {
    if (!isDeviceTensor(sums)) sums.fill(0);
    else {
      try {
        addon.upload(memoryOf(sums), new Float32Array(elementCount(sums)));
      } catch (error) {
        throw explain(error, 'out');
      }
    }
  }
  return result;
}

function onDevice(p: PreparedLearned): DeviceCall<'deviceFakeQuantizeGradients'> {
  const { fresh, result, zeroPoints } = p;
  return new DeviceCall(p.index, 'deviceFakeQuantizeGradients', (on) => [
    p.record(),
    on.reads(p.gradient),
    on.reads(p.input),
    on.reads(p.scales),
    zeroPoints === null ? null : on.reads(zeroPoints),
    on.writes(result.input, fresh),
    on.writes(result.scales, fresh),
    on.writes(result.zeroPoints, fresh),
  ]);
}

/** Of a call on the host, where all of it is. */
interface HostLearned {
  readonly gradient: Float32Array;
  readonly input: Float32Array;
  readonly scales: Float32Array;
  readonly zeroPoints: Int32Array | null;
  readonly result: QuantizerGradients;
}

/**
 * The gradients of `fakeQuantize` to integers for its input, its scales and its zero points: learned step sizes (LSQ) and
 * offsets (LSQ+). With `q = round(x · (1/scale) + z)`, z the zero point, and dy the gradient of an element
 *
 * | | q inside | q clipped to c, `quantMin` or `quantMax` |
 * | --- | --- | --- |
 * | input | `dy` | 0 |
 * | scale, summed | `dy · ((q − z) · scale − x) / scale · gradFactor` | `dy · (c − z) · gradFactor` |
 * | zero point, summed | 0 | `−dy · scale · gradFactor` |
 *
 * as PyTorch's learnable fake quantization defines them; zero points that are no integers are rounded by its rules: for the
 * backward pass `trunc(clamp(z + 0.5))` per tensor, to nearest even per channel. Sums are taken in float64 in an order that
 * depends on neither the number of threads nor the instruction set.
 *
 * @param gradient - The gradient of the loss for the output. What becomes of a {@link DeviceTensor} stays on its device, with the
 *   same bits.
 * @returns The gradients: as many as elements, scales and zero points.
 * @throws {@link InvalidArgumentError} for a wrong type, value or combination, or an `out` that overlaps an input;
 *   {@link DeviceError} and {@link OutOfMemoryError} of a device.
 *
 * Sources: Esser et al., "Learned Step Size Quantization" (arXiv:1902.08153); Bhalgat et al., "LSQ+" (arXiv:2004.09576);
 * PyTorch `aten/src/ATen/native/quantized`.
 *
 * @example
 * ```ts
 * const quantizer = { dtype: 'int4', scales, gradFactor: 1 / Math.sqrt(x.length * 7) } as const;
 * const gradients = learnedQuantizeBackward(dy, { input: x, ...quantizer });
 * scales[0] -= rate * gradients.scales[0];
 * ```
 */
export function learnedQuantizeBackward(
  gradient: Float32Array,
  options: LearnedQuantizeBackwardOptions,
): QuantizerGradients;
export function learnedQuantizeBackward(
  gradient: DeviceTensor<'float32'>,
  options: DeviceLearnedQuantizeBackwardOptions,
): DeviceQuantizerGradients;
export function learnedQuantizeBackward(gradient: unknown, options: unknown): unknown {
  const p = prepareLearned(gradient, options, LEARNED_OPTIONS);
  if (p.channels.elementCount === 0) return nothing(p.result);
  if (p.index !== CPU) {
    onDevice(p).now((error) => explain(error, 'gradient'));
    return p.result;
  }
  const own = p as HostLearned;
  const { input, scales, zeroPoints } = own.result;
  try {
    addon.fakeQuantizeGradients(
      p.record(),
      own.gradient,
      own.input,
      own.scales,
      own.zeroPoints,
      input,
      scales,
      zeroPoints,
    );
  } catch (error) {
    throw explain(error, 'gradient');
  }
  return p.result;
}

/**
 * {@link learnedQuantizeBackward} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are
 * copied first.
 *
 * @throws As {@link learnedQuantizeBackward}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export function learnedQuantizeBackwardAsync(
  gradient: Float32Array,
  options: LearnedQuantizeBackwardAsyncOptions,
): Promise<QuantizerGradients>;
export function learnedQuantizeBackwardAsync(
  gradient: DeviceTensor<'float32'>,
  options: DeviceLearnedQuantizeBackwardOptions & { signal?: AbortSignal },
): Promise<DeviceQuantizerGradients>;
export async function learnedQuantizeBackwardAsync(
  gradient: unknown,
  options: { signal?: AbortSignal },
): Promise<unknown> {
  const p = prepareLearned(gradient, options, LEARNED_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.channels.elementCount === 0) return nothing(p.result);
  if (p.index !== CPU) {
    await onDevice(p).later(signal, (error) => explain(error, 'gradient'));
    return p.result;
  }
  const own = p as HostLearned;
  const { output: room } = detachedFromCaller;
  const { input, scales, zeroPoints } = own.result;
  const target = p.fresh ? own.result : { input: room(input), scales: room(scales), zeroPoints: room(zeroPoints) };
  const copies = [copied(own.gradient), copied(own.input), copied(own.scales), copied(own.zeroPoints)] as const;
  await runJob(
    (done) =>
      addon.fakeQuantizeGradientsAsync(p.record(), ...copies, target.input, target.scales, target.zeroPoints, done),
    signal,
    (error) => explain(error, 'gradient'),
  );
  detachedFromCaller.copyBack('out.input', target.input, input);
  detachedFromCaller.copyBack('out.scales', target.scales, scales);
  detachedFromCaller.copyBack('out.zeroPoints', target.zeroPoints, zeroPoints);
  return p.result;
}
