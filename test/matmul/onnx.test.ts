import { describe, expect, it } from 'vitest';
import { dequantizeTensor, type IntDtype, linear, prepack, type QuantizedTensor } from '../../lib/index.js';
import { float32Bound, magnitudes, product } from '../support/products.js';
import { type EncodedArray, float32, numbers, type OrtCase, ortCases } from '../support/vectors.js';

interface Attributes {
  K: number;
  N: number;
  bits: number;
  block_size: number;
  accuracy_level: number;
}

/** The weight of com.microsoft MatMulNBits: blocks of codes, padded to whole blocks; zero points packed like codes. */
function weightOf({ nodes, inputs, initializers }: OrtCase): { q: QuantizedTensor; attributes: Attributes } {
  const attributes = nodes[0]?.attrs as unknown as Attributes;
  const { K: k, N: n, bits, block_size: block } = attributes;
  const given = { ...inputs, ...initializers };
  const blocks = Math.ceil(k / block);
  const codes = numbers(given['b'] as EncodedArray);
  const rowBytes = (k * bits) / 8;
  const data = new Uint8Array(n * rowBytes);
  for (let row = 0; row < n; row++) {
    const begin = (row * blocks * block * bits) / 8;
    data.set(codes.slice(begin, begin + rowBytes), row * rowBytes);
  }
  const zeros = given['z'] === undefined ? undefined : numbers(given['z']);
  const zeroRowBytes = Math.ceil((blocks * bits) / 8);
  const zeroPoints = Int32Array.from({ length: n * blocks }, (_, i) => {
    if (zeros === undefined) return 2 ** (bits - 1);
    const bit = (i % blocks) * bits;
    const byte = zeros[Math.floor(i / blocks) * zeroRowBytes + Math.floor(bit / 8)] as number;
    return (byte >> (bit % 8)) & (2 ** bits - 1);
  });
  const q: QuantizedTensor = {
    dtype: `uint${bits}` as IntDtype,
    shape: [n, k],
    scheme: 'asymmetric',
    granularity: 'per-group',
    groupSize: block,
    data,
    scales: float32(given['s'] as EncodedArray),
    zeroPoints,
  };
  return { q, attributes };
}

const cases = ortCases(/^MatMulNBits/);
const named = (pattern: RegExp) => cases.filter(({ id }) => pattern.test(id)).map((c) => [c.id, c] as const);

describe('MatMulNBits of ONNX Runtime', () => {
  it('has cases of every kind', () => expect(cases.length).toBeGreaterThan(40));

  it.each(named(/eye$/))('%s: every single weight', (_, c) => {
    const { q, attributes } = weightOf(c);
    const { K: k, N: n } = attributes;
    const y = numbers(c.outputs['y'] as EncodedArray); // [k, n]: the transpose
    const w = dequantizeTensor(q);
    expect(Array.from(w, (v) => v + 0)).toEqual(
      Array.from(w, (_, i) => (y[(i % k) * n + Math.floor(i / k)] as number) + 0),
    );
    const eye = new Float32Array(k * k);
    for (let i = 0; i < k; i++) eye[i * k + i] = 1;
    const got = linear(eye, prepack(q), { computeDtype: 'float32' });
    expect(Array.from(got, (v) => v + 0)).toEqual(y.map((v) => v + 0));
  });

  it.each(named(/acc[01]_matmul$/))('%s: as near as float32 sums are', (_, c) => {
    const { q, attributes } = weightOf(c);
    const { K: k, N: n } = attributes;
    const a = float32(c.inputs['a'] as EncodedArray);
    const m = a.length / k;
    const y = numbers(c.outputs['y'] as EncodedArray);
    const got = linear(a, prepack(q), { computeDtype: 'float32' });
    const sizes = magnitudes(a, dequantizeTensor(q), m, n, k);
    got.forEach((v, i) => {
      expect(Math.abs(v - (y[i] as number))).toBeLessThanOrEqual(2 * float32Bound(k) * (sizes[i] as number));
      expect(Math.abs(v - (y[i] as number))).toBeLessThanOrEqual(1e-6 * (sizes[i] as number));
    });
  });

  it.each(named(/acc4_matmul$/))('%s: as near as 8-bit activations are', (_, c) => {
    const { q, attributes } = weightOf(c);
    const { K: k, N: n } = attributes;
    const a = float32(c.inputs['a'] as EncodedArray);
    const y = numbers(c.outputs['y'] as EncodedArray);
    const exact = product(a, dequantizeTensor(q), a.length / k, n, k);
    const largest = exact.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    const got = linear(a, prepack(q), { computeDtype: 'int8' });
    got.forEach((v, i) => expect(Math.abs(v - (y[i] as number)) / largest).toBeLessThan(1e-2));
    // Ours is no further from the truth than theirs by more than that.
    const error = (from: ArrayLike<number>) => exact.reduce((sum, v, i) => sum + (v - (from[i] as number)) ** 2, 0);
    expect(error(got)).toBeLessThan(4 * error(y) + (1e-3 * largest) ** 2);
  });
});
