/**
 * Bit fields in rows, as files of quantized weights pack their codes. Arrays are views of shared memory, or are copied
 * first; callers have checked lengths and values, and the addon checks them again.
 *
 * @module
 */
import { addon, explain, runJob } from '../addon.js';
import { packedRowBytes } from '../dtype.js';
import { detachedFromCaller } from '../off-thread.js';

const { input, output, copyBack } = detachedFromCaller;

/** @internal Rows of fields without gaps, the first in the low bits. */
export interface FieldRows {
  readonly rows: number;
  readonly columns: number;
  /** Of a field: 1 to 8. */
  readonly bits: number;
}

/**
 * @internal Moves rows to another distance: `inStride` and `outStride` bytes, each at least those of a row. What follows
 * the last field of a row becomes zero. `flip` inverts the top bit of every field: two's complement to offset binary, and
 * back.
 */
export async function moveFieldsAsync(
  data: Uint8Array,
  { rows, columns, bits }: FieldRows,
  { inStride, outStride, flip }: { inStride: number; outStride: number; flip: boolean },
  out: Uint8Array,
): Promise<Uint8Array> {
  const target = output(out);
  await runJob(
    (done) => addon.moveFieldsAsync(input(data), inStride, target, outStride, rows, columns, bits, flip, done),
    undefined,
    (error) => explain(error, 'data'),
  );
  copyBack('out', target, out);
  return out;
}

/**
 * @internal Fields to bytes: `field − offset`, in two's complement where that is negative.
 *
 * @param layout - `stride`: bytes from row to row; `perWord`: fields in each 32-bit word, or 0 if there are no gaps.
 */
export async function unpackFieldsAsync(
  data: Uint8Array,
  { rows, columns, bits }: FieldRows,
  { stride, perWord, offset }: { stride: number; perWord: number; offset: number },
  out: Uint8Array,
): Promise<Uint8Array> {
  const target = output(out);
  await runJob(
    (done) => addon.unpackFieldsAsync(input(data), stride, rows, columns, bits, perWord, offset, target, done),
    undefined,
    (error) => explain(error, 'data'),
  );
  copyBack('out', target, out);
  return out;
}

/** @internal Column i of the result is column `order[i]` of `data`; rows start on bytes. */
export async function gatherFieldsAsync(
  data: Uint8Array,
  { rows, columns, bits }: FieldRows,
  order: Int32Array,
  out: Uint8Array = new Uint8Array(new SharedArrayBuffer(rows * packedRowBytes(columns, bits))),
): Promise<Uint8Array> {
  const target = output(out);
  await runJob(
    (done) => addon.gatherFieldsAsync(input(data), rows, columns, bits, order, target, done),
    undefined,
    (error) => explain(error, 'data'),
  );
  copyBack('out', target, out);
  return out;
}

/** @internal The two halves of every byte change places. `out` may be `data`. */
export async function swapNibblesAsync(data: Uint8Array, out: Uint8Array): Promise<Uint8Array> {
  const target = output(out);
  await runJob(
    (done) => addon.swapNibblesAsync(input(data), target, done),
    undefined,
    (error) => explain(error, 'data'),
  );
  copyBack('out', target, out);
  return out;
}

/**
 * @internal LLM.int8() weights as bitsandbytes dequantizes them: `code · absmax[row]`, then `· 1/127`, each rounded to
 * float32.
 */
export async function dequantizeLlmInt8Async(
  codes: Uint8Array,
  absmax: Float32Array,
  rows: number,
  columns: number,
  out: Float32Array,
): Promise<Float32Array> {
  const target = output(out);
  await runJob(
    (done) => addon.dequantizeLlmInt8Async(input(codes), input(absmax), rows, columns, target, done),
    undefined,
    (error) => explain(error, 'codes'),
  );
  copyBack('out', target, out);
  return out;
}
