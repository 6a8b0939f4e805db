/**
 * Whether one layout can hold the very values of another one, and the codes and scales that do.
 *
 * @module
 */
import type { Recipe } from '../checkpoint/layouts/layout.js';
import { codeTypeOf, type LargeFloatDtype, packedRowBytes, type QuantDtype } from '../dtype.js';
import { castTensor } from '../tensor/cast.js';
import { moveFieldsAsync } from '../tensor/fields.js';
import { type QuantizedTensor, unpackCodes } from '../tensor/quantized-tensor.js';

/** Why values can't be held exactly: a clause. */
export class NoFit extends Error {}

const INTEGER = /^(u?)int(\d)$/;

function integer(dtype: QuantDtype): { bits: number; signed: boolean } | null {
  const match = INTEGER.exec(dtype);
  return match === null ? null : { bits: Number(match[2]), signed: match[1] === '' };
}

/** Scales or zero points of a tensor, as another way of sharing them has them. */
type Regrouping = <T extends Float32Array | Int32Array>(values: T) => T;

/**
 * The way from a tensor's groups to those of a recipe, each of which lies in one of the tensor's.
 *
 * @throws {@link NoFit} if they do not.
 */
function regrouping(tensor: QuantizedTensor, recipe: Recipe): Regrouping {
  const [rows = 0, columns = 0] = tensor.shape;
  const { granularity, blockShape } = tensor;
  const own = granularity === 'per-group' ? (tensor.groupSize as number) : columns;
  const length = recipe.granularity === 'per-group' ? (recipe.groupSize as number) : columns;
  if (granularity === recipe.granularity && own === length) {
    if (String(blockShape) === String(recipe.blockShape)) return (values) => values;
    throw new NoFit(`its blocks are of ${blockShape?.join(' × ')}, not ${recipe.blockShape?.join(' × ')}`);
  }
  const shared = granularity === 'per-tensor';
  const isOfRows = granularity === 'per-group' || (granularity === 'per-channel' && (tensor.axis ?? 0) === 0);
  if (!(isOfRows || shared) || (recipe.granularity !== 'per-group' && recipe.granularity !== 'per-channel')) {
    throw new NoFit(`its scales are ${granularity}, not ${recipe.granularity}`);
  }
  const from = Math.max(1, Math.min(own, columns));
  const to = Math.max(1, Math.min(length, columns));
  if (from < to) throw new NoFit(`its groups are of ${from}, not ${length}`);
  if (from < columns && from % to !== 0) throw new NoFit(`groups of ${from} do not divide into ${length}`);
  const [before, after] = [Math.ceil(columns / from), Math.ceil(columns / to)];
  return <T extends Float32Array | Int32Array>(values: T): T => {
    const out = new (values.constructor as new (count: number) => T)(rows * after);
    for (let row = 0, at = 0; row < rows; row++) {
      const first = shared ? 0 : row * before;
      for (let group = 0; group < after; group++, at++) {
        out[at] = values[first + Math.floor((group * to) / from)] as number;
      }
    }
    return out;
  };
}

/** How a recipe says that scales are shared, in the words of a tensor. */
function sharingOf({
  granularity,
  groupSize,
  blockShape,
}: Recipe): Pick<QuantizedTensor, 'granularity' | 'axis' | 'groupSize' | 'blockShape'> {
  return {
    granularity,
    ...(granularity === 'per-channel' ? { axis: 0 } : {}),
    ...(groupSize === undefined ? {} : { groupSize }),
    ...(blockShape === undefined ? {} : { blockShape }),
  };
}

/** Scales in the type that stores them, if that loses nothing. */
function checkScales(scales: Float32Array, dtype: LargeFloatDtype): void {
  if (dtype === 'float32') return;
  const stored = castTensor(scales, { from: 'float32', to: dtype });
  const back = castTensor(stored, { from: dtype, to: 'float32' });
  const at = back.findIndex((scale, i) => scale !== scales[i]);
  if (at !== -1) throw new NoFit(`its scale ${scales[at]} is no ${dtype}`);
}

/** Zero points as differences from the middle of the codes. */
function centred(tensor: QuantizedTensor, { bits, signed }: { bits: number; signed: boolean }): Int32Array | null {
  const { zeroPoints } = tensor;
  if (zeroPoints === null) return null;
  const middle = signed ? 0 : 2 ** (bits - 1);
  const values = zeroPoints.map((zero) => zero - middle);
  return values.some((zero) => zero !== 0) ? values : null;
}

/** Codes in rows that start on bytes, the first in the low bits. */
function packed(codes: Int16Array, rows: number, columns: number, bits: number): Uint8Array {
  const stride = packedRowBytes(columns, bits);
  const out = new Uint8Array(new SharedArrayBuffer(rows * stride));
  const mask = 2 ** bits - 1;
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, i++) {
      const field = (codes[i] as number) & mask;
      const bit = column * bits;
      const at = row * stride + (bit >> 3);
      out[at] = (out[at] as number) | (field << (bit & 7));
      if ((bit & 7) + bits > 8) out[at + 1] = (out[at + 1] as number) | (field >> (8 - (bit & 7)));
    }
  }
  return out;
}

