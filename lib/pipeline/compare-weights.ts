/**
 * How far weights are from the original, whatever they are stored as: in blocks of rows, several under way at once.
 *
 * @module
 */
import { floatsOf } from '../checkpoint/floats.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { StoredTensor } from '../checkpoint/stored-tensor.js';
import { type RowBlock, storedBytes, type Weight } from '../checkpoint/weight.js';
import { NonFiniteError } from '../errors.js';
import {
  addSums,
  type Comparison,
  type ComparisonSums,
  compareSumsAsync,
  comparisonOf,
  noSums,
} from '../tensor/compare.js';
import { compareRowsAsync, comparesAsStored, type FloatRows, rowSums } from '../tensor/compare-rows.js';
import { leastCommonMultiple } from './task.js';
import { inParallel } from './workers.js';

/** How far a row is from the original. */
export interface RowComparison {
  /** Its number, from 0 on. */
  readonly row: number;
  /** Signal to quantization noise in decibels. */
  readonly sqnrDb: number;
  /** The largest error. */
  readonly maxAbs: number;
}

/** How far a tensor is from the original. */
export interface TensorComparison extends Comparison {
  readonly name: string;
  readonly shape: readonly number[];
  /** Types before and after: `bfloat16`, `int4`, `q4_k`. */
  readonly from: string;
  readonly to: string;
  /** What is stored for it in both, in bytes. */
  readonly originalBytes: number;
  readonly quantizedBytes: number;
  /** Bits that the quantized checkpoint stores for each weight. */
  readonly bitsPerWeight: number;
  /** Whether all values are the same, bit for bit in float32. */
  readonly identical: boolean;
  /** The rows with the lowest SQNR; none if the tensors are identical. */
  readonly worstRows: readonly RowComparison[];
}

/** A weight, and what became of it. */
export interface WeightPair {
  readonly original: Weight;
  readonly quantized: Weight;
}

/** The worst of many rows, without keeping all. */
class WorstRows {
  private readonly rows: RowComparison[] = [];

  constructor(private readonly most: number) {}

  add(row: number, { referencePower, errorPower, maxAbs }: ComparisonSums): void {
    if (errorPower === 0 || this.most === 0) return;
    const sqnrDb = 10 * Math.log10(referencePower / errorPower);
    const last = this.rows.at(-1);
    if (this.rows.length >= this.most && last !== undefined && sqnrDb >= last.sqnrDb) return;
    this.rows.push({ row, sqnrDb, maxAbs });
    this.rows.sort((a, b) => a.sqnrDb - b.sqnrDb || a.row - b.row);
    if (this.rows.length > this.most) this.rows.pop();
  }

  list(): RowComparison[] {
    return this.rows;
  }
}

/** Whether two tensors hold the same bytes. */
async function sameBytes(a: StoredTensor, b: StoredTensor, scratch: Scratch, signal: AbortSignal): Promise<boolean> {
  if (a.bytes !== b.bytes || a.dtype !== b.dtype) return false;
  const step = Math.min(a.bytes, 2 ** 21);
  for (let begin = 0; begin < a.bytes; begin += step) {
    signal.throwIfAborted();
    const length = Math.min(step, a.bytes - begin);
    const [x, y] = [scratch.bytes('input', length), scratch.bytes('other', length)];
    await Promise.all([a.read(begin, x), b.read(begin, y)]);
    if (Buffer.compare(x, y) !== 0) return false;
  }
  return true;
}

/** What has no numbers to compare is the same, or infinitely far away. */
const FAR: ComparisonSums = { ...noSums(), count: 1, errorPower: 1, maxAbs: Number.POSITIVE_INFINITY };

/** A pair under way. Blocks end in any order; their rows are added in the order of the tensor. */
class Work {
  readonly total = noSums();
  readonly worst: WorstRows;
  private readonly ended = new Map<number, Float64Array | ComparisonSums>();
  private next = 0;

  constructor(
    readonly pair: WeightPair,
    worstRows: number,
    readonly blockRows: number,
    readonly blocks: number,
  ) {
    this.worst = new WorstRows(worstRows);
  }

  /** Whether that was the last block. */
  add(index: number, sums: Float64Array | ComparisonSums): boolean {
    this.ended.set(index, sums);
    for (;;) {
      const own = this.ended.get(this.next);
      if (own === undefined) return this.next === this.blocks;
      this.ended.delete(this.next);
      if (own instanceof Float64Array) this.addRows(own, this.next * this.blockRows);
      else addSums(this.total, own);
      this.next++;
    }
  }

  private addRows(sums: Float64Array, first: number): void {
    const { columns } = this.pair.original;
    for (let row = 0; 5 * row < sums.length; row++) {
      const own = rowSums(sums, row, columns);
      addSums(this.total, own);
      this.worst.add(first + row, own);
    }
  }

  result(): TensorComparison {
    const { original, quantized } = this.pair;
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
      identical: this.total.errorPower === 0,
      ...comparisonOf(this.total),
      worstRows: this.worst.list(),
    };
  }
}

interface Block {
  readonly work: Work;
  readonly index: number;
}

/** How pairs are compared. */
export interface ComparisonSettings {
  /** Elements of a block, unless one step of rows has more. */
  readonly blockElements: number;
  /** Blocks under way at once. */
  readonly slots: number;
  /** Rows listed for each tensor. */
  readonly worstRows: number;
  readonly signal: AbortSignal | undefined;
  /** Called after each block, with the bytes of the original that it took and the tensors that are done. */
  readonly onBlock: ((weight: Weight, bytes: number, done: number) => void) | undefined;
}

