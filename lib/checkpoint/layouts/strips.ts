/**
 * Reading some columns of a stored matrix: what a strip of output channels is in layouts that store weights transposed.
 *
 * @module
 */
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';

/** Reading so many bytes that nobody wants takes less time than another read. */
const CHEAP_GAP_BYTES = 48 << 10;

/** The most that is read at once where gaps are read as well: what {@link readColumns} needs besides its result. */
export const CHUNK_BYTES = 4 << 20;

const READS_IN_FLIGHT = 32;

/**
 * Reads bytes `begin` … `begin + width` of every row of a tensor into rows of `width` bytes.
 *
 * @param rows - How many rows there are, of `rowBytes` each, from the beginning of the tensor on.
 * @param into - rows · width bytes.
 * @throws CheckpointError `FILE_TRUNCATED`, `READ_FAILED`.
 */
export async function readColumns(
  tensor: StoredTensor,
  rows: number,
  rowBytes: number,
  begin: number,
  width: number,
  into: Uint8Array,
  scratch: Scratch,
): Promise<void> {
  if (rows === 0 || width === 0) return;
  if (width === rowBytes) return tensor.read(0, into);
  if (rowBytes - width > CHEAP_GAP_BYTES || rowBytes > CHUNK_BYTES) {
    return readEach(tensor, rows, rowBytes, begin, width, into);
  }
  const together = Math.min(rows, Math.floor(CHUNK_BYTES / rowBytes));
  const chunk = scratch.bytes('chunk', together * rowBytes);
  for (let first = 0; first < rows; first += together) {
    const count = Math.min(together, rows - first);
    // From the first byte that is wanted to the last.
    const bytes = (count - 1) * rowBytes + width;
    await tensor.read(first * rowBytes + begin, chunk.subarray(0, bytes));
    for (let i = 0; i < count; i++) {
      into.set(chunk.subarray(i * rowBytes, i * rowBytes + width), (first + i) * width);
    }
  }
}

/** One read for each row, several at a time: libuv has four threads for them. */
async function readEach(
  tensor: StoredTensor,
  rows: number,
  rowBytes: number,
  begin: number,
  width: number,
  into: Uint8Array,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < rows) {
      const row = next++;
      await tensor.read(row * rowBytes + begin, into.subarray(row * width, (row + 1) * width));
    }
  };
  await Promise.all(Array.from({ length: Math.min(rows, READS_IN_FLIGHT) }, worker));
}
