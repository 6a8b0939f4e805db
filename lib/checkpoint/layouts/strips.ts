/**
 * Reading some columns of a stored matrix: what a strip of output channels is in layouts that store weights transposed.
 *
 * @module
 */
import type { StoredTensor } from '../stored-tensor.js';

const READS_IN_FLIGHT = 32;

/**
 * Reads bytes `begin` … `begin + width` of every row of a tensor into rows of `width` bytes. No other memory is needed.
 *
 * @param rows - How many rows there are, of `rowBytes` each, from the beginning of the tensor on.
 * @param into - rows · width bytes, in shared memory.
 * @throws CheckpointError `FILE_TRUNCATED`, `READ_FAILED`.
 */
export async function readColumns(
  tensor: StoredTensor,
  rows: number,
  rowBytes: number,
  begin: number,
  width: number,
  into: Uint8Array<SharedArrayBuffer>,
): Promise<void> {
  if (rows === 0 || width === 0) return;
  if (width === rowBytes) return tensor.read(0, into);
  if (tensor.readRows !== undefined) return tensor.readRows(begin, rowBytes, rows, into);
  // One read for each row, several at a time: libuv has four threads for them.
  let next = 0;
  const worker = async () => {
    while (next < rows) {
      const row = next++;
      await tensor.read(row * rowBytes + begin, into.subarray(row * width, (row + 1) * width));
    }
  };
  await Promise.all(Array.from({ length: Math.min(rows, READS_IN_FLIGHT) }, worker));
}
