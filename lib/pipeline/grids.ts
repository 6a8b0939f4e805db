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

/** Elements along a row that share a scale: all of them, if a scale is a row's. */
function groupLength({ granularity, groupSize, shape }: QuantizedTensor): number {
  return granularity === 'per-group' ? (groupSize as number) : (shape.at(-1) as number);
}

/** Scales and zero points for smaller groups, each of which lies in one of the larger. */
function repeated<T extends Float32Array | Int32Array>(values: T, rows: number, from: number, times: number): T {
  if (times === 1) return values;
  const out = new (values.constructor as new (length: number) => T)(rows * from * times);
  for (let i = 0; i < out.length; i++) out[i] = values[Math.floor(i / times)] as number;
  return out;
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

/** Codes in two's complement with as many bits, or in whole bytes. */
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
  const out = new Uint8Array(codes.length);
  for (let i = 0; i < out.length; i++) out[i] = (codes[i] as number) - middle;
  return out;
}

/**
 * A tensor with the same values as a layout holds it.
 *
 * @throws {@link NoFit} if it can't.
 */
export async function fitted(tensor: QuantizedTensor, recipe: Recipe): Promise<QuantizedTensor> {
  const [rows = 0, columns = 0] = tensor.shape;
  const source = integer(tensor.dtype);
  const target = integer(recipe.dtype);
  if (source === null || target === null) {
    if (tensor.dtype !== recipe.dtype) throw new NoFit(`${tensor.dtype} is no ${recipe.dtype}`);
    if (tensor.granularity !== recipe.granularity || String(tensor.blockShape) !== String(recipe.blockShape)) {
      throw new NoFit(`its scales are ${tensor.granularity}, not ${recipe.granularity}`);
    }
    if (tensor.granularity === 'per-group' && tensor.groupSize !== recipe.groupSize) {
      throw new NoFit(`its groups are of ${tensor.groupSize}, not ${recipe.groupSize}`);
    }
    if (!/^(mx|nvfp)/.test(tensor.dtype)) checkScales(tensor.scales, recipe.scaleDtype);
    return tensor;
  }
  if (source.bits > target.bits) throw new NoFit(`${tensor.dtype} has more codes than ${recipe.dtype}`);
  if (source.bits < target.bits && target.bits !== 8) throw new NoFit(`${tensor.dtype} is no ${recipe.dtype}`);
  if (tensor.granularity !== 'per-group' && (tensor.granularity !== 'per-channel' || (tensor.axis ?? 0) !== 0)) {
    throw new NoFit(`its scales are ${tensor.granularity}`);
  }
  const length = recipe.granularity === 'per-group' ? (recipe.groupSize as number) : columns;
  const own = groupLength(tensor);
  if (own < length && own < columns) throw new NoFit(`its groups are of ${own}, not ${length}`);
  const inGroup = Math.min(own, columns);
  if (inGroup % length !== 0 && inGroup > length) throw new NoFit(`groups of ${own} do not divide into ${length}`);
  const times = Math.ceil(inGroup / length);
  const groups = Math.ceil(columns / own);
  const offsets = centred(tensor, source);
  if (offsets !== null && recipe.scheme === 'symmetric') throw new NoFit('it has zero points, and the scheme has none');
  const scales = repeated(tensor.scales, rows, groups, times);
  checkScales(scales, recipe.scaleDtype);
  const { lowest } = codeTypeOf('dtype', `int${target.bits}`);
  const zeroPoints =
    recipe.scheme === 'symmetric' ? null : repeated(offsets ?? new Int32Array(rows * groups), rows, groups, times);
  if (zeroPoints?.some((zero) => zero < lowest || zero >= -lowest))
    throw new NoFit('its zero points lie outside the codes');
  return {
    dtype: `int${target.bits}` as QuantDtype,
    shape: tensor.shape,
    scheme: recipe.scheme,
    ...(recipe.granularity === 'per-group'
      ? { granularity: 'per-group', groupSize: length }
      : { granularity: 'per-channel', axis: 0 }),
    data: await signedCodes(tensor, source, target.bits),
    scales,
    zeroPoints,
  };
}
