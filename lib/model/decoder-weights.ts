/**
 * The weights of a decoder by their places, checked against its config.
 *
 * @module
 */
import { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import { CheckpointError } from '../errors.js';
import type { DecoderConfig } from './config.js';
import { rowsOf } from './linear-layer.js';

/** A linear layer of a block. */
export type LinearName =
  | 'self_attn.q_proj'
  | 'self_attn.k_proj'
  | 'self_attn.v_proj'
  | 'self_attn.o_proj'
  | 'mlp.gate_proj'
  | 'mlp.up_proj'
  | 'mlp.down_proj';

/** Activations that linear layers read. */
export type InputName = 'self_attn' | 'self_attn.o_proj' | 'mlp' | 'mlp.down_proj';

/** Activations and the linear layers that read them, in the order of computation. */
export const INPUTS: readonly { readonly name: InputName; readonly linears: readonly LinearName[] }[] = [
  { name: 'self_attn', linears: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'] },
  { name: 'self_attn.o_proj', linears: ['self_attn.o_proj'] },
  { name: 'mlp', linears: ['mlp.gate_proj', 'mlp.up_proj'] },
  { name: 'mlp.down_proj', linears: ['mlp.down_proj'] },
];

/** Every linear layer of a block. */
export const LINEARS: readonly LinearName[] = INPUTS.flatMap(({ linears }) => linears);

/** The norms before attention and before the gated layers. */
export type NormName = 'input_layernorm' | 'post_attention_layernorm';

/** Those norms, in the order of computation. */
export const NORMS: readonly NormName[] = ['input_layernorm', 'post_attention_layernorm'];

/** Rows and columns of each linear layer of a block. */
export function linearShapes(config: DecoderConfig): Readonly<Record<LinearName, readonly [number, number]>> {
  const { hiddenSize: hidden, intermediateSize: inner, numHeads, numKvHeads, headDim } = config;
  return {
    'self_attn.q_proj': [numHeads * headDim, hidden],
    'self_attn.k_proj': [numKvHeads * headDim, hidden],
    'self_attn.v_proj': [numKvHeads * headDim, hidden],
    'self_attn.o_proj': [hidden, numHeads * headDim],
    'mlp.gate_proj': [inner, hidden],
    'mlp.up_proj': [inner, hidden],
    'mlp.down_proj': [hidden, inner],
  };
}

/** What stands before the names of weights: nothing in a checkpoint that was saved without the output layer. */
export type WeightPrefix = 'model.' | '';

/** The full name of a weight of a block, or of all that it is made of. */
export function blockName(prefix: WeightPrefix, layer: number): string {
  return `${prefix}layers.${layer}`;
}

/** The weights of a decoder. */
export class DecoderWeights {
  readonly prefix: WeightPrefix;
  private readonly byName: ReadonlyMap<string, Weight>;

  /** @throws {@link CheckpointError} `MODEL_WEIGHT_MISSING`, `MODEL_WEIGHT_SHAPE`. */
  constructor(
    readonly config: DecoderConfig,
    weights: readonly Weight[],
    private readonly path: string,
  ) {
    this.byName = new Map(weights.map((weight) => [weight.name, weight]));
    this.prefix = this.byName.has('embed_tokens.weight') ? '' : 'model.';
    this.check();
  }

  private check(): void {
    const { config, prefix: before } = this;
    const { hiddenSize: hidden, vocabSize, headDim } = config;
    this.require(`${before}embed_tokens.weight`, [vocabSize, hidden]);
    this.require(`${before}norm.weight`, [hidden]);
    // Without a prefix the output layer was left out on purpose.
    if (this.head !== null || before !== '') this.requireHead();
    const shapes = linearShapes(config);
    for (let layer = 0; layer < config.numLayers; layer++) {
      const prefix = blockName(before, layer);
      this.require(`${prefix}.input_layernorm.weight`, [hidden]);
      this.require(`${prefix}.post_attention_layernorm.weight`, [hidden]);
      for (const name of LINEARS) {
        const [rows, columns] = shapes[name];
        this.require(`${prefix}.${name}.weight`, [rows, columns]);
        const bias = `${prefix}.${name}.bias`;
        if (config.biased.includes(name) || this.byName.has(bias)) this.require(bias, [rows]);
      }
      if (config.qkNorm) {
        this.require(`${prefix}.self_attn.q_norm.weight`, [headDim]);
        this.require(`${prefix}.self_attn.k_norm.weight`, [headDim]);
      }
    }
  }

  /** @throws {@link CheckpointError} `MODEL_WEIGHT_MISSING` for a checkpoint that was saved without the output layer. */
  requireHead(): void {
    const { config, prefix, path } = this;
    if (prefix === '' && this.head === null) {
      const message =
        `${path} has no output layer (lm_head.weight), as models that are saved without it: it can be calibrated and quantized, ` +
        'but gives no logits, and so neither text nor perplexity. Add lm_head.weight to its files; or, if its output layer is the ' +
        'embedding, "tie_word_embeddings": true to its config.json.';
      throw new CheckpointError('MODEL_WEIGHT_MISSING', message, { path, tensor: 'lm_head.weight' });
    }
    if (!config.tiedHead) this.require('lm_head.weight', [config.vocabSize, config.hiddenSize]);
  }

  private require(name: string, shape: readonly number[]): void {
    const { path } = this;
    const weight = this.byName.get(name);
    const expected = `[${shape.join(', ')}]`;
    if (weight === undefined) {
      const near = [...this.byName.keys()].find((other) => other.endsWith(name.replace(/^model\./, '')));
      const hint = near === undefined ? '' : ` It has ${near}.`;
      const message =
        `${path} has no weight ${name}, of shape ${expected}, which its config asks for.${hint} ` +
        'Check that all files of the model are there.';
      throw new CheckpointError('MODEL_WEIGHT_MISSING', message, { path, tensor: name });
    }
    if (weight.shape.length !== shape.length || weight.shape.some((dim, axis) => dim !== shape[axis])) {
      const message =
        `Expected ${name} of ${path} to have the shape ${expected}, which follows from its config, ` +
        `but it is [${weight.shape.join(', ')}]. Config and weights belong to different models.`;
      throw new CheckpointError('MODEL_WEIGHT_SHAPE', message, { path, tensor: name });
    }
    if (weight.dtype === null) {
      const message = `Expected ${name} of ${path} to hold numbers but it is stored as ${weight.encoding.dtype}.`;
      throw new CheckpointError('MODEL_WEIGHT_SHAPE', message, { path, tensor: name });
    }
  }

  /** A weight that is there, or undefined (a bias). */
  find(name: string): Weight | undefined {
    return this.byName.get(name);
  }

  get(name: string): Weight {
    return this.byName.get(name) as Weight;
  }

  /** A vector in float32: a norm, or a bias. */
  async vector(name: string): Promise<Float32Array> {
    const weight = this.get(name);
    return rowsOf(weight, 0, weight.rows, new Scratch());
  }

  get embedding(): Weight {
    return this.get(`${this.prefix}embed_tokens.weight`);
  }

  /** The last norm, by its name. */
  get norm(): string {
    return `${this.prefix}norm.weight`;
  }

  /** The output layer; null in a checkpoint that was saved without it. */
  get head(): Weight | null {
    return (this.config.tiedHead ? this.embedding : this.find('lm_head.weight')) ?? null;
  }
}
