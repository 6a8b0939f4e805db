/**
 * SHA-256 of whole files, beside the work on them.
 *
 * @module
 */
import { Worker } from 'node:worker_threads';
import { readError } from './file.js';
import { pageOffsetFor, sharedPages } from './scratch.js';

/** Bytes that are hashed at once. */
const HASH_BYTES = 2 ** 22;

/** Runs in a thread of its own: hashing is as much work as quantizing. */
const SCRIPT = `
const { createHash } = require('node:crypto');
const { openSync, readSync, closeSync } = require('node:fs');
const { parentPort, workerData } = require('node:worker_threads');
const buffer = new Uint8Array(workerData.memory, workerData.offset, ${HASH_BYTES});
for (const path of workerData.paths) {
  try {
    const hash = createHash('sha256');
    const file = openSync(path, 'r');
    for (let read; (read = readSync(file, buffer, 0, buffer.length, null)) > 0; ) hash.update(buffer.subarray(0, read));
    closeSync(file);
    parentPort.postMessage({ path, sha256: hash.digest('hex') });
  } catch ({ code, message }) {
    parentPort.postMessage({ path, code, message });
  }
}
`;

interface Answer {
  readonly path: string;
  readonly sha256?: string;
  readonly code?: string;
  readonly message?: string;
}

/** Hashes of files, by path; stop() ends the work early. */
export function hashFiles(paths: readonly string[]): { hashes: Promise<Map<string, string>>; stop(): void } {
  const worker = new Worker(SCRIPT, {
    eval: true,
    workerData: { paths, memory: sharedPages(HASH_BYTES), offset: pageOffsetFor(0) },
  });
  const hashes = new Promise<Map<string, string>>((resolve, reject) => {
    const found = new Map<string, string>();
    worker.on('message', ({ path, sha256, code, message }: Answer) => {
      if (sha256 === undefined) reject(readError(path, { code, message }));
      else found.set(path, sha256);
    });
    worker.on('error', reject);
    worker.on('exit', () => resolve(found));
  });
  hashes.catch(() => undefined); // whoever needs them awaits them
  return { hashes, stop: () => void worker.terminate() };
}
