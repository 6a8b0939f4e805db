/**
 * Linear layers whose weights and activations are both int8 ("W8A8"), multiplied exactly as integers.
 *
 * Sources: Xiao et al., "SmoothQuant" (arXiv:2211.10438); Yao et al., "ZeroQuant" (arXiv:2206.01861); Dettmers et al.,
 * "LLM.int8()" (arXiv:2208.07339).
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { linear } from '../matmul/linear.js';
import type { LinearLayer } from '../matmul/linear-layer.js';
import { LlmInt8Layer } from '../matmul/llm-int8-layer.js';
import type { PackedWeight } from '../matmul/packed-weight.js';
import { prepackAsync } from '../matmul/prepack.js';
import { isStaticInt8, StaticInt8Linear } from '../matmul/static-int8.js';
import { checkQuantizedTensor, type QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';

/** The codes and scales of a symmetric int8 weight [N, K] with a scale for each output channel. */
function checkInt8(value: unknown): readonly [number, number] {
  const { tensor } = checkQuantizedTensor('tensor', value);
  const { dtype, granularity, axis, zeroPoints, shape } = tensor;
  if (dtype !== 'int8' || granularity !== 'per-channel' || axis !== 0 || zeroPoints !== null || shape.length !== 2) {
    throw new InvalidArgumentError(
      'tensor',
      'Expected a symmetric int8 weight [N, K] with a scale for each channel of axis 0, ' +
        `but received ${dtype} ${granularity} [${shape.join(', ')}].`,
    );
  }
  return shape as unknown as readonly [number, number];
}

/** Scales of activations are found as they come, one for each token. */
class DynamicInt8Linear implements LinearLayer {
  constructor(
    private readonly weight: PackedWeight,
    private readonly bias: Float32Array | null,
  ) {}

  get rows(): number {
    return this.weight.rows;
  }

  get cols(): number {
    return this.weight.cols;
  }

  forward(x: Float32Array, out?: Float32Array): Float32Array {
    return linear(x, this.weight, {
      computeDtype: 'int8',
      activationGranularity: 'per-token',
      ...(this.bias === null ? {} : { bias: this.bias }),
      ...(out === undefined ? {} : { out }),
    });
  }

  dispose(): void {
    this.weight.dispose();
  }
}

/** Options of {@link int8Layer}. */
export interface Int8LayerOptions {
  /**
   * `'dynamic'` (default): a scale for each token. `{ inputScale }`: one for all, found by calibration, rounded to float32; with
   * `inputZeroPoint` (−128 to 127) codes are asymmetric. Activations past the codes −128 and 127 are cut off. `{ threshold }`:
   * LLM.int8(), per token, with columns of activations of at least that magnitude in float32.
   */
  activations?:
    | 'dynamic'
    | { readonly inputScale: number; readonly inputZeroPoint?: number | null }
    | { readonly threshold: number };
  /** `[N]`, added to every row. */
  bias?: Float32Array | null;
}

/**
 * A linear layer of a decoder that multiplies int8 activations by int8 weights, for {@link DecoderBlock.replace}.
 *
 * @param tensor - int8, symmetric, `[N, K]`, a scale for each output channel.
 * @param options - `activations`, default `'dynamic'`; `bias`, default none.
 * @returns A layer of N outputs and K inputs, which frees its weight with `dispose()`.
 * @throws {@link InvalidArgumentError} for another kind of tensor, or a wrong scale; {@link OutOfMemoryError}.
 *
 * Sources: Xiao et al., "SmoothQuant" (arXiv:2211.10438); Yao et al., "ZeroQuant" (arXiv:2206.01861);
 * Dettmers et al., "LLM.int8()" (arXiv:2208.07339).
 */
export async function int8Layer(tensor: QuantizedTensor, options: Int8LayerOptions = {}): Promise<LinearLayer> {
  const given = validate.options<Int8LayerOptions>('options', options, new Set(['activations', 'bias']));
  const [n, k] = checkInt8(tensor);
  const { activations = 'dynamic', bias = null } = given;
  if (bias !== null) validate.float32Array('bias', bias, n);
  if (activations === 'dynamic') return new DynamicInt8Linear(await prepackAsync(tensor), bias);
  if (typeof activations !== 'object' || activations === null) {
    throw invalidArgument('activations', "'dynamic', { inputScale } or { threshold }", activations);
  }
  if ('threshold' in activations) {
    const codes = new Int8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.length);
    const absmax = tensor.scales.map((scale) => 127 * scale);
    return LlmInt8Layer.of([n, k], { codes, absmax }, activations.threshold, bias);
  }
  const scale = Math.fround(validate.finite('activations.inputScale', activations.inputScale, true));
  const { inputZeroPoint = null } = activations;
  if (inputZeroPoint !== null) validate.integer('activations.inputZeroPoint', inputZeroPoint, -128, 127);
  if (!isStaticInt8(tensor)) {
    throw new InvalidArgumentError(
      'tensor',
      `Expected fewer columns for static activations, whose sums are of 32 bits, than ${k}.`,
    );
  }
  return StaticInt8Linear.of(tensor, { dtype: 'int8', scale, zeroPoint: inputZeroPoint }, bias);
}