/**
 * Codes in two's complement with so many bits.
 *
 * @throws {@link NoFit} if one is too large for that.
 */
async function signedCodes(
  tensor: QuantizedTensor,
  from: { bits: number; signed: boolean },
  bits: number,
): Promise<Uint8Array> {
  const [rows = 0, columns = 0] = tensor.shape;
  if (bits === from.bits) {
    if (from.signed) return tensor.data;
    const stride = packedRowBytes(columns, bits);
    const out = new Uint8Array(new SharedArrayBuffer(rows * stride));
    return moveFieldsAsync(
      tensor.data,
      { rows, columns, bits },
      { inStride: stride, outStride: stride, flip: true },
      out,
    );
  }
  const codes = unpackCodes(tensor);
  const middle = from.signed ? 0 : 2 ** (from.bits - 1);
  const signed = Int16Array.from(codes, (code) => code - middle);
  const limit = 2 ** (bits - 1);
  if (bits < from.bits && signed.some((code) => code < -limit || code >= limit)) {
    throw new NoFit(`int${from.bits} has more codes than int${bits}`);
  }
  return packed(signed, rows, columns, bits);
}

/**
 * A tensor with the same values as a layout holds it.
 *
 * @throws {@link NoFit} if it can't.
 */
export async function fitted(tensor: QuantizedTensor, recipe: Recipe): Promise<QuantizedTensor> {
  if (recipe.nested === true) throw new NoFit('its scales would be quantized again');
  const source = integer(tensor.dtype);
  const target = integer(recipe.dtype);
  if (source === null || target === null) return fittedCodebook(tensor, recipe);
  const regroup = regrouping(tensor, recipe);
  const offsets = centred(tensor, source);
  if (offsets !== null && recipe.scheme === 'symmetric') throw new NoFit('it has zero points, and the scheme has none');
  const data = await signedCodes(tensor, source, target.bits);
  const scales = regroup(tensor.scales);
  checkScales(scales, recipe.scaleDtype);
  let zeroPoints: Int32Array | null = null;
  if (recipe.scheme === 'asymmetric') {
    zeroPoints = regroup(offsets ?? new Int32Array(tensor.scales.length));
    checkZeroPoints(zeroPoints, target.bits, recipe);
  }
  return {
    dtype: `int${target.bits}` as QuantDtype,
    shape: tensor.shape,
    scheme: recipe.scheme,
    ...sharingOf(recipe),
    data,
    scales,
    zeroPoints,
  };
}

/** Zero points less the middle of the codes must be codes less the middle themselves. */
function checkZeroPoints(zeroPoints: Int32Array, bits: number, { noLowestZeroPoint = false }: Recipe): void {
  const { lowest } = codeTypeOf('dtype', `int${bits}` as QuantDtype);
  if (zeroPoints.some((zero) => zero < lowest || zero >= -lowest)) {
    throw new NoFit('its zero points lie outside the codes');
  }
  if (noLowestZeroPoint && zeroPoints.includes(lowest)) {
    throw new NoFit('it has a zero point of 0, for which version 1 of GPTQ has no room (gptq_v2 has)');
  }
}

/** {@link fitted} for codes that stand for values of a table. */
function fittedCodebook(tensor: QuantizedTensor, recipe: Recipe): QuantizedTensor {
  const { dtype, shape, scheme, data, zeroPoints } = tensor;
  if (dtype !== recipe.dtype) {
    const [from, to] = [dtype, recipe.dtype].map((name) => name.replace(/^u(?=int)/, ''));
    throw new NoFit(`${from} is no ${to}`);
  }
  if (dtype === 'nvfp4') checkNested(tensor);
  if (/^(mx|nvfp)/.test(dtype)) return tensor;
  checkScales(tensor.scales, recipe.scaleDtype);
  const scales = regrouping(tensor, recipe)(tensor.scales);
  return { dtype, shape, scheme, ...sharingOf(recipe), data, scales, zeroPoints };
}

/** Scales of NVFP4 are an E4M3 number divided by that of the tensor. */
function checkNested({ scales, globalScale = 1 }: QuantizedTensor): void {
  const numbers = castTensor(
    scales.map((scale) => scale * globalScale),
    { from: 'float32', to: 'float8_e4m3fn' },
  );
  const back = castTensor(numbers, { from: 'float8_e4m3fn', to: 'float32' });
  const at = back.findIndex((number, i) => Math.fround(number / globalScale) !== scales[i]);
  if (at !== -1) throw new NoFit(`its scale ${scales[at]} is no E4M3 number divided by ${globalScale}`);
}
