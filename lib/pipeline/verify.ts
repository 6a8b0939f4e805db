/**
 * Comparing two checkpoints, whatever formats they have: tensor by tensor, row by row.
 *
 * @module
 */
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { floatsOf } from '../checkpoint/floats.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { StoredTensor } from '../checkpoint/stored-tensor.js';
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import { checkReadingOptions, READING_OPTIONS, type ReadingOptions, weightsOf } from '../checkpoint/weights.js';
import { InvalidArgumentError, NonFiniteError } from '../errors.js';
import {
  addSums,
  type Comparison,
  type ComparisonSums,
  compareSumsAsync,
  comparisonOf,
  noSums,
} from '../tensor/compare.js';
import * as validate from '../validate.js';
import type { Progress } from './run.js';
import { leastCommonMultiple } from './task.js';

/** Options of {@link verifyCheckpoint}. */
export interface VerifyOptions extends ReadingOptions {
  /** Rows listed for each tensor, those with the lowest SQNR first. Default 3. */
  readonly worstRows?: number;
  /** Called after each block of rows. */
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

/** How far a row is from the original. */
export interface RowComparison {
  readonly row: number;
  readonly sqnrDb: number;
  readonly maxAbs: number;
}

/** How far a tensor is from the original. */
export interface TensorComparison extends Comparison {
  readonly name: string;
  readonly shape: readonly number[];
  /** Types before and after: `bfloat16`, `int4`, `q4_k`. */
  readonly from: string;
  readonly to: string;
  readonly originalBytes: number;
  readonly quantizedBytes: number;
  /** Bits that the quantized checkpoint stores for each weight. */
  readonly bitsPerWeight: number;
  /** Whether all values are the same, bit for bit in float32. */
  readonly identical: boolean;
  /** The rows with the lowest SQNR; none if the tensors are identical. */
  readonly worstRows: readonly RowComparison[];
}

/** What {@link verifyCheckpoint} found. */
export interface VerificationReport {
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

/** Elements of a block. */
const BLOCK_ELEMENTS = 2 ** 20;

/** The worst of many rows, without keeping all. */
class WorstRows {
  private readonly rows: RowComparison[] = [];

  constructor(private readonly most: number) {}

  add(row: RowComparison): void {
    const last = this.rows.at(-1);
    if (this.most === 0 || (this.rows.length >= this.most && last !== undefined && row.sqnrDb >= last.sqnrDb)) return;
    this.rows.push(row);
    this.rows.sort((a, b) => a.sqnrDb - b.sqnrDb || a.row - b.row);
    if (this.rows.length > this.most) this.rows.pop();
  }

  list(): RowComparison[] {
    return this.rows;
  }
}

function compareRows(
  original: Float32Array,
  other: Float32Array,
  columns: number,
  first: number,
  worst: WorstRows,
): void {
  for (let begin = 0, row = first; begin < original.length; begin += columns, row++) {
    let power = 0;
    let error = 0;
    let maxAbs = 0;
    for (let i = begin; i < begin + columns; i++) {
      const x = original[i] as number;
      const distance = x - (other[i] as number);
      power += x * x;
      error += distance * distance;
      if (Math.abs(distance) > maxAbs) maxAbs = Math.abs(distance);
    }
    if (error > 0) worst.add({ row, sqnrDb: 10 * Math.log10(power / error), maxAbs });
  }
}

/** Whether two tensors hold the same bytes. */
async function sameBytes(a: StoredTensor, b: StoredTensor, signal: AbortSignal | undefined): Promise<boolean> {
  if (a.bytes !== b.bytes || a.dtype !== b.dtype) return false;
  const [x, y] = [new Uint8Array(Math.min(a.bytes, 2 ** 22)), new Uint8Array(Math.min(a.bytes, 2 ** 22))];
  for (let begin = 0; begin < a.bytes; begin += x.length) {
    signal?.throwIfAborted();
    const length = Math.min(x.length, a.bytes - begin);
    await Promise.all([a.read(begin, x.subarray(0, length)), b.read(begin, y.subarray(0, length))]);
    if (Buffer.compare(x.subarray(0, length), y.subarray(0, length)) !== 0) return false;
  }
  return true;
}

class Verification {
  private readonly ours = new Scratch();
  private readonly theirs = new Scratch();

