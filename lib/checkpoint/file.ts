/**
 * Reading files, with errors of ours.
 *
 * @module
 */
import { type FileHandle, open } from 'node:fs/promises';
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
    if (bytesRead === 0) {
      const message = `${path} became shorter while it was read: it ends before byte ${position + into.length}.`;
      throw new CheckpointError('FILE_TRUNCATED', message, { path, tensor });
    }
    done += bytesRead;
  }
}
