/**
 * Packed weights of LLM.int8().
 *
 * @module
 */
/// <reference lib="esnext.disposable" preserve="true" />
import { addon, explain, runJob } from '../addon.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { checkMatrix, type LlmInt8Matrix } from './llm-int8-matrix.js';
import { filled, type PackedWeight, weightOfHandle } from './packed-weight.js';
import { prepack } from './prepack.js';

const ASYNC_OPTIONS: ReadonlySet<string> = new Set(['signal']);

/** @internal What {@link LlmInt8Weight} is made of. */
export interface Parts {
  readonly codes: PackedWeight;
  readonly absmax: Float32Array;
  readonly kept: PackedWeight | null;
  readonly keptColumns: Int32Array;
}

let weightOfParts: (parts: Parts) => LlmInt8Weight;
/** @internal Its parts, unless it is disposed. */
export let partsOf: (argument: string, value: LlmInt8Weight) => Parts;
/** @internal */
export let isWeight: (value: unknown) => value is LlmInt8Weight;

/**
 * A weight for {@link llmInt8Linear} that {@link prepackLlmInt8} has packed: opaque and unchangeable. Its memory lies outside of
 * JavaScript, and is freed as that of a {@link PackedWeight} is.
 */
export class LlmInt8Weight {
  readonly #parts: Parts;

  static {
    weightOfParts = (parts) => new LlmInt8Weight(parts);
    isWeight = (value): value is LlmInt8Weight => typeof value === 'object' && value !== null && #parts in value;
    partsOf = (argument, weight) => {
      if (!weight.disposed) return weight.#parts;
      throw new InvalidArgumentError(argument, `Expected ${argument} to be in use but it has been disposed.`);
    };
  }

  private constructor(parts: Parts) {
    if (parts?.codes === undefined) {
      throw new InvalidArgumentError('LlmInt8Weight', 'An LlmInt8Weight is made by prepackLlmInt8, not by new.');
    }
    this.#parts = parts;
  }

  /** Rows of the weight matrix, N: what a row of the result has elements. */
  get rows(): number {
    return this.#parts.codes.rows;
  }

  /** Columns of the weight matrix, K: what a row of the input has elements. */
  get cols(): number {
    return this.#parts.codes.cols;
  }

  /** Bytes of memory that it takes; 0 once it is disposed. */
  get nbytes(): number {
    const { codes, kept, absmax } = this.#parts;
    return this.disposed ? 0 : codes.nbytes + (kept?.nbytes ?? 0) + absmax.byteLength;
  }

  /** Whether {@link LlmInt8Weight.dispose} was called. */
  get disposed(): boolean {
    return this.#parts.codes.disposed;
  }

  /** Frees the memory, or leaves that to the end of the last asynchronous call that uses it. */
  dispose(): void {
    this.#parts.codes.dispose();
    this.#parts.kept?.dispose();
  }

  /** The same, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function keptOf({ shape: [rows], outlierColumns, outlierWeights }: LlmInt8Matrix): PackedWeight | null {
  if (outlierWeights === null || outlierColumns.length === 0) return null;
  return prepack(outlierWeights, { shape: [rows, outlierColumns.length], dtype: 'float16' });
}

/** @internal */
export function packed(argument: string, matrix: LlmInt8Matrix): LlmInt8Weight {
  const handle = addon.createWeight();
  try {
    addon.packIntegerRows(handle, matrix.codes, ...matrix.shape);
  } catch (error) {
    throw explain(error, argument);
  }
  return partsFor(weightOfHandle(handle), matrix);
}

function partsFor(codes: PackedWeight, matrix: LlmInt8Matrix): LlmInt8Weight {
  const { absmax, outlierColumns: keptColumns } = matrix;
  return weightOfParts({ codes, absmax, kept: keptOf(matrix), keptColumns });
}

/** @internal */
export async function packedLater(
  argument: string,
  matrix: LlmInt8Matrix,
  signal?: AbortSignal,
): Promise<LlmInt8Weight> {
  const handle = addon.createWeight();
  const codes = detachedFromCaller.input(matrix.codes);
  const { outlierWeights } = matrix;
  const own = { ...matrix, outlierWeights: outlierWeights === null ? null : outlierWeights.slice() };
  const start = (done: () => void) => addon.packIntegerRowsAsync(handle, codes, ...matrix.shape, done);
  return partsFor(
    await filled(
      handle,
      runJob(start, signal, (error) => explain(error, argument)),
    ),
    own,
  );
}

/**
 * Packs a weight for {@link llmInt8Linear}, which otherwise packs it in every call.
 *
 * @param q - W[N, K] as {@link quantizeLlmInt8} made it, without a threshold; or the `weight` and `SCB` of a bitsandbytes
 *   checkpoint as `codes` and `absmax`, with no outlier columns.
 * @returns A weight with `rows` N and `cols` K. Free it with `dispose()` when it is not needed any more.
 * @throws {@link InvalidArgumentError} for fields that are missing or do not fit; {@link OutOfMemoryError}.
 */
export function prepackLlmInt8(q: LlmInt8Matrix): LlmInt8Weight {
  return packed('q', checkMatrix('q', q));
}

/**
 * {@link prepackLlmInt8} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link prepackLlmInt8}, as a rejection; the signal's reason when it aborts.
 */
export async function prepackLlmInt8Async(
  q: LlmInt8Matrix,
  options: { signal?: AbortSignal } = {},
): Promise<LlmInt8Weight> {
  const given = validate.options<{ signal: unknown }>('options', options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', given.signal);
  const matrix = checkMatrix('q', q);
  signal?.throwIfAborted();
  return packedLater('q', matrix, signal);
}
