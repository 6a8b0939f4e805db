/**
 * Comparing two checkpoints, whatever formats they have: tensor by tensor, row by row.
 *
 * @module
 */
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import { checkReadingOptions, READING_OPTIONS, type ReadingOptions, weightsOf } from '../checkpoint/weights.js';
import { InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';
import { compareWeights, type TensorComparison } from './compare-weights.js';
import type { Progress } from './run.js';

/** Options of {@link verifyCheckpoint}. */
export interface VerifyOptions extends ReadingOptions {
  /** Rows listed for each tensor, those with the lowest SQNR first. Default 3. */
  readonly worstRows?: number;
  /** Called after each block of rows. */
  readonly onProgress?: (progress: Progress) => void;
  /** Ends the comparison early. */
  readonly signal?: AbortSignal;
}

/** What {@link verifyCheckpoint} found. */
export interface VerificationReport {
  /** The paths of both. */
  readonly original: string;
  readonly quantized: string;
  /** Tensors of both, in the order of the original. */
  readonly tensors: readonly TensorComparison[];
  /** Names that only one of them has. */
  readonly missing: readonly string[];
  readonly extra: readonly string[];
  /** Tensors of both with different shapes. */
  readonly reshaped: readonly {
    readonly name: string;
    readonly original: readonly number[];
    readonly quantized: readonly number[];
  }[];
  /** Bytes of all tensors. */
  readonly originalBytes: number;
  readonly quantizedBytes: number;
  /** Bits for each weight, over the tensors that are not identical. */
  readonly bitsPerWeight: number;
  /** Name and SQNR of the tensor with the lowest; null if all are identical. */
  readonly worst: { readonly name: string; readonly sqnrDb: number } | null;
  readonly seconds: number;
}

const OPTIONS: ReadonlySet<string> = new Set([...READING_OPTIONS, 'worstRows', 'onProgress', 'signal']);

/** Elements of a block, and blocks under way at once: some 100 MB, whatever the size of the checkpoints. */
const BLOCK_ELEMENTS = 2 ** 20;
const SLOTS = 2;

/** @internal */
export function sameShape(a: Weight, b: Weight): boolean {
  return a.shape.length === b.shape.length && a.shape.every((dim, i) => dim === b.shape[i]);
}

/**
 * Compares a quantized checkpoint with its original, tensor by tensor; both in any format that lowbit reads.
 *
 * @param original - A checkpoint: a file or a folder.
 * @param quantized - The checkpoint that was made from it.
 * @returns Signal to quantization noise, cosine similarity, errors and sizes of every tensor, the worst rows, and what is
 *   missing or was added.
 * @throws {@link CheckpointError} if one of them can't be read; {@link NonFiniteError} if a weight is NaN or infinite;
 *   {@link InvalidArgumentError}; the signal's reason when it aborts.
 *
 * @example
 * ```ts
 * const { worst, bitsPerWeight } = await verifyCheckpoint('Llama-3.2-1B', 'Llama-3.2-1B-int4');
 * ```
 */
export async function verifyCheckpoint(
  original: string,
  quantized: string,
  options: VerifyOptions = {},
): Promise<VerificationReport> {
  for (const [name, value] of Object.entries({ original, quantized })) {
    if (typeof value !== 'string') throw new InvalidArgumentError(name, `Expected ${name} to be a path.`);
  }
  const given = validate.options<VerifyOptions>('options', options, OPTIONS);
  const { onProgress } = given;
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw new InvalidArgumentError('onProgress', 'Expected onProgress to be a function.');
  }
  const worstRows = given.worstRows === undefined ? 3 : validate.integer('worstRows', given.worstRows, 0);
  const signal = validate.abortSignal('signal', given.signal);
  const reading = checkReadingOptions(given);
  const start = performance.now();
  signal?.throwIfAborted();
  const a = await openCheckpoint(original);
  const b = await openCheckpoint(quantized).catch(async (error: unknown) => {
    await a.close();
    throw error;
  });
  try {
    const [ours, theirs] = [await weightsOf(a, reading), await weightsOf(b, reading)];
    const byName = new Map(theirs.map((weight) => [weight.name, weight]));
    const names = new Set(ours.map(({ name }) => name));
    const pairs = ours.flatMap((weight) => {
      const other = byName.get(weight.name);
      return other === undefined ? [] : [[weight, other] as const];
    });
    const alike = pairs.filter(([weight, other]) => sameShape(weight, other));
    let bytes = 0;
    const totalBytes = alike.reduce((sum, [weight]) => sum + storedBytes(weight), 0);
    const tensors = await compareWeights(
      alike.map(([weight, other]) => ({ original: weight, quantized: other })),
      {
        blockElements: BLOCK_ELEMENTS,
        slots: SLOTS,
        worstRows,
        signal,
        onBlock: (weight, more, done) => {
          bytes += more;
          const [tensor, totalTensors] = [weight.name, alike.length];
          onProgress?.({ stage: 'verify', tensor, bytes: Math.round(bytes), totalBytes, tensors: done, totalTensors });
        },
      },
    );
    return summarize(tensors, {
      original,
      quantized,
      missing: ours.filter(({ name }) => !byName.has(name)).map(({ name }) => name),
      extra: theirs.filter(({ name }) => !names.has(name)).map(({ name }) => name),
      reshaped: pairs
        .filter(([weight, other]) => !sameShape(weight, other))
        .map(([weight, other]) => ({ name: weight.name, original: weight.shape, quantized: other.shape })),
      originalBytes: ours.reduce((sum, weight) => sum + storedBytes(weight), 0),
      quantizedBytes: theirs.reduce((sum, weight) => sum + storedBytes(weight), 0),
      seconds: (performance.now() - start) / 1000,
    });
  } finally {
    await Promise.all([a.close(), b.close()]);
  }
}

function summarize(
  tensors: readonly TensorComparison[],
  rest: Omit<VerificationReport, 'tensors' | 'bitsPerWeight' | 'worst'>,
): VerificationReport {
  const changed = tensors.filter(({ identical }) => !identical);
  const weights = changed.reduce((sum, { shape }) => sum + validate.product(shape), 0);
  const bytes = changed.reduce((sum, { quantizedBytes }) => sum + quantizedBytes, 0);
  const worst = changed.reduce<TensorComparison | null>((a, b) => (a === null || b.sqnrDb < a.sqnrDb ? b : a), null);
  return {
    ...rest,
    tensors,
    bitsPerWeight: weights === 0 ? 0 : (8 * bytes) / weights,
    worst: worst === null ? null : { name: worst.name, sqnrDb: worst.sqnrDb },
  };
}
