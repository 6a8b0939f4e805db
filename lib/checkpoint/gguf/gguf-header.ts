/**
 * Parsing the header of a GGUF file: metadata and tensor descriptions. It is given the bytes in pieces, so that no more of
 * the file is read than the header has. Everything is checked before anything is allocated from what the file claims.
 *
 * Source: ggml, `docs/gguf.md` and `src/gguf.cpp` (August 2026), whose reader accepts and refuses the same files; limits on
 * counts and lengths are those of the JavaScript reader `@huggingface/gguf`, but for arrays, which hold vocabularies.
 *
 * @module
 */
import { isUtf8 } from 'node:buffer';
import type { FileHandle } from 'node:fs/promises';
import { CheckpointError, type CheckpointErrorCode } from '../../errors.js';
import type { StoredTensor } from '../stored-tensor.js';
import { GgufTensor, type Home, Shapes, uint64At } from './gguf-tensor.js';
import {
  DEFAULT_ALIGNMENT,
  type GgufNumbers,
  type GgufNumberType,
  type GgufString,
  type GgufValue,
  MAX_ALIGNMENT,
  NUMBER_ARRAYS,
  VALUE_TYPES,
} from './metadata.js';
import { removedTypeName, tensorTypeOf } from './tensor-types.js';

/** The most that a header may hold. */
export const LIMITS = {
  keys: 100_000,
  tensors: 10_000_000,
  stringBytes: 10_000_000,
  keyBytes: 65_535,
  arrayElements: 10_000_000,
  axes: 4,
  /** Room for ten million tensors, or for a thousand times the largest vocabulary. */
  headerBytes: 2 ** 30,
  /** Including the NUL that ggml keeps after it. */
  nameBytes: 64,
} as const;

/** A header that was read completely. */
export interface GgufHeader {
  readonly version: number;
  readonly metadata: Map<string, GgufValue>;
  readonly tensors: Map<string, StoredTensor>;
  readonly alignment: number;
  /** Where the data begin in the file. */
  readonly dataPosition: number;
}

/** Thrown where the bytes at hand end: the item is read again with more of them. */
const SHORT = Symbol('short');

/** The fewest bytes that a key with its value, and that the description of a tensor can have. */
const MIN_PAIR_BYTES = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 4 + 4 + 8;

const HEAD_BYTES = 24;

/** Bytes of an element, by type. */
const ELEMENT_BYTES: Readonly<Record<GgufNumberType | 'bool', number>> = {
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  uint64: 8,
  int64: 8,
  float64: 8,
};

/** A parser for one file. */
export class GgufHeaderParser {
  private window = Buffer.alloc(0);
  private view = new DataView(new ArrayBuffer(0));
  /** Where the window begins in the file, and the next byte to read in the window. */
  private base = 0;
  private at = 0;
  /** Bytes of the window that the item needs which was cut off by its end. */
  private wanted = HEAD_BYTES;

  private started = false;
  private version = 0;
  private pairCount = 0;
  private tensorCount = 0;
  private readonly metadata = new Map<string, GgufValue>();
  private readonly tensors = new Map<string, StoredTensor>();
  private readonly home: Home;
  private readonly shapes = new Shapes();
  private alignment: number = DEFAULT_ALIGNMENT;
  /** The end of the last tensor, padded. */
  private dataEnd = 0;
  /** The end of the last tensor, and its name. */
  private lastEnd = 0;
  private lastName: string | undefined;

  /**
   * @param path - For messages and for the tensors.
   * @param fileBytes - The length of the whole file.
   * @param handle - What the tensors are read from; null if they will not be.
   * @throws {@link CheckpointError} `GGUF_TOO_SMALL`.
   */
  constructor(
    private readonly path: string,
    private readonly fileBytes: number,
    handle: FileHandle | null = null,
  ) {
    this.home = { path, handle, dataPosition: 0 };
    if (fileBytes < HEAD_BYTES) {
      this.refuse('GGUF_TOO_SMALL', `it has ${fileBytes} bytes, fewer than the ${HEAD_BYTES} of the shortest header`);
    }
  }

  /** How many bytes from the beginning of the file it has been given. */
  get received(): number {
    return this.base + this.window.length;
  }

  /** How many more bytes it needs at least to go on. */
  get needed(): number {
    return this.wanted - this.window.length;
  }

  /** Bytes of the item that was cut off, which will be read again. */
  get pending(): number {
    return this.window.length;
  }

