/**
 * What must and what must not compile of lib/matmul. Checked by the compiler (`npm run check`), never run: an expected error that
 * is none is an error.
 */
import {
  dynamicQuantizeMatmul,
  type Float16ArrayLike,
  gram,
  linear,
  linearAsync,
  matmulInteger,
  PackedWeight,
  prepack,
  prepackInteger,
  type QuantizedTensor,
  quantizedMatmul,
} from '../../lib/index.js';

declare const floats: Float32Array;
declare const halves: Uint16Array;
declare const float16: Float16ArrayLike;
declare const bytes: Uint8Array;
declare const q: QuantizedTensor;

export const quantized: PackedWeight = prepack(q);
export const float: PackedWeight = prepack(floats, { shape: [2, 3] });
prepack(q, { device: 'cpu' });
prepack(halves, { shape: [2, 3], dtype: 'bfloat16' });
prepack(float16, { shape: [2, 3] });
// @ts-expect-error: float16 or bfloat16?
prepack(halves, { shape: [2, 3] });
// @ts-expect-error: floats need a shape
prepack(floats);
// @ts-expect-error: a matrix has two dimensions
prepack(floats, { shape: [2, 3, 4] });
// @ts-expect-error: a Float32Array holds float32
prepack(floats, { shape: [2, 3], dtype: 'float16' });
prepack(q, { device: 'cuda:1' });
// @ts-expect-error: there is no such device
prepack(q, { device: 'gpu' });

export const y: Float32Array = linear(floats, quantized, { bias: floats, computeDtype: 'int8', activation: 'gelu' });
export const later: Promise<Float32Array> = linearAsync(floats, quantized, { signal: AbortSignal.timeout(1) });
linear(floats, quantized, { gate: float, gateBias: floats, activationGranularity: 'per-token' });
// @ts-expect-error: a quantized tensor is not packed
linear(floats, q);
// @ts-expect-error: nor is what looks like one
linear(floats, { rows: 1, cols: 1, nbytes: 1, kind: 'float', disposed: false, dispose() {} });
// @ts-expect-error: only asynchronous calls take a signal
linear(floats, quantized, { signal: AbortSignal.timeout(1) });
// @ts-expect-error: no such arithmetic
linear(floats, quantized, { computeDtype: 'int4' });

export const sums: Int32Array = matmulInteger(bytes, prepackInteger(bytes, { k: 1, n: 1 }), { m: 1, n: 1, k: 1 });
const scaled = { m: 1, n: 1, k: 1, aScale: 1, bScale: floats, outScale: 1 } as const;
export const signed: Int8Array = quantizedMatmul(bytes, bytes, { ...scaled, outDtype: 'int8' });
export const unsigned: Uint8Array = quantizedMatmul(bytes, bytes, { ...scaled, outDtype: 'uint8' });
// @ts-expect-error: an Int8Array does not hold uint8
quantizedMatmul(bytes, bytes, { ...scaled, outDtype: 'uint8', out: new Int8Array(1) });
// @ts-expect-error: k is missing
matmulInteger(bytes, bytes, { m: 1, n: 1 });
dynamicQuantizeMatmul(floats, bytes, { m: 1, n: 1, k: 1, bScale: 1, bias: floats });
gram(floats, { k: 3, out: floats });

// @ts-expect-error: a weight is made by prepack
new PackedWeight();
// @ts-expect-error: and can't be changed
quantized.rows = 3;
// A using block disposes it.
const disposable: { [Symbol.dispose](): void } = quantized;
disposable[Symbol.dispose]();
