/**
 * LLM.int8(): products of bytes, but for the columns of the activations that hold outliers.
 *
 * @module
 */
/// <reference lib="esnext.disposable" preserve="true" />
import { addon, explain, type RawError, type RawFloats, runJob } from '../addon.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import { castTensor, floatAt } from '../tensor/cast.js';
import type { QuantizeInput } from '../tensor/quantize.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import { filled, handleOf, type PackedWeight, weightOfHandle } from './packed-weight.js';
import { prepack } from './prepack.js';

/** Options of {@link quantizeLlmInt8}. */
export interface QuantizeLlmInt8Options {
  /** `[rows, columns]`: for a weight, N outputs and K inputs. */
  shape: readonly [number, number];
  /** The type of the elements of a Uint16Array, which must be said: `'float16'` or `'bfloat16'`. */
  inputDtype?: 'float32' | 'float16' | 'bfloat16';
  /**
   * For activations: elements of at least this magnitude are outliers. They do not count in the absmax of their rows, and the
   * columns that hold one have codes 0 in every row. At least 0; default 0, no outliers.
   */
  threshold?: number;
  /**
   * For weights: columns that are kept in float16, in ascending order, because the activations are known to have outliers there.
   * They do not count in the absmax of any row, and their codes are 0. Default none.
   */
  outlierColumns?: ArrayLike<number>;
}

/** What {@link quantizeLlmInt8} makes of a matrix: plain data. */
export interface LlmInt8Matrix {
  /** `[rows, columns]`. */
  readonly shape: readonly [number, number];
  /** Codes from −127 to 127 in row-major order: `x ≈ code · absmax[row] / 127`. bitsandbytes calls those of a weight CB. */
  readonly codes: Int8Array;
  /** The largest magnitude of each row. bitsandbytes calls it SCB for a weight, SCA for activations. */
  readonly absmax: Float32Array;
  /** Columns whose codes are 0: those given, and those in which outliers were found; ascending. */
  readonly outlierColumns: Int32Array;
  /** The given columns as float16, `[rows, outlierColumns.length]`; null if none was given. */
  readonly outlierWeights: Uint16Array | null;
}

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

