/**
 * Products of int8 weights and int8 activations whose scale is known beforehand, exact as integers.
 *
 * @module
 */
import { type InputQuantization, inputCodes } from '../tensor/input-quantization.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { matmulInteger } from './integer.js';
import type { LinearLayer } from './linear-layer.js';
import type { PackedWeight } from './packed-weight.js';
import { prepackIntegerAsync } from './prepack.js';

/** Sums of so many products of codes, less their zero points, keep within 32 bits. */
const MOST_COLUMNS = Math.floor(2 ** 31 / (255 * 128));

/** Rows and columns that are transposed together, so that both matrices stay in the cache. */
const TILE = 64;

/** `[N, K]` as `[K, N]`. */
function transposed(codes: Int8Array, n: number, k: number): Int8Array {
  const out = new Int8Array(n * k);
  for (let top = 0; top < n; top += TILE) {
    const bottom = Math.min(n, top + TILE);
    for (let left = 0; left < k; left += TILE) {
      const right = Math.min(k, left + TILE);
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) out[column * n + row] = codes[row * k + column] as number;
      }
    }
  }
  return out;
}

/** @internal Whether a weight can be multiplied so: symmetric int8, a scale for each output channel or one for all. */
export function isStaticInt8({ dtype, granularity, zeroPoints, shape, axis }: QuantizedTensor): boolean {
  const isShared = granularity === 'per-tensor' || (granularity === 'per-channel' && axis === 0);
  return dtype === 'int8' && isShared && zeroPoints === null && shape.length === 2 && (shape[1] ?? 0) <= MOST_COLUMNS;
}

/** @internal A linear layer of int8 weights and int8 activations of one scale. */
export class StaticInt8Linear implements LinearLayer {
  private constructor(
    private readonly packed: PackedWeight,
    /** `[N]`: what a step of the integer sums stands for. A product of two float32, which float64 holds exactly. */
    private readonly steps: Float64Array,
    private readonly input: InputQuantization,
    private readonly bias: Float32Array | null,
  ) {}

  /**
   * @param tensor - One that {@link isStaticInt8} takes.
   * @param bias - `[N]`
   */
  static async of(
    tensor: QuantizedTensor,
    input: InputQuantization,
    bias: Float32Array | null,
    signal?: AbortSignal,
  ): Promise<StaticInt8Linear> {
    const [n = 0, k = 0] = tensor.shape;
    const codes = new Int8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.length);
    const { scales } = tensor;
    const steps = Float64Array.from(
      { length: n },
      (_, i) => input.scale * (scales[scales.length === 1 ? 0 : i] as number),
    );
    const options = { k, n, ...(signal === undefined ? {} : { signal }) };
    return new StaticInt8Linear(await prepackIntegerAsync(transposed(codes, n, k), options), steps, input, bias);
  }

  get rows(): number {
    return this.packed.rows;
  }

  get cols(): number {
    return this.packed.cols;
  }

  /**
   * `x·Wᵀ + bias`: integer sums times the scales, rounded once to float32.
   *
   * @param x - `[m, K]`
   * @throws {@link NonFiniteError} for NaN or infinity in x.
   */
  forward(x: Float32Array, out?: Float32Array): Float32Array {
    const { rows: n, cols: k, steps, input, bias } = this;
    const codes = inputCodes(x, input).data;
    const a = new Int8Array(codes.buffer, codes.byteOffset, codes.length);
    const m = k === 0 ? 0 : x.length / k;
    const sums = matmulInteger(a, this.packed, { m, n, k, aZeroPoint: input.zeroPoint ?? 0 });
    const y = validate.result(out, Float32Array, m * n);
    for (let row = 0; row < y.length; row += n) {
      for (let i = 0; i < n; i++) {
        const product = (sums[row + i] as number) * (steps[i] as number);
        y[row + i] = bias === null ? product : product + (bias[i] as number);
      }
    }
    return y;
  }

  dispose(): void {
    this.packed.dispose();
  }
}
