/**
 * Exact products of bytes and ternary weights.
 *
 * @module
 */
import { addon, explain, runJob } from '../addon.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import {
  explainedDigit,
  packingOf,
  packTernary,
  type TernaryPacking,
  ternaryRowBytes,
  unpackTernary,
} from '../tensor/ternary-digits.js';
import * as validate from '../validate.js';
import type { ProductSize } from './integer-product.js';
import { checkWeight, filled, handleOf, type PackedWeight, weightOfHandle } from './packed-weight.js';

/** Options of {@link prepackTernary}. */
export interface PrepackTernaryOptions {
  /** Rows of the weight matrix: columns of the product. */
  n: number;
  /** Its columns. */
  k: number;
  /** How the digits are packed. Default `'2bit'`. */
  packing?: TernaryPacking;
}

/** Options of {@link ternaryMatmul}. */
export interface TernaryMatmulOptions extends ProductSize {
  /** `[m, n]`: the array to write to and return. It must not overlap what is read. */
  out?: Int32Array;
}

const PREPACK_OPTIONS: ReadonlySet<string> = new Set(['n', 'k', 'packing']);
const PRODUCT_OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const PREPACK_ASYNC_OPTIONS = withSignal(PREPACK_OPTIONS);
const PRODUCT_ASYNC_OPTIONS = withSignal(PRODUCT_OPTIONS);

interface Weights {
  readonly data: Uint8Array;
  readonly n: number;
  readonly k: number;
}

/** Digits as the addon packs them: at two bits. */
function weightsOf(argument: string, value: unknown, n: number, k: number, packing: TernaryPacking): Weights {
  const data = validate.uint8Array(argument, value, n * ternaryRowBytes(k, packing));
  if (packing === '2bit') return { data, n, k };
  const shape = [n, k];
  return { data: packTernary(unpackTernary(data, { shape, packing }), { shape }), n, k };
}

function preparePrepack(value: unknown, options: unknown, known: ReadonlySet<string>): Weights {
  const given = validate.options<Record<string, unknown>>('options', options, known);
  const n = validate.integer('n', given['n'], 0);
  const k = validate.integer('k', given['k'], 0);
  return weightsOf('data', value, n, k, packingOf(given['packing']));
}

function packed({ data, n, k }: Weights, argument: string): PackedWeight {
  const handle = addon.createWeight();
  try {
    addon.packTernaryWeight(handle, data, n, k);
  } catch (error) {
    throw explainedDigit(error, argument, 'only packed ternary digits');
  }
  return weightOfHandle(handle);
}

/**
 * Packs a matrix of ternary weights for {@link ternaryMatmul}, which otherwise packs it in every call.
 *
 * @param data - Digits `[n, k]` as {@link packTernary} packs them.
 * @param options - `n` and `k`; `packing`, default `'2bit'`.
 * @returns A weight of the kind `'quantized'`, at two bits a digit, with the scale 1: {@link linear} takes it as well.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or what is no digit; {@link OutOfMemoryError}.
 */
export function prepackTernary(data: Uint8Array, options: PrepackTernaryOptions): PackedWeight {
  return packed(preparePrepack(data, options, PREPACK_OPTIONS), 'data');
}

/**
 * {@link prepackTernary} off the event loop, with the same result. Data that is not in a SharedArrayBuffer is copied first.
 * (Digits in base 3 become digits of two bits before the call returns.)
 *
 * @throws As {@link prepackTernary}, as a rejection; the signal's reason when it aborts.
 */
