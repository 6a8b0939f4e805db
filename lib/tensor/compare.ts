/**
 * How far one tensor is from another.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';

/** The distance between two tensors; see {@link compareTensors}. */
export interface Comparison {
  /** Signal to quantization noise, `10·log10(Σr² / Σ(r−o)²)`, in decibels; Infinity if the tensors are equal. */
  readonly sqnrDb: number;
  /** `Σr·o / √(Σr²·Σo²)`; 1 if both are zero everywhere, 0 if only one is. */
  readonly cosine: number;
  /** Mean squared error, `Σ(r−o)² / n`; 0 for empty tensors. */
  readonly mse: number;
  /** `max|r−o|`. */
  readonly maxAbs: number;
}

/** The sums behind a comparison; those of the parts of a tensor add up to those of the whole. */
export interface ComparisonSums {
  count: number;
  referencePower: number;
  otherPower: number;
  product: number;
  errorPower: number;
  maxAbs: number;
}

/** @internal */
export function noSums(): ComparisonSums {
  return { count: 0, referencePower: 0, otherPower: 0, product: 0, errorPower: 0, maxAbs: 0 };
}

/** @internal */
export function addSums(total: ComparisonSums, part: ComparisonSums): void {
  total.count += part.count;
  total.referencePower += part.referencePower;
  total.otherPower += part.otherPower;
  total.product += part.product;
  total.errorPower += part.errorPower;
  total.maxAbs = Math.max(total.maxAbs, part.maxAbs);
}

/** @internal */
export function comparisonOf(sums: ComparisonSums): Comparison {
  const { count, referencePower, otherPower, product, errorPower, maxAbs } = sums;
  const norms = Math.sqrt(referencePower * otherPower); // squares of float32 sums: far from float64's limits
  return {
    sqnrDb: errorPower === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(referencePower / errorPower),
    cosine: norms > 0 ? Math.min(1, product / norms) : referencePower === otherPower ? 1 : 0,
    mse: count === 0 ? 0 : errorPower / count,
    maxAbs,
  };
}

function prepare(referenceValue: unknown, otherValue: unknown): { reference: Float32Array; other: Float32Array } {
  const reference = validate.float32Array('reference', referenceValue);
  return { reference, other: validate.float32Array('other', otherValue, reference.length) };
}

function sumsFrom(raw: Float64Array, count: number): ComparisonSums {
  const [referencePower = 0, otherPower = 0, product = 0, errorPower = 0, maxAbs = 0] = raw;
  return { count, referencePower, otherPower, product, errorPower, maxAbs };
}

function explained(error: unknown, reference: Float32Array, other: Float32Array): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'other');
  const inReference = !Number.isFinite(reference[index]);
  const value = (inReference ? reference : other)[index] as number;
  const name = inReference ? 'reference' : 'other';
  return new NonFiniteError(
    `Expected finite numbers but received ${value} at index ${index} of ${name}.`,
    index,
    value,
  );
}

/** @internal {@link compareTensorsAsync} before the division. */
export async function compareSumsAsync(
  referenceValue: Float32Array,
  otherValue: Float32Array,
  signal: AbortSignal | undefined,
): Promise<ComparisonSums> {
  const checked = prepare(referenceValue, otherValue);
  signal?.throwIfAborted();
  const reference = detachedFromCaller.input(checked.reference);
  const other = detachedFromCaller.input(checked.other);
  const raw = new Float64Array(5);
  await runJob(
    (done) => addon.compareAsync(reference, other, raw, done),
    signal,
    (error) => explained(error, reference, other),
  );
  return sumsFrom(raw, reference.length);
}

/**
 * Measures what a tensor lost: SQNR, cosine similarity, mean squared and largest error, summed in float64. The result does
 * not depend on the number of threads or the instruction set.
 *
 * @param reference - The original.
 * @param other - What became of it; as many elements.
 * @returns Measures over all elements; for empty tensors those of equal ones.
 * @throws {@link InvalidArgumentError} for a wrong type or length; {@link NonFiniteError} if either holds NaN or infinity.
 *
 * @example
 * ```ts
 * const q = quantizeTensor(weights, { dtype: 'int8' });
 * compareTensors(weights, dequantizeTensor(q)).sqnrDb; // about 40 for normally distributed weights
 * ```
 */
export function compareTensors(reference: Float32Array, other: Float32Array): Comparison {
  const checked = prepare(reference, other);
  const raw = new Float64Array(5);
  try {
    addon.compare(checked.reference, checked.other, raw);
  } catch (error) {
    throw explained(error, checked.reference, checked.other);
  }
  return comparisonOf(sumsFrom(raw, checked.reference.length));
}

/**
 * {@link compareTensors} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link compareTensors}, as a rejection; the signal's reason when it aborts.
 */
export async function compareTensorsAsync(
  reference: Float32Array,
  other: Float32Array,
  options: { signal?: AbortSignal } = {},
): Promise<Comparison> {
  const given = validate.options<{ signal: unknown }>('options', options, new Set(['signal']));
  const signal = validate.abortSignal('signal', given.signal);
  return comparisonOf(await compareSumsAsync(reference, other, signal));
}
