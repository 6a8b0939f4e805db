/**
 * A folder that appears all at once: everything is written under a temporary name beside the final one, flushed to disk,
 * and renamed when it is complete.
 *
 * @module
 */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, open, readdir, rename, rm, statfs, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { OutputError, outputError } from '../errors.js';

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch {
    return false;
  }
}

/** Flushes a file or the entries of a folder to disk. */
async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncTree(folder: string): Promise<void> {
  if (process.platform === 'win32') return; // folders can't be opened there, nor files flushed that are open for reading
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    await (entry.isDirectory() ? syncTree(path) : sync(path));
  }
  await sync(folder);
}

/** A folder under construction. */
export class OutputFolder {
  private constructor(
    /** Where it will appear. */
    readonly path: string,
    /** Where it is now. */
    readonly temporaryPath: string,
  ) {}

  /**
   * Begins a folder.
   *
   * @param bytes - What it will hold; checked against the space on the disk before anything is written.
   * @throws {@link OutputError} if the final name is taken (unless `overwrite`), the disk is too full, or the folder can't
   *   be created.
   */
  static async create(path: string, bytes: number, overwrite: boolean): Promise<OutputFolder> {
    const target = resolve(path);
    if (!overwrite && (await exists(target))) {
      throw new OutputError('OUTPUT_EXISTS', `${path} exists already. Choose another name, or overwrite it.`, { path });
    }
    const parent = dirname(target);
    const temporary = join(parent, `.${basename(target)}.partial-${randomBytes(4).toString('hex')}`);
    try {
      await mkdir(parent, { recursive: true });
      await mkdir(temporary);
      const { bavail, bsize } = await statfs(temporary);
      if (bavail * bsize < bytes) {
        await rm(temporary, { recursive: true });
        const message = `${path} needs ${bytes} bytes but its disk has only ${bavail * bsize} left.`;
        throw new OutputError('DISK_FULL', message, { path });
      }
    } catch (cause) {
      throw outputError(path, cause);
    }
    return new OutputFolder(target, temporary);
  }

  /** The temporary path of a file in it. */
  file(name: string): string {
    return join(this.temporaryPath, name);
  }

  async writeText(name: string, text: string): Promise<void> {
    try {
      await writeFile(this.file(name), text, { flag: 'wx' });
    } catch (cause) {
      throw outputError(join(this.path, name), cause);
    }
  }

  /** Gives it its final name, in place of what had that name before. */
  async publish(): Promise<void> {
    try {
      await syncTree(this.temporaryPath);
      if (await exists(this.path)) {
        await this.replace();
      } else {
        await rename(this.temporaryPath, this.path);
      }
      if (process.platform !== 'win32') await sync(dirname(this.path));
    } catch (cause) {
      throw outputError(this.path, cause);
    }
  }

  private async replace(): Promise<void> {
    const old = `${this.temporaryPath}-replaced`;
    await rename(this.path, old);
    try {
      await rename(this.temporaryPath, this.path);
    } catch (error) {
      await rename(old, this.path);
      throw error;
    }
    await rm(old, { recursive: true, force: true });
  }

  /** Removes it. */
  async discard(): Promise<void> {
    await rm(this.temporaryPath, { recursive: true, force: true });
  }
}
