/**
 * What a model takes on disk.
 *
 * @module
 */
import type { ReadingOptions } from '../checkpoint/weights.js';
import { inspectCheckpoint } from '../pipeline/inspect.js';
import * as validate from '../validate.js';

/** Size of the weights of a checkpoint. */
export interface CheckpointSize {
  /** Bytes of all weights. */
  readonly bytes: number;
  /** Bits that are stored for each weight of the linear layers of the blocks, which are what is quantized. */
  readonly bitsPerWeight: number;
}

const LINEAR_WEIGHT = /(^|\.)layers\.\d+\..*_proj\.weight$/;

export async function checkpointSize(
  path: string,
  options: ReadingOptions & { signal?: AbortSignal },
): Promise<CheckpointSize> {
  const { bytes, weights } = await inspectCheckpoint(path, options);
  const linears = weights.filter(({ name }) => LINEAR_WEIGHT.test(name));
  const count = linears.reduce((sum, { shape }) => sum + validate.product(shape), 0);
  const stored = linears.reduce((sum, weight) => sum + weight.bytes, 0);
  return { bytes, bitsPerWeight: count === 0 ? 0 : (8 * stored) / count };
}
