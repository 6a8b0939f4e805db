/**
 * Writing safetensors files piece by piece: the header comes first and needs only the names, types and shapes; the data of
 * each tensor may then follow in any order and in any pieces, so that no tensor has to be in memory as a whole.
 *
 * @module
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { outputError } from '../errors.js';
import { readFully } from './file.js';
import { SAFETENSORS_DTYPES, type SafetensorsDtype } from './safetensors.js';

/** A tensor to be written. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

const BITS: Readonly<Partial<Record<SafetensorsDtype, number>>> = {
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
};

/** Bytes that a tensor takes. */
export function tensorBytes({ dtype, shape }: TensorSpec): number {
  return (shape.reduce((product, dim) => product * dim, 1) * (BITS[dtype] ?? 8)) / 8;
}

/** The order of the reference writer: widest types first, so that every tensor is aligned, then by name. */
function inFileOrder(a: TensorSpec, b: TensorSpec): number {
  const byType = SAFETENSORS_DTYPES.indexOf(b.dtype) - SAFETENSORS_DTYPES.indexOf(a.dtype);
  return byType !== 0 ? byType : a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** The bytes before the data: length, JSON, and spaces up to a multiple of 8. */
function headerOf(tensors: readonly TensorSpec[], metadata: ReadonlyMap<string, string>): Buffer {
  const entries: string[] = [];
  if (metadata.size > 0) entries.push(`"__metadata__":${JSON.stringify(Object.fromEntries(metadata))}`);
  let begin = 0;
  for (const tensor of tensors) {
    const end = begin + tensorBytes(tensor);
    const { dtype, shape } = tensor;
    entries.push(`${JSON.stringify(tensor.name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`);
    begin = end;
  }
  const json = Buffer.from(`{${entries.join(',')}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded));
  json.copy(header, 8);
  return header;
}

/** How large the file will be. */
export function safetensorsFileBytes(tensors: readonly TensorSpec[], metadata: ReadonlyMap<string, string>): number {
  const data = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  return headerOf([...tensors].sort(inFileOrder), metadata).length + data;
}

/** A file of tensors that is written piece by piece, in any order; what each container's writer is. */
export interface TensorFile {
  readonly path: string;
  /** Writes bytes of a tensor from `begin` on. The same bytes may be written again. */
  write(name: string, begin: number, data: Uint8Array): Promise<void>;
  /** Reads back what was written. */
  read(name: string, begin: number, into: Uint8Array): Promise<void>;
  /** Makes sure that all is on disk. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** A safetensors file being written. */
export class SafetensorsWriter implements TensorFile {
  private readonly positions = new Map<string, number>();

  private constructor(
    readonly path: string,
    private readonly handle: FileHandle,
  ) {}

  /**
   * Creates the file and writes its header; or opens one that was begun with the same tensors, and keeps their data.
   *
   * @throws {@link OutputError}
   */
  static async open(
    path: string,
    tensors: readonly TensorSpec[],
    metadata: ReadonlyMap<string, string>,
  ): Promise<SafetensorsWriter> {
    const ordered = [...tensors].sort(inFileOrder);
    const header = headerOf(ordered, metadata);
    try {
      const writer = new SafetensorsWriter(path, await open(path, constants.O_RDWR | constants.O_CREAT, 0o666));
      let position = header.length;
      for (const tensor of ordered) {
        writer.positions.set(tensor.name, position);
        position += tensorBytes(tensor);
      }
      await writer.writeAt(0, header);
      await writer.handle.truncate(position); // a disk that can't hold it says so now, or when the data come
      return writer;
    } catch (cause) {
      throw outputError(path, cause);
    }
  }

  async write(name: string, begin: number, data: Uint8Array): Promise<void> {
    await this.writeAt(this.positionOf(name) + begin, data);
  }

  async read(name: string, begin: number, into: Uint8Array): Promise<void> {
    await readFully(this.path, this.handle, this.positionOf(name) + begin, into, name);
  }

  private positionOf(name: string): number {
    const position = this.positions.get(name);
    if (position === undefined) throw new RangeError(`${name} was not announced`);
    return position;
  }

  private async writeAt(position: number, data: Uint8Array): Promise<void> {
    let done = 0;
    while (done < data.length) {
      try {
        done += (await this.handle.write(data, done, data.length - done, position + done)).bytesWritten;
      } catch (cause) {
        throw outputError(this.path, cause);
      }
    }
  }

  async sync(): Promise<void> {
    try {
      await this.handle.datasync();
    } catch (cause) {
      throw outputError(this.path, cause);
    }
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
