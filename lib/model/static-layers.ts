/**
 * Linear layers whose activations become codes of a scale that was found beforehand.
 *
 * @module
 */
import type { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import type { ComputeDtype } from '../matmul/linear.js';
import type { LinearLayer } from '../matmul/linear-layer.js';
import { LlmInt8Layer } from '../matmul/llm-int8-layer.js';
import { isStaticInt8, StaticInt8Linear } from '../matmul/static-int8.js';
import {
  type InputQuantization,
  roundedInputs,
  type StaticActivations,
  staticName,
} from '../tensor/input-quantization.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import { linearOfTensor, linearOfWeight } from './linear-layer.js';

/** Activations become codes and numbers again, then a layer computes with those: for codes that no integer product takes. */
export class RoundedInputLayer implements LinearLayer {
  constructor(
    private readonly inner: LinearLayer,
    private readonly input: InputQuantization,
  ) {}

  get rows(): number {
    return this.inner.rows;
  }

  get cols(): number {
    return this.inner.cols;
  }

  forward(x: Float32Array, out?: Float32Array): Float32Array {
    return this.inner.forward(roundedInputs(x, this.input), out);
  }

  dispose(): void {
    this.inner.dispose();
  }
}

/** The layer of a quantized weight and static activations, on integers where both are int8. */
export async function staticLayer(
  tensor: QuantizedTensor,
  order: Int32Array | null,
  input: InputQuantization,
  bias: Float32Array | null,
  computeDtype: ComputeDtype,
  signal?: AbortSignal,
): Promise<LinearLayer> {
  if (input.dtype === 'int8' && order === null && isStaticInt8(tensor)) {
    return StaticInt8Linear.of(tensor, input, bias, signal);
  }
  const ordered = order === null ? null : order.slice();
  return new RoundedInputLayer(await linearOfTensor(tensor, bias, computeDtype, ordered), input);
}

/** The linear layer of a stored weight, with what its layout says of activations: static scales beside it, or LLM.int8(). */
export async function layerOfWeight(
  weight: Weight,
  bias: Float32Array | null,
  computeDtype: ComputeDtype,
  scratch: Scratch,
  signal?: AbortSignal,
): Promise<LinearLayer> {
  const { llmInt8, rows, columns } = weight;
  if (llmInt8 !== undefined) {
    return LlmInt8Layer.of([rows, columns], await llmInt8.read(0, rows), llmInt8.threshold, bias, signal);
  }
  if (weight.input === undefined) return linearOfWeight(weight, bias, computeDtype, scratch, signal);
  const input = await weight.input.read();
  const block = await weight.read(0, rows, scratch);
  if (block.kind === 'quantized') return staticLayer(block.tensor, block.order, input, bias, computeDtype, signal);
  return new RoundedInputLayer(await linearOfWeight(weight, bias, computeDtype, scratch, signal), input);
}

/** What layers do with their activations, by what is stored beside their weights. */
export function storedActivations(
  weights: Iterable<Weight>,
): 'float32' | StaticActivations | 'mixed-static' | 'llm-int8' {
  const kinds = new Set<StaticActivations | 'llm-int8'>();
  for (const { input, llmInt8 } of weights) {
    if (input !== undefined) kinds.add(staticName(input));
    if (llmInt8 !== undefined) kinds.add('llm-int8');
  }
  const [only = 'float32'] = kinds;
  return kinds.size > 1 ? 'mixed-static' : only;
}
