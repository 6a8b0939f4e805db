/**
 * Zero points of GPTQ and AWQ, which pack them along the output channels: `qzeros` [G, N·bits/32], the first in the low
 * bits (three bits across words as well), AWQ's in the order 0, 2, 4, 6, 1, 3, 5, 7 of every eight.
 *
 * GPTQ stores `zero − 1` in its first version ("gptq") and `zero` in its second ("gptq_v2"). Readers of the first version
 * add 1 to every field of a word at once (GPTQModel: convert_gptq_v1_to_v2_format), and what a zero point of 0 borrowed
 * from the field above comes back with the carry. Three bits lie across words and are added to one by one.
 *
 * @module
 */
import type { CodeBits } from './repack.js';

/** Version 1 stores `zero − 1`, version 2 `zero`. */
export type GptqVersion = 1 | 2;

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
  version: GptqVersion,
  out: Int32Array,
): void {
  const perRow = (channels * bits) / 32;
  const mask = 2 ** bits - 1;
  const addToWords = version === 1 && bits !== 3 ? onesOf(bits) : 0;
  const addToFields = version === 1 && bits === 3 ? 1 : 0;
  for (let group = 0; group < groups; group++) {
    for (let channel = 0; channel < channels; channel++) {
      const bit = channel * bits;
      const shift = bit % 32;
      const at = group * perRow + (bit - shift) / 32;
      let field = ((words[at] as number) + addToWords) >>> shift;
      if (shift + bits > 32) field |= (words[at + 1] as number) << (32 - shift);
      out[channel * groups + group] = (field + addToFields) & mask;
    }
  }
}

/**
 * The other way round. Version 1 can't hold a zero point of 0: the caller has seen to it that there is none.
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
  for (let group = 0; group < groups; group++) {
    for (let channel = 0; channel < channels; channel++) {
      const word = words[(group * channels) / 8 + (channel >>> 3)] as number;
      out[channel * groups + group] = (word >>> (4 * (AWQ_NIBBLE[channel & 7] as number))) & 15;
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
