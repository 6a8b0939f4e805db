/**
 * Weights that are stored as they are: floats of 16 and 32 bits, and everything that no layout of quantized weights claims.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { RowBlock, Weight } from '../weight.js';

const FLOATS: ReadonlyMap<string, LargeFloatDtype> = new Map([
  ['F32', 'float32'],
  ['F16', 'float16'],
  ['BF16', 'bfloat16'],
]);

/** The float type of a stored tensor, or null if it holds something else. */
export function floatDtypeOf(tensor: StoredTensor): LargeFloatDtype | null {
  return FLOATS.get(tensor.dtype.toUpperCase()) ?? null;
}

/** A shape as rows and columns. */
export function matrixOf(shape: readonly number[]): { rows: number; columns: number } {
  const columns = shape.at(-1) ?? 1;
  return { rows: shape.slice(0, -1).reduce((product, dim) => product * dim, 1), columns };
}

/** A tensor on its own as a weight. */
export function plainWeight(tensor: StoredTensor): Weight {
  const dtype = floatDtypeOf(tensor);
  const { rows, columns } = matrixOf(tensor.shape);
  return {
    name: tensor.name,
    shape: tensor.shape,
    rows,
    columns,
    dtype,
    encoding: {
      format: dtype === null ? 'other' : 'float',
      dtype: dtype ?? tensor.dtype,
      groupSize: null,
      traits: [],
    },
    parts: [tensor],
    rowStep: 1,
    async read(begin: number, end: number, scratch: Scratch): Promise<RowBlock> {
      if (dtype === null) throw new RangeError(`${tensor.name} is no float tensor`);
      const count = (end - begin) * columns;
      const elementBytes = dtype === 'float32' ? 4 : 2;
      const bytes = scratch.bytes('input', count * elementBytes);
      await tensor.read(begin * columns * elementBytes, bytes);
      const data = dtype === 'float32' ? scratch.floats('input', count) : scratch.halves('input', count);
      return { kind: 'float', dtype, data };
    },
  };
}
