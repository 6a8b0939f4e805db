/**
 * What the writers of GPTQ and AWQ have in common: the checks of what comes in, and scales.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { ScaleOverflowError } from '../../errors.js';
import { castTensorAsync } from '../../tensor/cast.js';
import type { QuantizedTensor, Scheme } from '../../tensor/quantized-tensor.js';
import type { SafetensorsDtype } from '../safetensors.js';
import type { Outline, Piece } from './layout.js';
import { CODE_DTYPES, type CodeBits, flipTopBits, transposeWords, wordsOf } from './repack.js';

/** How the weights of a checkpoint are quantized. */
export interface PackedSetting {
  readonly bits: CodeBits;
  readonly scheme: Scheme;
  /** Inputs that share a scale; null: all of an output channel. */
  readonly groupSize: number | null;
  /** What scales are stored in. */
  readonly scaleDtype: LargeFloatDtype;
}

export const STORED_FLOATS: Readonly<Record<LargeFloatDtype, SafetensorsDtype>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
};

const SUFFIX = '.weight';

/** `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`; null for other names. */
export function layerNameOf(weight: string): string | null {
  return weight.endsWith(SUFFIX) && weight.length > SUFFIX.length ? weight.slice(0, -SUFFIX.length) : null;
}

export function groupCount(columns: number, groupSize: number | null): number {
  return groupSize === null ? 1 : Math.ceil(columns / groupSize);
}

/** Why a weight of these sizes can't be stored, whatever its groups: a clause, or null. */
export function sizeRefusal(
  { name, rows, columns }: Outline,
  rowMultiple: number,
  columnMultiple: number,
): string | null {
  if (layerNameOf(name) === null) return 'only tensors named <layer>.weight can be stored so';
  if (rows === 0 || columns === 0) return 'it is empty';
  if (rows % rowMultiple !== 0) return `its ${rows} output channels are no multiple of ${rowMultiple}`;
  if (columns % columnMultiple !== 0) return `its ${columns} inputs are no multiple of ${columnMultiple}`;
  return null;
}

/** Codes of a tensor as unsigned words, and zero points to go with them. */
export interface UnsignedCodes {
  /** [rows, columns · bits / 32] */
  readonly words: Uint32Array;
  /** [rows, groups] */
  readonly zeroPoints: Int32Array;
}

/** Checks that a tensor is what the setting says, and makes its codes unsigned. */
export function unsignedCodes(weight: Outline, tensor: QuantizedTensor, setting: PackedSetting): UnsignedCodes {
  const { bits, groupSize } = setting;
  const [rows = 0, columns = 0] = tensor.shape;
  const groups = groupCount(columns, groupSize);
  const signed = tensor.dtype === `int${bits}`;
  const perChannel = tensor.granularity === 'per-channel' && (tensor.axis ?? 0) === 0;
  const shares = perChannel
    ? groups === 1
    : tensor.granularity === 'per-group' && groups === tensor.scales.length / rows;
  const sameGroups = perChannel || groupSize === null || tensor.groupSize === groupSize || groups === 1;
  if (!(signed || tensor.dtype === CODE_DTYPES[bits]) || columns !== weight.columns || !shares || !sameGroups) {
    throw new RangeError(`${weight.name}: ${tensor.dtype} ${tensor.granularity} is not what its writer was made for`);
  }
  const middle = 2 ** (bits - 1);
  let zeroPoints = tensor.zeroPoints;
  if (zeroPoints === null) zeroPoints = new Int32Array(rows * groups).fill(middle);
  else if (signed) zeroPoints = zeroPoints.map((zero) => zero + middle);
  if (!signed) return { words: wordsOf(tensor.data), zeroPoints };
  const words = wordsOf(tensor.data.slice());
  flipTopBits(words, bits);
  return { words, zeroPoints };
}

/** Scales of rows, [rows, groups], as they are stored: [groups, rows]. */
export async function scalesPiece(
  weight: Outline,
  begin: number,
  { scales, shape }: QuantizedTensor,
  name: string,
  scaleDtype: LargeFloatDtype,
): Promise<Piece> {
  const [rows = 0] = shape;
  const groups = scales.length / rows;
  const transposed = new Float32Array(new SharedArrayBuffer(4 * scales.length));
  const words = (floats: Float32Array) => new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  await transposeWords(words(scales), rows, groups, words(transposed));
  let stored: Float32Array | Uint16Array = transposed;
  if (scaleDtype !== 'float32') {
    stored = await castTensorAsync(transposed, { from: 'float32', to: scaleDtype });
    const infinity = scaleDtype === 'float16' ? 0x7c00 : 0x7f80;
    const at = stored.findIndex((bits) => (bits & 0x7fff) >= infinity);
    if (at !== -1) {
      const index = (begin + (at % rows)) * groups + Math.floor(at / rows);
      const message = `${weight.name}: scale ${transposed[at]} is too large for ${scaleDtype}.`;
      throw new ScaleOverflowError(message, index, weight.name);
    }
  }
  const width = stored.BYTES_PER_ELEMENT;
  const data = new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
  return { tensor: name, begin: begin * width, data, rowBytes: rows * width, stride: weight.rows * width };
}

/** Words [n, rows'] of a strip that begins at word `begin` of rows of `perRow` words. */
export function wordsPiece(tensor: string, words: Uint32Array, begin: number, width: number, perRow: number): Piece {
  const data = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
  return { tensor, begin: 4 * begin, data, rowBytes: 4 * width, stride: 4 * perRow };
}
