/**
 * Work off the event loop.
 *
 * @module
 */
import { addon } from './load.js';
import type { Done } from './raw.js';

/**
 * Runs an `…Async` call of the addon as a promise that an AbortSignal can end. `explained` makes an error of ours out of
 * what the addon reports.
 */
export function runJob(
  start: (done: Done) => number,
  signal: AbortSignal | undefined,
  explained: (error: unknown) => unknown,
): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const cancel = () => addon.cancel(job);
    let job: number;
    try {
      job = start((error) => {
        signal?.removeEventListener('abort', cancel);
        if (error === undefined) resolve();
        else if (error.code === 'CANCELLED') reject(signal?.reason);
        else reject(explained(error));
      });
    } catch (error) {
      reject(explained(error));
      return;
    }
    signal?.addEventListener('abort', cancel);
  });
}
