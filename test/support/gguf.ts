/** GGUF headers written without lowbit's own writer, with every lie that one can tell. */
import { openSync, writeSync } from 'node:fs';

/** Numbers of the value types. */
export const TYPE = { u8: 0, u16: 2, u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10 } as const;

export const u8 = (value: number): Buffer => Buffer.from([value]);
export const u16 = (value: number): Buffer => Buffer.from([value & 255, value >> 8]);

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
}

/** A string, with its true length or another one. */
export function text(value: string | Buffer, length?: number | bigint): Buffer {
  const bytes = Buffer.from(value as string);
  return Buffer.concat([u64(length ?? bytes.length), bytes]);
}

/** A key and its value. */
export const pair = (key: string | Buffer, type: number, ...value: Buffer[]): Buffer =>
  Buffer.concat([text(key), u32(type), ...value]);

export interface RawInfo {
  name?: string | Buffer;
  /** In the order of the file: the innermost first. */
  dims?: (number | bigint)[];
  axes?: number;
  type?: number;
  offset?: number | bigint;
}

/** The description of a tensor. */
export function info({ name = 't', dims = [8], axes = dims.length, type = 0, offset = 0 }: RawInfo = {}): Buffer {
  return Buffer.concat([text(name), u32(axes), ...dims.map(u64), u32(type), u64(offset)]);
}

export interface RawFile {
  magic?: string;
  version?: number;
  tensorCount?: number | bigint;
  pairCount?: number | bigint;
  pairs?: Buffer[];
  infos?: Buffer[];
  alignment?: number;
  /** Bytes after the header. */
  data?: number | Buffer;
}

/** A whole file: head, pairs, descriptions, padding, data. */
export function gguf({
  magic = 'GGUF',
  version = 3,
  pairs = [],
  infos = [],
  tensorCount = infos.length,
  pairCount = pairs.length,
  alignment = 32,
  data = 0,
}: RawFile = {}): Buffer {
  const header = Buffer.concat([
    Buffer.from(magic, 'latin1'),
    u32(version),
    u64(tensorCount),
    u64(pairCount),
    ...pairs,
    ...infos,
  ]);
  const padding = Buffer.alloc((alignment - (header.length % alignment)) % alignment);
  return Buffer.concat([header, padding, typeof data === 'number' ? Buffer.alloc(data) : data]);
}

/** Writes pieces to a file, so that it need not be in memory; the descriptor is the caller's. */
export function writePieces(path: string, pieces: Iterable<Buffer>): number {
  const descriptor = openSync(path, 'w');
  let [waiting, bytes]: [Buffer[], number] = [[], 0];
  for (const piece of pieces) {
    waiting.push(piece);
    bytes += piece.length;
    if (bytes > 2 ** 20) {
      writeSync(descriptor, Buffer.concat(waiting));
      [waiting, bytes] = [[], 0];
    }
  }
  writeSync(descriptor, Buffer.concat(waiting));
  return descriptor;
}
