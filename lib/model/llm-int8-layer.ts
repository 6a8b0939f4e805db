/**
 * Linear layers of LLM.int8().
 *
 * Source: Dettmers et al., "LLM.int8()" (arXiv:2208.07339).
 *
 * @module
 */
import type { LlmInt8Rows, Weight } from '../checkpoint/weight.js';
import { type LlmInt8Weight, llmInt8Linear, prepackLlmInt8Async } from '../matmul/llm-int8.js';
import type { LinearLayer } from './linear-layer.js';

/** Columns of activations with outliers are multiplied in float32, the others as int8 by int8. */
export class LlmInt8Layer implements LinearLayer {
  constructor(
    private readonly weight: LlmInt8Weight,
    private readonly threshold: number,
    private readonly bias: Float32Array | null,
  ) {}

  get rows(): number {
    return this.weight.rows;
  }

  get cols(): number {
    return this.weight.cols;
  }

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

/** The layer of a weight that is stored for LLM.int8(). */
export async function llmInt8LayerOf(
  { rows, columns }: Weight,
  stored: LlmInt8Rows,
  bias: Float32Array | null,
  signal?: AbortSignal,
): Promise<LlmInt8Layer> {
  const { codes, absmax } = await stored.read(0, rows);
  const matrix = {
    codes,
    absmax,
    shape: [rows, columns] as const,
    outlierColumns: new Int32Array(0),
    outlierWeights: null,
  };
  return new LlmInt8Layer(
    await prepackLlmInt8Async(matrix, signal === undefined ? {} : { signal }),
    stored.threshold,
    bias,
  );
}
