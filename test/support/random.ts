/** The same numbers on every run: mulberry32. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normally distributed floats. */
export function normal(count: number, seed: number, deviation = 1): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => {
    const u = 1 - next();
    return deviation * Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * next());
  });
}
