/**
 * `weight_g_idx`: the group of every column, where groups were formed in the order of the activations.
 *
 * @module
 */
import type { StoredTensor } from '../../stored-tensor.js';
import { checkDtype, checkShape, layoutError } from '../parts.js';

/**
 * The order that brings the columns of each group together: column i of the groups is column `order[i]` of the weight.
 * Null if the columns are in that order, or if the tensor was never filled (it then holds −1).
 *
 * @throws CheckpointError `LAYOUT_DTYPE`, `LAYOUT_SHAPE`; `LAYOUT_INVALID` if a group does not have its number of columns.
 */
export async function columnOrder(
  tensor: StoredTensor,
  columns: number,
  groupSize: number,
): Promise<Int32Array | null> {
  checkDtype(tensor, ['I32', 'I64']);
  checkShape(tensor, [columns]);
  const bytes = new Uint8Array(tensor.bytes);
  await tensor.read(0, bytes);
  const groupOf =
    tensor.dtype === 'I32' ? new Int32Array(bytes.buffer) : Float64Array.from(new BigInt64Array(bytes.buffer), Number);
  if (groupOf.includes(-1)) return null;
  const groups = Math.ceil(columns / groupSize);
  const next = Float64Array.from({ length: groups }, (_, group) => group * groupSize);
  const order = new Int32Array(columns);
  let inOrder = true;
  for (let column = 0; column < columns; column++) {
    const group = groupOf[column] as number;
    if (!(group >= 0 && group < groups)) {
      throw layoutError(
        'LAYOUT_INVALID',
        tensor,
        `expected groups from 0 to ${groups - 1}, but column ${column} has ${group}`,
      );
    }
    const place = next[group] as number;
    if (place >= Math.min(columns, (group + 1) * groupSize)) {
      throw layoutError(
        'LAYOUT_INVALID',
        tensor,
        `expected ${groupSize} columns in each group, but group ${group} has more`,
      );
    }
    next[group] = place + 1;
    order[place] = column;
    if (place !== column) inOrder = false;
  }
  return inOrder ? null : order;
}

/** The group of every column, as `weight_g_idx` stores it. */
export function groupIndexOf(order: Int32Array, groupSize: number): Int32Array {
  const index = new Int32Array(order.length);
  for (let i = 0; i < order.length; i++) index[order[i] as number] = Math.floor(i / groupSize);
  return index;
}
