/**
 * Fuzzes everything that reads what others wrote.
 *
 *     node test/fuzz/run.mjs <target …|all> [--executions N] [--seconds T] [--seed S] [--first I] [--replay] [--collect]
 *
 * `--replay` runs the recorded cases first; a finding names its seed and case, which `--seed S --first I --executions 1`
 * run again. `--collect` adds the shortest case of each way that a target can go to the recorded ones. The package must be built.
 */
import { parseArgs } from 'node:util';
import { Finding, fuzz, replay } from './engine.mjs';
import { loadPackage } from './memory.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    executions: { type: 'string' },
    seconds: { type: 'string' },
    seed: { type: 'string', default: '1' },
    first: { type: 'string', default: '0' },
    replay: { type: 'boolean', default: false },
    collect: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    'self-test': { type: 'string' },
  },
});

const dist = loadPackage();
const { targets } = await import('./targets.mjs');
const { CheckpointError, LowbitError } = dist('errors');
const all = values['self-test'] === undefined ? targets(dist) : { wrong: wrong(values['self-test']) };

const limits = {
  executions:
    values.executions === undefined ? (values.seconds === undefined ? 10_000 : Infinity) : Number(values.executions),
  seconds: Number(values.seconds ?? Infinity),
};

if (values.list) {
  console.log(Object.keys(all).join('\n'));
} else {
  const names = positionals.includes('all') || values['self-test'] !== undefined ? Object.keys(all) : positionals;
  if (names.length === 0 || names.some((name) => !Object.hasOwn(all, name))) {
    console.error(`Expected targets out of: ${Object.keys(all).join(', ')}, or all.`);
    process.exit(2);
  }
  for (const name of names) await one(name);
}

/** A target whose fourth case has a fault, which must be found. */
function wrong(message) {
  const faults = {
    'it throws TypeError': () => null.x,
    'it throws the code': () => {
      throw new CheckpointError('INDEX_INVALID', 'The index is not what it should be.', { path: 'x' });
    },
    'it allocates': () => new Uint8Array(2 ** 27).length,
    'it is wrong': () => {
      throw new Finding('it is wrong');
    },
  };
  let count = 0;
  return {
    codes: new Set(['CONFIG_INVALID']),
    reaches: [],
    enough: 0,
    generate: () => ({ isFourth: count++ === 3 }),
    run: ({ isFourth }) => (isFourth ? faults[message]() : 'ok'),
  };
}

async function one(name) {
  const target = all[name];
  const start = performance.now();
  try {
    const recorded = values.replay ? await replay(name, target, LowbitError) : 0;
    const { executions, codes } = await fuzz(name, target, LowbitError, {
      ...limits,
      seed: Number(values.seed),
      first: Number(values.first),
      collect: values.collect,
    });
    const seconds = (performance.now() - start) / 1000;
    const list = [...codes].sort(([, a], [, b]) => b - a).map(([code, count]) => `${code} ${count}`);
    console.log(
      `${name}: ${executions} executions, seed ${values.seed}, ${recorded} recorded cases, no finding, ${seconds.toFixed(1)} s`,
    );
    console.log(`  ${list.join(', ')}`);
    // A target that no longer reaches what it is for says nothing.
    const missing = executions < target.enough ? [] : target.reaches.filter((code) => !codes.has(code));
    if (missing.length > 0) fail(`${name}: no case out of ${executions} gave ${missing.join(', ')}`);
  } catch (error) {
    fail(error.stack ?? String(error));
  }
}

function fail(message) {
  console.error(message);
  process.exitCode = 1;
}
