/** What the machine allows: cases to measure beside the others, and what their times mean. */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const limits = require('../../build-bench/lowbit_limits.node');

/** Reading this much leaves nothing of it in any cache. */
export const MEMORY_BYTES = 256 * 2 ** 20;
const PART_BYTES = 4 * 2 ** 20;
const TASKS_PER_THREAD = 100;

export const setThreads = limits.setThreads;

/** Recipes of bench/limits/peaks.cc for the instruction sets that lowbit multiplies with: byte products and float ones. */
const RECIPES = {
  avx2: { float: 'fma ymm' },
  avx512: { float: 'fma ymm' },
  avxvnni: { dot: 'vpdpbusd ymm', float: 'fma ymm' },
  avx512vnni: { dot: 'vpdpbusd zmm', float: 'fma zmm' },
  avx512vpopcnt: { dot: 'vpdpbusd zmm', float: 'fma zmm' },
};

/**
 * The ways to multiply and add in an arithmetic: recipes, and how often each has to be gone through.
 *
 * @param arithmetic what the rows of x are when they are multiplied: 'int8', 'int16', 'float32'
 */
function recipesOf(isa, arithmetic, bits) {
  const recipes = RECIPES[isa];
  if (recipes === undefined) return [];
  if (arithmetic === 'float32') return [{ name: recipes.float, times: 1 }];
  // Without dot product instructions four bits are multiplied faster than eight.
  const name = recipes.dot ?? (bits <= 4 ? '8 maddubs' : '2 maddubs');
  if (arithmetic === 'int8') return [{ name, times: 1 }];
  // Sixteen bits are two times eight, or are multiplied as they are.
  return [
    { name, times: 2 },
    { name: 'madd', times: 1 },
  ];
}

/** What multiply-adds of float32 allow: `run` goes through `operations` of them. */
export function multiplyLimit({ isa, threads }) {
  const tasks = TASKS_PER_THREAD * threads;
  const name = RECIPES[isa]?.float ?? 'fma ymm';
  return { name, operations: limits.peak(name, tasks), run: () => limits.peak(name, tasks) };
}

/**
 * What counting bits allows: `run` goes through the best recipe of the instruction set, and `operations` is how many products
 * and additions of signs that is; null where there is none.
 */
export function countingLimit({ isa, threads }) {
  const tasks = TASKS_PER_THREAD * threads;
  const name = isa === 'avx512vpopcnt' ? 'vpopcntd zmm' : 'popcnt';
  const operations = limits.peak(name, tasks);
  return operations === null ? null : { name, operations, run: () => limits.peak(name, tasks) };
}

/**
 * The limits for products with weights of `bytes`.
 *
 * @param place 'memory', or 'cache' where the weights stay between two products
 */
export function limitsOf({ isa, threads, place, bytes, bits, arithmetics }) {
  const tasks = TASKS_PER_THREAD * threads;
  const recipes = new Map(arithmetics.map((arithmetic) => [arithmetic, recipesOf(isa, arithmetic, bits)]));
  const cases = {};
  const operations = {};
  for (const { name } of [...recipes.values()].flat()) {
    operations[name] = limits.peak(name, tasks);
    cases[name] = () => limits.peak(name, tasks);
  }
  // In the caches every thread reads a part of its own, again and again.
  const share = Math.floor(bytes / threads / 256) * 256;
  const [size, part, repeats] =
    place === 'memory' ? [MEMORY_BYTES, PART_BYTES, 1] : [share * threads, share, Math.ceil(2 ** 25 / bytes)];
  limits.reserve(MEMORY_BYTES);
  for (const streams of [1, 4]) cases[`read ${streams}`] = () => limits.read(size, part, repeats, streams);

  return {
    cases,

    /** By the medians of the cases, the least seconds for so many operations, and what they are bound by. */
    least(seconds, arithmetic, wanted) {
      const ways = recipes.get(arithmetic);
      if (ways.length === 0) return null;
      const compute = Math.min(...ways.map(({ name, times }) => (times * wanted * seconds[name]) / operations[name]));
      const read = Math.min(seconds['read 1'], seconds['read 4']);
      const memory = (bytes * read) / (size * repeats);
      return compute > memory ? { seconds: compute, bound: 'arithmetic' } : { seconds: memory, bound: place };
    },
  };
}
