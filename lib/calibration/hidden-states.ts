/**
 * The hidden states of all windows between two blocks: in memory, or in a file where they are too large for that.
 *
 * @module
 */
import { type FileHandle, open } from 'node:fs/promises';
import { readFully } from '../checkpoint/file.js';
import { outputError } from '../errors.js';

/** Hidden states, window by window. */
export interface HiddenStates {
  /** Those of a window, in an array that the caller must not change. */
  read(window: number): Promise<Float32Array>;
  write(window: number, hidden: Float32Array): Promise<void>;
  /** Makes sure that what was written survives the process, if it is in a file. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** Hidden states in memory. */
export class HiddenStatesInMemory implements HiddenStates {
  private readonly windows: Float32Array[] = [];

  async read(window: number): Promise<Float32Array> {
    return this.windows[window] as Float32Array;
  }

  async write(window: number, hidden: Float32Array): Promise<void> {
    this.windows[window] = hidden;
  }

  async sync(): Promise<void> {}

  async close(): Promise<void> {
    this.windows.length = 0;
  }
}

/** Hidden states in a file; each window has `length` elements. */
export class HiddenStatesInFile implements HiddenStates {
  private constructor(
    private readonly path: string,
    private readonly handle: FileHandle,
    private readonly length: number,
  ) {}

  /** @param isNew - Whether the file is begun anew, or read as another process left it. */
  static async open(path: string, length: number, isNew: boolean): Promise<HiddenStatesInFile> {
    try {
      return new HiddenStatesInFile(path, await open(path, isNew ? 'w+' : 'r+'), length);
    } catch (cause) {
      throw outputError(path, cause);
    }
  }

  async read(window: number): Promise<Float32Array> {
    const hidden = new Float32Array(this.length);
    await readFully(this.path, this.handle, 4 * this.length * window, new Uint8Array(hidden.buffer));
    return hidden;
  }

  async write(window: number, hidden: Float32Array): Promise<void> {
    const bytes = new Uint8Array(hidden.buffer, hidden.byteOffset, hidden.byteLength);
    let done = 0;
    while (done < bytes.length) {
      const position = 4 * this.length * window + done;
      try {
        done += (await this.handle.write(bytes, done, bytes.length - done, position)).bytesWritten;
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
