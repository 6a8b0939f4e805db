/**
 * The gradients of fake quantization whose scales and zero points are learned.
 *
 * @module
 */
import { addon, explain, runJob } from '../addon.js';
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
  };

/** The same, with a signal that ends the work early. */
export type LearnedQuantizeBackwardAsyncOptions = LearnedQuantizeBackwardOptions & {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
};

const LEARNED_OPTIONS: ReadonlySet<string> = new Set([...INTEGER_OPTIONS, 'input', 'gradFactor', 'out']);
const LEARNED_ASYNC_OPTIONS: ReadonlySet<string> = new Set([...LEARNED_OPTIONS, 'signal']);

interface PreparedLearned {
  readonly gradient: Float32Array;
  readonly input: Float32Array;
  readonly scales: Float32Array;
  readonly zeroPoints: Int32Array | null;
  readonly channels: Channels;
  readonly record: () => Float64Array;
  readonly result: QuantizerGradients;
  readonly fresh: boolean;
}

function prepareLearned(gradientValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): PreparedLearned {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const gradient = validate.float32Array('gradient', gradientValue);
  const input = validate.float32Array('input', given['input'], gradient.length);
  const channels = channelsFrom(given, shapeFrom(given, input.length));
  const range = rangeFrom(given);
  const scales = scalesFrom(given, channels);
  const rule = channels.axis === undefined ? roundedByHalf(range) : roundedToEven(range);
  const zeroPoints = zeroPointsFrom(given, channels, range, rule);
  const { gradFactor } = given;
  if (gradFactor !== undefined && !(typeof gradFactor === 'number' && Number.isFinite(gradFactor))) {
    throw invalidArgument('gradFactor', 'a finite number', gradFactor);
  }
  const { blocks, count, inner } = channels;
  const numbers = () =>
    recordOf(blocks, count, inner, range.lowest, range.highest, gradFactor === undefined ? 1 : gradFactor);
  const common = { gradient, input, scales, zeroPoints, channels, record: numbers };
  if (given['out'] === undefined) {
    const result = {
      input: validate.allocated(Float32Array, input.length),
      scales: validate.allocated(Float32Array, count),
      zeroPoints: validate.allocated(Float32Array, count),
    };
    return { ...common, result, fresh: true };
  }
  const out = validate.options<Record<string, unknown>>(
    'out',
    given['out'],
    new Set(['input', 'scales', 'zeroPoints']),
  );
  validate.float32Array('out.input', out['input'], input.length);
  validate.float32Array('out.scales', out['scales'], count);
  validate.float32Array('out.zeroPoints', out['zeroPoints'], count);
  return { ...common, result: given['out'] as QuantizerGradients, fresh: false };
}

/** The sums over an empty tensor. */
function nothing(result: QuantizerGradients): QuantizerGradients {
  result.scales.fill(0);
  result.zeroPoints.fill(0);
  return result;
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
 * @param gradient - The gradient of the loss for the output.
 * @returns The gradients: as many as elements, scales and zero points.
 * @throws {@link InvalidArgumentError} for a wrong type, value or combination, or an `out` that overlaps an input.
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
): QuantizerGradients {
  const p = prepareLearned(gradient, options, LEARNED_OPTIONS);
  if (p.channels.elementCount === 0) return nothing(p.result);
  const { input, scales, zeroPoints } = p.result;
  try {
    addon.fakeQuantizeGradients(p.record(), p.gradient, p.input, p.scales, p.zeroPoints, input, scales, zeroPoints);
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
export async function learnedQuantizeBackwardAsync(
  gradient: Float32Array,
  options: LearnedQuantizeBackwardAsyncOptions,
): Promise<QuantizerGradients> {
  const p = prepareLearned(gradient, options, LEARNED_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.channels.elementCount === 0) return nothing(p.result);
  const { output: room } = detachedFromCaller;
  const { input, scales, zeroPoints } = p.result;
  const target = p.fresh ? p.result : { input: room(input), scales: room(scales), zeroPoints: room(zeroPoints) };
  const copies = [copied(p.gradient), copied(p.input), copied(p.scales), copied(p.zeroPoints)] as const;
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
