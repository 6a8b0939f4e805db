import { describe, expect, it } from 'vitest';
import {
  dequantizeLlmInt8Async,
  gatherFieldsAsync,
  moveFieldsAsync,
  swapNibblesAsync,
  unpackFieldsAsync,
} from '../../lib/tensor/fields.js';

const bytes = (...values: number[]) => Uint8Array.from(values);
const shared = (array: Uint8Array) => {
  const copy = new Uint8Array(new SharedArrayBuffer(array.length));
  copy.set(array);
  return copy;
};
const wrong = { code: 'INVALID_ARGUMENT' };

describe('bit fields', () => {
  it('are the same in shared and in other memory', async () => {
    for (const view of [shared, (array: Uint8Array) => array]) {
      const rows = { rows: 2, columns: 3, bits: 4 };
      const data = view(bytes(0x21, 0xf3, 0x87, 0x0f));
      const moved = await moveFieldsAsync(
        data,
        rows,
        { inStride: 2, outStride: 4, flip: true },
        view(new Uint8Array(8)),
      );
      expect([...moved]).toEqual([0xa9, 0x0b, 0, 0, 0x0f, 0x07, 0, 0]);
      const unpacked = await unpackFieldsAsync(
        data,
        rows,
        { stride: 2, perWord: 0, offset: 8 },
        view(new Uint8Array(6)),
      );
      expect([...new Int8Array(unpacked.buffer)]).toEqual([-7, -6, -5, -1, 0, 7]);
      const gathered = await gatherFieldsAsync(data, rows, Int32Array.of(2, 0, 1), view(new Uint8Array(4)));
      expect([...gathered]).toEqual([0x13, 0x02, 0x7f, 0x08]);
      expect([...(await swapNibblesAsync(data, data))]).toEqual([0x12, 0x3f, 0x78, 0xf0]);
    }
  });

  it('of words with unused bits', async () => {
    const word = new Uint8Array(Uint32Array.of((3 << 30) | (5 << 27) | 2).buffer);
    const fields = { rows: 1, columns: 10, bits: 3 };
    const out = await unpackFieldsAsync(word, fields, { stride: 4, perWord: 10, offset: 0 }, new Uint8Array(10));
    expect([...out]).toEqual([2, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
  });

  it('LLM.int8() is two products', async () => {
    const codes = new Uint8Array(Int8Array.of(127, -64).buffer);
    const out = await dequantizeLlmInt8Async(codes, Float32Array.of(0.3), 1, 2, new Float32Array(2));
    const { fround } = Math;
    const inverse = fround(7.874015718698502e-3);
    expect([...out]).toEqual([127, -64].map((code) => fround(fround(code * fround(0.3)) * inverse)));
  });

  it('that do not fit are refused before anything is touched', async () => {
    const rows = { rows: 2, columns: 3, bits: 4 };
    const out = new Uint8Array(8);
    const move = (data: Uint8Array, strides: [number, number], bits = 4) =>
      moveFieldsAsync(data, { ...rows, bits }, { inStride: strides[0], outStride: strides[1], flip: false }, out);
    await expect(move(new Uint8Array(3), [2, 4])).rejects.toMatchObject(wrong);
    await expect(move(new Uint8Array(2), [1, 4])).rejects.toMatchObject(wrong);
    await expect(move(new Uint8Array(4), [2, 3])).rejects.toMatchObject(wrong);
    await expect(move(new Uint8Array(4), [2, 4], 9)).rejects.toMatchObject(wrong);
    await expect(move(out, [4, 4])).resolves.toBeDefined(); // copied: only shared memory can overlap
    const both = shared(out);
    await expect(moveFieldsAsync(both, rows, { inStride: 4, outStride: 4, flip: false }, both)).rejects.toMatchObject(
      wrong,
    );
    const unpack = (perWord: number, stride: number) =>
      unpackFieldsAsync(new Uint8Array(8), rows, { stride, perWord, offset: 0 }, new Uint8Array(6));
    await expect(unpack(9, 4)).rejects.toMatchObject(wrong);
    await expect(unpack(2, 4)).rejects.toMatchObject(wrong);
    await expect(unpack(0, 5)).rejects.toMatchObject(wrong);
    for (const order of [Int32Array.of(0, 1), Int32Array.of(0, 1, 3), Int32Array.of(0, -1, 2)]) {
      await expect(gatherFieldsAsync(new Uint8Array(4), rows, order)).rejects.toMatchObject(wrong);
    }
    await expect(swapNibblesAsync(new Uint8Array(4), new Uint8Array(3))).rejects.toMatchObject(wrong);
    await expect(
      dequantizeLlmInt8Async(new Uint8Array(4), new Float32Array(1), 2, 2, new Float32Array(4)),
    ).rejects.toMatchObject(wrong);
  });
});
