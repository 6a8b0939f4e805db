/**
 * The addon behind lib/: whatever comes, it throws an error with a code and touches no memory that is not its own. lib/ checks
 * everything first, so that nothing but this test gets here.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addon, type RawError } from '../../lib/addon.js';

type Call = (...args: unknown[]) => unknown;
const raw = addon as unknown as Record<string, Call>;

const [m, n, k] = [2, 16, 32];
const integers = addon.createWeight();
addon.packIntegers(integers, new Int8Array(k * n), k, n);
const floats = addon.createWeight();
addon.packFloats(floats, new Float32Array(n * k), 0, n, k);
const codes = addon.createWeight();
const codesRecord = Float64Array.of(4, 1, n, k, 16, 2);
addon.packCodes(codesRecord, codes, new Uint8Array((n * k) / 2), new Float32Array(2 * n), null);
const digits = addon.createWeight();
addon.packTernaryWeight(digits, new Uint8Array(n * 8), n, k);
const kept = addon.createWeight();
addon.packFloats(kept, new Float32Array(n * 2), 0, n, 2);
const inUse: unknown[] = [integers, floats, codes, digits, kept];
const disposed = addon.createWeight();
addon.disposeWeight(disposed);

/** Arguments of every kind, many of them right in some place. */
const argument = fc.oneof(
  fc.constantFrom<unknown>(
    integers,
    floats,
    codes,
    digits,
    kept,
    disposed,
    null,
    undefined,
    true,
    false,
    '',
    '/nowhere',
    'x',
  ),
  fc.constantFrom<unknown>({}, [], () => 1, Symbol('s'), 1n, new DataView(new ArrayBuffer(8)), new Date()),
  fc.constantFrom(0, 1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53),
  fc.record({
    type: fc.constantFrom(Float32Array, Float64Array, Int8Array, Uint8Array, Uint16Array, Int32Array),
    length: fc.constantFrom(0, 1, 2, 3, 5, 6, 15, 16, 31, 32, 33, 64, 256, 511, 512, 513, 1024),
    fill: fc.constantFrom(0, 1, 2, 4, 16, 32, -1, 300),
  }),
);

const made = (value: unknown): unknown => {
  if (typeof value !== 'object' || value === null || !('type' in value)) return value;
  const { type, length, fill } = value as { type: Float64ArrayConstructor; length: number; fill: number };
  return new type(length).fill(fill);
};

/** Calls that succeed, and from which others differ in some arguments. */
const good: [string, () => unknown[]][] = [
  [
    'packCodes',
    () => [codesRecord, addon.createWeight(), new Uint8Array(256), new Float32Array(32), new Int32Array(32)],
  ],
  ['packFloats', () => [addon.createWeight(), new Uint16Array(n * k), 1, n, k]],
  ['packIntegers', () => [addon.createWeight(), new Uint8Array(n * k), k, n]],
  [
    'linear',
    () => [
      Float64Array.of(1, 0, 2),
      new Float32Array(m * k),
      codes,
      new Float32Array(n),
      floats,
      new Float32Array(n),
      new Float32Array(m * n),
    ],
  ],
  [
    'matmulInteger',
    () => [
      Float64Array.of(m, n, k, 0, 0, 0),
      new Int8Array(m * k),
      integers,
      new Int32Array(m),
      new Int32Array(n),
      new Float32Array(n),
      new Uint8Array(m * n),
    ],
  ],
  [
    'dynamicQuantizeMatmul',
    () => [
      Float64Array.of(m, n, k, 0),
      new Float32Array(m * k),
      new Uint8Array(k * n),
      new Int32Array(n),
      new Float32Array(n),
      new Float32Array(n),
      new Float32Array(m * n),
    ],
  ],
  ['xorCounts', () => [new Uint8Array(m * 4), new Uint8Array(n * 4), m, n, k, 0, new Int32Array(m * n)]],
  ['packBits', () => [new Uint16Array(n * k), 2, n, k, new Uint8Array(n * 4)]],
  ['unpackBits', () => [new Uint8Array(n * 4), n, k, true, new Float32Array(n * k)]],
  ['packTernary', () => [new Int8Array(n * k), n, k, 1, new Uint8Array(n * 7)]],
  ['unpackTernary', () => [new Uint8Array(n * 8), n, k, 0, new Int8Array(n * k)]],
  ['packTernaryWeight', () => [addon.createWeight(), new Uint8Array(n * 8), n, k]],
  ['ternaryMatmul', () => [new Int8Array(m * k), digits, m, new Int32Array(m * n)]],
  ['packIntegerRows', () => [addon.createWeight(), new Int8Array(n * k), n, k]],
  [
    'quantizeLlmInt8',
    () => [new Float32Array(n * k), 0, n, k, 6, new Uint8Array(k), new Int8Array(n * k), new Float32Array(n)],
  ],
  [
    'llmInt8Linear',
    () => [
      new Float32Array(m * k),
      integers,
      new Float32Array(n),
      kept,
      Int32Array.of(3, 31),
      6,
      new Float32Array(n),
      new Float32Array(m * n),
    ],
  ],
  ['gram', () => [new Float32Array(m * k), k, true, new Float32Array(k * k)]],
  ['packedBytes', () => [codes, 4000, new Uint8Array(200)]],
  ['loadPacked', () => [addon.createWeight(), '/nowhere', true, new Uint8Array(64)]],
  ['createWeight', () => []],
  ['shareWeight', () => [codes]],
  ['describeWeight', () => [codes]],
  ['disposeWeight', () => [addon.createWeight()]],
];

function throwsOurs(call: () => unknown): void {
  try {
    call();
  } catch (error) {
    expect(['INVALID_ARGUMENT', 'OUT_OF_MEMORY', 'NON_FINITE', 'INVALID_CODE']).toContain((error as RawError).code);
  }
}

describe('the raw surface', () => {
  it.each(good)('%s succeeds with the right arguments', (name, args) => {
    expect(() => (raw[name] as Call)(...args())).not.toThrow();
  });

  it.each(good)('%s survives wrong ones', async (name, args) => {
    const positions = fc.array(fc.tuple(fc.nat(7), argument), { minLength: 1, maxLength: 3 });
    const jobs: Promise<unknown>[] = [];
    fc.assert(
      fc.property(positions, fc.boolean(), fc.nat(8), (changes, later, length) => {
        const all = args();
        for (const [position, value] of changes) all[position] = made(value);
        // The weights of this file stay in use.
        if (name === 'disposeWeight' && inUse.includes(all[0])) return;
        if (/^(pack(Codes|Floats|Integers|IntegerRows|TernaryWeight)|loadPacked)$/.test(name)) {
          const handle = name === 'packCodes' ? 1 : 0;
          if (inUse.includes(all[handle])) all[handle] = disposed;
        }
        const cut = length < 2 ? all.slice(0, length) : all;
        if (later && raw[`${name}Async`] !== undefined && cut.length === args().length) {
          jobs.push(new Promise((done) => throwsOursOr(() => (raw[`${name}Async`] as Call)(...cut, done), done)));
        } else {
          throwsOurs(() => (raw[name] as Call)(...cut));
        }
      }),
      { numRuns: 1500 },
    );
    await Promise.all(jobs);
  });
});

/** A job that does not start never ends. */
function throwsOursOr(start: () => unknown, done: (value: unknown) => void): void {
  let started = false;
  throwsOurs(() => {
    start();
    started = true;
  });
  if (!started) done(undefined);
}
