/**
 * Which model statistics are of.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { hashFiles } from '../checkpoint/file-hash.js';

/** SHA-256, in hexadecimal, of a model's config and of the files of its weights, wherever they lie. */
export async function modelIdentity(path: string, signal?: AbortSignal): Promise<string> {
  const checkpoint = await openCheckpoint(path);
  let config: string;
  let paths: string[];
  try {
    config = JSON.stringify(checkpoint.config);
    paths = checkpoint.files.map((file) => file.path);
  } finally {
    await checkpoint.close();
  }
  const work = hashFiles(paths);
  const stop = () => work.stop();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    const hashes = await work.hashes;
    signal?.throwIfAborted();
    const identity = createHash('sha256').update(config);
    for (const file of paths) identity.update(hashes.get(file) as string);
    return identity.digest('hex');
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}
