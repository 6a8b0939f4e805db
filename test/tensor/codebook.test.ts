import { describe, expect, it } from 'vitest';
import {
  type CodebookDtype,
  compareTensors,
  dequantizeTensor,
  dequantizeTensorAsync,
  InvalidArgumentError,
  linear,
  NonFiniteError,
  prepack,
  type QuantizedTensor,
  quantizeTensor,
  quantizeTensorAsync,
  ScaleOverflowError,
  sizeOf,
  unpackCodes,
} from '../../lib/index.js';
import { normal } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

const DTYPES: CodebookDtype[] = [
  'nf4',
  'fp4',
  'float8_e4m3fn',
  'float8_e5m2',
  'mxfp8_e4m3',
  'mxfp8_e5m2',
  'mxfp6_e2m3',
  'mxfp6_e3m2',
  'mxfp4',
  'mxint8',
  'nvfp4',
];

/** Bytes of 4-bit codes with the first in the high bits, as bitsandbytes has them. */
function highFirst(q: QuantizedTensor): Uint8Array {
  return q.data.map((byte) => (byte >> 4) | ((byte & 15) << 4));
}

describe('bitsandbytes', () => {
  interface Case {
    op: string;
    quant_type: 'nf4' | 'fp4';
    blocksize: number;
    W: EncodedArray;
    absmax: EncodedArray;
    dequant: EncodedArray;
    packed_cuda_rule: EncodedArray;
    nested: {
      offset: number;
      absmax_u8: EncodedArray;
      nested_absmax: EncodedArray;
      absmax_rec: EncodedArray;
      dequant: EncodedArray;
    };
  }
  const cases = readJson<{ cases: Case[] }>('bitsandbytes', 'four_bits.json').cases;

  it.each(cases.map((c) => [c.quant_type, c.blocksize, c.W.shape.join('x'), c] as const))(
    '%s, blocks of %d, %s: codes, absmax and values are those of the reference',
    (dtype, groupSize, _shape, c) => {
      const x = float32(c.W);
      const q = quantizeTensor(x, { dtype, granularity: 'per-group', groupSize });
      expect(q.scales).toEqual(float32(c.absmax));
      const expected = new Uint8Array(numbers(c.packed_cuda_rule));
      const packed = highFirst(q);
      // CUDA gives a block of zeros the code 0, whatever it stands for.
      x.forEach((value, i) => {
        if (q.scales[Math.floor(i / groupSize)] === 0) return expect(value).toBe(0);
        const shift = i % 2 === 0 ? 4 : 0;
        const [code, wanted] = [packed, expected].map((bytes) => ((bytes[i >> 1] as number) >> shift) & 15);
        if (code !== wanted) throw new Error(`element ${i}: code ${code}, expected ${wanted}`);
      });
      expect(dequantizeTensor(q)).toEqual(float32(c.dequant).map((v) => v + 0));
    },
  );

  it.each(cases.map((c) => [c.quant_type, c.blocksize, c.W.shape.join('x'), c] as const))(
    '%s, blocks of %d, %s: nested scales are those of the reference',
    (dtype, groupSize, _shape, { W, nested }) => {
      const q = quantizeTensor(float32(W), { dtype, granularity: 'per-group', groupSize, nested: true });
      // The reference adds up in float32.
      expect(q.nestedScales?.offset).toBeCloseTo(nested.offset, 6);
      expect(q.nestedScales?.data).toEqual(new Uint8Array(numbers(nested.absmax_u8)));
      const close = (found: Float32Array | undefined, expected: Float32Array) => {
        expect(found?.length).toBe(expected.length);
        expected.forEach((value, i) =>
          expect(Math.abs((found?.[i] as number) - value)).toBeLessThanOrEqual(4e-7 * Math.abs(value) + 1e-7),
        );
      };
      close(q.nestedScales?.absmax, float32(nested.nested_absmax));
      close(q.scales, float32(nested.absmax_rec));
      close(dequantizeTensor(q) as Float32Array, float32(nested.dequant));
    },
  );

  // The means that bitsandbytes' own tests expect (test_functional.py, test_4bit_quant), which allow seven standard
  // deviations: of 7e-5 for blocks of 32 to 6e-4 for 4096, interpolated here on a logarithmic scale.
  it.each([
    ['nf4', 32, 0.067746],
    ['nf4', 64, 0.072798],
    ['nf4', 128, 0.076831],
    ['nf4', 256, 0.080337],
    ['nf4', 512, 0.083547],
    ['nf4', 1024, 0.08661],
    ['nf4', 2048, 0.089592],
    ['nf4', 4096, 0.092547],
    ['fp4', 32, 0.088925],
    ['fp4', 64, 0.096543],
    ['fp4', 128, 0.102969],
    ['fp4', 256, 0.108684],
    ['fp4', 512, 0.114115],
    ['fp4', 1024, 0.119333],
    ['fp4', 2048, 0.124556],
    ['fp4', 4096, 0.129536],
  ] as const)('%s, blocks of %d: the mean absolute error on N(0, 1) is %d', (dtype, groupSize, mean) => {
    const x = normal(1024 * 1024, groupSize);
    const y = dequantizeTensor(quantizeTensor(x, { dtype, granularity: 'per-group', groupSize }));
    let sum = 0;
    x.forEach((value, i) => {
      sum += Math.abs(value - (y[i] as number));
    });
    expect(Math.abs(sum / x.length - mean)).toBeLessThanOrEqual(
      7 * 7e-5 * (6e-4 / 7e-5) ** (Math.log2(groupSize / 32) / 7),
    );
  });
});

