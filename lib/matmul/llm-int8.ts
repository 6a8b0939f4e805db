/**
 * LLM.int8(): products of bytes, but for the columns of the activations that hold outliers.
 *
 * @module
 */
import { addon, runJob } from '../addon.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import { checkMatrix, DEFAULT_THRESHOLD, type LlmInt8Matrix, thresholdOf } from './llm-int8-matrix.js';
import { isWeight, type LlmInt8Weight, type Parts, packed, packedLater, partsOf } from './llm-int8-weight.js';
import { handleOf } from './packed-weight.js';

/** Options of {@link llmInt8Linear}. */
export interface LlmInt8LinearOptions {
  /**
   * Columns of x that hold an element of at least this magnitude are multiplied in float32. At least 0; 0 means none. Default 6,
   * as in the paper.
   */
  threshold?: number;
  /** `[N]`, added to every row of the result. */
  bias?: Float32Array;
  /** `[M, N]`: the array to write to and return. It must not overlap what is read. */
  out?: Float32Array;
}

const OPTIONS: ReadonlySet<string> = new Set(['threshold', 'bias', 'out']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface PreparedLinear {
  readonly x: Float32Array;
  readonly w: LlmInt8Weight | LlmInt8Matrix;
  readonly threshold: number;
  readonly bias: Float32Array | null;
  readonly out: Float32Array;
  readonly fresh: boolean;
}

function prepareLinear(xValue: unknown, wValue: unknown, options: unknown, known: ReadonlySet<string>): PreparedLinear {
  const given = validate.options<Record<string, unknown>>('options', options ?? {}, known);
  const x = validate.float32Array('x', xValue);
  if (isWeight(wValue)) partsOf('w', wValue);
  const w = isWeight(wValue) ? wValue : checkMatrix('w', wValue);
  const [rows, cols] = isWeight(w) ? [w.rows, w.cols] : w.shape;
  const m = x.length === 0 ? 0 : x.length / cols;
  if (!Number.isInteger(m)) {
    throw new InvalidArgumentError(
      'x',
      `Expected x to have whole rows of ${cols} elements, as the weight has columns, but its length is ${x.length}.`,
    );
  }
  const { bias, out } = given;
  return {
    x,
    w,
    threshold: thresholdOf(given['threshold'], DEFAULT_THRESHOLD),
    bias: bias === undefined ? null : validate.float32Array('bias', bias, rows),
    out: validate.result(out, Float32Array, m * rows),
    fresh: out === undefined,
  };
}

/**
 * A linear layer as LLM.int8() computes it, `y = x·Wᵀ + bias`: columns of x in which an element has at least the magnitude
 * `threshold` are multiplied in float32, with their weights dequantized; the others are quantized row by row, to 8 bits
 * ({@link quantizeLlmInt8}), and multiplied exactly as integers: `sum · (absmax of x's row / 127) · (absmax of w's row / 127)`.
 * Columns that the weight keeps in float16 are multiplied in float32 whatever x holds.
 *
 * The sum of a product of bytes is exact; its scales and the bias add a few roundings of 2^-24, and so does every column of
 * floats, in the order of columns found and then of columns kept. (bitsandbytes rounds more: to float16 before it adds both.)
 * Rows of zeros give the bias. The result is the same on every processor and for any number of threads.
 *
 * @param x - Activations `[M, K]` in row-major order: whole rows, or none.
 * @param w - W[N, K] from {@link prepackLlmInt8}, or as {@link quantizeLlmInt8} made it.
 * @returns `[M, N]` in row-major order, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, a disposed weight, or an `out` that overlaps what is read;
 *   {@link NonFiniteError} for NaN or infinity in x; {@link OutOfMemoryError}.
 *
 * Sources: Dettmers et al., "LLM.int8()" (arXiv:2208.07339).
 *
 * @example
 * ```ts
 * const w = prepackLlmInt8(quantizeLlmInt8(weights, { shape: [n, k] }));
 * const y = llmInt8Linear(x, w, { bias }); // x: [m, k], y: [m, n]
 * ```
 */
export function llmInt8Linear(
  x: Float32Array,
  w: LlmInt8Weight | LlmInt8Matrix,
  options?: LlmInt8LinearOptions,
): Float32Array {
  const p = prepareLinear(x, w, options, OPTIONS);
  const weight = isWeight(p.w) ? p.w : packed('w', p.w);
  const { codes, absmax, kept, keptColumns } = partsOf('w', weight);
  const keptHandle = kept === null ? null : handleOf(kept);
  try {
    addon.llmInt8Linear(p.x, handleOf(codes), absmax, keptHandle, keptColumns, p.threshold, p.bias, p.out);
  } catch (error) {
    throw explained(error, 'out', p.x);
  } finally {
    if (weight !== p.w) weight.dispose();
  }
  return p.out;
}

/**
 * {@link llmInt8Linear} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link llmInt8Linear}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function llmInt8LinearAsync(
  x: Float32Array,
  w: LlmInt8Weight | LlmInt8Matrix,
  options?: LlmInt8LinearOptions & { signal?: AbortSignal },
): Promise<Float32Array> {
  const p = prepareLinear(x, w, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.x);
  const bias = p.bias === null ? null : detachedFromCaller.input(p.bias);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  const multiply = ({ codes, absmax, kept, keptColumns }: Parts) => {
    const keptHandle = kept === null ? null : handleOf(kept);
    return runJob(
      (done) =>
        addon.llmInt8LinearAsync(
          copied,
          handleOf(codes),
          absmax,
          keptHandle,
          keptColumns,
          p.threshold,
          bias,
          out,
          done,
        ),
      signal,
      (error) => explained(error, 'out', copied),
    );
  };
  if (isWeight(p.w)) {
    await multiply(partsOf('w', p.w));
  } else {
    const weight = await packedLater('w', p.w, signal);
    try {
      await multiply(partsOf('w', weight));
    } finally {
      weight.dispose();
    }
  }
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
