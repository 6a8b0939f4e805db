/**
 * Codes and scales of other layouts as GGUF blocks with the very same values, and blocks as codes and scales.
 *
 * | block | holds exactly |
 * | --- | --- |
 * | `q4_0` | four bits without zero points, in groups of a multiple of 32, scales float16 |
 * | `q5_0` | the same in five bits: four bits with zero points among them |
 * | `q8_0` | integers of any width whose distance from the zero point fits in eight bits, the same groups and scales |
 * | `mxfp4` | MXFP4 (a −0 becomes 0) |
 *
 * @module
 */
import type { RowBlock } from '../checkpoint/weight.js';
import { packedRowBytes } from '../dtype.js';
import { blockFormatOf, type GgufType } from '../tensor/blocks.js';
import { castTensor } from '../tensor/cast.js';
import { type QuantizedTensor, unpackCodes } from '../tensor/quantized-tensor.js';
import { NoFit } from './grids.js';

/** Codes and scales of some rows, with the order of their columns. */
export interface Codes {
  readonly tensor: QuantizedTensor;
  readonly order: Int32Array | null;
}

/**
 * Codes and scales of rows, whatever they are stored in.
 *
 * @throws {@link NoFit} for floats, and for blocks with more than a scale.
 */
export function codesOf(block: RowBlock, rows: number, columns: number): Codes {
  if (block.kind === 'quantized') return block;
  if (block.kind === 'blocks') return { tensor: tensorOfBlocks(block.data, block.type, rows, columns), order: null };
  throw new NoFit('its codes and scales do not come apart');
}

/** Block types that can hold codes exactly, the smallest first. */
export const EXACT_TYPES = ['q4_0', 'q5_0', 'q8_0', 'mxfp4'] as const satisfies readonly GgufType[];
export type ExactType = (typeof EXACT_TYPES)[number];

const BLOCK = 32;

/** Distances of integer codes from their zero points, [rows, columns]. */
function distances(tensor: QuantizedTensor, groups: number, length: number): Int16Array {
  const [, columns = 0] = tensor.shape;
  const codes = unpackCodes(tensor);
  const { zeroPoints, dtype } = tensor;
  const middle = dtype.startsWith('u') ? 2 ** (Number(dtype.slice(4)) - 1) : 0;
  const out = new Int16Array(codes.length);
  for (let row = 0, i = 0; i < codes.length; row++) {
    for (let column = 0; column < columns; column++, i++) {
      const zero = zeroPoints?.[row * groups + Math.floor(column / length)] ?? middle;
      out[i] = (codes[i] as number) - zero;
    }
  }
  return out;
}

/** float16 bits of scales that are such numbers. */
function halves(scales: Float32Array): Uint16Array {
  const bits = castTensor(scales, { from: 'float32', to: 'float16' });
  const back = castTensor(bits, { from: 'float16', to: 'float32' });
  const at = back.findIndex((scale, i) => scale !== scales[i]);
  if (at !== -1) throw new NoFit(`its scale ${scales[at]} is no float16, which GGUF blocks have`);
  return bits;
}

/** Bits of a code. */
const BITS = { q4_0: 4, q5_0: 5, q8_0: 8 } as const;

function integerBlocks(tensor: QuantizedTensor, type: keyof typeof BITS): Uint8Array {
  const [, columns = 0] = tensor.shape;
  const length = tensor.granularity === 'per-group' ? (tensor.groupSize as number) : columns;
  if (tensor.granularity !== 'per-group' && tensor.granularity !== 'per-channel') {
    throw new NoFit(`its scales are ${tensor.granularity}`);
  }
  if (columns % BLOCK !== 0) throw new NoFit(`its rows of ${columns} elements are no whole blocks of ${BLOCK}`);
  if (length % BLOCK !== 0 && length < columns)
    throw new NoFit(`its groups of ${length} are no whole blocks of ${BLOCK}`);
  const groups = Math.ceil(columns / length);
  const values = distances(tensor, groups, length);
  const limit = 2 ** (BITS[type] - 1);
  if (values.some((value) => value < -limit || value >= limit)) {
    throw new NoFit(`${type} has no room for its codes and zero points`);
  }
  const scales = halves(tensor.scales);
  const { bytes } = blockFormatOf('type', type);
  const out = new Uint8Array((values.length / BLOCK) * bytes);
  for (let block = 0, at = 0; at < out.length; block++, at += bytes) {
    const first = block * BLOCK;
    const row = Math.floor(first / columns);
    const scale = scales[row * groups + Math.floor((first % columns) / length)] as number;
    out[at] = scale & 255;
    out[at + 1] = scale >> 8;
    if (type === 'q8_0') {
      for (let i = 0; i < BLOCK; i++) out[at + 2 + i] = values[first + i] as number;
      continue;
    }
    const codesAt = at + bytes - BLOCK / 2;
    for (let i = 0; i < BLOCK / 2; i++) {
      const low = (values[first + i] as number) + limit;
      const high = (values[first + 16 + i] as number) + limit;
      out[codesAt + i] = (low & 15) | ((high & 15) << 4);
      if (type === 'q4_0') continue;
      // The fifth bits lie in four bytes before the others, in the order of the elements.
      const [byte, bit] = [at + 2 + (i >> 3), i & 7];
      out[byte] = (out[byte] as number) | ((low >> 4) << bit);
      out[byte + 2] = (out[byte + 2] as number) | ((high >> 4) << bit);
    }
  }
  return out;
}