function* blocksOf(
  pairs: readonly WeightPair[],
  { blockElements, worstRows }: ComparisonSettings,
): Generator<Block, void, void> {
  for (const pair of pairs) {
    const { original, quantized } = pair;
    const hasValues = original.dtype !== null && quantized.dtype !== null;
    const step = leastCommonMultiple(original.rowStep, quantized.rowStep);
    const rows = hasValues ? step * Math.max(1, Math.floor(blockElements / Math.max(1, original.columns * step))) : 1;
    const count = hasValues ? Math.max(1, Math.ceil(original.rows / rows)) : 1;
    const work = new Work(pair, worstRows, rows, count);
    for (let index = 0; index < count; index++) yield { work, index };
  }
}

/**
 * Compares pairs of weights of the same shape.
 *
 * @returns In their order. The numbers do not depend on settings, threads and instruction set.
 * @throws {@link NonFiniteError} for what is NaN or infinite on one side; the errors of {@link Weight.read}.
 */
export async function compareWeights(
  pairs: readonly WeightPair[],
  settings: ComparisonSettings,
): Promise<TensorComparison[]> {
  const { signal, slots, onBlock } = settings;
  const stop = new AbortController();
  const onAbort = () => stop.abort(signal?.reason);
  signal?.throwIfAborted();
  signal?.addEventListener('abort', onAbort);
  let done = 0;
  const results = new Map<WeightPair, TensorComparison>();
  try {
    const blocks = (async function* () {
      for (const block of blocksOf(pairs, settings)) {
        stop.signal.throwIfAborted();
        yield block;
      }
    })();
    await inParallel(blocks, slots, stop, () => {
      const [ours, theirs] = [new Scratch(), new Scratch()];
      return async ({ work, index }) => {
        const { original } = work.pair;
        const begin = index * work.blockRows;
        const end = Math.min(original.rows, begin + work.blockRows);
        const hasValues = original.dtype !== null && work.pair.quantized.dtype !== null;
        const sums = hasValues
          ? await compareBlock(work.pair, begin, end, ours, theirs, stop.signal)
          : await compareStored(work.pair, ours, stop.signal);
        if (work.add(index, sums)) {
          results.set(work.pair, work.result());
          done++;
        }
        const share = !hasValues ? 1 : original.rows === 0 ? 0 : (end - begin) / original.rows;
        onBlock?.(original, storedBytes(original) * share, done);
      };
    });
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  return pairs.map((pair) => results.get(pair) as TensorComparison);
}

async function compareStored(pair: WeightPair, scratch: Scratch, signal: AbortSignal): Promise<ComparisonSums> {
  const [a, b] = [pair.original.parts[0], pair.quantized.parts[0]];
  const same = a !== undefined && b !== undefined && (await sameBytes(a, b, scratch, signal));
  return same ? noSums() : FAR;
}

async function compareBlock(
  { original, quantized }: WeightPair,
  begin: number,
  end: number,
  ours: Scratch,
  theirs: Scratch,
  signal: AbortSignal,
): Promise<Float64Array | ComparisonSums> {
  const { columns } = original;
  const rows = end - begin;
  const floats = async (block: RowBlock, scratch: Scratch): Promise<FloatRows & RowBlock> =>
    block.kind === 'float'
      ? block
      : { kind: 'float', dtype: 'float32', data: await floatsOf(block, rows * columns, columns, scratch, signal) };
  const [ourBlock, theirBlock] = await Promise.all([
    original.read(begin, end, ours),
    quantized.read(begin, end, theirs),
  ]);
  const reference = await floats(ourBlock, ours);
  const isReordered = theirBlock.kind === 'quantized' && theirBlock.order !== null;
  const other = isReordered || !comparesAsStored(theirBlock, columns) ? await floats(theirBlock, theirs) : theirBlock;
  try {
    return await compareRowsAsync(reference, other, rows, columns, signal);
  } catch (error) {
    if ((error as { code?: string }).code !== 'NON_FINITE') throw error;
    if (hasSameBytes(reference, other)) return { ...noSums(), count: rows * columns };
    const values = await floats(other, theirs);
    const [x, y] = [await floatsIn(reference, ours), await floatsIn(values, theirs)];
    return await compareSumsAsync(x, y, signal).catch((cause: unknown) => {
      throw named(cause, original.name, begin * columns);
    });
  }

  function floatsIn(block: FloatRows & RowBlock, scratch: Scratch): Promise<Float32Array> {
    return floatsOf(block, rows * columns, columns, scratch, signal);
  }
}

function hasSameBytes(a: RowBlock, b: RowBlock): boolean {
  if (a.kind !== 'float' || b.kind !== 'float' || a.dtype !== b.dtype) return false;
  const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
    new Uint8Array(buffer, byteOffset, byteLength);
  return Buffer.compare(bytesOf(a.data), bytesOf(b.data)) === 0;
}

/** The error of a block in terms of its tensor. */
function named(error: unknown, tensor: string, first: number): unknown {
  if (!(error instanceof NonFiniteError)) return error;
  const which = error.message.includes('of reference') ? 'original' : 'quantized';
  const message = `Tensor ${tensor} of the ${which} checkpoint holds ${error.value}: there is nothing to compare with.`;
  return new NonFiniteError(message, first + error.index, error.value, tensor);
}
