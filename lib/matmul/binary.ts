/**
 * Products of signs and Hamming distances of bits, by exclusive or and counting.
 *
 * @module
 */
import { addon, explain, runJob } from '../addon.js';
import { packedRowBytes } from '../dtype.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import type { ProductSize } from './integer-product.js';

/** Options of {@link binaryMatmul}. */
export interface BinaryMatmulOptions extends ProductSize {
  /** `[m, n]`: the array to write to and return. It must not overlap what is read. */
  out?: Int32Array;
}

/** Options of {@link hammingDistance}. */
export interface HammingDistanceOptions {
  /** Rows of a and of the result. */
  m: number;
  /** Rows of b, columns of the result. */
  n: number;
  /** Bits of a row. */
  bits: number;
  /** `[m, n]`: the array to write to and return. It must not overlap what is read. */
  out?: Uint32Array;
}

/** Options of {@link hammingDistanceRows}. */
export interface HammingDistanceRowsOptions {
  /** Rows of a, of b and of the result. */
  rows: number;
  /** Bits of a row. */
  bits: number;
  /** `[rows]`: the array to write to and return. It must not overlap what is read. */
  out?: Uint32Array;
}

const PRODUCT_OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'out']);
const DISTANCE_OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'bits', 'out']);
const ROWS_OPTIONS: ReadonlySet<string> = new Set(['rows', 'bits', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const PRODUCT_ASYNC_OPTIONS = withSignal(PRODUCT_OPTIONS);
const DISTANCE_ASYNC_OPTIONS = withSignal(DISTANCE_OPTIONS);
const ROWS_ASYNC_OPTIONS = withSignal(ROWS_OPTIONS);

/** Results must fit 32 bits. */
const MOST_BITS = 2 ** 31 - 1;

/** The addon's numbers for what becomes of a count. */
const PRODUCT = 0;
const DISTANCE = 1;
const DISTANCE_OF_ROWS = 2;

interface Prepared {
  readonly a: Uint8Array;
  readonly b: Uint8Array;
  readonly m: number;
  readonly n: number;
  readonly columns: number;
  readonly kind: number;
  readonly out: Int32Array | Uint32Array;
  readonly fresh: boolean;
}

function prepare(a: unknown, b: unknown, options: unknown, known: ReadonlySet<string>, kind: number): Prepared {
  const given = validate.options<Record<string, unknown>>('options', options, known);
  const rows = kind === DISTANCE_OF_ROWS;
  const m = rows ? validate.integer('rows', given['rows'], 0) : validate.integer('m', given['m'], 0);
  const n = rows ? m : validate.integer('n', given['n'], 0);
  const name = kind === PRODUCT ? 'k' : 'bits';
  const columns = validate.integer(name, given[name], 0, MOST_BITS);
  const rowBytes = packedRowBytes(columns, 1);
  const type = kind === PRODUCT ? Int32Array : Uint32Array;
  return {
    a: validate.uint8Array('a', a, m * rowBytes),
    b: validate.uint8Array('b', b, n * rowBytes),
    m,
    n,
    columns,
    kind,
    out: validate.result<Int32Array | Uint32Array>(given['out'], type, rows ? m : m * n),
    fresh: given['out'] === undefined,
  };
}

function run(p: Prepared): Int32Array | Uint32Array {
  try {
    addon.xorCounts(p.a, p.b, p.m, p.n, p.columns, p.kind, p.out);
  } catch (error) {
    throw explain(error, 'out');
  }
  return p.out;
}

async function runLater(p: Prepared, options: { signal?: AbortSignal } | undefined): Promise<Int32Array | Uint32Array> {
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const a = detachedFromCaller.input(p.a);
  const b = detachedFromCaller.input(p.b);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) => addon.xorCountsAsync(a, b, p.m, p.n, p.columns, p.kind, out, done),
    signal,
    (error) => explain(error, 'out'),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}

/**
 * The product of two matrices of signs, `a · bᵀ`, that {@link packBits} has packed: `k − 2 · popcount(a xor b)` for every
 * pair of rows, exact.
 *
 * A binary layer of XNOR-Net is this, times the scale of every row of the weights (the mean of their magnitudes) and of the
 * activations.
 *
 * @param a - Bits `[m, k]`, each row in `ceil(k / 8)` bytes; unused bits at the end of a row are ignored.
 * @param b - Bits `[n, k]`, the same: rows of b are columns of the product.
 * @param options - `m`, `n` and `k`, less than 2^31; `out`.
 * @returns `[m, n]` in row-major order, integers from −k to k, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps what is read;
 *   {@link OutOfMemoryError}.
 *
 * Sources: Rastegari et al., "XNOR-Net" (arXiv:1603.05279), section 3.2.
 *
 * @example
 * ```ts
 * const a = packBits(new Int8Array([1, -1, 1]));
 * const b = packBits(new Int8Array([1, 1, 1, -1, 1, -1]), { shape: [2, 3] });
 * binaryMatmul(a, b, { m: 1, n: 2, k: 3 }); // Int32Array [1, -3]
 * ```
 */
export function binaryMatmul(a: Uint8Array, b: Uint8Array, options: BinaryMatmulOptions): Int32Array {
  return run(prepare(a, b, options, PRODUCT_OPTIONS, PRODUCT)) as Int32Array;
}

/**
 * {@link binaryMatmul} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link binaryMatmul}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function binaryMatmulAsync(
  a: Uint8Array,
  b: Uint8Array,
  options: BinaryMatmulOptions & { signal?: AbortSignal },
): Promise<Int32Array> {
  return runLater(prepare(a, b, options, PRODUCT_ASYNC_OPTIONS, PRODUCT), options) as Promise<Int32Array>;
}

/**
 * How many bits differ, for every row of a with every row of b: the distance of binary embeddings and hashes.
 *
 * @param a - Bits `[m, bits]`, each row in `ceil(bits / 8)` bytes; unused bits at the end of a row are ignored.
 * @param b - Bits `[n, bits]`, the same.
 * @param options - `m`, `n` and `bits`, less than 2^31; `out`.
 * @returns `[m, n]` in row-major order, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps what is read;
 *   {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * hammingDistance(new Uint8Array([0b1100]), new Uint8Array([0b1010, 0b1100]), { m: 1, n: 2, bits: 4 }); // [2, 0]
 * ```
 */
export function hammingDistance(a: Uint8Array, b: Uint8Array, options: HammingDistanceOptions): Uint32Array {
  return run(prepare(a, b, options, DISTANCE_OPTIONS, DISTANCE)) as Uint32Array;
}

/**
 * {@link hammingDistance} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link hammingDistance}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function hammingDistanceAsync(
  a: Uint8Array,
  b: Uint8Array,
  options: HammingDistanceOptions & { signal?: AbortSignal },
): Promise<Uint32Array> {
  return runLater(prepare(a, b, options, DISTANCE_ASYNC_OPTIONS, DISTANCE), options) as Promise<Uint32Array>;
}

/**
 * How many bits differ between row i of a and row i of b.
 *
 * @param a - Bits `[rows, bits]`, each row in `ceil(bits / 8)` bytes; unused bits at the end of a row are ignored.
 * @param b - The same.
 * @param options - `rows` and `bits`, less than 2^31; `out`.
 * @returns `[rows]`, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps what is read;
 *   {@link OutOfMemoryError}.
 */
export function hammingDistanceRows(a: Uint8Array, b: Uint8Array, options: HammingDistanceRowsOptions): Uint32Array {
  return run(prepare(a, b, options, ROWS_OPTIONS, DISTANCE_OF_ROWS)) as Uint32Array;
}

/**
 * {@link hammingDistanceRows} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link hammingDistanceRows}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export async function hammingDistanceRowsAsync(
  a: Uint8Array,
  b: Uint8Array,
  options: HammingDistanceRowsOptions & { signal?: AbortSignal },
): Promise<Uint32Array> {
  return runLater(prepare(a, b, options, ROWS_ASYNC_OPTIONS, DISTANCE_OF_ROWS), options) as Promise<Uint32Array>;
}
