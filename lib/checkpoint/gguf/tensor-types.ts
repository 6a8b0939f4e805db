/**
 * The tensor types of GGUF files, all that ggml knows: those that lowbit decodes and those that it can only carry.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import type { GgufType } from '../../tensor/blocks.js';

/** A type of tensor in a GGUF file. Source: ggml's `enum ggml_type` and type traits, August 2026. */
export interface GgufTensorType {
  /** ggml's number, as files store it. */
  readonly id: number;
  /** ggml's name in lower case: `q4_k`, `f32`. */
  readonly name: string;
  /** Elements of a block; 1 for types without blocks. Rows hold whole blocks. */
  readonly blockLength: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
}

const TYPES: readonly GgufTensorType[] = (
  [
    [0, 'f32', 1, 4],
    [1, 'f16', 1, 2],
    [2, 'q4_0', 32, 18],
    [3, 'q4_1', 32, 20],
    [6, 'q5_0', 32, 22],
    [7, 'q5_1', 32, 24],
    [8, 'q8_0', 32, 34],
    [9, 'q8_1', 32, 36],
    [10, 'q2_k', 256, 84],
    [11, 'q3_k', 256, 110],
    [12, 'q4_k', 256, 144],
    [13, 'q5_k', 256, 176],
    [14, 'q6_k', 256, 210],
    [15, 'q8_k', 256, 292],
    [16, 'iq2_xxs', 256, 66],
    [17, 'iq2_xs', 256, 74],
    [18, 'iq3_xxs', 256, 98],
    [19, 'iq1_s', 256, 50],
    [20, 'iq4_nl', 32, 18],
    [21, 'iq3_s', 256, 110],
    [22, 'iq2_s', 256, 82],
    [23, 'iq4_xs', 256, 136],
    [24, 'i8', 1, 1],
    [25, 'i16', 1, 2],
    [26, 'i32', 1, 4],
    [27, 'i64', 1, 8],
    [28, 'f64', 1, 8],
    [29, 'iq1_m', 256, 56],
    [30, 'bf16', 1, 2],
    [34, 'tq1_0', 256, 54],
    [35, 'tq2_0', 256, 66],
    [39, 'mxfp4', 32, 17],
    [40, 'nvfp4', 64, 36],
    [41, 'q1_0', 128, 18],
    [42, 'q2_0', 64, 18],
  ] as const
).map(([id, name, blockLength, blockBytes]) => ({ id, name, blockLength, blockBytes }));

const BY_ID: (GgufTensorType | undefined)[] = [];
for (const type of TYPES) BY_ID[type.id] = type;
const BY_NAME: ReadonlyMap<string, GgufTensorType> = new Map(TYPES.map((type) => [type.name, type]));

/** Types that files had once; their numbers are not given away again. */
const REMOVED: ReadonlyMap<number, string> = new Map([
  [4, 'Q4_2'],
  [5, 'Q4_3'],
  [31, 'Q4_0_4_4'],
  [32, 'Q4_0_4_8'],
  [33, 'Q4_0_8_8'],
  [36, 'IQ4_NL_4_4'],
  [37, 'IQ4_NL_4_8'],
  [38, 'IQ4_NL_8_8'],
]);

/** The type with this number, or undefined. */
export function tensorTypeOf(id: number): GgufTensorType | undefined {
  return BY_ID[id];
}

/** The type with this name, or undefined. */
export function tensorTypeNamed(name: string): GgufTensorType | undefined {
  return BY_NAME.get(name);
}

/** The name of a type that ggml has removed, or undefined. */
export function removedTypeName(id: number): string | undefined {
  return REMOVED.get(id);
}

/** Elements that share a scale, and the float type that holds all values of a block without overflow. */
interface DecodedType {
  readonly type: GgufType;
  readonly groupSize: number;
  readonly dtype: LargeFloatDtype;
}

const DECODED: ReadonlyMap<string, DecodedType> = new Map(
  (
    [
      ['q4_0', 32],
      ['q4_1', 32],
      ['q5_0', 32],
      ['q5_1', 32],
      ['q8_0', 32],
      ['q2_k', 16],
      ['q3_k', 16],
      ['q4_k', 32],
      ['q5_k', 32],
      ['q6_k', 16],
      ['q8_k', 256, 'float32'],
      ['iq4_nl', 32],
      ['iq4_xs', 32],
      ['tq1_0', 256],
      ['tq2_0', 256],
      // Its scales are powers of two up to 2^127.
      ['mxfp4', 32, 'bfloat16'],
      ['nvfp4', 16],
    ] as [GgufType, number, LargeFloatDtype?][]
  ).map(([type, groupSize, dtype = 'float16']) => [type, { type, groupSize, dtype }]),
);

/** What a block type decodes to, or undefined for floats, integers and blocks that lowbit can't decode. */
export function decodedTypeOf(name: string): DecodedType | undefined {
  return DECODED.get(name);
}
