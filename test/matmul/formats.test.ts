import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  type CodebookDtype,
  dequantizeBlocks,
  dequantizeTensor,
  type GgufType,
  InvalidArgumentError,
  linear,
  linearAsync,
  loadPacked,
  prepack,
  prepackAsync,
  prepackBlocks,
  prepackBlocksAsync,
  quantizeBlocks,
  quantizeTensor,
  savePacked,
} from '../../lib/index.js';
import { errorPower, float32Bound, magnitudes, product } from '../support/products.js';
import { normal } from '../support/random.js';

const INTEGER_VALUES: CodebookDtype[] = ['mxint8', 'mxfp4', 'nvfp4'];
const FLOAT_VALUES: CodebookDtype[] = [
  'nf4',
  'fp4',
  'float8_e4m3fn',
  'float8_e5m2',
  'mxfp8_e4m3',
  'mxfp8_e5m2',
  'mxfp6_e2m3',
  'mxfp6_e3m2',
];
const TYPES: GgufType[] = [
  'q4_0',
  'q4_1',
  'q5_0',
  'q5_1',
  'q8_0',
  'q2_k',
  'q3_k',
  'q4_k',
  'q5_k',
  'q6_k',
  'q8_k',
  'iq4_nl',
  'iq4_xs',
  'tq1_0',
  'tq2_0',
  'mxfp4',
  'nvfp4',
];

const [m, n, k] = [5, 37, 512];
const x = normal(m * k, 7);
const weights = normal(n * k, 8);

/** How near to the exact product of its values a layer must be. */
function expectProducts(y: Float32Array, w: Float32Array, computes: 'float32' | 'int16' | 'int8'): void {
  const exact = product(x, w, m, n, k);
  if (computes === 'float32') {
    const sizes = magnitudes(x, w, m, n, k);
    y.forEach((v, i) => {
      expect(Math.abs(v - (exact[i] as number))).toBeLessThanOrEqual(float32Bound(k) * (sizes[i] as number) + 1e-40);
    });
  } else {
    expect(errorPower(y, exact)).toBeLessThanOrEqual(computes === 'int16' ? 1e-8 : 5e-4);
  }
}

describe('codebooks', () => {
  it.each([...INTEGER_VALUES, ...FLOAT_VALUES])('%s: products are those of the values', async (dtype) => {
    const q = quantizeTensor(weights, { dtype, shape: [n, k] });
    const w = dequantizeTensor(q);
    const packed = prepack(q);
    expect(packed.kind).toBe('quantized');
    expect(packed.nbytes).toBeLessThan(n * k * 2);
    for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
      const y = linear(x, packed, { computeDtype });
      expectProducts(y, w, FLOAT_VALUES.includes(dtype) ? 'float32' : computeDtype);
      expect(await linearAsync(x, packed, { computeDtype })).toEqual(y);
      expect(linear(x, await prepackAsync(q), { computeDtype })).toEqual(y);
    }
    packed.dispose();
  });

  it.each([
    ['per-tensor', {}],
    ['per-channel', { granularity: 'per-channel' }],
    ['per-group', { granularity: 'per-group', groupSize: 48 }],
    ['per-block', { granularity: 'per-block' }],
    ['per-block', { granularity: 'per-block', blockShape: [10, 32] }],
  ] as const)('float8_e4m3fn %s %j', (_name, options) => {
    const q = quantizeTensor(weights, { dtype: 'float8_e4m3fn', shape: [n, k], ...options });
    const packed = prepack(q);
    expect(packed.kind).toBe('quantized');
    expectProducts(linear(x, packed), dequantizeTensor(q), 'float32');
  });

  it('other groups are dequantized', () => {
    const q = quantizeTensor(weights, { dtype: 'nf4', shape: [n, k], granularity: 'per-group', groupSize: 20 });
    const packed = prepack(q);
    expect(packed.kind).toBe('float');
    expectProducts(linear(x, packed), dequantizeTensor(q), 'float32');
  });

  it('integer dtypes in blocks are dequantized', () => {
    const q = quantizeTensor(weights, { dtype: 'int4', shape: [n, k], granularity: 'per-block', blockShape: [16, 64] });
    expectProducts(linear(x, prepack(q)), dequantizeTensor(q), 'float32');
  });
});

