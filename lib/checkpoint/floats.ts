/**
 * Rows of a weight, dequantized.
 *
 * @module
 */
import { dequantizeBlocksAsync } from '../tensor/blocks.js';
import { castTensorAsync } from '../tensor/cast.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import type { Scratch } from './scratch.js';
import type { RowBlock } from './weight.js';

/** Columns of a matrix at the places that `order` says. */
function reorderColumns(from: Float32Array, order: Int32Array, to: Float32Array): Float32Array {
  const columns = order.length;
  for (let row = 0; row < from.length; row += columns) {
    for (let i = 0; i < columns; i++) to[row + (order[i] as number)] = from[row + i] as number;
  }
  return to;
}

/**
 * The values of some rows in float32, as the layout's reference computes them.
 *
 * @param block - What {@link Weight.read} gave.
 * @param count - Elements in it: rows · columns.
 * @param columns - Elements of a row.
 * @param scratch - Where the result lies; other than the block's own only if it is to outlive that.
 */
export async function floatsOf(
  block: RowBlock,
  count: number,
  columns: number,
  scratch: Scratch,
  signal?: AbortSignal,
): Promise<Float32Array> {
  if (count === 0) return scratch.floats('floats', 0); // rows of nothing, which are no blocks
  const options = signal === undefined ? {} : { signal };
  switch (block.kind) {
    case 'float':
      if (block.data instanceof Float32Array) return block.data;
      return castTensorAsync(block.data, {
        from: block.dtype as 'float16' | 'bfloat16',
        to: 'float32',
        out: scratch.floats('floats', count),
        ...options,
      });
    case 'blocks': {
      const out = scratch.floats('floats', count);
      return dequantizeBlocksAsync(block.data, { type: block.type, rowLength: columns, out, ...options });
    }
    case 'quantized': {
      const out = scratch.floats('floats', count);
      await dequantizeTensorAsync(block.tensor, { out, ...options });
      return block.order === null ? out : reorderColumns(out, block.order, scratch.floats('reordered', count));
    }
  }
}
