/**
 * A file or folder that appears all at once: everything is written in a folder beside it, flushed to disk, and renamed when it
 * is complete. What is unfinished when a process ends can be continued by another one.
 *
 * @module
 */
import { lstat, mkdir, open, readdir, readFile, rename, rm, statfs, unlink, writeFile } from 'node:fs/promises';
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

/** When a process was started, where the system tells: a number used again is then told from the one before. */
async function startOf(pid: number): Promise<string | null> {
  try {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8');
    return status.slice(status.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}

async function isRunning({ pid, start }: { pid: number; start: string | null }): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  return start === null || start === (await startOf(pid));
}

/** Work in progress on an output. Only one process has it at a time. */
export class Output {
  private constructor(
    /** Where the result will appear. */
    readonly path: string,
    /** Where the work is. */
    readonly workPath: string,
    /** Whether another process began the work. */
    readonly continued: boolean,
  ) {}

  /** Where unfinished work on an output lies. */
  static workPathOf(path: string): string {
    const target = resolve(path);
    return join(dirname(target), `.${basename(target)}.lowbit-partial`);
  }

  /**
   * Begins work, or takes up what another process left.
   *
   * @param path - The file or folder that is to appear.
   * @param options - `bytes` that it will hold, checked against the space on the disk; `overwrite` whatever has the name;
   *   `restart`: throw away what another process left.
   * @throws {@link OutputError} `OUTPUT_EXISTS`, `OUTPUT_BUSY` while another process works on it, `DISK_FULL`, and those of
   *   the file system.
   */
  static async open(
    path: string,
    { bytes, overwrite, restart }: { bytes: number; overwrite: boolean; restart: boolean },
  ): Promise<Output> {
    const target = resolve(path);
    if (!overwrite && (await exists(target))) {
      throw new OutputError('OUTPUT_EXISTS', `${path} exists already. Choose another name, or overwrite it.`, { path });
    }
    const work = Output.workPathOf(path);
    const continued = await exists(work);
    let created = false;
    try {
      await mkdir(dirname(target), { recursive: true });
      if (!continued) {
        await mkdir(work); // not recursive: that never ends under /proc
        created = true;
      }
      await lock(path, work);
      // Without a result, what lies here is what a process left that was ended while it gave the result its name.
      if (continued && (restart || !(await exists(join(work, RESULT))))) await empty(work);
      const output = new Output(target, work, continued && !restart && (await exists(join(work, RESULT))));
      if (!(await exists(join(work, RESULT)))) await mkdir(join(work, RESULT));
      await checkSpace(path, work, bytes);
      return output;
    } catch (cause) {
      if (created) await rm(work, { recursive: true, force: true }).catch(() => undefined);
      throw outputError(path, cause);
    }
  }

  /** The path, for now, of the result as a folder. */
  get folder(): string {
    return join(this.workPath, RESULT);
  }

  /** The path, for now, of a file of the result. */
  file(name: string): string {
    return join(this.workPath, RESULT, name);
  }

  /** The path of a file of the work itself, which is no part of the result. */
  note(name: string): string {
    return join(this.workPath, name);
  }

  async writeText(name: string, text: string): Promise<void> {
    try {
      await writeFile(this.file(name), text);
    } catch (cause) {
      throw outputError(join(this.path, name), cause);
    }
  }

  /**
   * Gives the result its final name, in place of what had that name before.
   *
   * @param single - The one file that is the result, and maybe one that is to lie beside it under its name with a dot and its
   *   own; without it the result is a folder.
   */
  async publish(single?: { file: string; beside?: string }): Promise<void> {
    try {
      await syncTree(this.workPath);
      if (single?.beside !== undefined) await rename(this.file(single.beside), `${this.path}.${single.beside}`);
      const result = single === undefined ? join(this.workPath, RESULT) : this.file(single.file);
      if (await exists(this.path)) await this.replace(result);
      else await rename(result, this.path);
      if (process.platform !== 'win32') await sync(dirname(this.path));
      await rm(this.workPath, { recursive: true, force: true });
    } catch (cause) {
      throw outputError(this.path, cause);
    }
  }

  private async replace(result: string): Promise<void> {
    const old = join(this.workPath, 'replaced');
    await rm(old, { recursive: true, force: true });
    await rename(this.path, old);
    try {
      await rename(result, this.path);
    } catch (error) {
      await rename(old, this.path);
      throw error;
    }
  }

  /** Ends the work for now; it can be taken up again. */
  async leave(): Promise<void> {
    await unlink(join(this.workPath, LOCK)).catch(() => undefined);
  }

  /** Throws the work away. */
  async discard(): Promise<void> {
    await rm(this.workPath, { recursive: true, force: true });
  }
}

/** What the work folder holds besides notes: the result, and who works on it. */
const RESULT = 'result';
const LOCK = 'lock.json';

async function lock(path: string, work: string): Promise<void> {
  const file = join(work, LOCK);
  const mine = JSON.stringify({ pid: process.pid, start: await startOf(process.pid) });
  for (;;) {
    try {
      await writeFile(file, mine, { flag: 'wx' });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const text = await readFile(file, 'utf8').catch(() => '');
    let owner: { pid: number; start: string | null } | null = null;
    try {
      owner = JSON.parse(text);
    } catch {
      // A process that ended while it wrote this.
    }
    // 0 and negative numbers are no process, but groups of them.
    if (owner !== null && Number.isInteger(owner.pid) && owner.pid > 0 && (await isRunning(owner))) {
      const message = `Process ${owner.pid} works on ${path}. Wait for it, or choose another name.`;
      throw new OutputError('OUTPUT_BUSY', message, { path });
    }
    await unlink(file).catch(() => undefined);
  }
}

async function empty(work: string): Promise<void> {
  for (const name of await readdir(work)) {
    if (name !== LOCK) await rm(join(work, name), { recursive: true });
  }
}

/** Bytes that files of this folder already take count as room. */
async function checkSpace(path: string, work: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(work);
  let room = bavail * bsize;
  for (const name of await readdir(join(work, RESULT))) {
    const { blocks = 0 } = await lstat(join(work, RESULT, name));
    room += 512 * blocks;
  }
  if (room >= bytes) return;
  await unlink(join(work, LOCK));
  throw new OutputError('DISK_FULL', `${path} needs ${bytes} bytes but its disk has only ${room} left.`, { path });
}
