/**
 * The hidden states of all windows on their way through the blocks: in memory, or in files, from which another process goes on.
 *
 * @module
 */
import { type FileHandle, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readFully } from '../checkpoint/file.js';
import { OutputError, outputError } from '../errors.js';

/** Hidden states of all windows, of what goes into a block and of what comes out of it. */
export interface BlockStates {
  /** The block that is to run next; −1 before the embeddings are there. */
  readonly next: number;
  /** What goes into that block, of one window. The array must not be changed. */
  read(window: number): Promise<Float32Array>;
  /** What comes out of it. */
  write(window: number, hidden: Float32Array): Promise<void>;
  /** Notes that the block has run: what came out of it goes into the next one. */
  advance(): Promise<void>;
  close(): Promise<void>;
}

class StatesInMemory implements BlockStates {
  next = -1;
  private inputs: Float32Array[] = [];
  private outputs: Float32Array[] = [];

  async read(window: number): Promise<Float32Array> {
    return this.inputs[window] as Float32Array;
  }

  async write(window: number, hidden: Float32Array): Promise<void> {
    this.outputs[window] = hidden;
  }

  async advance(): Promise<void> {
    this.inputs = this.outputs;
    this.outputs = [];
    this.next++;
  }

  async close(): Promise<void> {
    this.inputs = [];
    this.outputs = [];
  }
}

interface Note {
  /** SHA-256 of all that decides the hidden states. */
  readonly fingerprint: string;
  readonly next: number;
}

const NOTE = 'blocks.json';

/** A file for what goes into each block; two of them exist at a time. */
class StatesInFiles implements BlockStates {
  private constructor(
    private readonly folder: string,
    private readonly fingerprint: string,
    private readonly windowBytes: number,
    public next: number,
    private inputs: FileHandle | null,
    private outputs: FileHandle,
  ) {}

  static async open({ folder, fingerprint, windowBytes, windows, blocks }: FileOptions): Promise<StatesInFiles> {
    try {
      const next = await continued(folder, fingerprint, windowBytes * windows, blocks);
      const inputs = next === -1 ? null : await open(pathOf(folder, next), 'r');
      const outputs = await open(pathOf(folder, next + 1), 'w+').catch(async (cause: unknown) => {
        await inputs?.close();
        throw cause;
      });
      return new StatesInFiles(folder, fingerprint, windowBytes, next, inputs, outputs);
    } catch (cause) {
      throw outputError(folder, cause);
    }
  }

  async read(window: number): Promise<Float32Array> {
    const bytes = new Uint8Array(this.windowBytes);
    const path = pathOf(this.folder, this.next);
    await readFully(path, this.inputs as FileHandle, this.windowBytes * window, bytes);
    return new Float32Array(bytes.buffer);
  }

  async write(window: number, hidden: Float32Array): Promise<void> {
    const bytes = new Uint8Array(hidden.buffer, hidden.byteOffset, hidden.byteLength);
    let done = 0;
    while (done < bytes.length) {
      const position = this.windowBytes * window + done;
      try {
        done += (await this.outputs.write(bytes, done, bytes.length - done, position)).bytesWritten;
      } catch (cause) {
        throw outputError(this.folder, cause);
      }
    }
  }

  async advance(): Promise<void> {
    const { folder, fingerprint } = this;
    try {
      await this.outputs.datasync();
      await this.inputs?.close();
      this.inputs = this.outputs;
      this.next++;
      const note: Note = { fingerprint, next: this.next };
      const partial = join(folder, `${NOTE}.partial`);
      await writeFile(partial, JSON.stringify(note), { flush: true });
      await rename(partial, join(folder, NOTE));
      await rm(pathOf(folder, this.next - 1), { force: true });
      this.outputs = await open(pathOf(folder, this.next + 1), 'w+');
    } catch (cause) {
      throw outputError(folder, cause);
    }
  }

  async close(): Promise<void> {
    await this.inputs?.close();
    await this.outputs.close();
  }
}

function pathOf(folder: string, block: number): string {
  return join(folder, `hidden-${block}.f32`);
}

/** The block that work which another process left goes on with; −1 where there is none. */
async function continued(folder: string, fingerprint: string, bytes: number, blocks: number): Promise<number> {
  let note: Partial<Note>;
  try {
    note = JSON.parse(await readFile(join(folder, NOTE), 'utf8'));
  } catch {
    return -1;
  }
  if (note.fingerprint !== fingerprint) {
    const message =
      `The unfinished work in ${folder} was begun with another model, other windows or other options. ` +
      'The same ones continue it. Start over with restart (--restart), or choose another output.';
    throw new OutputError('UNFINISHED_WORK', message, { path: folder });
  }
  const { next } = note;
  if (typeof next !== 'number' || !Number.isInteger(next) || next < 0 || next > blocks) return -1;
  const found = await stat(pathOf(folder, next)).catch(() => null);
  return next === blocks || found?.size === bytes ? next : -1; // nobody needs what comes out of the last one
}

interface FileOptions {
  /** Where the files are; it must exist. */
  readonly folder: string;
  readonly fingerprint: string;
  readonly windowBytes: number;
  readonly windows: number;
  readonly blocks: number;
}

/**
 * Hidden states before the first block.
 *
 * @param files - Null: in memory.
 * @throws {@link OutputError} `UNFINISHED_WORK` if the folder holds the work of something else.
 */
export async function openBlockStates(files: FileOptions | null): Promise<BlockStates> {
  return files === null ? new StatesInMemory() : StatesInFiles.open(files);
}