  constructor(
    private readonly worstRows: number,
    private readonly signal: AbortSignal | undefined,
    private readonly onRows: (weight: Weight, bytes: number) => void,
  ) {}

  async compare(original: Weight, quantized: Weight): Promise<TensorComparison> {
    const worst = new WorstRows(this.worstRows);
    const sums =
      original.dtype === null || quantized.dtype === null
        ? await this.compareStored(original, quantized)
        : await this.compareValues(original, quantized, worst);
    const count = original.rows * original.columns;
    const quantizedBytes = storedBytes(quantized);
    return {
      name: original.name,
      shape: original.shape,
      from: original.encoding.dtype,
      to: quantized.encoding.dtype,
      originalBytes: storedBytes(original),
      quantizedBytes,
      bitsPerWeight: count === 0 ? 0 : (8 * quantizedBytes) / count,
      identical: sums.errorPower === 0,
      ...comparisonOf(sums),
      worstRows: worst.list(),
    };
  }

  /** What has no values to compare is the same, or infinitely far away. */
  private async compareStored(original: Weight, quantized: Weight): Promise<ComparisonSums> {
    const [a, b] = [original.parts[0], quantized.parts[0]];
    const same = a !== undefined && b !== undefined && (await sameBytes(a, b, this.signal));
    this.onRows(original, storedBytes(original));
    return same ? noSums() : { ...noSums(), count: 1, errorPower: 1, maxAbs: Number.POSITIVE_INFINITY };
  }

  private async compareValues(original: Weight, quantized: Weight, worst: WorstRows): Promise<ComparisonSums> {
    const { rows, columns } = original;
    const total = noSums();
    const step = leastCommonMultiple(original.rowStep, quantized.rowStep);
    const block = step * Math.max(1, Math.floor(BLOCK_ELEMENTS / Math.max(1, columns * step)));
    for (let begin = 0; begin < rows; begin += block) {
      this.signal?.throwIfAborted();
      const end = Math.min(rows, begin + block);
      const [a, b] = await Promise.all([
        this.floats(original, begin, end, this.ours),
        this.floats(quantized, begin, end, this.theirs),
      ]);
      addSums(
        total,
        await compareSumsAsync(a, b, this.signal).catch((error) => Promise.reject(named(error, original.name))),
      );
      if (this.worstRows > 0) compareRows(a, b, columns, begin, worst);
      this.onRows(original, rows === 0 ? 0 : (storedBytes(original) * (end - begin)) / rows);
    }
    return total;
  }

  private async floats(weight: Weight, begin: number, end: number, scratch: Scratch): Promise<Float32Array> {
    const block = await weight.read(begin, end, scratch);
    return floatsOf(block, (end - begin) * weight.columns, weight.columns, scratch, this.signal);
  }
}

/** The error of a block in terms of its tensor. */
function named(error: unknown, tensor: string): unknown {
  if (!(error instanceof NonFiniteError)) return error;
  const which = error.message.includes('of reference') ? 'original' : 'quantized';
  const message = `Tensor ${tensor} of the ${which} checkpoint holds ${error.value}: there is nothing to compare with.`;
  return new NonFiniteError(message, error.index, error.value, tensor);
}

function sameShape(a: Weight, b: Weight): boolean {
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
    const tensors: TensorComparison[] = [];
    const totalBytes = alike.reduce((sum, [weight]) => sum + storedBytes(weight), 0);
    const verification = new Verification(worstRows, signal, (weight, more) => {
      bytes += more;
      onProgress?.({
        tensor: weight.name,
        bytes: Math.round(bytes),
        totalBytes,
        tensors: tensors.length,
        totalTensors: alike.length,
      });
    });
    for (const [weight, other] of alike) tensors.push(await verification.compare(weight, other));
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
