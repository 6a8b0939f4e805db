/**
 * What a change of weights does to the outputs of a linear layer, over all activations that were seen.
 *
 * @module
 */
import { linearAsync } from '../matmul/linear.js';
import type { PackedWeight } from '../matmul/packed-weight.js';
import { prepackAsync } from '../matmul/prepack.js';
import type { InputSums } from './method.js';

/** Rows of weights that are multiplied at a time. */
const ROWS_AT_A_TIME = 2048;

/**
 * The squared error `Σ (x·dᵀ)²` over all x and all rows d of a difference of weights: `Σ d·G·dᵀ` with the Gram matrix G. Without
 * one, channels are taken to be independent, and only their squares count.
 */
export class OutputErrorMeter {
  private constructor(
    private readonly columns: number,
    private readonly gram: PackedWeight | null,
    private readonly squares: Float64Array | Float32Array,
  ) {}

  static async of({ columns, gram, sumOfSquares }: Omit<InputSums, 'rows'>): Promise<OutputErrorMeter> {
    const packed = gram === null ? null : await prepackAsync(gram, { shape: [columns, columns] });
    return new OutputErrorMeter(columns, packed, sumOfSquares);
  }

  /** Of some columns from `begin` on only, as if the others did not change. */
  static async ofColumns(statistics: InputSums, begin: number, end: number): Promise<OutputErrorMeter> {
    const { columns, gram, sumOfSquares } = statistics;
    const width = end - begin;
    if (gram === null) return new OutputErrorMeter(width, null, sumOfSquares.subarray(begin, end));
    const part = new Float32Array(width * width);
    for (let i = 0; i < width; i++) {
      const from = (begin + i) * columns + begin;
      part.set(gram.subarray(from, from + width), i * width);
    }
    return OutputErrorMeter.of({ columns: width, gram: part, sumOfSquares: sumOfSquares.subarray(begin, end) });
  }

  /** The squared error of each row of a difference `[rows, K]`. */
  async perRow(difference: Float32Array, signal?: AbortSignal): Promise<Float64Array> {
    const { columns, gram, squares } = this;
    const errors = new Float64Array(difference.length / columns);
    const step = ROWS_AT_A_TIME * columns;
    const options = signal === undefined ? {} : { signal };
    for (let begin = 0; begin < difference.length; begin += step) {
      const part = difference.subarray(begin, begin + step);
      const product = gram === null ? null : await linearAsync(part, gram, options);
      for (let i = 0; i < part.length; i += columns) {
        let sum = 0;
        for (let k = 0; k < columns; k++) {
          const d = part[i + k] as number;
          sum += d * (product === null ? d * (squares[k] as number) : (product[i + k] as number));
        }
        errors[(begin + i) / columns] = sum;
      }
    }
    return errors;
  }

  /** The squared error of all rows together. */
  async total(difference: Float32Array, signal?: AbortSignal): Promise<number> {
    return (await this.perRow(difference, signal)).reduce((a, b) => a + b, 0);
  }

  dispose(): void {
    this.gram?.dispose();
  }
}

/** a − b, element by element. */
export function difference(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, i) => value - (b[i] as number));
}
