/**
 * Rows of packed elements, each of which starts on a byte.
 *
 * @module
 */
import { InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';

/** @internal How many rows there are, and elements in each and in all. */
export interface Rows {
  readonly rows: number;
  readonly columns: number;
  readonly count: number;
}

/** @internal The rows of the last axis; `length`: that of the input, by default one row. */
export function rowsOf(value: unknown, length?: number): Rows {
  if (value === undefined && length !== undefined) return { rows: 1, columns: length, count: length };
  const shape = validate.shape('shape', value);
  const columns = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  const rows = {
    rows: validate.product(shape, 0, Math.max(0, shape.length - 1)),
    columns,
    count: validate.product(shape),
  };
  if (length !== undefined && rows.count !== length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the input, ${length}.`,
    );
  }
  return rows;
}

/** @internal The caller's array, or a new one. */
export function result<T extends ArrayBufferView & { readonly length: number }>(
  value: unknown,
  type: { readonly name: string; new (length: number): T },
  count: number,
): { out: T; fresh: boolean } {
  return { out: validate.result(value, type, count), fresh: value === undefined };
}
