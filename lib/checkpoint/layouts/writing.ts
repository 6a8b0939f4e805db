/**
 * What the writers of several layouts have in common.
 *
 * @module
 */
import type { LargeFloatDtype, QuantDtype } from '../../dtype.js';
import type { QuantizedTensor, Scheme } from '../../tensor/quantized-tensor.js';
import type { SafetensorsDtype } from '../safetensors.js';
import type { Outline } from './layout.js';
import { type Sharing, scaleGrid } from './scaled-weight.js';

/** How safetensors names the large floats. */
export const STORED_FLOATS: Readonly<Record<LargeFloatDtype, SafetensorsDtype>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
};

/** The bytes of an array, in place. */
export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Where the columns of an order went: `inverse[order[i]] = i`. */
export function inverseOrder(order: Int32Array): Int32Array {
  const inverse = new Int32Array(order.length);
  for (let i = 0; i < order.length; i++) inverse[order[i] as number] = i;
  return inverse;
}

/** Sizes of groups that kernels know, from the largest. */
const USUAL_GROUPS = [256, 128, 64, 32, 16] as const;

/** Why rows can't be cut into groups of a size, where a shorter last one has no place, and what would do: a clause. */
export function groupRefusal(columns: number, groupSize: number): string | null {
  if (columns % groupSize === 0) return null;
  const fitting = USUAL_GROUPS.filter((size) => size < groupSize && columns % size === 0).slice(0, 2);
  const choices = fitting.length === 0 ? '' : `a group size of ${fitting.join(' or ')}, or `;
  return `its ${columns} inputs are no multiple of the group size, ${groupSize}: choose ${choices}a scale per channel`;
}

/**
 * Makes sure that a tensor is what a writer announced in its recipe. Integers may be signed or unsigned: a code less its
 * zero point is what counts.
 *
 * @throws RangeError
 */
export function checkEncoded(
  plan: { readonly dtype: QuantDtype; readonly scheme: Scheme; readonly sharing: Sharing },
  weight: Outline,
  tensor: QuantizedTensor,
): void {
  const fail = (what: string): never => {
    throw new RangeError(`${weight.name}: a writer of ${plan.dtype} was given ${what}`);
  };
  const [rows = 0, columns = 0] = tensor.shape;
  if (tensor.dtype !== plan.dtype && tensor.dtype !== `u${plan.dtype}`) fail(tensor.dtype);
  if (tensor.shape.length !== 2 || columns !== weight.columns) fail(`a shape of [${tensor.shape.join(', ')}]`);
  const { groups, scaleRows } = scaleGrid(rows, columns, plan.sharing);
  if (tensor.scales.length !== scaleRows * groups) fail(`${tensor.scales.length} scales for ${scaleRows} · ${groups}`);
  if (plan.scheme === 'symmetric' && tensor.zeroPoints !== null) {
    const bits = Number(plan.dtype.slice(-1));
    const zero = tensor.dtype.startsWith('uint') ? 2 ** (bits - 1) : 0;
    if (tensor.zeroPoints.some((zeroPoint) => zeroPoint !== zero)) fail('zero points for a symmetric scheme');
  }
  if (tensor.dtype === 'nvfp4' && tensor.globalScale === undefined) fail('no global scale');
}
