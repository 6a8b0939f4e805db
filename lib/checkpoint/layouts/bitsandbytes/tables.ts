/**
 * The tables that bitsandbytes stores with every weight.
 *
 * @module
 */
import { dequantizeTensor } from '../../../tensor/dequantize.js';

/** Codes of four bits. */
export type FourBits = 'nf4' | 'fp4';

/** The values of the codes 0 … 15: `quant_map`. */
export function codeValues(dtype: FourBits): Float32Array {
  return dequantizeTensor({
    dtype,
    shape: [1, 16],
    scheme: 'symmetric',
    granularity: 'per-tensor',
    data: Uint8Array.from({ length: 8 }, (_, i) => (2 * i) | ((2 * i + 1) << 4)),
    scales: Float32Array.of(1),
    zeroPoints: null,
  });
}

/**
 * The signed dynamic map of 8 bits, `nested_quant_map`: 256 ascending values of seven decades with 1, 2, 4 … 64 steps and
 * both signs, in float32 as PyTorch computes them on processors with fused multiply-adds.
 *
 * Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861; bitsandbytes,
 * functional.py, create_dynamic_map.
 */
export function dynamicMap(): Float32Array {
  const { fround } = Math;
  const low = fround(0.1);
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const steps = 2 ** decade;
    const power = fround(10 ** (decade - 6));
    const step = fround(fround(1 - low) / steps);
    // linspace counts from both ends, with fused multiply-adds where processors have them
    const edge = (i: number) => fround(i < (steps + 1) >> 1 ? low + step * i : 1 - step * (steps - i));
    for (let i = 0; i < steps; i++) {
      const value = fround(fround(fround(edge(i) + edge(i + 1)) / 2) * power);
      values.push(value, -value);
    }
  }
  return Float32Array.from(values).sort();
}