  /**
   * Takes the next bytes of the file.
   *
   * @returns The header if it is complete, or null if more bytes are needed.
   * @throws {@link CheckpointError} with a code for each way in which the header can be wrong.
   */
  push(bytes: Uint8Array): GgufHeader | null {
    this.window = this.window.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.window, bytes]);
    this.view = new DataView(this.window.buffer, this.window.byteOffset, this.window.byteLength);
    this.at = 0;
    let start = 0;
    try {
      if (!this.started) {
        this.readHead();
        this.started = true;
        start = this.at;
      }
      while (this.metadata.size < this.pairCount) {
        this.readPair();
        start = this.at;
      }
      while (this.tensors.size < this.tensorCount) {
        this.readTensor();
        start = this.at;
      }
    } catch (reason) {
      if (reason !== SHORT) throw reason;
      // What was read stays read; the item that was cut off begins the next window.
      this.window = this.window.subarray(start);
      this.base += start;
      this.wanted -= start;
      return null;
    }
    return this.finish();
  }

  private finish(): GgufHeader {
    const end = this.base + this.at;
    const dataPosition = Math.ceil(end / this.alignment) * this.alignment;
    const missing = dataPosition + this.lastEnd - this.fileBytes;
    if (this.tensorCount > 0 && missing > 0) {
      this.refuse(
        'GGUF_TRUNCATED',
        `it ends ${missing} bytes before its last tensor does: it was not copied or downloaded completely`,
        this.lastName,
      );
    }
    this.home.dataPosition = dataPosition;
    return {
      version: this.version,
      metadata: this.metadata,
      tensors: this.tensors,
      alignment: this.alignment,
      dataPosition,
    };
  }

  private refuse(code: CheckpointErrorCode, what: string, tensor?: string): never {
    const about = tensor === undefined || tensor === '' ? '' : ` (tensor ${JSON.stringify(tensor)})`;
    throw new CheckpointError(code, `${this.path} is not a valid GGUF file: ${what}${about}.`, {
      path: this.path,
      tensor,
    });
  }

  /** Bytes of the file from the one that is next. */
  private get left(): number {
    return this.fileBytes - this.base - this.at;
  }

  /** The position of the next `count` bytes in the window. */
  private take(count: number): number {
    const begin = this.at;
    if (begin + count > this.window.length) {
      if (count > this.left) {
        this.refuse('GGUF_HEADER_TRUNCATED', 'it ends inside its header: it was not copied or downloaded completely');
      }
      if (this.base + begin + count > LIMITS.headerBytes) {
        this.refuse('GGUF_HEADER_TOO_LARGE', `its header has more than ${LIMITS.headerBytes} bytes`);
      }
      this.wanted = begin + count;
      throw SHORT;
    }
    this.at = begin + count;
    return begin;
  }

  private uint32(): number {
    return this.view.getUint32(this.take(4), true);
  }

  /** A 64-bit count or size; those past 2^53 come out as a number that no limit admits. */
  private uint64(): number {
    return uint64At(this.view, this.take(8));
  }

  private readHead(): void {
    const magic = this.take(4);
    if (this.window.toString('latin1', magic, magic + 4) !== 'GGUF') {
      this.refuse('GGUF_MAGIC', 'it does not begin with the letters GGUF');
    }
    const at = this.take(4);
    const version = this.view.getUint32(at, true);
    if (version !== 0 && (version & 0xffff) === 0) {
      this.refuse(
        'GGUF_BIG_ENDIAN',
        `its numbers are big-endian (version ${this.view.getUint32(at, false)}), as on s390x; convert it with gguf_convert_endian.py`,
      );
    }
    if (version !== 2 && version !== 3) {
      this.refuse('GGUF_VERSION', `its version is ${version}; versions 2 and 3 can be read`);
    }
    this.version = version;
    const tensorCount = this.uint64();
    const pairCount = this.uint64();
    this.checkCount('tensors', tensorCount, LIMITS.tensors, MIN_TENSOR_BYTES);
    this.checkCount('keys', pairCount, LIMITS.keys, MIN_PAIR_BYTES);
    this.tensorCount = tensorCount;
    this.pairCount = pairCount;
  }

  private checkCount(what: string, count: number, limit: number, least: number): void {
    if (count > limit) this.refuse('GGUF_COUNT', `it claims ${count} ${what}; the limit is ${limit}`);
    if (count * least > this.fileBytes) {
      this.refuse('GGUF_COUNT', `it claims ${count} ${what} but has only ${this.fileBytes} bytes`);
    }
  }

  /** The bytes of a string: [begin, end) in the window. */
  private string(what: string, limit: number): [number, number] {
    const length = this.uint64();
    if (length > limit) {
      this.refuse('GGUF_STRING_LENGTH', `${what} claims to have ${length} bytes; the limit is ${limit}`);
    }
    if (length > this.left) {
      this.refuse('GGUF_STRING_LENGTH', `${what} claims to have ${length} bytes but only ${this.left} are left`);
    }
    const begin = this.take(length);
    return [begin, begin + length];
  }

  /** Text that must be UTF-8. */
  private name(what: string, limit: number): string {
    const text = this.text(...this.string(what, limit));
    if (typeof text !== 'string') this.refuse('GGUF_INVALID_UTF8', `${what} is not valid UTF-8`);
    return text;
  }

  /** Text, or its bytes if they are not valid UTF-8. */
  private text(begin: number, end: number): GgufString {
    const { window } = this;
    for (let i = begin; i < end; i++) {
      if ((window[i] as number) >= 0x80) {
        const bytes = window.subarray(begin, end);
        return isUtf8(bytes) ? bytes.toString('utf8') : Uint8Array.from(bytes);
      }
    }
    return window.toString('latin1', begin, end);
  }

  private readPair(): void {
    const key = this.name('the name of a key', LIMITS.keyBytes);
    if (key === '') this.refuse('GGUF_EMPTY_KEY', `the name of key ${this.metadata.size} is empty`);
    const shown = JSON.stringify(key);
    if (this.metadata.has(key)) this.refuse('GGUF_DUPLICATE_KEY', `the key ${shown} comes twice`);
    const id = this.uint32();
    const type = VALUE_TYPES[id];
    if (type === undefined) this.refuse('GGUF_VALUE_TYPE', `the key ${shown} has a value of the unknown type ${id}`);
    const value = type === 'array' ? this.array(shown) : this.scalar(shown, type);
    if (key === 'general.alignment') this.setAlignment(value);
    this.metadata.set(key, value);
  }

  private scalar(key: string, type: GgufNumberType | 'bool' | 'string'): GgufValue {
    if (type === 'string') return { type, value: this.text(...this.string(`the value of ${key}`, LIMITS.stringBytes)) };
    const at = this.take(ELEMENT_BYTES[type]);
    const { view } = this;
    switch (type) {
      case 'uint8':
        return { type, value: view.getUint8(at) };
      case 'int8':
        return { type, value: view.getInt8(at) };
      case 'uint16':
        return { type, value: view.getUint16(at, true) };
      case 'int16':
        return { type, value: view.getInt16(at, true) };
      case 'uint32':
        return { type, value: view.getUint32(at, true) };
      case 'int32':
        return { type, value: view.getInt32(at, true) };
      case 'float32':
        return { type, value: view.getFloat32(at, true) };
      case 'float64':
        return { type, value: view.getFloat64(at, true) };
      case 'uint64':
        return { type, value: view.getBigUint64(at, true) };
      case 'int64':
        return { type, value: view.getBigInt64(at, true) };
      case 'bool':
        return { type, value: view.getUint8(at) !== 0 };
    }
  }

  private array(key: string): GgufValue {
    const id = this.uint32();
    const elementType = VALUE_TYPES[id];
    if (elementType === undefined) {
      this.refuse('GGUF_VALUE_TYPE', `the key ${key} has an array of the unknown type ${id}`);
    }
    if (elementType === 'array') {
      this.refuse('GGUF_NESTED_ARRAY', `the key ${key} has an array of arrays, which no reader takes`);
    }
    const element = elementType;
    const count = this.uint64();
    const least = element === 'string' ? 8 : ELEMENT_BYTES[element];
    if (count > LIMITS.arrayElements) {
      this.refuse('GGUF_ARRAY_LENGTH', `the key ${key} claims ${count} elements; the limit is ${LIMITS.arrayElements}`);
    }
    if (count * least > this.left) {
      this.refuse(
        'GGUF_ARRAY_LENGTH',
        `the key ${key} claims ${count} elements of ${element} but only ${this.left} bytes are left`,
      );
    }
    if (element === 'string') {
      const value: GgufString[] = [];
      for (let i = 0; i < count; i++) {
        value.push(this.text(...this.string(`element ${i} of ${key}`, LIMITS.stringBytes)));
      }
      return { type: 'array', elementType: element, value };
    }
    const begin = this.take(count * least);
    const bytes = this.window.subarray(begin, begin + count * least);
    if (element === 'bool') {
      return { type: 'array', elementType: element, value: Array.from(bytes, (byte) => byte !== 0) };
    }
    return { type: 'array', elementType: element, value: numbersOf(element, bytes) };
  }

  private setAlignment(entry: GgufValue): void {
    if (entry.type !== 'uint32') {
      this.refuse('GGUF_ALIGNMENT', `general.alignment is ${entry.type} instead of uint32`);
    }
    const { value } = entry;
    if (value === 0 || value > MAX_ALIGNMENT || (value & (value - 1)) !== 0) {
      this.refuse('GGUF_ALIGNMENT', `general.alignment is ${value}, not a power of two up to ${MAX_ALIGNMENT}`);
    }
    this.alignment = value;
  }

  private readTensor(): void {
    const name = this.name('the name of a tensor', LIMITS.nameBytes - 1);
    const axes = this.uint32();
    if (axes > LIMITS.axes) {
      this.refuse('GGUF_DIMENSIONS', `a tensor claims ${axes} dimensions; the limit is ${LIMITS.axes}`, name);
    }
    const { view } = this;
    const dims = this.take(8 * axes + 12);
    let elements = 1;
    for (let axis = 0; axis < axes; axis++) {
      const dim = uint64At(view, dims + 8 * axis);
      // Axes are multiplied one after the other, so that a 0 behind them does not hide that the others are too large.
      elements *= dim;
      if (dim > Number.MAX_SAFE_INTEGER || elements > Number.MAX_SAFE_INTEGER) {
        this.refuse('GGUF_SIZE_OVERFLOW', 'the dimensions of a tensor are too large to be true, or negative', name);
      }
    }
    const shape = this.shapes.at(view, dims, axes);
    const id = view.getUint32(dims + 8 * axes, true);
    const type = tensorTypeOf(id);
    if (type === undefined) {
      const removed = removedTypeName(id);
      const what = removed === undefined ? `unknown type ${id}` : `type ${removed}, which was removed from the format`;
      this.refuse('GGUF_TENSOR_TYPE', `a tensor has the ${what}`, name);
    }
    const rowLength = shape.at(-1) ?? 1;
    if (rowLength % type.blockLength !== 0) {
      this.refuse(
        'GGUF_ROW_LENGTH',
        `the rows of a tensor have ${rowLength} elements, no multiple of the ${type.blockLength} in a block of ${type.name}`,
        name,
      );
    }
    const bytes = (elements / type.blockLength) * type.blockBytes;
    const offset = uint64At(view, dims + 8 * axes + 4);
    if (offset !== this.dataEnd) {
      this.refuse('GGUF_OFFSET', `the data of a tensor begin at ${offset} instead of ${this.dataEnd}`, name);
    }
    const end = this.dataEnd + bytes;
    const padded = Math.ceil(end / this.alignment) * this.alignment;
    if (!Number.isSafeInteger(bytes) || !Number.isSafeInteger(padded)) {
      this.refuse('GGUF_SIZE_OVERFLOW', 'the tensors together are too large to be true', name);
    }
    if (end > this.fileBytes) {
      this.refuse(
        'GGUF_TRUNCATED',
        `a tensor ends at byte ${end} of the data but the file has ${this.fileBytes}`,
        name,
      );
    }
    this.lastEnd = end;
    this.lastName = name;
    this.dataEnd = padded;
    const { size } = this.tensors;
    this.tensors.set(name, new GgufTensor(name, type.name, shape, bytes, offset, this.home));
    if (this.tensors.size === size) this.refuse('GGUF_DUPLICATE_TENSOR', 'a tensor comes twice', name);
  }
}

/** Little-endian bytes as numbers; the bytes may lie anywhere. */
function numbersOf(type: GgufNumberType, bytes: Uint8Array): GgufNumbers {
  const copy = Uint8Array.from(bytes);
  const NumberArray = NUMBER_ARRAYS[type];
  return new NumberArray(copy.buffer, 0, copy.length / NumberArray.BYTES_PER_ELEMENT);
}
