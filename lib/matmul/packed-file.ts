/**
 * Packed weights on disk: written once, then mapped into memory by every process that needs them.
 *
 * @module
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  promises as fs,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { addon, explain, type RawWeight, runJob } from '../addon.js';
import { outputError, PackedFileError } from '../errors.js';
import * as validate from '../validate.js';
import {
  checkWeight,
  fileBytesOf,
  filled,
  handleOf,
  type PackedWeight,
  type WeightKind,
  weightOfHandle,
} from './packed-weight.js';

/** Options of {@link loadPacked}. */
export interface LoadPackedOptions {
  /**
   * Whether the checksum of the weights is verified, which reads all of them. Default true. The header is verified in any
   * case: damaged weights give wrong results, but no reads outside of the file.
   */
  verify?: boolean;
}

/** The same, with a signal that ends the work early. */
export interface LoadPackedAsyncOptions extends LoadPackedOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const ALL_KINDS: readonly WeightKind[] = ['quantized', 'float', 'integer'];
const CHUNK_BYTES = 4 << 20;

/** Where a file is written before it gets its name. */
function temporaryPath(path: string): string {
  const target = resolve(path);
  return join(dirname(target), `.${basename(target)}.partial-${randomBytes(4).toString('hex')}`);
}

/** Reads the file's bytes piece by piece. */
function* chunksOf(total: number): Generator<{ offset: number; chunk: Uint8Array }> {
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, total));
  for (let offset = 0; offset < total; offset += buffer.length) {
    yield { offset, chunk: buffer.subarray(0, Math.min(buffer.length, total - offset)) };
  }
}

function prepareSave(w: unknown, path: unknown): { handle: RawWeight; total: number; target: string } {
  const weight = checkWeight('w', w, ALL_KINDS);
  return { handle: handleOf(weight), total: fileBytesOf(weight), target: validate.path('path', path) };
}

/**
 * Writes a packed weight to a file that {@link loadPacked} maps: a page that says how it lies, then its memory as it is. Both
 * have checksums, and the format a version. The bytes are those of every instruction set.
 *
 * The file appears under its name when it is complete and on disk, in place of what had that name.
 *
 * @param w - From {@link prepack} or {@link prepackInteger}, for the processor.
 * @param path - The file; its folder must exist.
 * @throws {@link InvalidArgumentError} for anything but a weight, or one that is disposed; {@link OutputError} if the file
 *   can't be written. Nothing is left behind then.
 *
 * @example
 * ```ts
 * savePacked(prepack(q), 'layer0.packed');
 * const w = loadPacked('layer0.packed'); // in another process, at once
 * ```
 */
export function savePacked(w: PackedWeight, path: string): void {
  const { handle, total, target } = prepareSave(w, path);
  const temporary = temporaryPath(target);
  try {
    const file = openSync(temporary, 'wx');
    try {
      for (const { offset, chunk } of chunksOf(total)) {
        addon.packedBytes(handle, offset, chunk);
        for (let done = 0; done < chunk.length; ) done += writeSync(file, chunk, done);
      }
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, resolve(target));
    syncFolder(dirname(resolve(target)));
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw outputError(target, cause);
  }
}