describe('OCP Microscaling', () => {
  const FORMATS: Record<string, CodebookDtype> = {
    fp8_e5m2: 'mxfp8_e5m2',
    fp8_e4m3: 'mxfp8_e4m3',
    fp6_e3m2: 'mxfp6_e3m2',
    fp6_e2m3: 'mxfp6_e2m3',
    fp4_e2m1: 'mxfp4',
    int8: 'mxint8',
  };
  interface Case {
    elem_format: string;
    round: string;
    x: EncodedArray;
    y: EncodedArray;
  }
  const cases = readJson<{ cases: Case[] }>('mx', 'mx.json').cases.filter(({ round }) => round === 'even');

  it.each(cases.map((c) => [FORMATS[c.elem_format] as CodebookDtype, c] as const))(
    '%s: values are those of the reference',
    (dtype, { x, y }) => {
      const q = quantizeTensor(float32(x), { dtype, shape: x.shape });
      expect(q.groupSize).toBe(32);
      for (const scale of q.scales) expect(Number.isInteger(Math.log2(scale))).toBe(true);
      expect(dequantizeTensor(q).map((v) => v + 0)).toEqual(float32(y).map((v) => v + 0));
    },
  );
});

describe('NVFP4', () => {
  interface Case {
    op: string;
    W: EncodedArray;
    weight_global_scale: number;
    weight_scale_e4m3: EncodedArray;
    weight_packed: EncodedArray;
    dequant: EncodedArray;
  }
  const { cases } = readJson<{ cases: Case[] }>('compressed-tensors', 'compressed_tensors.json');
  const c = cases.find(({ op }) => op === 'ct_nvfp4_composed') as Case;

  it('equals compressed-tensors', () => {
    const q = quantizeTensor(float32(c.W), { dtype: 'nvfp4', shape: c.W.shape });
    expect(q.globalScale).toBe(Math.fround(c.weight_global_scale));
    // The sign of zero is lost there.
    const noMinusZero = (byte: number) => ((byte & 15) === 8 ? byte & 0xf0 : byte) & (byte >> 4 === 8 ? 0x0f : 0xff);
    expect(q.data.map(noMinusZero)).toEqual(new Uint8Array(numbers(c.weight_packed)).map(noMinusZero));
    expect(dequantizeTensor(q).map((v) => v + 0)).toEqual(float32(c.dequant).map((v) => v + 0));
    const e4m3 = quantizeTensor(
      q.scales.map((s) => s * (q.globalScale as number)),
      { dtype: 'float8_e4m3fn', scales: new Float32Array([1]) },
    );
    expect(e4m3.data).toEqual(new Uint8Array(numbers(c.weight_scale_e4m3)));
  });

  it('has a global scale for zeros and for tiny numbers', () => {
    expect(quantizeTensor(new Float32Array(32), { dtype: 'nvfp4' }).globalScale).toBe(1);
    const tiny = quantizeTensor(new Float32Array(32).fill(1e-40), { dtype: 'nvfp4' });
    expect(Number.isFinite(tiny.globalScale)).toBe(true);
    expect([...dequantizeTensor(tiny)].every(Number.isFinite)).toBe(true);
  });
});

