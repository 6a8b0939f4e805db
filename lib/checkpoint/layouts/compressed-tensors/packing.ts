/**
 * How pack-quantized lays codes of 1 to 8 bits into 32-bit words: offset binary (code + 2^(b−1)), the first code in the low
 * bits. Since June 2026 (0.18.0) there are no gaps, and a code may straddle two words; before, a word held ⌊32/b⌋ codes
 * and its other bits were zero. For 1, 2, 4 and 8 bits that is the same.
 *
 * Source: vllm-project/compressed-tensors ac8e2ba8 and 0.12.2, pack_to_int32.
 *
 * @module
 */
import type { Scratch } from '../../scratch.js';
import type { StoredTensor } from '../../stored-tensor.js';
import { layoutError, shown } from '../parts.js';

/** Without gaps, or so many codes in every word. */
export type Packing = 'dense' | 'padded';

/** 32-bit words for `count` codes. */
export function wordsFor(count: number, bits: number, packing: Packing): number {
  // count · bits may pass 2^53
  if (packing === 'padded') return Math.ceil(count / Math.floor(32 / bits));
  return Math.floor(count / 32) * bits + Math.ceil(((count % 32) * bits) / 32);
}

/** The packings whose rows have this many words. */
export function packingsOf(columns: number, words: number, bits: number): Packing[] {
  if (32 % bits === 0) return wordsFor(columns, bits, 'dense') === words ? ['dense'] : [];
  return (['dense', 'padded'] as const).filter((packing) => wordsFor(columns, bits, packing) === words);
}

/** Which version changed the packing; null if a version's name does not tell. */
export function packingOfVersion(version: string | null): Packing | null {
  const parts = /^(\d+)\.(\d+)(?:\.(\d+))?(.*)$/.exec(version ?? '');
  if (parts === null) return null;
  const [major, minor] = [Number(parts[1]), Number(parts[2])];
  if (major > 0 || minor > 18) return 'dense';
  if (minor < 17) return 'padded';
  // 0.17.2a20260701 and 0.18.0a…: built from the sources of a day
  const day = /a(\d{8})/.exec(parts[4] ?? '')?.[1];
  if (day !== undefined) return Number(day) > 20260622 ? 'dense' : Number(day) < 20260622 ? 'padded' : null;
  return minor === 18 ? 'dense' : 'padded';
}

/** The bits of each word of a row that a packing leaves zero. */
function unusedBits(columns: number, bits: number, packing: Packing): Uint32Array {
  const words = wordsFor(columns, bits, packing);
  const unused = new Uint32Array(words);
  const perWord = Math.floor(32 / bits);
  for (let word = 0; word < words; word++) {
    const used = packing === 'dense' ? columns * bits - 32 * word : Math.min(perWord, columns - perWord * word) * bits;
    unused[word] = used >= 32 ? 0 : -(2 ** used);
  }
  return unused;
}

/** A way in which words can be read. */
export interface Reading {
  readonly bits: number;
  readonly packing: Packing;
}

/** So many words are looked at in one go. */
const WORDS_AT_ONCE = 1 << 18;

/**
 * The readings of packed rows that their words allow: a bit that a reading leaves unused is zero.
 *
 * @param tensor - Shape [rows, words] of I32.
 */
export async function possibleReadings(
  tensor: StoredTensor,
  columns: number,
  readings: readonly Reading[],
): Promise<Reading[]> {
  const [rows = 0, words = 0] = tensor.shape;
  let left = readings.map((reading) => ({ reading, unused: unusedBits(columns, reading.bits, reading.packing) }));
  const step = Math.max(1, Math.floor(WORDS_AT_ONCE / words));
  for (let begin = 0; begin < rows && left.length > 1; begin += step) {
    const count = Math.min(rows, begin + step) - begin;
    const block = new Uint32Array(count * words);
    await tensor.read(4 * begin * words, new Uint8Array(block.buffer));
    left = left.filter(({ unused }) => block.every((word, i) => (word & (unused[i % words] as number)) === 0));
  }
  return left.map(({ reading }) => reading);
}

