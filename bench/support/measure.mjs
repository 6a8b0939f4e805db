/** Times alternatives side by side: every round runs each of them once, so that a machine whose speed drifts treats all alike. */
import { performance } from 'node:perf_hooks';

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/**
 * Median seconds per call of each case.
 *
 * @param cases name → function; one that returns a promise is awaited
 * @param options.rounds how often each case is timed
 * @param options.seconds least duration of one timing: short calls are repeated until then
 */
export async function medians(cases, { rounds = 15, seconds = 0.004 } = {}) {
  const repeats = {};
  const times = {};
  for (const [name, run] of Object.entries(cases)) {
    await run();
    const start = performance.now();
    await run();
    const once = (performance.now() - start) / 1000;
    repeats[name] = Math.max(1, Math.min(100_000, Math.ceil(seconds / Math.max(once, 1e-8))));
    times[name] = [];
  }
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(cases)) {
      const start = performance.now();
      for (let i = 0; i < repeats[name]; i++) {
        const result = run();
        if (result instanceof Promise) await result;
      }
      times[name].push((performance.now() - start) / 1000 / repeats[name]);
    }
  }
  return Object.fromEntries(Object.entries(times).map(([name, values]) => [name, median(values)]));
}

/** Numbers that no kernel can guess: normally distributed, the same on every run. */
export function normal(count) {
  const values = new Float32Array(count);
  let state = 1;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 1) / 4294967297;
  };
  // A block of a million is enough; repeating it costs nothing and no cache holds it.
  const block = Math.min(count, 1 << 20);
  for (let i = 0; i < block; i++) values[i] = Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next());
  for (let i = block; i < count; i += block) values.copyWithin(i, 0, Math.min(block, count - i));
  return values;
}