describe('scaled FP8', () => {
  it('scales the largest magnitude to the largest value', () => {
    const x = new Float32Array([1, -4.48, 2, 0.5]);
    const q = quantizeTensor(x, { dtype: 'float8_e4m3fn' });
    expect(q.scales[0]).toBe(Math.fround(Math.fround(4.48) / 448));
    expect(q.data[1]).toBe(0xfe);
    expect(compareTensors(x, dequantizeTensor(q)).sqnrDb).toBeGreaterThan(30);
  });

  it('has a scale for each channel, token and block of 128 x 128', () => {
    const [rows, columns] = [300, 260];
    const x = normal(rows * columns, 3);
    const perToken = quantizeTensor(x, { dtype: 'float8_e4m3fn', shape: [rows, columns], granularity: 'per-channel' });
    expect(perToken.scales.length).toBe(rows);
    const blocks = quantizeTensor(x, { dtype: 'float8_e4m3fn', shape: [rows, columns], granularity: 'per-block' });
    expect(blocks.blockShape).toEqual([128, 128]);
    expect(blocks.scales.length).toBe(3 * 3);
    for (let r = 0; r < 3; r++) {
      for (let c = 0; c < 3; c++) {
        let largest = 0;
        for (let i = 128 * r; i < Math.min(rows, 128 * (r + 1)); i++) {
          for (let j = 128 * c; j < Math.min(columns, 128 * (c + 1)); j++) {
            largest = Math.max(largest, Math.abs(x[i * columns + j] as number));
          }
        }
        expect(blocks.scales[3 * r + c]).toBe(Math.fround(largest / 448));
      }
    }
    const y = dequantizeTensor(blocks);
    // Half a step of three bits of mantissa.
    x.forEach((v, i) => {
      const scale = blocks.scales[3 * Math.floor(i / columns / 128) + Math.floor((i % columns) / 128)] as number;
      const bound = Math.max(Math.abs(v) / 16, scale * 2 ** -10) * 1.000001;
      if (Math.abs(v - (y[i] as number)) > bound) throw new Error(`element ${i}: ${v} became ${y[i]}`);
    });
  });

  it('blocks serve integer dtypes as well', () => {
    const x = normal(40 * 50, 4);
    const q = quantizeTensor(x, { dtype: 'uint4', shape: [40, 50], granularity: 'per-block', blockShape: [16, 20] });
    expect(q.scales.length).toBe(3 * 3);
    expect(q.zeroPoints?.length).toBe(9);
    expect(compareTensors(x, dequantizeTensor(q)).sqnrDb).toBeGreaterThan(15);
  });

  it('takes given scales and scales of 16 bits', () => {
    const x = new Float32Array([1000, -1000, 1]);
    const q = quantizeTensor(x, { dtype: 'float8_e5m2', scales: new Float32Array([2]) });
    expect([...dequantizeTensor(q)]).toEqual([1024, -1024, 1]);
    const rounded = quantizeTensor(x, { dtype: 'float8_e4m3fn', scaleDtype: 'bfloat16' });
    expect(new Uint16Array(rounded.scales.buffer)[0]).toBe(0);
    expect(() => quantizeTensor(new Float32Array([1e9]), { dtype: 'nf4', scaleDtype: 'float16' })).toThrow(
      ScaleOverflowError,
    );
  });
});

