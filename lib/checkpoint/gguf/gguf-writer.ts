/**
 * Writing GGUF files piece by piece: metadata and tensor descriptions come first and need only names, types and shapes; the
 * data of each tensor may then follow in any order and in any pieces. The bytes are those of ggml's `gguf_write_to_file`.
 *
 * Source: ggml, `src/gguf.cpp` (August 2026).
 *
 * @module
 */
import { CheckpointError, describe } from '../../errors.js';
import { TensorFile } from '../tensor-file.js';
import { LIMITS } from './gguf-header.js';
import {
  DEFAULT_ALIGNMENT,
  type GgufMetadata,
  type GgufNumbers,
  type GgufString,
  type GgufValue,
  MAX_ALIGNMENT,
  NUMBER_ARRAYS,
  VALUE_TYPES,
} from './metadata.js';
import { type GgufTensorType, tensorTypeNamed } from './tensor-types.js';

/** A tensor to be written. */
export interface GgufTensorSpec {
  /** At most 63 bytes of UTF-8. */
  readonly name: string;
  /** `q4_k`, `f32` … */
  readonly dtype: string;
  /** Up to four axes, the outermost first; the last holds whole blocks. */
  readonly shape: readonly number[];
}

function typeOf({ name, dtype }: GgufTensorSpec): GgufTensorType {
  const type = tensorTypeNamed(dtype);
  if (type === undefined) throw new RangeError(`${name} has the unknown type ${dtype}`);
  return type;
}

/** Bytes that a tensor takes, without padding. */
export function ggufTensorBytes(tensor: GgufTensorSpec): number {
  const { blockLength, blockBytes } = typeOf(tensor);
  return (tensor.shape.reduce((product, dim) => product * dim, 1) / blockLength) * blockBytes;
}

function alignmentOf(metadata: GgufMetadata): number {
  const entry = metadata.get('general.alignment');
  if (entry === undefined) return DEFAULT_ALIGNMENT;
  const { type, value } = entry;
  if (type !== 'uint32' || value === 0 || value > MAX_ALIGNMENT || (value & (value - 1)) !== 0) {
    throw new RangeError('general.alignment must be a uint32 and a power of two');
  }
  return value;
}

/** Bytes appended to each other. */
class Bytes {
  private buffer = Buffer.alloc(64 * 1024);
  length = 0;

  private grow(count: number): number {
    const begin = this.length;
    this.length += count;
    if (this.length > this.buffer.length) {
      const larger = Buffer.alloc(Math.max(2 * this.buffer.length, this.length));
      this.buffer.copy(larger, 0, 0, begin);
      this.buffer = larger;
    }
    return begin;
  }

  uint32(value: number): void {
    const at = this.grow(4);
    this.buffer.writeUInt32LE(value, at);
  }

  uint64(value: number | bigint): void {
    const at = this.grow(8);
    this.buffer.writeBigUInt64LE(BigInt(value), at);
  }

  append(bytes: Uint8Array): void {
    const at = this.grow(bytes.length);
    this.buffer.set(bytes, at);
  }

  string(text: GgufString): void {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    this.uint64(bytes.length);
    this.append(bytes);
  }

  value(value: GgufValue): void {
    this.uint32(VALUE_TYPES.indexOf(value.type));
    if (value.type === 'string') {
      this.string(value.value);
    } else if (value.type === 'bool') {
      this.append(Uint8Array.of(value.value ? 1 : 0));
    } else if (value.type === 'array') {
      this.array(value);
    } else {
      const NumberArray = NUMBER_ARRAYS[value.type] as { of(value: number | bigint): GgufNumbers };
      this.numbers(NumberArray.of(value.value));
    }
  }

  private array({ elementType, value }: Extract<GgufValue, { type: 'array' }>): void {
    this.uint32(VALUE_TYPES.indexOf(elementType));
    this.uint64(value.length);
    if (elementType === 'string') {
      for (const text of value as readonly GgufString[]) this.string(text);
    } else if (elementType === 'bool') {
      this.append(Uint8Array.from(value as readonly boolean[], Number));
    } else {
      this.numbers(value as GgufNumbers);
    }
  }

  /** As they lie in memory: every processor that lowbit runs on is little-endian. */
  private numbers({ buffer, byteOffset, byteLength }: GgufNumbers): void {
    this.append(new Uint8Array(buffer, byteOffset, byteLength));
  }

  pad(alignment: number): void {
    this.grow(Math.ceil(this.length / alignment) * alignment - this.length);
  }

