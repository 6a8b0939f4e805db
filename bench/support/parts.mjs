/** What the benchmarks of formats share: which part is measured, in which rounds, and beside which loop. */
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';
import lowbit from '../../dist/index.js';

const require = createRequire(import.meta.url);
const limits = require('../../build-bench/lowbit_limits.node');

/** `--quick`, `--only=` some of the names, `--threads=` some counts, and what goes with them. */
export function partToMeasure(names) {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      only: { type: 'string' },
      threads: { type: 'string' },
      write: { type: 'boolean', default: false },
    },
  });
  const wanted = values.only?.split(',') ?? names;
  for (const name of wanted) {
    if (!names.includes(name)) throw new Error(`--only takes some of ${names.join(',')}, not ${name}`);
  }
  const { threads: all } = lowbit.capabilities();
  const threads = values.threads?.split(',').map(Number) ?? (all > 1 ? [1, all] : [1]);
  if (!threads.every((n) => Number.isInteger(n) && n > 0)) throw new Error(`Not counts: ${values.threads}`);
  return {
    quick: values.quick,
    wanted,
    threads,
    all,
    rounds: values.quick ? { rounds: 5, budget: 1 } : { rounds: 15, budget: 4 },
  };
}

/** The command that measures this part again. */
export function commandOf(name) {
  const flags = process.argv.slice(2).filter((flag) => flag !== '--write');
  const set = process.env.LOWBIT_ISA ? `LOWBIT_ISA=${process.env.LOWBIT_ISA} ` : '';
  return [`${set}npm run ${name}`, ...(flags.length > 0 ? ['--', ...flags] : [])].join(' ');
}

/** Threads for lowbit and for the loop beside it. */
export function useThreads(count) {
  lowbit.setNumThreads(count);
  limits.setThreads(count);
}

/**
 * A loop that only moves the bytes, through the caches and around them.
 *
 * @param unit bytes that are read and written in each step: multiples of 32
 */
export function trafficCases(readBytes, writeBytes, unit) {
  const input = new Uint8Array(readBytes).fill(1); // memory that was never written is one shared page of zeros
  const output = new Uint8Array(writeBytes + 4096);
  return {
    through: () => limits.traffic(input, output, ...unit, false),
    around: () => limits.traffic(input, output, ...unit, true),
  };
}

/** Tables one under the other, all but the first folded up. */
export function folded(sections) {
  return sections
    .map(([title, body], i) =>
      i === 0 ? `### ${title}\n\n${body}` : `<details>\n<summary>${title}</summary>\n\n${body}\n\n</details>`,
    )
    .join('\n\n');
}
