/**
 * Choices that a seed determines, the same on every machine.
 *
 * @module
 */

/** Numbers in [0, 1), multiples of 2^−32, from a seed of 32 bits: Mulberry32, by Tommy Ettinger (public domain). */
export function randomFractions(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` of the numbers below `total`, ascending, each as likely as the others; all if there are no more. */
export function drawn(total: number, count: number, seed: number): Int32Array {
  const all = Int32Array.from({ length: total }, (_, i) => i);
  if (count >= total) return all;
  const next = randomFractions(seed);
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(next() * (total - i));
    [all[i], all[j]] = [all[j] as number, all[i] as number];
  }
  return all.slice(0, count).sort();
}
