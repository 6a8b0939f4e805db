/**
 * Reading GGUF files. The header is read in growing pieces and checked completely; tensor data is read on demand.
 *
 * @module
 */
import type { FileHandle } from 'node:fs/promises';
import { CheckpointError } from '../../errors.js';
import { openForReading, readError, readFully } from '../file.js';
import type { StoredTensor } from '../stored-tensor.js';
import { type GgufHeader, GgufHeaderParser } from './gguf-header.js';
import type { GgufMetadata } from './metadata.js';

/** Sizes of the pieces in which headers are read: most fit into the first. */
const FIRST_PIECE = 64 * 1024;
const LARGEST_PIECE = 8 * 1024 * 1024;

/** An open GGUF file. */
export class GgufFile {
  /** By name, in the order of the file. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly version: number;
  /** In the order of the file. */
  readonly metadata: GgufMetadata;
  /** The data of every tensor begin at a multiple of this. */
  readonly alignment: number;

  /** Close with {@link GgufFile.close}. */
  private constructor(
    readonly path: string,
    header: GgufHeader,
    private readonly handle: FileHandle,
  ) {
    this.version = header.version;
    this.metadata = header.metadata;
    this.alignment = header.alignment;
    this.tensors = header.tensors;
  }

  /**
   * Opens a file of version 2 or 3 and checks its header.
   *
   * @throws {@link CheckpointError} with a code for each way in which the file can be wrong; `FILE_NOT_FOUND`,
   *   `READ_FAILED`.
   */
  static async open(path: string): Promise<GgufFile> {
    const handle = await openForReading(path);
    try {
      return new GgufFile(path, await readHeader(path, handle), handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}

async function fileBytesOf(path: string, handle: FileHandle): Promise<number> {
  try {
    const status = await handle.stat();
    if (status.isDirectory()) {
      throw new CheckpointError('GGUF_TOO_SMALL', `${path} is a folder, not a GGUF file.`, { path });
    }
    return status.size;
  } catch (cause) {
    throw cause instanceof CheckpointError ? cause : readError(path, cause);
  }
}

async function readHeader(path: string, handle: FileHandle): Promise<GgufHeader> {
  const fileBytes = await fileBytesOf(path, handle);
  const parser = new GgufHeaderParser(path, fileBytes, handle);
  let piece = FIRST_PIECE;
  for (;;) {
    const length = Math.min(Math.max(piece, parser.needed, parser.pending), fileBytes - parser.received);
    const bytes = new Uint8Array(length);
    await readFully(path, handle, parser.received, bytes);
    const header = parser.push(bytes);
    if (header !== null) return header;
    // Pieces also grow with an item that was cut off, as that is read again.
    piece = Math.min(LARGEST_PIECE, 2 * piece);
  }
}