export async function prepackTernaryAsync(
  data: Uint8Array,
  options: PrepackTernaryOptions & { signal?: AbortSignal },
): Promise<PackedWeight> {
  const p = preparePrepack(data, options, PREPACK_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const handle = addon.createWeight();
  const copied = detachedFromCaller.input(p.data);
  const start = (done: () => void) => addon.packTernaryWeightAsync(handle, copied, p.n, p.k, done);
  return filled(
    handle,
    runJob(start, signal, (error) => explainedDigit(error, 'data', 'only packed ternary digits')),
  );
}

interface Prepared {
  readonly a: Int8Array;
  readonly size: ProductSize;
  readonly w: PackedWeight | Weights;
  readonly out: Int32Array;
  readonly fresh: boolean;
}

function secondMatrix(value: unknown, { n, k }: ProductSize): PackedWeight | Weights {
  if (ArrayBuffer.isView(value)) return weightsOf('w', value, n, k, '2bit');
  const weight = checkWeight('w', value, ['quantized']);
  if (weight.rows === n && weight.cols === k) return weight;
  throw new InvalidArgumentError(
    'w',
    `Expected w to be packed from n = ${n} rows and k = ${k} columns but it has ${weight.rows} and ${weight.cols}.`,
  );
}

function prepare(aValue: unknown, wValue: unknown, options: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', options, known);
  const size = {
    m: validate.integer('m', given['m'], 0),
    n: validate.integer('n', given['n'], 0),
    k: validate.integer('k', given['k'], 0),
  };
  return {
    size,
    a: validate.int8Array('a', aValue, size.m * size.k),
    w: secondMatrix(wValue, size),
    out: validate.result(given['out'], Int32Array, size.m * size.n),
    fresh: given['out'] === undefined,
  };
}

/**
 * The exact product of bytes and ternary weights, `a · wᵀ`, as 32-bit integers: that of {@link matmulInteger}, with weights of
 * two bits.
 *
 * @param a - Integers `[m, k]` in row-major order.
 * @param w - Weights `[n, k]` as {@link packTernary} packs them at two bits a digit, or packed once by {@link prepackTernary}
 *   for many calls (or by {@link prepack} from codes of int2 with the scale 1).
 * @param options - `m`, `n` and `k`; `out`.
 * @returns `[m, n]` in row-major order, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, what is no digit, or an `out` that overlaps what is read;
 *   {@link OutOfMemoryError}.
 *
 * Sources: Ma et al., "The Era of 1-bit LLMs" (arXiv:2402.17764), whose layers multiply 8-bit activations by such weights.
 *
 * @example
 * ```ts
 * const w = packTernary(new Int8Array([1, 0, -1, 1, 1, 1]), { shape: [2, 3] });
 * ternaryMatmul(new Int8Array([5, 6, 7]), w, { m: 1, n: 2, k: 3 }); // Int32Array [-2, 18]
 * ```
 */
export function ternaryMatmul(a: Int8Array, w: Uint8Array | PackedWeight, options: TernaryMatmulOptions): Int32Array {
  const p = prepare(a, w, options, PRODUCT_OPTIONS);
  const weight = 'data' in p.w ? packed(p.w, 'w') : p.w;
  try {
    addon.ternaryMatmul(p.a, handleOf(weight), p.size.m, p.out);
  } catch (error) {
    throw explain(error, 'out');
  } finally {
    if (weight !== p.w) weight.dispose();
  }
  return p.out;
}

/**
 * {@link ternaryMatmul} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link ternaryMatmul}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function ternaryMatmulAsync(
  a: Int8Array,
  w: Uint8Array | PackedWeight,
  options: TernaryMatmulOptions & { signal?: AbortSignal },
): Promise<Int32Array> {
  const p = prepare(a, w, options, PRODUCT_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.a);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  const multiply = async (weight: PackedWeight) => {
    const start = (done: () => void) => addon.ternaryMatmulAsync(copied, handleOf(weight), p.size.m, out, done);
    await runJob(start, signal, (error) => explain(error, 'out'));
  };
  if ('data' in p.w) {
    const { data, n, k } = p.w;
    const handle = addon.createWeight();
    const own = detachedFromCaller.input(data);
    const start = (done: () => void) => addon.packTernaryWeightAsync(handle, own, n, k, done);
    const explained = (error: unknown) => explainedDigit(error, 'w', 'only packed ternary digits');
    const weight = await filled(handle, runJob(start, signal, explained));
    try {
      await multiply(weight);
    } finally {
      weight.dispose();
    }
  } else {
    await multiply(p.w);
  }
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
