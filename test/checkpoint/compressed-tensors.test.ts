import { describe, expect, it } from 'vitest';
import { packCodes, packShape, packZeroPoints } from '../../lib/checkpoint/compressed-tensors.js';
import { type EncodedArray, numbers, readJson } from '../support/vectors.js';

interface PackCase {
  op: string;
  num_bits: number;
  packed_dim: number;
  value: EncodedArray;
  packed: EncodedArray;
}
const cases = readJson<{ cases: PackCase[] }>('compressed-tensors', 'compressed_tensors.json').cases.filter(
  ({ op, num_bits }) => op === 'ct_pack_to_int32' && (num_bits === 4 || num_bits === 8),
);

/** Codes in the layout of QuantizedTensor: two's complement, the first in the low bits, rows starting on bytes. */
function quantized(codes: number[], shape: number[], bits: 4 | 8) {
  const [rows = 0, columns = 0] = shape;
  const rowBytes = Math.ceil((columns * bits) / 8);
  const data = new Uint8Array(rows * rowBytes);
  codes.forEach((code, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const byte = row * rowBytes + Math.floor((column * bits) / 8);
    data[byte] = (data[byte] as number) | ((code & (2 ** bits - 1)) << ((column * bits) % 8));
  });
  return { shape, data } as never;
}

describe('packing equals compressed-tensors', () => {
  it('has vectors for both widths and dimensions', () => expect(cases.length).toBeGreaterThanOrEqual(4));

  it.each(cases.map((c) => [c.num_bits, c.packed_dim, c.value.shape.join('×'), c] as const))(
    '%i bits along dimension %i of %s',
    (bits, dim, _, c) => {
      const codes = numbers(c.value);
      const expected = Buffer.from(c.packed.b64, 'base64');
      const width = bits as 4 | 8;
      const [rows = 0, groups = 0] = c.value.shape;
      const got =
        dim === 1
          ? packCodes(quantized(codes, c.value.shape, width), width)
          : packZeroPoints(Int32Array.from(codes), rows, groups, width);
      expect(Buffer.from(got).equals(expected)).toBe(true);
    },
  );

  it('packs rows that do not fill whole words', () => {
    expect(Array.from(packCodes(quantized([-8, 7, 0, 1, -1, -8, -7, -6, -5, -4], [2, 5], 4), 4))).toEqual([
      0xf0, 0x98, 0x07, 0, 0x10, 0x32, 0x04, 0,
    ]);
    expect(Array.from(packCodes(quantized([-128, 127, 0], [1, 3], 8), 8))).toEqual([0, 255, 128, 0]);
  });

  it('writes the shape as two int64', () => {
    expect(Array.from(new BigInt64Array(packShape(7, 2 ** 40).buffer))).toEqual([7n, 2n ** 40n]);
  });
});
