/**
 * Reading files, with errors of ours.
 *
 * @module
 */
import { type FileHandle, open } from 'node:fs/promises';
import { getSystemErrorName } from 'node:util';
import { addon } from '../addon.js';
import { CheckpointError } from '../errors.js';

/** The error of a failed system call on an input. */
export function readError(path: string, cause: unknown): CheckpointError {
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === 'ENOENT') return new CheckpointError('FILE_NOT_FOUND', `${path} does not exist.`, { path, cause });
  return new CheckpointError('READ_FAILED', `${path} can't be read: ${message}.`, { path, cause });
}

/** @throws {@link CheckpointError} `FILE_NOT_FOUND`, `READ_FAILED`. */
export async function openForReading(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (cause) {
    throw readError(path, cause);
  }
}

function truncated(path: string, end: number, tensor: string | undefined): CheckpointError {
  const message = `${path} became shorter while it was read: it ends before byte ${end}.`;
  return new CheckpointError('FILE_TRUNCATED', message, { path, tensor });
}

/**
 * Reads from `position` on into the whole of `into`.
 *
 * @param tensor - What is read, for messages.
 * @throws {@link CheckpointError} `FILE_TRUNCATED`, `READ_FAILED`.
 */
export async function readFully(
  path: string,
  handle: FileHandle,
  position: number,
  into: Uint8Array,
  tensor?: string,
): Promise<void> {
  let done = 0;
  while (done < into.length) {
    let bytesRead: number;
    try {
      ({ bytesRead } = await handle.read(into, done, into.length - done, position + done));
    } catch (cause) {
      throw readError(path, cause);
    }
    if (bytesRead === 0) throw truncated(path, position + into.length, tensor);
    done += bytesRead;
  }
}

/** Whether {@link readStrided} is there: not on Windows. */
export const canReadStrided = addon.readStrided !== undefined;

/**
 * Reads `rows` pieces that lie `stride` bytes apart, the first at `position`, one after the other into `into`, which is in
 * shared memory: nobody can take it away while it is written to.
 *
 * @param whole - Whether what lies between the pieces is going to be read soon.
 * @throws {@link CheckpointError} `FILE_TRUNCATED`, `READ_FAILED`.
 */
export async function readStrided(
  path: string,
  handle: FileHandle,
  position: number,
  stride: number,
  rows: number,
  into: Uint8Array<SharedArrayBuffer>,
  whole: boolean,
  tensor: string,
): Promise<void> {
  if (handle.fd < 0) throw readError(path, new Error('it is closed'));
  const problem = await new Promise<number>((resolve) => {
    addon.readStrided?.(handle.fd, position, stride, rows, into, whole, resolve);
  });
  if (problem === 0) return;
  if (problem < 0) throw truncated(path, position + (rows - 1) * stride + into.length / rows, tensor);
  const code = getSystemErrorName(-problem);
  throw readError(path, Object.assign(new Error(`${code}: read`), { code }));
}
