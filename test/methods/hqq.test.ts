import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dequantizeTensor,
  hqq,
  InvalidArgumentError,
  NonFiniteError,
  quantizeTensor,
  unpackCodes,
} from '../../lib/index.js';
import { normal } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface Case {
  nbits: number;
  group_size: number;
  axis: number;
  W: EncodedArray;
  Wq: EncodedArray;
  scale: EncodedArray;
  zero: EncodedArray;
}

const { cases } = readJson<{ cases: Case[] }>('methods', 'hqq.json');

/** Σ|w − ŵ|^0.7 of scale · (code − zero). */
function cost(w: Float32Array, values: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < w.length; i++) sum += Math.abs((w[i] as number) - values(i)) ** 0.7;
  return sum;
}

describe('HQQ', () => {
  // Tensors have groups along their rows (axis 1); those along columns are rows of the transposed weight.
  it.each(cases.map((c) => [`${c.nbits} bits, axis ${c.axis}`, c] as const))('as the HQQ code: %s', async (_, c) => {
    const w = float32(c.W);
    const expected = numbers(c.Wq);
    const scales = float32(c.scale);
    const groups = scales.length;
    const size = c.group_size;
    const groupFirst =
      c.axis === 1 ? w : Float32Array.from(w, (_v, i) => w[(i % size) * groups + Math.floor(i / size)] as number);
    const options = { shape: [groups, size], dtype: `uint${c.nbits}`, groupSize: size, roundZero: false } as const;
    const { tensor, zeros } = await hqq(groupFirst, options as never);
    const zero = numbers(c.zero);
    const close = 64 * 2 ** (c.nbits - 24); // of a mean of 64 numbers of the size of codes, added in another order
    const codes = unpackCodes(tensor);
    let different = 0;
    for (let g = 0; g < groups; g++) {
      expect(Math.abs((tensor.scales[g] as number) / (scales[g] as number) - 1)).toBeLessThan(2 ** -22);
      const off = Math.abs((zeros[g] as number) - (zero[g] as number));
      if (off >= close) different++;
      // A code next to a tie, on the way, moves the mean by a 64th.
      expect(off).toBeLessThan(2.1 / 64);
      for (let i = g * size; i < (g + 1) * size; i++) {
        const at = c.axis === 1 ? i : (i % size) * groups + g;
        if (off < close) expect(codes[i]).toBe(expected[at]);
        else expect(Math.abs((codes[i] as number) - (expected[at] as number))).toBeLessThanOrEqual(1);
      }
    }
    expect(different).toBeLessThanOrEqual(c.nbits === 8 ? 1 : 0);
  });

  it('any sizes: a smaller norm of the errors than minimum and maximum give, integers as zero points', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 35 }),
        fc.integer({ min: 30, max: 140 }),
        fc.integer({ min: 16, max: 70 }),
        fc.constantFrom('uint4', 'int4', 'uint3', 'int8'),
        fc.boolean(),
        fc.nat(),
        async (n, k, groupSize, dtype, roundZero, seed) => {
          const w = normal(n * k, seed);
          const { tensor, zeros, order, warnings } = await hqq(w, { shape: [n, k], dtype, groupSize, roundZero });
          expect([order, warnings]).toEqual([null, []]);
          expect(tensor).toMatchObject({
            dtype,
            scheme: 'asymmetric',
            granularity: 'per-group',
            groupSize,
            shape: [n, k],
          });
          const values = dequantizeTensor(tensor);
          const codes = unpackCodes(tensor);
          const groups = Math.ceil(k / Math.min(k, groupSize));
          const parameter = (i: number) => Math.floor(i / k) * groups + Math.floor((i % k) / groupSize);
          const exact = (i: number) =>
            (tensor.scales[parameter(i)] as number) * ((codes[i] as number) - (zeros[parameter(i)] as number));
          if (roundZero) {
            expect(Float32Array.from(tensor.zeroPoints as Int32Array)).toEqual(zeros);
            for (let i = 0; i < w.length; i++) expect(values[i]).toBeCloseTo(exact(i), 4);
          }
          if (dtype !== 'int8' && !roundZero && n * k > 500) {
            const plain = quantizeTensor(w, {
              shape: [n, k],
              dtype,
              scheme: 'asymmetric',
              granularity: 'per-group',
              groupSize,
            });
            const rounded = dequantizeTensor(plain);
            expect(cost(w, exact)).toBeLessThan(cost(w, (i) => rounded[i] as number));
          }
        },
      ),
      { numRuns: 30 },
    );
  });

  it('weights that are far from zero keep their sign and size with integers as zero points', async () => {
    const w = Float32Array.from({ length: 64 }, (_, i) => 5 + i / 64);
    const { tensor } = await hqq(w, { shape: [1, 64], dtype: 'uint4', groupSize: 64 });
    for (const value of dequantizeTensor(tensor)) expect(Math.abs(value - 5.5)).toBeLessThan(1);
  });

  it('empty weights, zeros, per-channel', async () => {
    for (const shape of [
      [0, 8],
      [8, 0],
    ] as const) {
      const { tensor } = await hqq(new Float32Array(0), { shape, dtype: 'uint4' });
      expect(dequantizeTensor(tensor)).toHaveLength(0);
    }
    const { tensor } = await hqq(new Float32Array(64), { shape: [4, 16], dtype: 'uint3', granularity: 'per-channel' });
    expect(tensor.scales).toHaveLength(4);
    expect(dequantizeTensor(tensor)).toEqual(new Float32Array(64));
  });

  it('wrong arguments', async () => {
    const w = normal(64, 1);
    const good = { shape: [4, 16], dtype: 'uint4' } as const;
    for (const wrong of [
      { shape: [4, 15] },
      { dtype: 'nf4' },
      { scheme: 'symmetric' },
      { narrowRange: true },
      { lpNorm: 0 },
      { lpNorm: 1.5 },
      { beta: -1 },
      { iterations: 1.5 },
      { roundZero: 1 },
      { groupSize: 0 },
      { name: 5 },
    ]) {
      await expect(hqq(w, { ...good, ...wrong } as never)).rejects.toThrow(InvalidArgumentError);
    }
    w[7] = Number.NaN;
    const error = await hqq(w, { ...good, name: 'layers.0' }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(error).toMatchObject({ index: 7, tensor: 'layers.0', message: expect.stringContaining('layers.0') });
    const reason = new Error('enough');
    await expect(hqq(normal(64, 1), { ...good, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
