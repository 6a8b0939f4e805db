/**
 * Random numbers for fuzzing: the same ones for the same seed and case, whatever ran before.
 */

/** sfc32, which passes the tests of randomness that there are (Doty-Humphrey, PractRand). */
export class Random {
  /**
   * @param {number} seed - Of the run.
   * @param {number} index - Of the case.
   */
  constructor(seed, index) {
    this.a = seed | 0;
    this.b = index | 0;
    this.c = (index / 2 ** 32) | 0;
    this.d = 1;
    for (let i = 0; i < 12; i++) this.bits();
  }

  /** 32 bits. */
  bits() {
    const sum = (((this.a + this.b) | 0) + this.d) | 0;
    this.d = (this.d + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** An integer from 0 to n − 1. */
  below(n) {
    return Math.floor((this.bits() / 2 ** 32) * n);
  }

  /** Whether something happens that does once in `n` times. */
  once(n) {
    return this.below(n) === 0;
  }

  pick(list) {
    return list[this.below(list.length)];
  }
}

const POOL = new Uint8Array(1 << 18);
{
  const random = new Random(20, 26);
  const words = new Uint32Array(POOL.buffer);
  for (let i = 0; i < words.length; i++) words[i] = random.bits();
}

/** Random bytes that must not be written to, aligned to 8: a view, since making new ones is what would take the time. */
export function randomBytes(random, length) {
  if (length > POOL.length / 2) throw new RangeError(`${length} bytes are too many`);
  const begin = 8 * random.below((POOL.length - length) / 8);
  return POOL.subarray(begin, begin + length);
}