describe('ternary and binary', () => {
  const x = new Float32Array([0.4, -1.2, 0.1, 2, -0.3, 0.2, -0.8, 1]);
  const mean = x.reduce((sum, v) => sum + Math.abs(v), 0) / x.length;

  it('binary: signs and the mean magnitude (XNOR-Net)', () => {
    const q = quantizeTensor(x, { dtype: 'binary' });
    expect(q.data).toEqual(new Uint8Array([0b10101101]));
    expect(unpackCodes(q)).toEqual(new Uint8Array([1, 0, 1, 1, 0, 1, 0, 1]));
    expect(q.scales[0]).toBe(Math.fround(mean));
    expect(dequantizeTensor(q)).toEqual(x.map((v) => Math.sign(v) * (q.scales[0] as number)));
  });

  it('ternary: the nearest of -1, 0, 1 times the mean magnitude (BitNet b1.58)', () => {
    const q = quantizeTensor(x, { dtype: 'ternary' });
    expect(q.scales[0]).toBe(Math.fround(mean));
    const expected = [...x].map((v) => Math.max(-1, Math.min(1, Math.round(v / mean))) + 0);
    expect([...unpackCodes(q)]).toEqual(expected);
    expect(quantizeTensor(new Float32Array(9), { dtype: 'ternary' }).scales[0]).toBe(Math.fround(1e-5));
  });

  it('ternary weight networks: a threshold of 0.7 of the mean, and the mean of what is above', () => {
    const q = quantizeTensor(x, { dtype: 'ternary', range: 'twn' });
    const above = [...x].filter((v) => Math.abs(v) > 0.7 * mean);
    expect([...unpackCodes(q)]).toEqual([...x].map((v) => (Math.abs(v) > 0.7 * mean ? Math.sign(v) : 0)));
    expect(q.scales[0]).toBeCloseTo(above.reduce((sum, v) => sum + Math.abs(v), 0) / above.length, 6);
  });

  it('a scale for each channel, group and block; given ones; the largest magnitude', () => {
    const w = normal(6 * 40, 9);
    for (const dtype of ['binary', 'ternary'] as const) {
      for (const how of [
        { granularity: 'per-channel' },
        { granularity: 'per-group', groupSize: 13 },
        { granularity: 'per-block', blockShape: [4, 16] },
      ] as const) {
        for (const range of dtype === 'ternary' ? (['absmean', 'twn', 'minmax'] as const) : (['absmean'] as const)) {
          const q = quantizeTensor(w, { dtype, shape: [6, 40], ...how, range } as never);
          const codes = unpackCodes(q as QuantizedTensor);
          const y = dequantizeTensor(q);
          const columns = how.granularity === 'per-channel' ? 40 : how.granularity === 'per-group' ? 13 : 16;
          const high = how.granularity === 'per-block' ? 4 : 1;
          y.forEach((v, i) => {
            const set =
              Math.floor(Math.floor(i / 40) / high) * Math.ceil(40 / columns) + Math.floor((i % 40) / columns);
            const code = dtype === 'binary' ? 2 * (codes[i] as number) - 1 : (codes[i] as number);
            expect(v).toBe(code * (q.scales[set] as number) + 0);
          });
          if (range === 'minmax') {
            expect(Math.max(...q.scales)).toBe(w.reduce((largest, v) => Math.max(largest, Math.abs(v)), 0));
          }
        }
      }
      const given = quantizeTensor(w, { dtype, scales: new Float32Array([0.5]) });
      expect(given.scales[0]).toBe(0.5);
      expect(new Set(dequantizeTensor(given))).toEqual(new Set(dtype === 'binary' ? [-0.5, 0.5] : [-0.5, 0, 0.5]));
    }
  });

  it('products of ternary and binary weights', () => {
    const [m, n, k] = [3, 20, 64];
    const w = normal(n * k, 10);
    const activations = normal(m * k, 11);
    for (const dtype of ['ternary', 'binary'] as const) {
      const q = quantizeTensor(w, { dtype, shape: [n, k], granularity: 'per-channel' });
      const y = linear(activations, prepack(q), { computeDtype: 'float32' });
      const values = dequantizeTensor(q);
      y.forEach((v, i) => {
        let sum = 0;
        for (let j = 0; j < k; j++) {
          sum += (activations[Math.floor(i / n) * k + j] as number) * (values[(i % n) * k + j] as number);
        }
        expect(v).toBeCloseTo(sum, 4);
      });
    }
  });
});

describe('every codebook', () => {
  it.each(DTYPES)('%s: sizes, empty and ragged tensors, async twins', async (dtype) => {
    const bits = { nf4: 4, fp4: 4, mxfp4: 4, nvfp4: 4, mxfp6_e2m3: 6, mxfp6_e3m2: 6 }[dtype as string] ?? 8;
    const empty = quantizeTensor(new Float32Array(0), { dtype, shape: [3, 0] });
    expect([...dequantizeTensor(empty)]).toEqual([]);
    for (const [rows, columns] of [
      [1, 1],
      [3, 7],
      [5, 33],
      [2, 129],
      [1, 4096],
    ] as const) {
      const x = normal(rows * columns, columns);
      const q = quantizeTensor(x, { dtype, shape: [rows, columns] });
      expect(q.data.length).toBe(rows * Math.ceil((columns * bits) / 8));
      expect(q.zeroPoints).toBeNull();
      expect(unpackCodes(q as QuantizedTensor).length).toBe(rows * columns);
      expect(sizeOf(q).bytes).toBe(q.data.length + 4 * q.scales.length);
      const y = dequantizeTensor(q);
      expect(compareTensors(x, y).sqnrDb).toBeGreaterThan(13);
      const later = await quantizeTensorAsync(x, { dtype, shape: [rows, columns] });
      expect(later).toEqual(q);
      expect(await dequantizeTensorAsync(later)).toEqual(y);
      expect(dequantizeTensor(structuredClone(q))).toEqual(y);
      const out = structuredClone(q);
      out.data.fill(0xff);
      out.scales.fill(7);
      expect(quantizeTensor(x, { dtype, shape: [rows, columns], out })).toBe(out);
      expect(out).toEqual(q);
    }
  });

  it.each(DTYPES)('%s: NaN and infinities are named, or saturate on request', (dtype) => {
    const x = normal(100, 5);
    x[70] = Number.NaN;
    expect(() => quantizeTensor(x, { dtype })).toThrow(NonFiniteError);
    x[70] = Number.POSITIVE_INFINITY;
    const y = dequantizeTensor(quantizeTensor(x, { dtype, nonFinite: 'saturate' }));
    expect(y[70]).toBeGreaterThan(0);
    expect(Number.isFinite(y[70])).toBe(true);
  });

  it.each(DTYPES)('%s: a codebook made by hand comes back', (dtype) => {
    const q = quantizeTensor(normal(64, 6), { dtype });
    const again = quantizeTensor(dequantizeTensor(q), { dtype });
    // A group's largest value may shrink in the first pass (MX, NVFP4), so the second may have other scales.
    if (!dtype.startsWith('mx') && dtype !== 'nvfp4') expect(again.data).toEqual(q.data);
    expect(compareTensors(dequantizeTensor(q), dequantizeTensor(again)).sqnrDb).toBeGreaterThan(40);
  });

  it('nested scales count instead of scales', () => {
    const q = quantizeTensor(normal(64 * 512, 7), { dtype: 'nf4', nested: true });
    expect(sizeOf(q).bitsPerWeight).toBeCloseTo(4 + 8 / 64 + 32 / (64 * 256) + 32 / (64 * 512), 6);
    expect(dequantizeTensor(structuredClone(q))).toEqual(dequantizeTensor(q));
  });
});

