/**
 * Activations whose scale is known beforehand ("static"): one scale, and for asymmetric codes one zero point, for all of them.
 *
 * @module
 */
import type { LargeFloatDtype } from '../dtype.js';
import { castTensor } from './cast.js';
import { dequantizeTensor } from './dequantize.js';
import { quantizeTensor } from './quantize.js';
import type { QuantizedTensor, Scheme } from './quantized-tensor.js';

/** Code types of static activations. */
export type InputDtype = 'int8' | 'float8_e4m3fn';

/** How the activations that a linear layer reads become codes. */
export interface InputQuantization {
  readonly dtype: InputDtype;
  /** What a step of the codes stands for: finite, greater than 0. */
  readonly scale: number;
  /** The code of zero, from −128 to 127, where codes are asymmetric; else null. */
  readonly zeroPoint: number | null;
}

/** The kind of static activations, without their numbers. */
export interface InputKind {
  readonly dtype: InputDtype;
  readonly scheme: Scheme;
}

/** Static activations by name. */
export type StaticActivations = 'int8-static' | 'int8-static-asymmetric' | 'float8_e4m3fn-static';

/** @internal */
export function staticName({ dtype, scheme }: InputKind): StaticActivations {
  if (dtype !== 'int8') return 'float8_e4m3fn-static';
  return scheme === 'symmetric' ? 'int8-static' : 'int8-static-asymmetric';
}

/** @internal What a name of static activations stands for; null for other names. */
export function inputKindOf(name: unknown): InputKind | null {
  switch (name) {
    case 'int8-static':
      return { dtype: 'int8', scheme: 'symmetric' };
    case 'int8-static-asymmetric':
      return { dtype: 'int8', scheme: 'asymmetric' };
    case 'float8_e4m3fn-static':
      return { dtype: 'float8_e4m3fn', scheme: 'symmetric' };
    default:
      return null;
  }
}

/** @internal A number rounded to a float type, as files keep it. */
export function roundedTo(value: number, dtype: LargeFloatDtype): number {
  if (dtype === 'float32') return Math.fround(value);
  const stored = castTensor(Float32Array.of(value), { from: 'float32', to: dtype });
  return castTensor(stored, { from: dtype, to: 'float32' })[0] as number;
}

/**
 * @internal The codes of activations. Larger ones become the outermost codes; symmetric int8 has all 256 of them, as in
 * compressed-tensors and vLLM.
 */
export function inputCodes(x: Float32Array, { dtype, scale, zeroPoint }: InputQuantization): QuantizedTensor {
  const scales = Float32Array.of(scale);
  if (dtype !== 'int8') return quantizeTensor(x, { dtype, scales });
  return zeroPoint === null
    ? quantizeTensor(x, { dtype, scheme: 'symmetric', narrowRange: false, scales })
    : quantizeTensor(x, { dtype, scheme: 'asymmetric', scales, zeroPoints: Int32Array.of(zeroPoint) });
}

/** @internal Activations as their codes stand for them. */
export function roundedInputs(x: Float32Array, input: InputQuantization): Float32Array {
  return dequantizeTensor(inputCodes(x, input));
}