/** So that the name of a file is on disk, too. */
function syncFolder(folder: string): void {
  if (process.platform === 'win32') return; // folders can't be opened there
  const handle = openSync(folder, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/**
 * {@link savePacked} off the event loop, with the same result. The weight may be disposed meanwhile.
 *
 * @throws As {@link savePacked}, as a rejection; the signal's reason when it aborts.
 */
export async function savePackedAsync(
  w: PackedWeight,
  path: string,
  options: { signal?: AbortSignal } = {},
): Promise<void> {
  const { handle, total, target } = prepareSave(w, path);
  const given = validate.options<{ signal: unknown }>('options', options, new Set(['signal']));
  const signal = validate.abortSignal('signal', given.signal);
  signal?.throwIfAborted();
  const own = addon.shareWeight(handle);
  const temporary = temporaryPath(target);
  try {
    const file = await fs.open(temporary, 'wx');
    try {
      for (const { offset, chunk } of chunksOf(total)) {
        await runJob(
          (done) => addon.packedBytesAsync(own, offset, chunk, done),
          signal,
          (error) => explain(error, 'w'),
        );
        for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten;
        signal?.throwIfAborted();
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await fs.rename(temporary, resolve(target));
    syncFolder(dirname(resolve(target)));
  } catch (cause) {
    await fs.rm(temporary, { force: true });
    throw signal?.aborted && cause === signal.reason ? cause : outputError(target, cause);
  } finally {
    addon.disposeWeight(own);
  }
}

/** PackedFault in native/ops/matmul/packed_file.h. */
const FAULT = { unreadable: 1, notPacked: 2, version: 3, damagedHeader: 4, size: 5, damagedWeights: 6 } as const;

function prepareLoad(path: unknown, options: unknown, known: ReadonlySet<string>): { target: string; verify: boolean } {
  const target = validate.path('path', path);
  const given = validate.options<{ verify: unknown }>('options', options, known);
  return { target, verify: validate.boolean('verify', given.verify, true) };
}

/** What to do before the file is opened: that of a pipe would wait for somebody to write. */
function checkFile(path: string, stats: Stats): void {
  if (!stats.isFile()) throw new PackedFileError('READ_FAILED', `${path} is not a file.`, { path });
  if (stats.size === 0) throw notPacked(path); // what is empty can't be mapped
}

function readError(path: string, cause: unknown): PackedFileError {
  if (cause instanceof PackedFileError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENOTDIR'
    ? new PackedFileError('FILE_NOT_FOUND', `There is no file ${path}.`, { path, cause })
    : new PackedFileError('READ_FAILED', `${path} can't be read: ${message}.`, { path, cause });
}

/** Throws the error for what the addon found; see loadPacked in native/node/matmul_calls.cc. */
function checkProblem(path: string, bytes: number, problem: Uint8Array): void {
  const [fault] = problem;
  if (fault === 0) return;
  const detail = Buffer.from(problem.subarray(1, problem.indexOf(0, 1))).toString();
  const remedy = 'Write it again with savePacked.';
  const error = (code: PackedFileError['code'], message: string) => new PackedFileError(code, message, { path });
  switch (fault) {
    case FAULT.notPacked:
      throw notPacked(path);
    case FAULT.version:
      throw error('PACKED_VERSION', `${path} has version ${detail}, of another lowbit. ${remedy}`);
    case FAULT.damagedHeader:
      throw error('PACKED_DAMAGED', `${path} is damaged: its header can't be true. ${remedy}`);
    case FAULT.damagedWeights:
      throw error('PACKED_DAMAGED', `${path} is damaged: the checksum of its weights is wrong. ${remedy}`);
    case FAULT.size: {
      const message = `${path} should have ${detail} bytes but has ${bytes}. ${remedy}`;
      throw error(bytes < Number(detail) ? 'PACKED_TRUNCATED' : 'PACKED_DAMAGED', message);
    }
    default:
      throw error('READ_FAILED', `${path} can't be read: ${detail}.`);
  }
}

function notPacked(path: string): PackedFileError {
  return new PackedFileError('PACKED_NOT_A_PACKED_WEIGHT', `${path} is not a file that savePacked wrote.`, { path });
}

/** Room for the fault and its detail. */
const problemOfCall = () => new Uint8Array(512);

/**
 * Maps a file that {@link savePacked} wrote: nothing is copied, the system reads what is used, and processes and worker threads
 * that load the same file share its memory. The file may be renamed or deleted then (where the system allows it), and replaced
 * by {@link savePacked}; it must not be changed in place or truncated, which ends the process.
 *
 * @param options - `verify`, default true: whether the checksum of the memory is looked at, which reads all of it.
 * @returns A weight as {@link prepack} or {@link prepackInteger} returned it; `nbytes` counts what is mapped.
 * @throws {@link PackedFileError} if the file is missing, can't be read, is of another version, damaged or incomplete.
 *
 * @example
 * ```ts
 * const w = loadPacked('layer0.packed');
 * const quick = loadPacked('layer1.packed', { verify: false }); // without reading it all
 * ```
 */
export function loadPacked(path: string, options: LoadPackedOptions = {}): PackedWeight {
  const { target, verify } = prepareLoad(path, options, new Set(['verify']));
  let stats: Stats;
  try {
    stats = statSync(target);
    checkFile(target, stats);
  } catch (cause) {
    throw readError(target, cause);
  }
  const handle = addon.createWeight();
  const problem = problemOfCall();
  try {
    addon.loadPacked(handle, target, verify, problem);
  } catch (error) {
    throw explain(error, 'path');
  }
  checkProblem(target, stats.size, problem);
  return weightOfHandle(handle);
}

/**
 * {@link loadPacked} off the event loop, with the same result.
 *
 * @throws As {@link loadPacked}, as a rejection; the signal's reason when it aborts.
 */
export async function loadPackedAsync(path: string, options: LoadPackedAsyncOptions = {}): Promise<PackedWeight> {
  const { target, verify } = prepareLoad(path, options, new Set(['verify', 'signal']));
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  let stats: Stats;
  try {
    stats = await fs.stat(target);
    checkFile(target, stats);
  } catch (cause) {
    throw readError(target, cause);
  }
  const handle = addon.createWeight();
  const problem = problemOfCall();
  const start = (done: () => void) => addon.loadPackedAsync(handle, target, verify, problem, done);
  const job = runJob(start, signal, (error) => explain(error, 'path'));
  return filled(
    handle,
    job.then(() => checkProblem(target, stats.size, problem)),
  );
}
