/**
 * Codes between the rows of a {@link QuantizedTensor} and the 32-bit words of GPTQ and AWQ, for a strip of output channels
 * at a time. Rows must fill whole words: K · bits is a multiple of 32. All work is done by the addon, off the event loop;
 * arrays in shared memory (a `Scratch`, {@link sharedWords}) are used in place, others are copied first.
 *
 * @module
 */
import { addon, explain, runJob } from '../../addon.js';
import type { IntDtype } from '../../dtype.js';
import { detachedFromCaller } from '../../off-thread.js';

/** Codes as GPTQ and AWQ have them: 2, 3, 4 or 8 bits. */
export type CodeBits = 2 | 3 | 4 | 8;

/** The dtype of such codes in memory. */
export const CODE_DTYPES: Readonly<Record<CodeBits, IntDtype>> = { 2: 'uint2', 3: 'uint3', 4: 'uint4', 8: 'uint8' };

/** The width of integer codes that these layouts can hold, or null. */
export function codeBitsOf(value: unknown): CodeBits | null {
  return value === 2 || value === 3 || value === 4 || value === 8 ? value : null;
}

/** Words in shared memory. */
export function sharedWords(count: number): Uint32Array {
  return new Uint32Array(new SharedArrayBuffer(4 * count));
}

/** Bytes as words; copied if they don't begin on one. Their number must be a multiple of four. */
export function wordsOf(bytes: Uint8Array): Uint32Array {
  const { buffer, byteOffset, length } = byteOffsetIsWhole(bytes) ? bytes : bytes.slice();
  return new Uint32Array(buffer, byteOffset, length / 4);
}

function byteOffsetIsWhole({ byteOffset }: Uint8Array): boolean {
  return byteOffset % 4 === 0;
}

async function run(
  call: 'transposeWordsAsync' | 'awqToRowsAsync' | 'rowsToAwqAsync',
  record: readonly number[],
  input: Uint32Array,
  out: Uint32Array,
): Promise<void> {
  const from = detachedFromCaller.input(input);
  const to = detachedFromCaller.output(out);
  await runJob(
    (done) => addon[call](new Float64Array(record), from, to, done),
    undefined,
    (error) => explain(error, 'input'),
  );
  detachedFromCaller.copyBack('out', to, out);
}

/**
 * Transposes a matrix of 32-bit words: of GPTQ's `qweight` [K·bits/32, N] that makes rows of codes and back, of scales
 * [G, N] in float32 the scales of rows.
 *
 * @param input - [rows, columns]
 * @param out - [columns, rows]
 */
export function transposeWords(input: Uint32Array, rows: number, columns: number, out: Uint32Array): Promise<void> {
  return run('transposeWordsAsync', [rows, columns, 0, columns, 0, rows], input, out);
}

/**
 * AWQ's `qweight` [8 · kWords, columns] to rows of four-bit codes [8 · columns, kWords], in the order of the channels.
 * Source: casper-hansen/AutoAWQ, awq/utils/packing_utils.py.
 */
export function awqToRows(input: Uint32Array, kWords: number, columns: number, out: Uint32Array): Promise<void> {
  return run('awqToRowsAsync', [kWords, columns], input, out);
}

/** {@link awqToRows} the other way round. */
export function rowsToAwq(input: Uint32Array, kWords: number, columns: number, out: Uint32Array): Promise<void> {
  return run('rowsToAwqAsync', [kWords, columns], input, out);
}

/**
 * Puts codes that are packed along the rows of words [order.length · bits / 32, columns] in another order: code i of every
 * column of `out` is code `order[i]` of that column of `input`.
 *
 * @throws InvalidArgumentError if `order` names a code that does not exist.
 */
export async function selectCodes(
  input: Uint32Array,
  bits: CodeBits,
  order: Int32Array,
  columns: number,
  out: Uint32Array,
): Promise<void> {
  const from = detachedFromCaller.input(input);
  const places = detachedFromCaller.input(order);
  const to = detachedFromCaller.output(out);
  await runJob(
    (done) => addon.selectCodesAsync(new Float64Array([bits, columns]), from, places, to, done),
    undefined,
    (error) => explain(error, 'order'),
  );
  detachedFromCaller.copyBack('out', to, out);
}

/**
 * Two's complement to offset binary, and back: flips the top bit of every code of rows of dense words. (Rows of 3-bit
 * codes are whole runs of three words.)
 */
export function flipTopBits(words: Uint32Array, bits: CodeBits): void {
  const patterns = [0, 1, 2].map((word) => {
    let pattern = 0;
    for (let bit = 0; bit < 32; bit++) if ((32 * word + bit) % bits === bits - 1) pattern |= 1 << bit;
    return pattern;
  }) as [number, number, number];
  if (patterns[0] === patterns[1]) {
    for (let i = 0; i < words.length; i++) words[i] = (words[i] as number) ^ patterns[0];
    return;
  }
  for (let i = 0; i < words.length; i += 3) {
    words[i] = (words[i] as number) ^ patterns[0];
    words[i + 1] = (words[i + 1] as number) ^ patterns[1];
    words[i + 2] = (words[i + 2] as number) ^ patterns[2];
  }
}
