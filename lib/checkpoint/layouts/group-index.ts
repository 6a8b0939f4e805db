/**
 * GPTQ's `g_idx`: the group of every input, where activation order ("act-order", `desc_act`) has mixed them.
 *
 * @module
 */
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import { layoutError } from './packed-layers.js';

/** How groups lie among the inputs: one after the other; mixed, but of one size; of several sizes. */
export type GroupArrangement = 'in-order' | 'mixed' | 'irregular';

/** The inputs, sorted by their group, within one in their own order. */
export interface GroupOrder {
  readonly arrangement: GroupArrangement;
  /** Input `order[i]` is number i of the sorted ones; in `scratch`. */
  readonly order: Int32Array;
  /** Inputs of each group. */
  readonly counts: readonly number[];
}

/**
 * Reads a `g_idx`.
 *
 * @param groups - How many there are scales for.
 * @param groupSize - Inputs of a group; only the last may have fewer. Null: one group has all.
 * @throws CheckpointError `LAYOUT_INVALID` if a number is no group.
 */
export async function readGroupOrder(
  tensor: StoredTensor,
  columns: number,
  groups: number,
  groupSize: number | null,
  scratch: Scratch,
): Promise<GroupOrder> {
  await tensor.read(0, scratch.bytes('groupIndex', 4 * columns));
  const index = scratch.integers('groupIndex', columns);
  const counts = new Array<number>(groups).fill(0);
  let inOrder = true;
  for (let i = 0; i < columns; i++) {
    const group = index[i] as number;
    if (group < 0 || group >= groups) {
      throw layoutError(tensor, `puts input ${i} into group ${group}; there are scales for ${groups}`);
    }
    counts[group] = (counts[group] as number) + 1;
    inOrder &&= group === (groupSize === null ? 0 : Math.floor(i / groupSize));
  }
  const starts = new Array<number>(groups).fill(0);
  for (let group = 1; group < groups; group++) {
    starts[group] = (starts[group - 1] as number) + (counts[group - 1] as number);
  }
  const order = scratch.integers('order', columns);
  for (let i = 0; i < columns; i++) {
    const group = index[i] as number;
    order[starts[group] as number] = i;
    starts[group] = (starts[group] as number) + 1;
  }
  const size = groupSize ?? columns;
  const even = counts.every((count, group) => count === Math.min(size, columns - group * size));
  return { arrangement: inOrder ? 'in-order' : even ? 'mixed' : 'irregular', order, counts };
}

/** The largest number that divides all of some, zeros aside. */
export function commonDivisor(numbers: readonly number[]): number {
  let divisor = 0;
  for (let n of numbers) while (n !== 0) [divisor, n] = [n, divisor % n];
  return divisor;
}
