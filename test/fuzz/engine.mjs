/**
 * Running cases of a target, and what must hold of every one: it ends, with a result that the target has checked or an
 * error of ours with a code that the target knows, and without asking for more memory than its input explains.
 */
import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { allocations, resetAllocations } from './memory.mjs';
import { Random } from './random.mjs';

/** A case that did not end so long after it began is stopped. */
const HANG_SECONDS = 60;
/** What a case may allocate: so many bytes, and so many for each byte of its input. */
const BASE_BYTES = 2 ** 20;
const BYTES_PER_INPUT_BYTE = 256;

/** What went wrong with a case. */
export class Finding extends Error {
  constructor(message, cause) {
    super(message, { cause });
    this.name = 'Finding';
  }
}

/** Kills the process when the case that runs does not end. */
function watch(name) {
  const shared = new Float64Array(new SharedArrayBuffer(8));
  const source = `
    const { workerData: { shared, name, seconds } } = require('node:worker_threads');
    const { writeSync } = require('node:fs');
    let [last, since] = [-1, Date.now()];
    setInterval(() => {
      if (shared[0] !== last) [last, since] = [shared[0], Date.now()];
      else if (last >= 0 && Date.now() - since > 1000 * seconds) {
        writeSync(2, name + ': case ' + last + ' did not end within ' + seconds + ' s\\n');
        process.kill(process.pid, 'SIGKILL');
      }
    }, 1000);`;
  const worker = new Worker(source, { eval: true, workerData: { shared, name, seconds: HANG_SECONDS } });
  worker.unref();
  return { shared, stop: () => worker.terminate() };
}

/** Bytes of a case. */
function sizeOf(value) {
  if (typeof value === 'string') return value.length;
  if (ArrayBuffer.isView(value)) return value.byteLength;
  if (typeof value !== 'object' || value === null) return 8;
  let size = 0;
  for (const inner of Array.isArray(value) ? value : Object.values(value)) size += sizeOf(inner);
  return size;
}

/** Runs one case: what came of it, and what was said. */
export async function outcomeOf(target, one, LowbitError) {
  resetAllocations();
  try {
    const result = target.run(one);
    const outcome = result instanceof Promise ? await result : result;
    checkAllocations(one);
    return { code: typeof outcome === 'string' ? outcome : 'ok', message: '' };
  } catch (error) {
    if (error instanceof Finding) throw error;
    if (!(error instanceof LowbitError)) throw new Finding(`it throws ${error?.stack ?? error}`, error);
    if (!target.codes.has(error.code)) throw new Finding(`it throws the code ${error.code}: ${error.stack}`, error);
    if (error.message.length < 15 || error.message.includes('[object ')) {
      throw new Finding(`it says no more than ${JSON.stringify(error.message)}`, error);
    }
    if (error.message.length > 20_000) throw new Finding(`it says ${error.message.length} letters`, error);
    checkAllocations(one);
    return { code: error.code, message: error.message };
  }
}

function checkAllocations(one) {
  const asked = allocations();
  if (asked < BASE_BYTES) return;
  const size = sizeOf(one);
  if (asked > BASE_BYTES + BYTES_PER_INPUT_BYTE * size) {
    throw new Finding(`it allocates ${asked} bytes for an input of ${size}`);
  }
}

/** A case as JSON, with bytes in base64. */
export function encoded(one) {
  const plain = (value) => {
    if (ArrayBuffer.isView(value)) {
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
      const deflated = bytes.length < 200 ? bytes : deflateRawSync(bytes);
      const isShorter = deflated.length < 0.8 * bytes.length;
      return isShorter ? { deflated: deflated.toString('base64') } : { base64: bytes.toString('base64') };
    }
    if (Array.isArray(value)) return value.map(plain);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
  };
  return JSON.stringify(plain(one));
}

/** The reverse of {@link encoded}. */
export function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (typeof value !== 'object' || value === null) return value;
  const { base64, deflated } = value;
  const bytes =
    typeof base64 === 'string'
      ? Buffer.from(base64, 'base64')
      : typeof deflated === 'string'
        ? inflateRawSync(Buffer.from(deflated, 'base64'))
        : null;
  // Aligned, as the data of tensors are.
  if (bytes !== null) return Buffer.from(Uint8Array.from(bytes).buffer);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, decoded(inner)]));
}