describe('what can not be', () => {
  const x = new Float32Array(64);
  // biome-ignore lint/suspicious/noExplicitAny: these do not compile
  const quantize = (options: any) => quantizeTensor(x, options);
  it.each([
    ['scheme', { dtype: 'nf4', scheme: 'asymmetric' }],
    ['zeroPoints', { dtype: 'nf4', scales: new Float32Array(1), zeroPoints: new Int32Array(1) }],
    ['narrowRange', { dtype: 'mxint8', narrowRange: true }],
    ['range', { dtype: 'float8_e4m3fn', range: 'mse' }],
    ['range', { dtype: 'nf4', range: 'absmean' }],
    ['range', { dtype: 'binary', range: 'twn' }],
    ['nonFinite', { dtype: 'ternary', nonFinite: 'saturate' }],
    ['groupSize', { dtype: 'mxfp4', granularity: 'per-group', groupSize: 64 }],
    ['granularity', { dtype: 'nvfp4', granularity: 'per-channel' }],
    ['scales', { dtype: 'mxfp4', scales: new Float32Array(2).fill(1) }],
    ['scaleDtype', { dtype: 'nvfp4', scaleDtype: 'float16' }],
    ['nested', { dtype: 'int4', nested: true }],
    ['nested', { dtype: 'nf4', nested: 'yes' }],
    ['out', { dtype: 'nf4', nested: true, out: quantizeTensor(x, { dtype: 'nf4' }) }],
    ['blockShape', { dtype: 'int8', blockShape: [2, 2] }],
    ['blockShape', { dtype: 'int8', granularity: 'per-block', blockShape: [2] }],
    ['blockShape[1]', { dtype: 'int8', granularity: 'per-block', blockShape: [2, 0] }],
    ['dtype', { dtype: 'nf5' }],
  ])('%s', (argument, options) => {
    let thrown: unknown;
    try {
      quantize(options);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(InvalidArgumentError);
    expect((thrown as InvalidArgumentError).argument).toBe(argument);
  });

  it.each([
    ['q.zeroPoints', { zeroPoints: new Int32Array(1) }],
    ['q.scheme', { scheme: 'asymmetric' }],
    ['q.scales', { scales: new Float32Array(2) }],
    ['q.data', { data: new Uint8Array(3) }],
    ['q.globalScale', { globalScale: 'large' }],
    ['q.nestedScales.data', { nestedScales: { data: new Uint8Array(7), absmax: new Float32Array(1), offset: 0 } }],
    ['q.nestedScales', { nestedScales: 4 }],
  ])('a tensor with a wrong %s', (argument, fields) => {
    const q = { ...quantizeTensor(x, { dtype: 'nf4' }), ...fields } as QuantizedTensor;
    let thrown: unknown;
    try {
      dequantizeTensor(q);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(InvalidArgumentError);
    expect((thrown as InvalidArgumentError).argument).toBe(argument);
  });

  it('microscaling has blocks of 32 only', () => {
    const q = { ...quantizeTensor(x, { dtype: 'mxfp4' }), groupSize: 64, scales: new Float32Array(1) };
    expect(() => dequantizeTensor(q)).toThrow(/groupSize/);
  });
});