describe('GGUF blocks', () => {
  it.each(TYPES)('%s: products are those of the values', async (type) => {
    const blocks = quantizeBlocks(weights, { type, rowLength: k });
    const w = dequantizeBlocks(blocks, { type, rowLength: k });
    const packed = prepackBlocks(blocks, { type, shape: [n, k] });
    expect([packed.kind, packed.rows, packed.cols]).toEqual(['quantized', n, k]);
    for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
      const y = linear(x, packed, { computeDtype });
      expectProducts(y, w, computeDtype);
      expect(linear(x, await prepackBlocksAsync(blocks, { type, shape: [n, k] }), { computeDtype })).toEqual(y);
    }
    packed.dispose();
  });

  it.each(['q4_k', 'q4_0', 'mxfp4', 'iq4_xs', 'q2_k'] as const)('%s in a packed file', (type) => {
    const folder = mkdtempSync(join(tmpdir(), 'lowbit-'));
    try {
      const file = join(folder, 'weight');
      const packed = prepackBlocks(quantizeBlocks(weights, { type, rowLength: k }), { type, shape: [n, k] });
      savePacked(packed, file);
      const loaded = loadPacked(file);
      expect(linear(x, loaded)).toEqual(linear(x, packed));
      loaded.dispose();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('a matrix without rows, and one without columns', () => {
    expect(linear(x, prepackBlocks(new Uint8Array(0), { type: 'q4_0', shape: [0, k] }))).toHaveLength(0);
    const none = prepackBlocks(new Uint8Array(0), { type: 'q4_k', shape: [3, 0] });
    expect([none.rows, none.cols]).toEqual([3, 0]);
  });

  const blocks = quantizeBlocks(weights, { type: 'q4_0', rowLength: k });
  // biome-ignore lint/suspicious/noExplicitAny: these do not compile
  const any = (value: unknown): any => value;
  it.each([
    ['type', () => prepackBlocks(blocks, { type: any('q4_2'), shape: [n, k] })],
    ['shape', () => prepackBlocks(blocks, { type: 'q4_0', shape: any([n]) })],
    ['shape', () => prepackBlocks(blocks, { type: 'q4_0', shape: [n, 33] })],
    ['shape', () => prepackBlocks(blocks, { type: 'q4_k', shape: [n, 128] })],
    ['data', () => prepackBlocks(blocks, { type: 'q4_0', shape: [n + 1, k] })],
    ['data', () => prepackBlocks(any(weights), { type: 'q4_0', shape: [n, k] })],
    ['device', () => prepackBlocks(blocks, { type: 'q4_0', shape: [n, k], device: any('cuda') })],
    ['data', () => prepackBlocks(new Uint8Array(36).fill(0x7c), { type: 'q4_0', shape: [2, 32] })],
  ])('a wrong %s is an error', (argument, call) => {
    let thrown: unknown;
    try {
      call();
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(InvalidArgumentError);
    expect((thrown as InvalidArgumentError).argument).toBe(argument);
  });

  it('a block with an infinite scale is named', async () => {
    const bad = blocks.slice();
    bad[5 * 18 + 1] = 0x7c;
    bad[5 * 18] = 0;
    const options = { type: 'q4_0', shape: [n, k] } as const;
    expect(() => prepackBlocks(bad, options)).toThrow(/block 5 /);
    await expect(prepackBlocksAsync(bad, options)).rejects.toThrow(/block 5 /);
    await expect(
      prepackBlocksAsync(blocks, { ...options, signal: AbortSignal.abort(new Error('enough')) }),
    ).rejects.toThrow('enough');
  });
});
