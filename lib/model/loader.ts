/**
 * Reading weights one after the other.
 *
 * @module
 */
import { Scratch } from '../checkpoint/scratch.js';

/** Lets what reads weights use the same memory, by turns. */
export class Loader {
  private readonly scratch = new Scratch();
  private last: Promise<unknown> = Promise.resolve();

  /** Runs `body` when all that came before has ended. */
  run<T>(body: (scratch: Scratch) => Promise<T>): Promise<T> {
    const result = this.last.then(() => body(this.scratch));
    this.last = result.catch(() => undefined);
    return result;
  }
}
