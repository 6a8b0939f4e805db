/**
 * The metadata of a GGUF file: keys with typed values, in the order of the file.
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';

/** Types of numbers in metadata, by the names of the GGUF specification. */
export type GgufNumberType =
  | 'uint8'
  | 'int8'
  | 'uint16'
  | 'int16'
  | 'uint32'
  | 'int32'
  | 'float32'
  | 'float64'
  | 'uint64'
  | 'int64';

/** Every type of a value. */
export type GgufValueType = GgufNumberType | 'bool' | 'string' | 'array';

/** A string; its bytes where they are no UTF-8, as in vocabularies with parts of characters. */
export type GgufString = string | Uint8Array;

/** The elements of an array of numbers. */
export type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** A value and its type. 64-bit integers are bigints. */
export type GgufValue =
  | { readonly type: Exclude<GgufNumberType, 'uint64' | 'int64'>; readonly value: number }
  | { readonly type: 'uint64' | 'int64'; readonly value: bigint }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: GgufString }
  | { readonly type: 'array'; readonly elementType: 'string'; readonly value: readonly GgufString[] }
  | { readonly type: 'array'; readonly elementType: 'bool'; readonly value: readonly boolean[] }
  | { readonly type: 'array'; readonly elementType: GgufNumberType; readonly value: GgufNumbers };

/** Key → value, in the order of the file. */
export type GgufMetadata = ReadonlyMap<string, GgufValue>;

/** Names of the types; the position is the number in the file. */
export const VALUE_TYPES = [
  'uint8',
  'int8',
  'uint16',
  'int16',
  'uint32',
  'int32',
  'float32',
  'bool',
  'string',
  'array',
  'uint64',
  'int64',
  'float64',
] as const satisfies readonly GgufValueType[];

/** The array type that holds the elements of each type of number. */
export const NUMBER_ARRAYS = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  float32: Float32Array,
  float64: Float64Array,
  uint64: BigUint64Array,
  int64: BigInt64Array,
} as const satisfies Record<GgufNumberType, unknown>;

/** What a file without `general.alignment` has. */
export const DEFAULT_ALIGNMENT = 32;

/** The largest alignment that readers accept. */
export const MAX_ALIGNMENT = 2 ** 20;

/** Constructors of the values that model files hold. */
export const ggufValue = {
  uint32: (value: number): GgufValue => ({ type: 'uint32', value }),
  float32: (value: number): GgufValue => ({ type: 'float32', value: Math.fround(value) }),
  bool: (value: boolean): GgufValue => ({ type: 'bool', value }),
  string: (value: string): GgufValue => ({ type: 'string', value }),
  strings: (value: readonly GgufString[]): GgufValue => ({ type: 'array', elementType: 'string', value }),
  float32s: (value: Float32Array): GgufValue => ({ type: 'array', elementType: 'float32', value }),
  int32s: (value: Int32Array): GgufValue => ({ type: 'array', elementType: 'int32', value }),
} as const;

function wrongType(path: string, key: string, expected: string, got: GgufValue): CheckpointError {
  const came = got.type === 'array' ? `an array of ${got.elementType}` : got.type;
  const message = `Expected ${expected} for the key ${JSON.stringify(key)} of ${path} but it is ${came}.`;
  return new CheckpointError('GGUF_METADATA_TYPE', message, { path });
}

/**
 * A string of the metadata, or undefined if the key is absent.
 *
 * @throws {@link CheckpointError} `GGUF_METADATA_TYPE` if it is something else.
 */
export function stringOf(metadata: GgufMetadata, key: string, path: string): string | undefined {
  const entry = metadata.get(key);
  if (entry === undefined) return undefined;
  if (entry.type !== 'string' || typeof entry.value !== 'string') throw wrongType(path, key, 'a string', entry);
  return entry.value;
}

/**
 * Non-negative integers of the metadata, one for each of `count` layers, by the number of the layer: an integer of any width
 * counts for all, an array has one for each. Undefined if the key is absent. Nothing is allocated for `count`: files claim
 * 2^32 layers.
 *
 * @throws {@link CheckpointError} `GGUF_METADATA_TYPE` if it is something else, or an array of another length.
 */
export function integersOf(
  metadata: GgufMetadata,
  key: string,
  count: number,
  path: string,
): ((layer: number) => number | undefined) | undefined {
  const entry = metadata.get(key);
  if (entry === undefined) return undefined;
  const isCount = (value: unknown) =>
    (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) ||
    (typeof value === 'bigint' && value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER));
  if (entry.type === 'array') {
    const values = Array.from(entry.value as ArrayLike<unknown>);
    if (values.length !== count || !values.every(isCount)) {
      throw wrongType(path, key, `a non-negative integer, or ${count} of them,`, entry);
    }
    return (layer) => (layer < count ? Number(values[layer]) : undefined);
  }
  if (!isCount(entry.value)) throw wrongType(path, key, 'a non-negative integer', entry);
  const value = Number(entry.value);
  return (layer) => (layer < count ? value : undefined);
}

/**
 * A non-negative integer of the metadata, of any width; undefined if the key is absent.
 *
 * @throws {@link CheckpointError} `GGUF_METADATA_TYPE` if it is something else.
 */
export function integerOf(metadata: GgufMetadata, key: string, path: string): number | undefined {
  const entry = metadata.get(key);
  if (entry?.type === 'array') throw wrongType(path, key, 'a non-negative integer', entry);
  return integersOf(metadata, key, 1, path)?.(0);
}
