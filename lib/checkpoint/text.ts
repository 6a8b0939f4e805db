/**
 * Texts that a model is to read.
 *
 * @module
 */
import { readFile } from 'node:fs/promises';
import { InvalidArgumentError } from '../errors.js';
import { readError } from './file.js';

/**
 * A text file.
 *
 * @throws {@link CheckpointError} `FILE_NOT_FOUND`, `READ_FAILED`; {@link InvalidArgumentError} for what is no UTF-8.
 */
export async function readText(path: string): Promise<string> {
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw readError(path, cause);
  });
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new InvalidArgumentError('text', `Expected ${path} to be text in UTF-8.`, { cause });
  }
}
