/**
 * The ceiling on memory: what a run takes at most, known before it starts.
 *
 * @module
 */
import { InvalidArgumentError } from '../errors.js';
import type { Task } from './task.js';

/** Blocks under way at once: one is read or written while the other is computed. */
export const SLOTS = 2;

/** Node.js, the addon and this library, before any weight is read. */
const BASE_BYTES = 128 * 2 ** 20;

/** For each stored tensor: its name, shape and place, in the header and in memory. */
const TENSOR_BYTES = 2048;

/**
 * For each element of a block: what was read (4), the values (4), codes and scales (6), pieces that wait to be written (6), and
 * what layouts leave behind until it is collected (12). Verifying takes less: two blocks read (8), their values (8).
 */
const ELEMENT_BYTES = 32;

/** More elements do not make a block faster. */
const MOST_ELEMENTS = 2 ** 20;

/** The most bytes of what a weight becomes that are gathered before they are written. */
const MOST_GATHERED = 2 ** 26;

/** How a run divides its work, and what memory that takes. */
export interface MemoryPlan {
  /** Elements of a block, unless one step of rows has more. */
  readonly blockElements: number;
  readonly slots: number;
  /** Weights that are stored transposed are gathered if they become no more bytes than this. */
  readonly gatherBytes: number;
  /** The most bytes that the process will take. */
  readonly peakBytes: number;
}

/** Rows of a block of a task. */
export function blockRows(task: Task, blockElements: number): number {
  const elementsOfStep = Math.max(1, task.width) * task.step;
  // A copied byte takes one byte; an element of a weight as many as are needed to compute with it.
  const budget = task.kind === 'copied' ? 4 * blockElements : blockElements;
  return task.step * Math.max(1, Math.floor(budget / elementsOfStep));
}

/** Elements of the largest block. */
function largestBlock(tasks: readonly Task[], blockElements: number): number {
  let largest = 0;
  for (const task of tasks) {
    const rows = Math.min(task.length, blockRows(task, blockElements));
    largest = Math.max(largest, task.kind === 'copied' ? rows / 4 : rows * task.width);
  }
  return largest;
}

/** Bytes of all that a weight becomes. */
export function outputBytesOf({ outputs }: Task): number {
  return outputs.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Bytes of the largest weight that is gathered. */
function largestGathered(tasks: readonly Task[]): number {
  const sizes = tasks.filter(({ transposed }) => transposed).map(outputBytesOf);
  return sizes.reduce((most, bytes) => (bytes <= MOST_GATHERED ? Math.max(most, bytes) : most), 0);
}

/**
 * Divides the work so that the process stays below the ceiling.
 *
 * @param ceiling - Bytes; undefined: as much as is fast.
 * @param tensors - Stored tensors, of input and output.
 * @throws {@link InvalidArgumentError} if not even the smallest blocks fit; it says what would do.
 */
export function planMemory(tasks: readonly Task[], tensors: number, ceiling: number | undefined): MemoryPlan {
  const fixed = BASE_BYTES + tensors * TENSOR_BYTES;
  const planned = (blockElements: number, slots: number, gatherBytes: number): MemoryPlan => {
    const peakBytes = fixed + slots * (ELEMENT_BYTES * largestBlock(tasks, blockElements) + gatherBytes);
    return { blockElements, slots, gatherBytes, peakBytes };
  };
  const gathered = largestGathered(tasks);
  if (ceiling === undefined) return planned(MOST_ELEMENTS, SLOTS, gathered);
  for (const gatherBytes of gathered === 0 ? [0] : [gathered, 0]) {
    for (const slots of [SLOTS, 1]) {
      for (let elements = MOST_ELEMENTS; elements >= 1; elements = Math.floor(elements / 2)) {
        const plan = planned(elements, slots, gatherBytes);
        if (plan.peakBytes <= ceiling) return plan;
      }
    }
  }
  const least = Math.ceil(planned(1, 1, 0).peakBytes / 1e6);
  const widest = tasks.reduce((a, b) => (b.width * b.step > a.width * a.step ? b : a));
  throw new InvalidArgumentError(
    'maxMemory',
    `Expected maxMemory of at least ${least} MB for this work, but ${(ceiling / 1e6).toFixed(0)} MB were allowed ` +
      `(${widest.weight.name} needs ${widest.step} rows of ${widest.width} elements at once).`,
  );
}
