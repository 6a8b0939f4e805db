/**
 * A file of tensors that is written piece by piece, in any order: what every container's writer is.
 *
 * @module
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { outputError } from '../errors.js';
import { readFully } from './file.js';

/** Where a tensor lies in a file. */
export interface Place {
  readonly position: number;
  readonly bytes: number;
}

/** What comes before the data, and where they go. */
export interface FileLayout {
  readonly header: Uint8Array;
  readonly places: ReadonlyMap<string, Place>;
  readonly fileBytes: number;
}

/** A file being written. */
export class TensorFile {
  private constructor(
    readonly path: string,
    private readonly handle: FileHandle,
    private readonly places: FileLayout['places'],
  ) {}

  /**
   * Creates the file and writes its header; or opens one that was begun with the same tensors, and keeps their data.
   *
   * @throws {@link OutputError}
   */
  static async open(path: string, { header, places, fileBytes }: FileLayout): Promise<TensorFile> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o666);
      const file = new TensorFile(path, handle, places);
      await file.writeAt(0, header);
      await handle.truncate(fileBytes); // what lies between the tensors is zeros
      return file;
    } catch (cause) {
      await handle?.close();
      throw outputError(path, cause);
    }
  }

  /** Writes bytes of a tensor from `begin` on. The same bytes may be written again. */
  async write(name: string, begin: number, data: Uint8Array): Promise<void> {
    await this.writeAt(this.positionOf(name, begin, data.length), data);
  }

  /** Reads back what was written. */
  async read(name: string, begin: number, into: Uint8Array): Promise<void> {
    await readFully(this.path, this.handle, this.positionOf(name, begin, into.length), into, name);
  }

  /** Where bytes of a tensor lie in the file. */
  positionOf(name: string, begin: number, length: number): number {
    const place = this.places.get(name);
    if (place === undefined) throw new RangeError(`${name} was not announced`);
    if (begin < 0 || begin + length > place.bytes) throw new RangeError(`${name} has ${place.bytes} bytes`);
    return place.position + begin;
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

  /** Makes sure that all is on disk. */
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