/**
 * Zero points of rows `begin` … `end` as they are stored, 0 … 2^b − 1, from words that hold them packed along the rows.
 *
 * @param tensor - Shape [⌈rows · b / 32⌉, groups] of I32 (padded: [⌈rows / ⌊32/b⌋⌉, groups]).
 */
export async function unpackZeroPoints(
  tensor: StoredTensor,
  { bits, packing }: Reading,
  begin: number,
  end: number,
  scratch: Scratch,
): Promise<Int32Array> {
  const groups = tensor.shape[1] as number;
  const out = scratch.integers('zero points', (end - begin) * groups);
  if (begin === end) return out;
  const perWord = Math.floor(32 / bits);
  const bitOf = (row: number) =>
    packing === 'dense' ? row * bits : 32 * Math.floor(row / perWord) + (row % perWord) * bits;
  const firstWord = Math.floor(bitOf(begin) / 32);
  const lastWord = Math.floor((bitOf(end - 1) + bits - 1) / 32);
  const count = (lastWord - firstWord + 1) * groups;
  await tensor.read(4 * firstWord * groups, scratch.bytes('zero points stored', 4 * count));
  const words = scratch.integers('zero points stored', count);
  const mask = 2 ** bits - 1;
  for (let row = begin; row < end; row++) {
    const bit = bitOf(row) - 32 * firstWord;
    const shift = bit % 32;
    const from = Math.floor(bit / 32) * groups;
    const straddles = shift + bits > 32;
    const to = (row - begin) * groups;
    for (let group = 0; group < groups; group++) {
      let value = (words[from + group] as number) >>> shift;
      if (straddles) value |= (words[from + groups + group] as number) << (32 - shift);
      out[to + group] = value & mask;
    }
  }
  return out;
}

/**
 * Zero points [rows, groups], 0 … 2^b − 1, as `weight_zero_point` stores them: packed along the rows without gaps.
 *
 * @returns The bytes of [⌈rows · b / 32⌉, groups] words.
 */
export function packZeroPointFields(zeroPoints: Int32Array, rows: number, groups: number, bits: number): Uint8Array {
  const words = new Int32Array(wordsFor(rows, bits, 'dense') * groups);
  for (let row = 0; row < rows; row++) {
    const bit = row * bits;
    const shift = bit % 32;
    const to = Math.floor(bit / 32) * groups;
    const straddles = shift + bits > 32;
    for (let group = 0; group < groups; group++) {
      const value = zeroPoints[row * groups + group] as number;
      words[to + group] = (words[to + group] as number) | (value << shift);
      if (straddles) words[to + groups + group] = (words[to + groups + group] as number) | (value >>> (32 - shift));
    }
  }
  return new Uint8Array(words.buffer);
}

/** Rows after which packed zero points begin a word again. */
export function zeroPointStep(bits: number): number {
  let step = 1;
  while ((step * bits) % 32 !== 0) step *= 2;
  return step;
}

/** `weight_shape`. */
export function packShape(rows: number, columns: number): Uint8Array {
  return new Uint8Array(new BigInt64Array([BigInt(rows), BigInt(columns)]).buffer);
}

/** The [rows, columns] that `weight_shape` holds. */
export async function readShape(tensor: StoredTensor): Promise<[number, number]> {
  const width = tensor.dtype === 'I64' ? 8 : tensor.dtype === 'I32' ? 4 : 0;
  if (width === 0) throw layoutError('LAYOUT_DTYPE', tensor, `expected I64, but it has ${tensor.dtype}`);
  if (tensor.bytes !== 2 * width) {
    throw layoutError('LAYOUT_SHAPE', tensor, `expected two numbers, but it has the shape ${shown(tensor.shape)}`);
  }
  const bytes = new Uint8Array(2 * width);
  await tensor.read(0, bytes);
  const view = new DataView(bytes.buffer);
  const dims = [0, width].map((at) => (width === 8 ? Number(view.getBigInt64(at, true)) : view.getInt32(at, true)));
  const [rows = 0, columns = 0] = dims;
  if (rows >= 1 && columns >= 1 && Number.isSafeInteger(rows * columns)) return [rows, columns];
  throw layoutError('LAYOUT_SHAPE', tensor, `expected the rows and columns of a weight, but it holds ${shown(dims)}`);
}