const corpusPath = (name) => fileURLToPath(new URL(`corpus/${name}.json`, import.meta.url));

/** The recorded cases of a target: each with the code that came of it. */
export function corpusOf(name) {
  let text;
  try {
    text = readFileSync(corpusPath(name), 'utf8');
  } catch {
    return [];
  }
  return JSON.parse(text).map(({ code, input }) => ({ code, input: decoded(input) }));
}

/** Runs the recorded cases of a target; returns how many there are. */
export async function replay(name, target, LowbitError) {
  const corpus = corpusOf(name);
  for (const [i, { code, input }] of corpus.entries()) {
    const outcome = await outcomeOf(target, input, LowbitError).catch((error) => {
      throw new Finding(`${name}: recorded case ${i}: ${error.message}`, error);
    });
    if (outcome.code !== code) {
      throw new Finding(`${name}: recorded case ${i} gives ${outcome.code} instead of ${code}: ${outcome.message}`);
    }
  }
  return corpus.length;
}

/** A message without names and numbers: cases with the same one went the same way. */
function wayOf({ code, message }) {
  return `${code} ${message
    .replace(/"(?:[^"\\]|\\.)*"/g, '"')
    .replace(/-?\d+(?:\.\d+)?(?:e[+-]?\d+)?/g, '0')
    .replace(/\[(?:0(?:, )?)*\]/g, '[]')
    .slice(0, 120)}`;
}

/**
 * Runs random cases.
 *
 * @param {object} options - `executions` or `seconds`, whichever ends first; `seed`; `first` case; `collect`: whether to
 *   record the shortest case of every way that there is.
 * @returns How many cases ran, and how often each code came.
 */
export async function fuzz(name, target, LowbitError, { executions, seconds, seed, first = 0, collect = false }) {
  const codes = new Map();
  const ways = new Map();
  const { shared, stop } = watch(name);
  const end = performance.now() + 1000 * seconds;
  const { stackTraceLimit } = Error;
  let index = first;
  try {
    // Stacks take a tenth of the time; a finding is run once more with them.
    Error.stackTraceLimit = 0;
    for (; index < first + executions; index++) {
      if (index % 64 === 0 && performance.now() > end) break;
      shared[0] = index;
      const one = target.generate(new Random(seed, index));
      let outcome;
      try {
        outcome = await outcomeOf(target, one, LowbitError);
      } catch (first) {
        Error.stackTraceLimit = stackTraceLimit;
        const error = await outcomeOf(target, one, LowbitError).then(
          () => new Finding(`${first.message} (but not the second time)`),
          (second) => second,
        );
        const input = encoded(one);
        const shown = input.length > 1000 ? `${input.slice(0, 1000)}…` : input;
        throw new Finding(`${name}: seed ${seed}, case ${index}: ${error.message}\n${shown}`, error);
      }
      codes.set(outcome.code, (codes.get(outcome.code) ?? 0) + 1);
      if (collect) {
        const way = wayOf(outcome);
        const size = sizeOf(one);
        if (size < (ways.get(way)?.size ?? Number.POSITIVE_INFINITY)) {
          ways.set(way, { size, code: outcome.code, text: encoded(one) });
        }
      }
    }
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
    await stop();
  }
  if (collect) save(name, [...ways.values()]);
  return { executions: index - first, codes };
}

/** The recorded cases stay small: so many bytes of each, and so many ways to the same code. */
const LARGEST_RECORDED = 3000;
const MOST_OF_A_CODE = 8;

/** Adds cases to the recorded ones. */
function save(name, found) {
  const counts = new Map();
  const cases = found
    .filter(({ text }) => text.length <= LARGEST_RECORDED)
    .sort((a, b) => a.text.length - b.text.length)
    .filter(({ code }) => {
      counts.set(code, (counts.get(code) ?? 0) + 1);
      return counts.get(code) <= MOST_OF_A_CODE;
    });
  const old = corpusOf(name).map(({ code, input }) => ({ code, text: encoded(input) }));
  const all = new Map([...old, ...cases].map(({ code, text }) => [text, code]));
  const lines = [...all].map(([text, code]) => `{"code":${JSON.stringify(code)},"input":${text}}`);
  writeFileSync(corpusPath(name), `[\n${lines.join(',\n')}\n]\n`);
  writeSync(1, `${name}: ${lines.length} recorded cases\n`);
}
