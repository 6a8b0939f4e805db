/**
 * Matrices of LLM.int8(): bytes, row by row, but for the columns of outliers.
 *
 * @module
 */
import { addon, explain, type RawError, type RawFloats, runJob } from '../addon.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import { castTensor, floatAt } from '../tensor/cast.js';
import type { QuantizeInput } from '../tensor/quantize.js';
import * as validate from '../validate.js';

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

const OPTIONS: ReadonlySet<string> = new Set(['shape', 'inputDtype', 'threshold', 'outlierColumns']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);
/** In the order of the addon's numbers. */
const FLOAT_DTYPES = ['float32', 'float16', 'bfloat16'] as const;

/** @internal From which magnitude on activations count as outliers, unless something else is said. */
export const DEFAULT_THRESHOLD = 6;

/** @internal At least 0. */
export function thresholdOf(value: unknown, fallback: number): number {
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

/** @internal Fields of a matrix that came from outside. */
export function checkMatrix(argument: string, value: unknown): LlmInt8Matrix {
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
  const p = prepareQuantize(input, options, OPTIONS);
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
  const p = prepareQuantize(input, options, ASYNC_OPTIONS);
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
