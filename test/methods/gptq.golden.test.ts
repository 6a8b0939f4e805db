import { describe, expect, it } from 'vitest';
import { dequantizeTensor, type GptqOptions, gptq, unpackCodes } from '../../lib/index.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface Case {
  bits: 2 | 3 | 4 | 8;
  group_size: number;
  desc_act: boolean;
  static_groups: boolean;
  sym: boolean;
  percdamp: number;
  blocksize: number;
  scale: EncodedArray;
  zero: EncodedArray;
  g_idx: EncodedArray;
  codes: EncodedArray;
}

const { W, H, cases } = readJson<{ W: EncodedArray; H: EncodedArray; cases: Case[] }>('methods', 'gptq.json');
const weight = float32(W);
const hessian = float32(H);
const [n, k] = W.shape as [number, number];
const statistics = {
  columns: k,
  rows: 192,
  gram: hessian,
  sumOfSquares: Float64Array.from({ length: k }, (_, i) => hessian[i * k + i] as number),
};

const optionsOf = (c: Case): GptqOptions => ({
  dtype: `uint${c.bits}`,
  scheme: c.sym ? 'symmetric' : 'asymmetric',
  ...(c.group_size < 0 ? { granularity: 'per-channel' } : { groupSize: c.group_size }),
  descAct: c.desc_act,
  staticGroups: c.static_groups,
  groupAware: false,
  dampPercent: c.percdamp,
  blockSize: c.blocksize,
  convention: 'gptq',
  deadColumns: 'zero',
});

describe('GPTQ as AutoGPTQ computed it', () => {
  it.each(
    cases.map(
      (c) =>
        [
          `${c.bits} bits, groups of ${c.group_size}, desc_act ${c.desc_act}, static ${c.static_groups}, sym ${c.sym}`,
          c,
        ] as const,
    ),
  )('%s', async (_, c) => {
    const { tensor, order, warnings } = await gptq(weight, statistics, optionsOf(c));
    expect(warnings).toEqual([]);
    // Scales and zero points are the reference's bits: no code before them went another way by more than a rounding.
    expect(tensor.scales).toEqual(float32(c.scale));
    expect(tensor.zeroPoints).toEqual(Int32Array.from(numbers(c.zero)));
    const groups = tensor.scales.length / n;
    const index = numbers(c.g_idx);
    const column = (i: number) => (order === null ? i : (order[i] as number));
    for (let i = 0; i < k; i++) expect(index[column(i)]).toBe(Math.floor(i / Math.ceil(k / groups)));
    // Codes differ after a tie that float32 arithmetic in another order decides otherwise, in the rest of that row.
    const expected = numbers(c.codes);
    const got = unpackCodes(tensor);
    const rows = new Set<number>();
    let different = 0;
    for (let row = 0; row < n; row++) {
      for (let i = 0; i < k; i++) {
        if (got[row * k + i] === expected[row * k + column(i)]) continue;
        different++;
        rows.add(row);
      }
    }
    expect(rows.size).toBeLessThanOrEqual(1);
    expect(different / (n * k)).toBeLessThan(0.01);
  });

  it('dequantized values are the bits of the reference where codes are equal', async () => {
    const c = cases[0] as Case;
    const { tensor } = await gptq(weight, statistics, optionsOf(c));
    const codes = numbers(c.codes);
    const scale = numbers(c.scale);
    const zero = numbers(c.zero);
    const values = Float32Array.from(codes, (code, i) => {
      const group = Math.floor(i / k) * (k / c.group_size) + Math.floor((i % k) / c.group_size);
      return (scale[group] as number) * (code - (zero[group] as number));
    });
    expect(dequantizeTensor(tensor)).toEqual(values);
  });
});