/** Element j of a block lies in the low half of byte j, element j + 16 in the high one. */
function mxfp4Blocks(tensor: QuantizedTensor): Uint8Array {
  const [rows = 0, columns = 0] = tensor.shape;
  if (columns % BLOCK !== 0) throw new NoFit(`its rows of ${columns} elements are no whole blocks of ${BLOCK}`);
  const codes = unpackCodes(tensor);
  const { bytes } = blockFormatOf('type', 'mxfp4');
  const out = new Uint8Array(((rows * columns) / BLOCK) * bytes);
  for (let block = 0, at = 0; at < out.length; block++, at += bytes) {
    out[at] = 127 + Math.round(Math.log2(tensor.scales[block] as number));
    for (let i = 0; i < 16; i++) {
      out[at + 1 + i] = (codes[block * BLOCK + i] as number) | ((codes[block * BLOCK + 16 + i] as number) << 4);
    }
  }
  return out;
}

/**
 * Blocks with the values of some rows.
 *
 * @throws {@link NoFit} if the type can't hold them exactly.
 */
export function blocksWith(tensor: QuantizedTensor, type: ExactType): Uint8Array {
  if (type === 'mxfp4') {
    if (tensor.dtype !== 'mxfp4') throw new NoFit(`${tensor.dtype} is no mxfp4`);
    return mxfp4Blocks(tensor);
  }
  if (!/^u?int\d$/.test(tensor.dtype)) throw new NoFit(`${tensor.dtype} is no ${type}`);
  return integerBlocks(tensor, type);
}

/**
 * Codes and scales of blocks, [rows, columns].
 *
 * @throws {@link NoFit} for types that have more than a scale.
 */
function tensorOfBlocks(data: Uint8Array, type: GgufType, rows: number, columns: number): QuantizedTensor {
  if (!(EXACT_TYPES as readonly GgufType[]).includes(type)) {
    throw new NoFit(`blocks of ${type} have no codes and scales of this format`);
  }
  const { bytes } = blockFormatOf('type', type);
  const blocks = data.length / bytes;
  const isBytes = type === 'q8_0' || type === 'q5_0';
  const codes = new Uint8Array(rows * packedRowBytes(columns, isBytes ? 8 : 4));
  const scales = new Float32Array(blocks);
  const bits = new Uint16Array(blocks);
  for (let block = 0, at = 0; block < blocks; block++, at += bytes) {
    if (type === 'mxfp4') scales[block] = 2 ** ((data[at] as number) - 127);
    else bits[block] = (data[at] as number) | ((data[at + 1] as number) << 8);
    const from = at + (type === 'mxfp4' ? 1 : 2);
    if (type === 'q8_0') {
      codes.set(data.subarray(from, from + BLOCK), block * BLOCK);
      continue;
    }
    if (type === 'q5_0') {
      for (let i = 0; i < BLOCK; i++) {
        const nibble = ((data[from + 4 + (i & 15)] as number) >> (i < 16 ? 0 : 4)) & 15;
        const fifth = ((data[from + (i >> 3)] as number) >> (i & 7)) & 1;
        codes[block * BLOCK + i] = (nibble | (fifth << 4)) - 16;
      }
      continue;
    }
    // Two's complement has the top bit the other way round.
    const flip = type === 'q4_0' ? 0x88 : 0;
    for (let half = 0; half < 2; half++) {
      for (let i = 0; i < 8; i++) {
        const [a, b] = [data[from + 2 * i] as number, data[from + 2 * i + 1] as number];
        const pair = half === 0 ? (a & 15) | ((b & 15) << 4) : (a >> 4) | (b & 240);
        codes[block * 16 + half * 8 + i] = pair ^ flip;
      }
    }
  }
  if (type !== 'mxfp4') castTensor(bits, { from: 'float16', to: 'float32', out: scales });
  return {
    dtype: type === 'mxfp4' ? 'mxfp4' : isBytes ? 'int8' : 'int4',
    shape: [rows, columns],
    scheme: 'symmetric',
    granularity: 'per-group',
    groupSize: BLOCK,
    data: codes,
    scales,
    zeroPoints: null,
  };
}
