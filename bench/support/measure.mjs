/**
 * Times alternatives side by side: every round runs each of them once, in an order drawn anew, so that a machine whose speed
 * drifts treats all alike and none always comes after the same other.
 */
import { performance } from 'node:perf_hooks';

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

function shuffled(values) {
  const result = [...values];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

async function secondsOf(run) {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1000;
}

/**
 * Median seconds per call of each case.
 *
 * @param cases name → function; one that returns a promise is awaited. Or name → `{ run, quiet }`, for peers whose threads
 *   go on spinning after a call and would take time from what is measured next: `quiet` ends that, or waits until it ends
 * @param options.rounds how often each case is timed
 * @param options.seconds least duration of one timing: short calls are repeated until then
 * @param options.warm seconds of runs before every timing: some systems wake a thread on the processor of the one that
 *   wakes it, and move it only after some milliseconds. Long runs hardly notice
 * @param options.budget seconds after which no further round begins, if there have been three
 */
export async function medians(
  cases,
  { rounds = 15, seconds = 0.004, warm = 0, budget = Number.POSITIVE_INFINITY } = {},
) {
  const runs = Object.entries(cases).map(([name, given]) => {
    const { run, quiet } = typeof given === 'function' ? { run: given } : given;
    return { name, run, quiet, times: [] };
  });
  for (const timed of runs) {
    // The first run also meets cold caches and fresh memory.
    let once = await secondsOf(timed.run);
    if (once < 10 * seconds) once = await secondsOf(timed.run);
    timed.repeats = Math.max(1, Math.min(100_000, Math.ceil(seconds / Math.max(once, 1e-8))));
    timed.warm = once < 0.1 ? warm : 0;
    await timed.quiet?.();
  }
  const begin = performance.now();
  for (let round = 0; round < rounds; round++) {
    if (round >= 3 && performance.now() - begin > budget * 1000) break;
    for (const timed of shuffled(runs)) {
      for (let spent = 0; spent < timed.warm; ) spent += await secondsOf(timed.run);
      const start = performance.now();
      for (let i = 0; i < timed.repeats; i++) {
        const result = timed.run();
        if (result instanceof Promise) await result;
      }
      timed.times.push((performance.now() - start) / 1000 / timed.repeats);
      await timed.quiet?.();
    }
  }
  return Object.fromEntries(runs.map(({ name, times }) => [name, median(times)]));
}

/** Numbers that no kernel can guess: normally distributed, for a seed the same on every run. */
export function normal(count, seed = 1) {
  const values = new Float32Array(count);
  let state = seed;
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