const QUANTIZE_OPTIONS: ReadonlySet<string> = new Set(['shape', 'inputDtype', 'threshold', 'outlierColumns']);
const LINEAR_OPTIONS: ReadonlySet<string> = new Set(['threshold', 'bias', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const QUANTIZE_ASYNC_OPTIONS = withSignal(QUANTIZE_OPTIONS);
const LINEAR_ASYNC_OPTIONS = withSignal(LINEAR_OPTIONS);
const PREPACK_ASYNC_OPTIONS: ReadonlySet<string> = new Set(['signal']);
/** In the order of the addon's numbers. */
const FLOAT_DTYPES = ['float32', 'float16', 'bfloat16'] as const;

/** @internal From which magnitude on activations count as outliers, unless something else is said. */
export const DEFAULT_THRESHOLD = 6;

function thresholdOf(value: unknown, fallback: number): number {
  if (value === undefined) return fallback;
  const threshold = validate.finite('threshold', value, false);
  if (threshold < 0) throw invalidArgument('threshold', 'a number of at least 0', value);
  return threshold;
}

function matrixShape(argument: string, value: unknown): readonly [number, number] {
  const shape = validate.shape(argument, value);
  if (shape.length !== 2) throw invalidArgument(argument, 'two numbers, [rows, columns],', value);
  return shape as [number, number];
}

/** Columns in ascending order. */
function columnsOf(argument: string, value: unknown, columns: number): Int32Array {
  const { length } = (value ?? {}) as ArrayLike<unknown>;
  if (typeof value !== 'object' || !Number.isSafeInteger(length) || length < 0 || length > columns) {
    throw invalidArgument(argument, `an array of at most ${columns} columns`, value);
  }
  const result = new Int32Array(length);
  for (let i = 0; i < length; i++) {
    const lowest = i === 0 ? 0 : (result[i - 1] as number) + 1;
    result[i] = validate.integer(`${argument}[${i}]`, (value as ArrayLike<unknown>)[i], lowest, columns - 1);
  }
  return result;
}

interface PreparedQuantize {
  readonly input: RawFloats;
  readonly type: number;
  readonly shape: readonly [number, number];
  readonly threshold: number;
  readonly given: Int32Array;
  readonly outlier: Uint8Array;
  readonly codes: Int8Array;
  readonly absmax: Float32Array;
}

function prepareQuantize(value: unknown, options: unknown, known: ReadonlySet<string>): PreparedQuantize {
  const given = validate.options<Record<string, unknown>>('options', options, known);
  const { data, type } = validate.floats('input', value, 'inputDtype', given['inputDtype']);
  const shape = matrixShape('shape', given['shape']);
  const [rows, columns] = shape;
  if (rows * columns !== data.length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the input, ${data.length}.`,
    );
  }
  const threshold = thresholdOf(given['threshold'], 0);
  const kept = columnsOf('outlierColumns', given['outlierColumns'] ?? [], columns);
  const outlier = validate.allocated(Uint8Array, columns);
  for (const column of kept) outlier[column] = 1;
  return {
    input: data,
    type,
    shape,
    threshold,
    given: kept,
    outlier,
    codes: validate.allocated(Int8Array, data.length),
    absmax: validate.allocated(Float32Array, rows),
  };
}

function explainedInput(error: unknown, input: RawFloats, type: number): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'input');
  const value = floatAt(input, type, index);
  return new NonFiniteError(`Expected finite numbers but received ${value} at index ${index} of input.`, index, value);
}

/** The given columns as float16. */
function keptWeights(p: PreparedQuantize, input: RawFloats): Uint16Array | null {
  const { given, shape, type } = p;
  if (given.length === 0) return null;
  const [rows, columns] = shape;
  const count = rows * given.length;
  const gathered = type === 0 ? validate.allocated(Float32Array, count) : validate.allocated(Uint16Array, count);
  for (let row = 0, i = 0; row < rows; row++) {
    for (const column of given) gathered[i++] = input[row * columns + column] as number;
  }
  const from = FLOAT_DTYPES[type] as 'float32';
  const halves = castTensor(gathered as Float32Array, { from, to: 'float16' });
  const infinite = halves.findIndex((half) => (half & 0x7c00) === 0x7c00);
  if (infinite === -1) return halves;
  const row = Math.floor(infinite / given.length);
  const column = given[infinite % given.length];
  throw new InvalidArgumentError(
    'outlierColumns',
    `Expected the elements of outlierColumns to fit float16 but that of row ${row}, column ${column} does not.`,
  );
}

function quantized(p: PreparedQuantize, input: RawFloats): LlmInt8Matrix {
  const { shape, codes, absmax, outlier } = p;
  const columns = Int32Array.from(outlier.keys()).filter((column) => outlier[column] !== 0);
  return { shape, codes, absmax, outlierColumns: columns, outlierWeights: keptWeights(p, input) };
}

/**
 * Quantizes a matrix row by row to 8 bits as LLM.int8() does: `absmax` is the largest magnitude of a row and
 * `code = round(x · (127 / absmax))`, half to even. A row of zeros, and one below 2^-110, has codes 0.
 *
 * Codes and absmax are bit for bit those of bitsandbytes (`int8_vectorwise_quant`), whose checkpoints hold them as `weight` and
 * `SCB`; but where it zeroes the columns of outliers for several rows only, the only row of a matrix has codes 0 there anyway.
 *
 * @param input - Float32Array, Float16Array, or a Uint16Array of float16 or bfloat16 as `inputDtype` says.
 * @param options - `shape`; for activations `threshold`, for weights `outlierColumns`.
 * @returns Codes and absmax; columns of outliers.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or outlier columns that do not fit float16;
 *   {@link NonFiniteError} for NaN or infinity; {@link OutOfMemoryError}.
 *
 * Sources: Dettmers et al., "LLM.int8()" (arXiv:2208.07339).
 *
 * @example
 * ```ts
 * const w = quantizeLlmInt8(new Float32Array([1, -0.5, 0.1, 4]), { shape: [2, 2] });
 * w.codes; // Int8Array [127, -64, 3, 127]
 * w.absmax; // Float32Array [1, 4]
 * ```
 */
export function quantizeLlmInt8(input: QuantizeInput, options: QuantizeLlmInt8Options): LlmInt8Matrix {
  const p = prepareQuantize(input, options, QUANTIZE_OPTIONS);
  const [rows, columns] = p.shape;
  try {
    addon.quantizeLlmInt8(p.input, p.type, rows, columns, p.threshold, p.outlier, p.codes, p.absmax);
  } catch (error) {
    throw explainedInput(error, p.input, p.type);
  }
  return quantized(p, p.input);
}

/**
 * {@link quantizeLlmInt8} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link quantizeLlmInt8}, as a rejection; the signal's reason when it aborts.
 */
export async function quantizeLlmInt8Async(
  input: QuantizeInput,
  options: QuantizeLlmInt8Options & { signal?: AbortSignal },
): Promise<LlmInt8Matrix> {
  const p = prepareQuantize(input, options, QUANTIZE_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.input);
  const [rows, columns] = p.shape;
  await runJob(
    (done) =>
      addon.quantizeLlmInt8Async(copied, p.type, rows, columns, p.threshold, p.outlier, p.codes, p.absmax, done),
    signal,
    (error) => explainedInput(error, copied, p.type),
  );
  return quantized(p, copied);
}

/** What {@link LlmInt8Weight} is made of. */
interface Parts {
  readonly codes: PackedWeight;
  readonly absmax: Float32Array;
  readonly kept: PackedWeight | null;
  readonly keptColumns: Int32Array;
}

let weightOfParts: (parts: Parts) => LlmInt8Weight;
let partsOf: (argument: string, value: LlmInt8Weight) => Parts;
let isWeight: (value: unknown) => value is LlmInt8Weight;

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

/** Fields of a matrix that came from outside. */
function checkMatrix(argument: string, value: unknown): LlmInt8Matrix {
  if (typeof value !== 'object' || value === null) {
    throw invalidArgument(argument, 'what quantizeLlmInt8 or prepackLlmInt8 made', value);
  }
  const given = value as Partial<Record<keyof LlmInt8Matrix, unknown>>;
  const shape = matrixShape(`${argument}.shape`, given.shape);
  const [rows, columns] = shape;
  const codes = validate.int8Array(`${argument}.codes`, given.codes, rows * columns);
  const absmax = validate.float32Array(`${argument}.absmax`, given.absmax, rows).slice();
  const wrong = absmax.findIndex((largest) => !(largest >= 0 && largest < Number.POSITIVE_INFINITY));
  if (wrong !== -1) {
    const expected = 'finite numbers of at least 0';
    throw invalidArgument(`${argument}.absmax`, expected, absmax[wrong]);
  }
  const outlierColumns = columnsOf(`${argument}.outlierColumns`, given.outlierColumns, columns);
  if (given.outlierWeights === null) {
    if (outlierColumns.length === 0) return { shape, codes, absmax, outlierColumns, outlierWeights: null };
    throw new InvalidArgumentError(
      `${argument}.outlierWeights`,
      `Expected ${argument}.outlierWeights for the outlier columns: weights are quantized with outlierColumns, not with a threshold.`,
    );
  }
  const outlierWeights = validate.floatsOut(
    `${argument}.outlierWeights`,
    given.outlierWeights,
    1,
    rows * outlierColumns.length,
  ) as Uint16Array;
  return { shape, codes, absmax, outlierColumns, outlierWeights };
}

function keptOf({ shape: [rows], outlierColumns, outlierWeights }: LlmInt8Matrix): PackedWeight | null {
  if (outlierWeights === null || outlierColumns.length === 0) return null;
  return prepack(outlierWeights, { shape: [rows, outlierColumns.length], dtype: 'float16' });
}

function packed(argument: string, matrix: LlmInt8Matrix): LlmInt8Weight {
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

async function packedLater(argument: string, matrix: LlmInt8Matrix, signal?: AbortSignal): Promise<LlmInt8Weight> {
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
  const given = validate.options<{ signal: unknown }>('options', options, PREPACK_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', given.signal);
  const matrix = checkMatrix('q', q);
  signal?.throwIfAborted();
  return packedLater('q', matrix, signal);
}

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
  const p = prepareLinear(x, w, options, LINEAR_OPTIONS);
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
  const p = prepareLinear(x, w, options, LINEAR_ASYNC_OPTIONS);
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