  get bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }
}

interface Plan {
  readonly header: Uint8Array;
  /** Position in the file and size of each tensor. */
  readonly places: ReadonlyMap<string, { readonly position: number; readonly bytes: number }>;
  readonly fileBytes: number;
}

/** Refuses halves of surrogate pairs, which JSON can hold and UTF-8 can't: they would come back as other text. */
function checkUnicode(path: string, key: string, entry: GgufValue): void {
  const texts: readonly unknown[] =
    entry.type === 'string'
      ? [entry.value]
      : entry.type === 'array' && entry.elementType === 'string'
        ? (entry.value as readonly GgufString[])
        : [];
  const odd = texts.find((text) => typeof text === 'string' && /\p{Surrogate}/u.test(text));
  if (odd === undefined) return;
  const message = `${path} can't be written as GGUF: ${key} holds the text ${describe(odd)}, which is no Unicode.`;
  throw new CheckpointError('GGUF_INVALID_UTF8', message, { path });
}

function planOf(path: string, tensors: readonly GgufTensorSpec[], metadata: GgufMetadata): Plan {
  const alignment = alignmentOf(metadata);
  const header = new Bytes();
  header.append(Buffer.from('GGUF'));
  header.uint32(3);
  header.uint64(tensors.length);
  header.uint64(metadata.size);
  for (const [key, value] of metadata) {
    checkUnicode(path, key, value);
    header.string(key);
    header.value(value);
  }
  const offsets = new Map<string, { offset: number; bytes: number }>();
  let offset = 0;
  for (const tensor of tensors) {
    const { name, shape } = tensor;
    const refuse = (code: 'GGUF_TENSOR_NAME' | 'GGUF_DUPLICATE_TENSOR' | 'GGUF_DIMENSIONS', what: string): never => {
      throw new CheckpointError(code, `${path} can't be written as GGUF: ${what}.`, { path, tensor: name });
    };
    const shown = JSON.stringify(name);
    if (Buffer.byteLength(name) >= LIMITS.nameBytes) {
      refuse('GGUF_TENSOR_NAME', `the name ${shown} has more than the ${LIMITS.nameBytes - 1} bytes that readers take`);
    }
    if (offsets.has(name)) refuse('GGUF_DUPLICATE_TENSOR', `there are two tensors ${shown}`);
    if (shape.length > LIMITS.axes) {
      refuse('GGUF_DIMENSIONS', `${shown} has ${shape.length} dimensions, more than ${LIMITS.axes}`);
    }
    const type = typeOf(tensor);
    const bytes = ggufTensorBytes(tensor);
    if ((shape.at(-1) ?? 1) % type.blockLength !== 0 || !Number.isSafeInteger(bytes)) {
      throw new RangeError(`${name} of shape [${shape.join(', ')}] has no whole blocks of ${type.name} in its rows`);
    }
    header.string(name);
    header.uint32(shape.length);
    for (let axis = shape.length - 1; axis >= 0; axis--) header.uint64(shape[axis] as number);
    header.uint32(type.id);
    header.uint64(offset);
    offsets.set(name, { offset, bytes });
    offset += Math.ceil(bytes / alignment) * alignment;
  }
  header.pad(alignment);
  const places = new Map<string, { position: number; bytes: number }>();
  for (const [name, place] of offsets) {
    places.set(name, { position: header.length + place.offset, bytes: place.bytes });
  }
  return { header: header.bytes, places, fileBytes: header.length + offset };
}

/** How large the file will be. */
export function ggufFileBytes(tensors: readonly GgufTensorSpec[], metadata: GgufMetadata): number {
  return planOf('The file', tensors, metadata).fileBytes;
}

/**
 * Begins a GGUF file, or opens one that was begun with the same tensors.
 *
 * @param tensors - In the order that the file is to have.
 * @param metadata - In that order too; `general.alignment` says how tensors are aligned (32 without it).
 * @throws {@link CheckpointError} `GGUF_TENSOR_NAME`, `GGUF_DUPLICATE_TENSOR`, `GGUF_DIMENSIONS`, `GGUF_INVALID_UTF8` for
 *   what the format can't hold; {@link OutputError}.
 */
export async function writeGguf(
  path: string,
  tensors: readonly GgufTensorSpec[],
  metadata: GgufMetadata,
): Promise<TensorFile> {
  return TensorFile.open(path, planOf(path, tensors, metadata));
}
