/**
 * Zero points of GPTQ and AWQ, which pack them along the output channels: `qzeros` [G, N·bits/32], the first in the low
 * bits (three bits across words as well), AWQ's in the order 0, 2, 4, 6, 1, 3, 5, 7 of every eight.
 *
 * GPTQ stores `zero − 1` in its first version ("gptq") and `zero` in its second ("gptq_v2"). There are two ways to subtract:
 *
 * - AutoGPTQ subtracts from every number before it packs them. Of a zero point of 0, the borrow destroys the fields above.
 * - GPTQModel packs, and then subtracts 1 from all fields of a word at once (convert_gptq_v2_to_v1_format). A zero point of 0
 *   borrows from the field above and comes back with the carry when the same is added. For three bits, what it subtracts from
 *   the three words that 32 fields lie in is not 1 in every field: its constants for the first and the third word have changed
 *   places.
 *
 * Adding to whole words reads both, but for three bits, where they differ.
 *
 * @module
 */
import type { CodeBits } from './repack.js';

/** Version 1 stores `zero − 1`, version 2 `zero`. */
export type GptqVersion = 1 | 2;

/** How zero points are stored: `v1-words` is GPTQModel's way for three bits, and `v1` for other widths. */
export type ZeroPointForm = 'v1' | 'v1-words' | 'v2';

/** What GPTQModel adds to every three words of three-bit fields. Source: gptqmodel/utils/model.py. */
const GPTQMODEL_WORDS = [0x24924924, 0x92492492, 0x49249249] as const;

/** 1 in every field of a word. */
function onesOf(bits: CodeBits): number {
  let ones = 0;
  for (let bit = 0; bit < 32; bit += bits) ones |= 1 << bit;
  return ones;
}

/**
 * Zero points of GPTQ, as codes are to be compared with them.
 *
 * @param words - [groups, channels · bits / 32]
 * @param out - [channels, groups], numbers from 0 to 2^bits − 1.
 */
export function unpackZeroPoints(
  words: Uint32Array,
  groups: number,
  channels: number,
  bits: CodeBits,
  form: ZeroPointForm,
  out: Int32Array,
): void {
  if (bits === 3) {
    unpackThreeBits(words, groups, channels, form, out);
    return;
  }
  const perWord = 32 / bits;
  const perRow = channels / perWord;
  const mask = 2 ** bits - 1;
  const ones = form === 'v2' ? 0 : onesOf(bits);
  for (let i = 0; i < perRow; i++) {
    for (let group = 0; group < groups; group++) {
      const word = ((words[group * perRow + i] as number) + ones) | 0;
      let at = i * perWord * groups + group;
      for (let shift = 0; shift < 32; shift += bits, at += groups) out[at] = (word >>> shift) & mask;
    }
  }
}

function unpackThreeBits(
  words: Uint32Array,
  groups: number,
  channels: number,
  form: ZeroPointForm,
  out: Int32Array,
): void {
  const added = form === 'v1-words' ? GPTQMODEL_WORDS : [0, 0, 0];
  const less = form === 'v1' ? 1 : 0;
  const perRow = (channels * 3) / 32;
  const row = new Uint32Array(perRow);
  for (let group = 0; group < groups; group++) {
    for (let i = 0; i < perRow; i++) row[i] = (words[group * perRow + i] as number) + (added[i % 3] as number);
    for (let channel = 0; channel < channels; channel++) {
      const shift = (3 * channel) % 32;
      const word = (3 * channel - shift) / 32;
      const field = ((row[word] as number) >>> shift) | (shift > 29 ? (row[word + 1] as number) << (32 - shift) : 0);
      out[channel * groups + group] = (field + less) & 7;
    }
  }
}

/**
 * The other way round, version 1 as AutoGPTQ has it, which can't hold a zero point of 0: the caller has seen to it that there
 * is none.
 *
 * @param zeroPoints - [channels, groups]
 * @param words - [groups, channels · bits / 32]
 */
export function packZeroPoints(
  zeroPoints: Int32Array,
  groups: number,
  channels: number,
  bits: CodeBits,
  version: GptqVersion,
  words: Uint32Array,
): void {
  const perRow = (channels * bits) / 32;
  const less = version === 1 ? 1 : 0;
  words.fill(0);
  for (let group = 0; group < groups; group++) {
    for (let channel = 0; channel < channels; channel++) {
      const field = (zeroPoints[channel * groups + group] as number) - less;
      const bit = channel * bits;
      const shift = bit % 32;
      const at = group * perRow + (bit - shift) / 32;
      words[at] = (words[at] as number) | (field << shift);
      if (shift + bits > 32) words[at + 1] = (words[at + 1] as number) | (field >>> (32 - shift));
    }
  }
}

/** The nibble of an AWQ word that channel 0 … 7 of eight lies in. */
const AWQ_NIBBLE = [0, 4, 1, 5, 2, 6, 3, 7] as const;

/** AWQ's zero points, [groups, channels / 8] words to [channels, groups] numbers from 0 to 15. */
export function unpackAwqZeroPoints(words: Uint32Array, groups: number, channels: number, out: Int32Array): void {
  const perRow = channels / 8;
  for (let i = 0; i < perRow; i++) {
    for (let group = 0; group < groups; group++) {
      const word = words[group * perRow + i] as number;
      for (let c = 0; c < 8; c++) {
        out[(8 * i + c) * groups + group] = (word >>> (4 * (AWQ_NIBBLE[c] as number))) & 15;
      }
    }
  }
}

/** {@link unpackAwqZeroPoints} the other way round. */
export function packAwqZeroPoints(zeroPoints: Int32Array, groups: number, channels: number, words: Uint32Array): void {
  words.fill(0);
  for (let group = 0; group < groups; group++) {
    for (let channel = 0; channel < channels; channel++) {
      const at = (group * channels) / 8 + (channel >>> 3);
      const field = zeroPoints[channel * groups + group] as number;
      words[at] = (words[at] as number) | (field << (4 * (AWQ_NIBBLE[channel & 7] as number)));
    }
  }
}
