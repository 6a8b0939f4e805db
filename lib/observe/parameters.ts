/**
 * Scales and zero points for a range.
 *
 * @module
 */
import type { CodeType } from '../dtype.js';
import { InvalidArgumentError } from '../errors.js';
import { roundHalfEven } from '../tensor/channels.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import { type IntegerRangeOptions, rangeFrom } from '../tensor/quantizer-options.js';
import * as validate from '../validate.js';

const f32 = Math.fround;
const SMALLEST = 2 ** -149;

/** Parameters as `quantizeTensor` takes them. */
export interface QuantizationParameters {
  readonly scheme: Scheme;
  /** One per tensor or channel. */
  readonly scales: Float32Array;
  /** As many, within the dtype's range. */
  readonly zeroPoints: Int32Array;
}

/** @internal */
export function schemeFrom(value: unknown, signed: boolean): Scheme {
  if (value === undefined) return signed ? 'symmetric' : 'asymmetric';
  return validate.oneOf('scheme', value, ['symmetric', 'asymmetric']);
}

/** @internal One parameter set by the rules of `quantizeTensor`: scale_of() and others in native/ops/affine/affine_math.h. */
export function parametersOf(
  min: number,
  max: number,
  code: CodeType,
  scheme: Scheme,
): { scale: number; zeroPoint: number } {
  const [low, high] = [Math.min(0, min), Math.max(0, max)];
  if (scheme === 'symmetric') {
    const absmax = Math.max(-low, high);
    const scale = absmax === 0 ? 1 : Math.max(SMALLEST, f32(absmax / (2 ** (code.bits - 1) - 1)));
    return { scale, zeroPoint: code.signed ? 0 : 2 ** (code.bits - 1) };
  }
  const levels = code.highest - code.lowest;
  const range = f32(high - low);
  let scale = 1;
  if (range !== 0) {
    // Past the largest float32 the range is not representable, but the scale is.
    scale = Number.isFinite(range) ? Math.max(SMALLEST, f32(range / levels)) : f32((high - low) / levels);
  }
  const position = f32(code.lowest - f32(low / scale));
  return { scale, zeroPoint: roundHalfEven(Math.min(code.highest, Math.max(code.lowest, position))) };
}

/** Options of {@link pytorchParameters}. */
export type PytorchParametersOptions = IntegerRangeOptions & {
  /** Default asymmetric, which PyTorch calls affine. */
  scheme?: Scheme;
};

/** torch.finfo(torch.float32).eps */
const EPSILON = 2 ** -23;

/**
 * The parameters that PyTorch's observers compute from a range. They differ from those of `quantizeTensor`: a symmetric scale is
 * `max|x| / ((quantMax − quantMin) / 2)`, for int8 a 127.5th, and no scale is less than 2^−23.
 *
 * - **asymmetric**: the range is widened to contain 0, `scale = max((max − min) / (quantMax − quantMin), 2^−23)`,
 *   `zeroPoint = clamp(quantMin − round(min / scale))`.
 * - **symmetric**: the zero point is 0, for [0, 255] 128, for other ranges without negative codes the middle, rounded down.
 *
 * @param min - The least value of a tensor or of each channel.
 * @param max - The greatest; as many.
 * @param options - At least `dtype`.
 * @returns As many scales and zero points.
 * @throws {@link InvalidArgumentError} for a wrong type, length or value, or a `min` greater than its `max`.
 *
 * Source: PyTorch 1.13, `torch/ao/quantization/observer.py`, `UniformQuantizationObserverBase._calculate_qparams`.
 *
 * @example
 * ```ts
 * pytorchParameters(new Float32Array([-1]), new Float32Array([3]), { dtype: 'uint8' });
 * // { scheme: 'asymmetric', scales: [0.015686275], zeroPoints: [64] }
 * ```
 */
export function pytorchParameters(
  min: Float32Array,
  max: Float32Array,
  options: PytorchParametersOptions,
): QuantizationParameters {
  const names = new Set(['dtype', 'quantMin', 'quantMax', 'scheme']);
  const given = validate.options<Record<string, unknown>>('options', options, names);
  const lows = validate.float32Array('min', min);
  const highs = validate.float32Array('max', max, lows.length);
  const { lowest, highest } = rangeFrom(given);
  if (highest === lowest) throw new InvalidArgumentError('quantMax', 'Expected quantMax to be greater than quantMin.');
  const scheme = schemeFrom(given['scheme'], false);
  const scales = new Float32Array(lows.length);
  const zeroPoints = new Int32Array(lows.length);
  lows.forEach((value, i) => {
    if (!Number.isFinite(value) || !Number.isFinite(highs[i]) || value > (highs[i] as number)) {
      const received = `received [${value}, ${highs[i]}] at index ${i}`;
      throw new InvalidArgumentError('min', `Expected finite ranges, min no greater than max, but ${received}.`);
    }
    const [low, high] = [Math.min(0, value), Math.max(0, highs[i] as number)];
    if (scheme === 'symmetric') {
      scales[i] = Math.max(f32(Math.max(-low, high) / f32((highest - lowest) / 2)), EPSILON);
      zeroPoints[i] = lowest < 0 ? 0 : lowest === 0 && highest === 255 ? 128 : Math.floor((lowest + highest) / 2);
    } else {
      scales[i] = Math.max(f32(f32(high - low) / (highest - lowest)), EPSILON);
      const zeroPoint = lowest - roundHalfEven(f32(low / (scales[i] as number)));
      zeroPoints[i] = Math.min(highest, Math.max(lowest, zeroPoint));
    }
  });
  return { scheme, scales, zeroPoints };
}
