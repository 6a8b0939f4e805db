/**
 * Sums that do not depend on the order of what is added, nor on how it was divided among machines.
 *
 * Each number is rounded to a multiple of 2^−45 and kept as two float64: a multiple of 2^−12, and the rest. Sums of either
 * stay below 2^53 of their units, so they are exact, and exact addition has no order.
 *
 * @module
 */
import { CalibrationError } from '../errors.js';
import * as validate from '../validate.js';

/** Adding and subtracting this rounds a number below 2^39 to a multiple of 2^−12, half to even. */
const TO_HIGH = 1.5 * 2 ** 40;
/** The same for multiples of 2^−45, of numbers below 2^6. */
const TO_LOW = 1.5 * 2 ** 7;
/** What a sum, and a number to be added, must stay below. */
const LIMIT = 2 ** 39;
/** How often something may be added: rests are at most 2^−13, that is 2^32 units of 2^−45. */
const MOST_ADDITIONS = 2 ** 20;

/** Sums side by side, to which numbers are added one array at a time. */
export class ExactSums {
  constructor(
    readonly high: Float64Array,
    readonly low: Float64Array,
  ) {}

  static ofLength(length: number): ExactSums {
    return new ExactSums(validate.allocated(Float64Array, length), validate.allocated(Float64Array, length));
  }

  get length(): number {
    return this.high.length;
  }

  /** Adds a number to the sum at `index`; its magnitude must be below {@link LIMIT}. */
  add(index: number, value: number): void {
    const high = value + TO_HIGH - TO_HIGH;
    (this.high[index] as number) += high;
    (this.low[index] as number) += value - high + TO_LOW - TO_LOW;
  }

  /** Adds the upper triangle, row by row, of a symmetric matrix [k, k]. */
  addTriangle(matrix: Float32Array, k: number): void {
    const { high, low } = this;
    let at = 0;
    for (let i = 0; i < k; i++) {
      const row = i * k;
      for (let j = i; j < k; j++, at++) {
        const value = matrix[row + j] as number;
        const rounded = value + TO_HIGH - TO_HIGH;
        (high[at] as number) += rounded;
        (low[at] as number) += value - rounded + TO_LOW - TO_LOW;
      }
    }
  }

  /** Adds other sums, which stay as they are. */
  merge(other: ExactSums): void {
    for (let i = 0; i < this.length; i++) {
      (this.high[i] as number) += other.high[i] as number;
      (this.low[i] as number) += other.low[i] as number;
    }
  }

  /** The sum at `index`, rounded once. */
  at(index: number): number {
    return (this.high[index] as number) + (this.low[index] as number);
  }

  values(): Float64Array {
    return Float64Array.from(this.high, (high, i) => high + (this.low[i] as number));
  }

  /** The whole matrix [k, k] of a triangle, in float32. */
  matrix(k: number): Float32Array {
    const full = validate.allocated(Float32Array, k * k);
    let at = 0;
    for (let i = 0; i < k; i++) {
      for (let j = i; j < k; j++, at++) {
        const value = this.at(at);
        full[i * k + j] = value;
        full[j * k + i] = value;
      }
    }
    return full;
  }
}

/** Elements of the upper triangle of a matrix [k, k]. */
export function triangleLength(k: number): number {
  return (k * (k + 1)) / 2;
}

/** @throws {@link CalibrationError} `CALIBRATION_OVERFLOW`. */
export function checkSums(layer: string, squares: ExactSums, additions: number): void {
  // A sum of squares bounds every product of its channel with another one.
  const largest = squares.high.reduce((a, b) => Math.max(a, b), 0);
  if (largest < LIMIT && additions <= MOST_ADDITIONS) return;
  const what =
    additions > MOST_ADDITIONS
      ? `${additions} windows were added, more than ${MOST_ADDITIONS}`
      : `a channel's squares add up to ${largest.toPrecision(3)}, more than ${LIMIT.toPrecision(3)}`;
  const message = `${layer}: sums would no longer be exact: ${what}. Calibrate with fewer windows.`;
  throw new CalibrationError('CALIBRATION_OVERFLOW', message, { layer });
}
