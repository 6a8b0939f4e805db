/**
 * How far rows are from what was made of them, each row on its own. What they were made into is taken as it is stored: it
 * becomes floats where it is compared, a few rows at a time, and is never written down.
 *
 * @module
 */
import { addon, explain, type RawFloats, runJob } from '../addon.js';
import { codeTypeOf, floatCodeOf, type LargeFloatDtype } from '../dtype.js';
import { detachedFromCaller } from '../off-thread.js';
import { blockFormatOf, type GgufType } from './blocks.js';
import { type ComparisonSums, noSums } from './compare.js';
import { checkQuantizedTensor, type QuantizedTensor } from './quantized-tensor.js';

/** @internal Floats of some rows. */
export interface FloatRows {
  readonly kind: 'float';
  readonly dtype: LargeFloatDtype;
  readonly data: RawFloats;
}

/** @internal What rows were made into. */
export type OtherRows =
  | FloatRows
  | { readonly kind: 'quantized'; readonly tensor: QuantizedTensor }
  | { readonly kind: 'blocks'; readonly type: GgufType; readonly data: Uint8Array };

/** Columns and rows that share a scale; null where scales do not lie so. */
function gridOf({ granularity, axis, groupSize, blockShape }: QuantizedTensor, rows: number, columns: number) {
  switch (granularity) {
    case 'per-tensor':
      return { group: columns, rowsAlike: rows };
    case 'per-channel':
      return (axis ?? 0) === 0 ? { group: columns, rowsAlike: 1 } : null;
    case 'per-group':
      return { group: Math.min(groupSize as number, columns), rowsAlike: 1 };
    case 'per-block': {
      const [height, width] = blockShape as readonly [number, number];
      return { group: Math.min(width, columns), rowsAlike: height };
    }
  }
}

/** @internal Whether {@link compareRowsAsync} takes rows as they are: not where scales run on from one row to the next. */
export function comparesAsStored(other: OtherRows, columns: number): boolean {
  return other.kind !== 'quantized' || (other.tensor.shape.at(-1) === columns && gridOf(other.tensor, 1, 1) !== null);
}

/**
 * @internal The sums of each row, five numbers: Σr², Σo², Σr·o, Σ(r−o)², max|r−o|. They are the same for any number of threads,
 * instruction set and division into blocks of rows. Arrays are views of shared memory, or are copied first.
 *
 * @throws An error with the code `NON_FINITE` if a row holds NaN or infinity: which, {@link compareSumsAsync} tells.
 */
export async function compareRowsAsync(
  reference: FloatRows,
  other: OtherRows,
  rows: number,
  columns: number,
  signal: AbortSignal | undefined,
): Promise<Float64Array> {
  const { input } = detachedFromCaller;
  const sums = new Float64Array(5 * rows);
  if (rows === 0 || columns === 0) return sums;
  const original = input(reference.data);
  const record = (group: number, rowsAlike: number, ...more: number[]) =>
    Float64Array.of(floatCodeOf('dtype', reference.dtype), rows, columns, group, rowsAlike, ...more);
  await runJob(
    (done) => {
      switch (other.kind) {
        case 'float': {
          const numbers = record(columns, 1, floatCodeOf('dtype', other.dtype));
          return addon.compareRowsFloatsAsync(numbers, original, sums, input(other.data), done);
        }
        case 'blocks': {
          const { code, length } = blockFormatOf('type', other.type);
          return addon.compareRowsBlocksAsync(record(length, 1, code), original, sums, input(other.data), done);
        }
        case 'quantized': {
          const { tensor } = checkQuantizedTensor('other', other.tensor); // with zero points that go without saying
          const grid = gridOf(tensor, rows, columns);
          if (grid === null) throw new RangeError('scales of columns are not compared row by row');
          const { bits, signed, codebook } = codeTypeOf('dtype', tensor.dtype);
          const numbers = [bits, signed ? 1 : 0, ...(codebook === undefined ? [] : [codebook.book])];
          const all = record(grid.group, grid.rowsAlike, ...numbers);
          const [data, scales] = [input(tensor.data), input(tensor.scales)];
          if (codebook !== undefined) {
            return addon.compareRowsCodebookAsync(all, original, sums, data, scales, done);
          }
          const zeroPoints = tensor.zeroPoints === null ? null : input(tensor.zeroPoints);
          return addon.compareRowsAffineAsync(all, original, sums, data, scales, zeroPoints, done);
        }
      }
    },
    signal,
    (error) => ((error as { code?: string }).code === 'NON_FINITE' ? error : explain(error, 'other')),
  );
  return sums;
}

/** @internal The sums of one row out of {@link compareRowsAsync}'s. */
export function rowSums(sums: Float64Array, row: number, columns: number): ComparisonSums {
  const [referencePower = 0, otherPower = 0, product = 0, errorPower = 0, maxAbs = 0] = sums.subarray(
    5 * row,
    5 * row + 5,
  );
  return { ...noSums(), count: columns, referencePower, otherPower, product, errorPower, maxAbs };
}
