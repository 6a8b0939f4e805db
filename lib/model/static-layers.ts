/**
 * Linear layers whose activations become codes of a scale that was found beforehand.
 *
 * @module
 */
import type { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import type { ComputeDtype } from '../matmul/linear.js';
import { isStaticInt8, StaticInt8Linear } from '../matmul/static-int8.js';
import {
  type InputQuantization,
  roundedInputs,
  type StaticActivations,
  staticName,
} from '../tensor/input-quantization.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import { type LinearLayer, linearOfTensor, linearOfWeight } from './linear-layer.js';

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

/** The linear layer of a stored weight, with the static activations that are stored beside it. */
export async function layerOfWeight(
  weight: Weight,
  bias: Float32Array | null,
  computeDtype: ComputeDtype,
  scratch: Scratch,
  signal?: AbortSignal,
): Promise<LinearLayer> {
  if (weight.input === undefined) return linearOfWeight(weight, bias, computeDtype, scratch, signal);
  const input = await weight.input.read();
  const block = await weight.read(0, weight.rows, scratch);
  if (block.kind === 'quantized') return staticLayer(block.tensor, block.order, input, bias, computeDtype, signal);
  return new RoundedInputLayer(await linearOfWeight(weight, bias, computeDtype, scratch, signal), input);
}

/** What layers do with their activations, by what is stored beside their weights. */
export function storedActivations(weights: Iterable<Weight>): 'float32' | StaticActivations | 'mixed-static' {
  const kinds = new Set([...weights].flatMap(({ input }) => (input === undefined ? [] : [staticName(input)])));
  const [only = 'float32'] = kinds;
  return kinds.size > 1 ? 'mixed-static' : only;
}
