/**
 * Linear layers of LLM.int8(), on codes as files and quantized tensors have them.
 *
 * Source: Dettmers et al., "LLM.int8()" (arXiv:2208.07339).
 *
 * @module
 */
import type { LinearLayer } from './linear-layer.js';
import { llmInt8Linear } from './llm-int8.js';
import { type LlmInt8Weight, prepackLlmInt8Async } from './llm-int8-weight.js';

/** @internal A linear layer: columns of activations with outliers are multiplied in float32, the others as int8 by int8. */
export class LlmInt8Layer implements LinearLayer {
  private constructor(
    private readonly weight: LlmInt8Weight,
    private readonly threshold: number,
    private readonly bias: Float32Array | null,
  ) {}

  /**
   * @param shape - `[N, K]`
   * @param weight - Codes `[N, K]`; `absmax`, `[N]`: what a row's code 127 stands for.
   * @param threshold - From which magnitude on activations are outliers; 0: none are.
   * @param bias - `[N]`
   */
  static async of(
    shape: readonly [number, number],
    weight: { readonly codes: Int8Array; readonly absmax: Float32Array },
    threshold: number,
    bias: Float32Array | null,
    signal?: AbortSignal,
  ): Promise<LlmInt8Layer> {
    const matrix = { ...weight, shape, outlierColumns: new Int32Array(0), outlierWeights: null };
    const packed = await prepackLlmInt8Async(matrix, signal === undefined ? {} : { signal });
    return new LlmInt8Layer(packed, threshold, bias);
  }

  get rows(): number {
    return this.weight.rows;
  }

  get cols(): number {
    return this.weight.cols;
  }

  /**
   * `x·Wᵀ + bias`
   *
   * @param x - `[m, K]`
   * @throws {@link NonFiniteError} for NaN or infinity in x.
   */
  forward(x: Float32Array, out?: Float32Array): Float32Array {
    return llmInt8Linear(x, this.weight, {
      threshold: this.threshold,
      ...(this.bias === null ? {} : { bias: this.bias }),
      ...(out === undefined ? {} : { out }),
    });
  }

  dispose(): void {
    this.weight.dispose();
  }
}
