/**
 * `weight_zero_point`: one to a byte, or packed along the rows.
 *
 * @module
 */
import type { StoredTensor } from '../../stored-tensor.js';
import { checkDtype, checkShape, layoutError } from '../parts.js';
import { checkScaleShape, type ScaledWeightSpec, type Sharing, scaleGrid } from '../scaled-weight.js';
import { type Reading, unpackZeroPoints, wordsFor } from './packing.js';

/** Zero points that are stored one to a byte, in the shape of the scales. */
function byteZeroPoints(
  tensor: StoredTensor,
  [rows, columns]: readonly [number, number],
  sharing: Sharing,
  { lowest, highest, offset }: { lowest: number; highest: number; offset: number },
): NonNullable<ScaledWeightSpec['zeroPoints']> {
  const { groups, rowsPerScale } = scaleGrid(rows, columns, sharing);
  return async (begin, end, scratch) => {
    const first = Math.floor(begin / rowsPerScale) * groups;
    const count = Math.ceil(end / rowsPerScale) * groups - first;
    const stored = scratch.bytes('zero points stored', count);
    await tensor.read(first, stored);
    const signed = new Int8Array(stored.buffer, 0, count);
    const out = scratch.integers('zero points', count);
    for (let i = 0; i < count; i++) {
      const value = signed[i] as number;
      if (value < lowest || value > highest) {
        const message = `expected zero points from ${lowest} to ${highest}, but element ${first + i} is ${value}`;
        throw layoutError('LAYOUT_INVALID', tensor, message);
      }
      out[i] = value + offset;
    }
    return out;
  };
}

/**
 * How the zero points of a weight are read.
 *
 * @param reading - How its words are read; null if its codes are bytes.
 * @param bits - Of a code.
 * @param unsigned - Whether codes are given out with their offset.
 */
export function zeroPointsOf(
  zeroPoint: StoredTensor | undefined,
  shape: readonly [number, number],
  sharing: Sharing,
  reading: Reading | null,
  bits: number,
  unsigned: boolean,
): ScaledWeightSpec['zeroPoints'] {
  if (zeroPoint === undefined) return null;
  const grid = scaleGrid(shape[0], shape[1], sharing);
  const half = 2 ** (bits - 1);
  checkDtype(zeroPoint, reading === null ? ['I8'] : ['I32', 'I8']);
  if (zeroPoint.dtype === 'I8') {
    checkScaleShape(zeroPoint, grid);
    return byteZeroPoints(zeroPoint, shape, sharing, { lowest: -half, highest: half - 1, offset: unsigned ? half : 0 });
  }
  const stored = reading as Reading;
  if (sharing.granularity === 'per-tensor' || sharing.granularity === 'per-block') {
    throw layoutError(
      'LAYOUT_DTYPE',
      zeroPoint,
      `expected I8, because zero points ${sharing.granularity} are not packed`,
    );
  }
  checkShape(zeroPoint, [wordsFor(shape[0], bits, stored.packing), grid.groups]);
  return async (begin, end, scratch) => {
    const fields = await unpackZeroPoints(zeroPoint, stored, begin, end, scratch);
    if (!unsigned) for (let i = 0; i < fields.length; i++) fields[i] = (fields[i] as number) - half;
    return fields;
  };
}

/** Zero points of floats mean nothing; older writers stored zeros. */
export async function checkZeros(tensor: StoredTensor): Promise<void> {
  const step = 1 << 20;
  for (let begin = 0; begin < tensor.bytes; begin += step) {
    const bytes = new Uint8Array(Math.min(step, tensor.bytes - begin));
    await tensor.read(begin, bytes);
    if (bytes.some((byte) => byte !== 0 && byte !== 0x80)) {
      throw layoutError('LAYOUT_UNSUPPORTED', tensor, 'expected zeros: zero points of float codes are not read');
    }
  }
}
