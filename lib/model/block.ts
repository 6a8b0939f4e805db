/**
 * A block of a decoder: attention and gated linear layers, each after a norm and added to what came in.
 *
 * @module
 */
import { floatsOf } from '../checkpoint/floats.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { LargeFloatDtype } from '../dtype.js';
import { InvalidArgumentError, NonFiniteError } from '../errors.js';
import { type ComputeDtype, linear } from '../matmul/linear.js';
import type { LinearLayer } from '../matmul/linear-layer.js';
import { prepack } from '../matmul/prepack.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import type { DecoderConfig } from './config.js';
import {
  blockName,
  type DecoderWeights,
  INPUTS,
  type InputName,
  LINEARS,
  type LinearName,
  linearShapes,
  type NormName,
} from './decoder-weights.js';
import { linearOfWeight, PackedLinear } from './linear-layer.js';
import type { Loader } from './loader.js';
import {
  type Attended,
  addInto,
  attention,
  gated,
  type LayerCache,
  layerCache,
  rmsNorm,
  turn,
  Workspace,
} from './operations.js';
import type { RotaryTables } from './rope.js';
import { layerOfWeight } from './static-layers.js';

/** Options of {@link DecoderBlock.forward}. */
export interface BlockForwardOptions {
  /** Tokens of each window; positions begin at 0 in each. */
  windowLength: number;
  /**
   * Sees the activations that each group of linear layers reads, `[rows, K]`, and may return others, which are then used
   * instead. The array is only valid until it returns (or its promise resolves).
   */
  onInput?: (input: InputName, x: Float32Array) => Float32Array | undefined | Promise<Float32Array | undefined>;
  /** Stops before the linear layers that read these activations, and returns the activations. */
  until?: InputName;
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** A block of a decoder, with its weights in memory. */
export interface DecoderBlock {
  readonly index: number;
  /** The name of a weight in the checkpoint: `model.layers.3.self_attn.q_proj.weight`. */
  weightName(name: LinearName): string;
  /**
   * A weight in float32, `[N, K]` in row-major order: the one that was given to {@link DecoderBlock.replace}, else the
   * checkpoint's.
   */
  weight(name: LinearName): Promise<Float32Array>;
  /** The bias of a linear layer, `[N]`; null if it has none. */
  bias(name: LinearName): Float32Array | null;
  /**
   * What computes from now on. The block owns the layer and disposes it. Tensors and floats are packed at once, and compute
   * with the bias that was there.
   *
   * @throws {@link InvalidArgumentError} for a shape other than the layer's.
   */
  replace(name: LinearName, weight: LinearLayer | QuantizedTensor | Float32Array): void;
  /** The weights of a norm, `[hiddenSize]`. */
  norm(name: NormName): Float32Array;
  /**
   * Replaces them, by as many.
   *
   * @throws {@link InvalidArgumentError} for another length.
   */
  setNorm(name: NormName, weight: Float32Array): void;
  /** The type in which the checkpoint stores a norm. */
  normDtype(name: NormName): LargeFloatDtype;
  /**
   * Runs the block over windows of tokens.
   *
   * @param hidden - `[windows · windowLength, hiddenSize]`; it is left as it is.
   * @returns As large, in a new array; with `until` the activations asked for.
   */
  forward(hidden: Float32Array, options: BlockForwardOptions): Promise<Float32Array>;
  /** Frees the weights, those that were given to {@link DecoderBlock.replace} included. */
  dispose(): void;
}

/** The norms of a block. */
interface Norms {
  input_layernorm: Float32Array;
  post_attention_layernorm: Float32Array;
  readonly query: Float32Array | null;
  readonly key: Float32Array | null;
}

/** What a block is made for. */
export interface BlockContext {
  readonly config: DecoderConfig;
  readonly weights: DecoderWeights;
  readonly tables: RotaryTables;
  readonly computeDtype: ComputeDtype;
  /** Whether static activations that are stored beside weights count. */
  readonly quantizesInputs: boolean;
  readonly loader: Loader;
}

const FORWARD_OPTIONS: ReadonlySet<string> = new Set(['windowLength', 'onInput', 'until', 'signal']);

export class Block implements DecoderBlock {
  private readonly replaced = new Map<LinearName, QuantizedTensor | Float32Array>();
  private readonly prefix: string;

  private constructor(
    readonly index: number,
    private readonly context: BlockContext,
    private readonly norms: Norms,
    private readonly linears: Map<LinearName, LinearLayer>,
    private readonly biases: ReadonlyMap<LinearName, Float32Array>,
  ) {
    this.prefix = blockName(context.weights.prefix, index);
  }

  /** Reads the weights of a block. */
  static open(index: number, context: BlockContext, signal?: AbortSignal): Promise<Block> {
    return context.loader.run((scratch) => Block.load(index, context, scratch, signal));
  }

  private static async load(
    index: number,
    context: BlockContext,
    scratch: Scratch,
    signal: AbortSignal | undefined,
  ): Promise<Block> {
    const { weights, config, computeDtype } = context;
    const prefix = blockName(weights.prefix, index);
    const layerOf = context.quantizesInputs ? layerOfWeight : linearOfWeight;
    const linears = new Map<LinearName, LinearLayer>();
    const biases = new Map<LinearName, Float32Array>();
    const vector = (name: string) => weights.vector(`${prefix}.${name}`);
    try {
      for (const name of LINEARS) {
        signal?.throwIfAborted();
        const bias = weights.find(`${prefix}.${name}.bias`) === undefined ? null : await vector(`${name}.bias`);
        if (bias !== null) biases.set(name, bias);
        const weight = weights.get(`${prefix}.${name}.weight`);
        linears.set(name, await layerOf(weight, bias, computeDtype, scratch, signal));
      }
      const norms: Norms = {
        input_layernorm: await vector('input_layernorm.weight'),
        post_attention_layernorm: await vector('post_attention_layernorm.weight'),
        query: config.qkNorm ? await vector('self_attn.q_norm.weight') : null,
        key: config.qkNorm ? await vector('self_attn.k_norm.weight') : null,
      };
      return new Block(index, context, norms, linears, biases);
    } catch (error) {
      for (const layer of linears.values()) layer.dispose();
      throw error;
    }
  }

  weightName(name: LinearName): string {
    return `${this.prefix}.${validate.oneOf('name', name, LINEARS)}.weight`;
  }

  async weight(name: LinearName): Promise<Float32Array> {
    const stored = this.context.weights.get(this.weightName(name));
    const replaced = this.replaced.get(name);
    if (replaced instanceof Float32Array) return replaced.slice();
    if (replaced !== undefined) return dequantizeTensorAsync(replaced);
    const { rows, columns } = stored;
    const scratch = new Scratch();
    return (await floatsOf(await stored.read(0, rows, scratch), rows * columns, columns, scratch)).slice();
  }

  bias(name: LinearName): Float32Array | null {
    return this.biases.get(validate.oneOf('name', name, LINEARS)) ?? null;
  }

  replace(name: LinearName, weight: LinearLayer | QuantizedTensor | Float32Array): void {
    const full = this.weightName(name);
    const [rows, columns] = linearShapes(this.context.config)[name];
    let layer: LinearLayer;
    if (weight instanceof Float32Array) {
      validate.float32Array('weight', weight, rows * columns);
      layer = new PackedLinear(prepack(weight, { shape: [rows, columns] }), this.bias(name), 'float32');
    } else if ('forward' in weight) {
      layer = weight;
    } else {
      layer = new PackedLinear(prepack(weight), this.bias(name), this.context.computeDtype);
    }
    if (layer.rows !== rows || layer.cols !== columns) {
      const got = `[${layer.rows}, ${layer.cols}]`;
      if (layer !== weight) layer.dispose();
      throw new InvalidArgumentError(
        'weight',
        `Expected a weight of the shape [${rows}, ${columns}] for ${full} but received one of ${got}.`,
      );
    }
    this.linears.get(name)?.dispose();
    this.linears.set(name, layer);
    if ('forward' in weight) this.replaced.delete(name);
    else this.replaced.set(name, weight);
  }

  norm(name: NormName): Float32Array {
    return this.norms[name];
  }

  setNorm(name: NormName, weight: Float32Array): void {
    this.norms[name] = validate.float32Array('weight', weight, this.context.config.hiddenSize).slice();
  }

  normDtype(name: NormName): LargeFloatDtype {
    return this.context.weights.get(`${this.prefix}.${name}.weight`).dtype ?? 'float32';
  }

  dispose(): void {
    for (const layer of this.linears.values()) layer.dispose();
    this.linears.clear();
  }

  private linear(name: LinearName): LinearLayer {
    const layer = this.linears.get(name);
    if (layer !== undefined) return layer;
    throw new InvalidArgumentError('block', `Expected block ${this.index} to be in use but it has been disposed.`);
  }

  /** One linear layer, with errors that name it. */
  private run(name: LinearName, x: Float32Array, workspace: Workspace): Float32Array {
    const layer = this.linear(name);
    const out = workspace.floats(name, (x.length / layer.cols) * layer.rows);
    return this.explained(name, () => layer.forward(x, out));
  }

  private explained<T>(name: LinearName, body: () => T): T {
    try {
      return body();
    } catch (error) {
      if (!(error instanceof NonFiniteError)) throw error;
      const full = this.weightName(name);
      const message =
        `What ${full} is given has ${error.value} at element ${error.index}: ` +
        'the numbers of the model leave the range of float32.';
      throw new NonFiniteError(message, error.index, error.value, full);
    }
  }

  /** `silu(gate) ⊙ up`, in one product where that can be. */
  private gatedUp(x: Float32Array, workspace: Workspace): Float32Array {
    const [gate, up] = [this.linear('mlp.gate_proj'), this.linear('mlp.up_proj')];
    const arePacked = gate instanceof PackedLinear && up instanceof PackedLinear;
    if (!(arePacked && gate.computeDtype === up.computeDtype && gate.readsLike(up))) {
      return gated(this.run('mlp.gate_proj', x, workspace), this.run('mlp.up_proj', x, workspace));
    }
    return this.explained('mlp.up_proj', () =>
      linear(up.ordered(x), up.weight, {
        out: workspace.floats('mlp.up_proj', (x.length / up.cols) * up.rows),
        gate: gate.weight,
        computeDtype: up.computeDtype,
        ...(up.bias === null ? {} : { bias: up.bias }),
        ...(gate.bias === null ? {} : { gateBias: gate.bias }),
      }),
    );
  }

  /** Queries, keys and values of what the norm before them gave; room for what comes out. */
  private attended(x: Float32Array, angles: Float32Array, workspace: Workspace): Attended {
    const queries = this.run('self_attn.q_proj', x, workspace);
    return {
      queries,
      keys: this.run('self_attn.k_proj', x, workspace),
      values: this.run('self_attn.v_proj', x, workspace),
      queryNorm: this.norms.query,
      keyNorm: this.norms.key,
      angles,
      out: workspace.floats('self_attn', queries.length),
    };
  }

  private get window(): number | null {
    return this.context.config.slidingWindows[this.index] ?? null;
  }

  async forward(hidden: Float32Array, options: BlockForwardOptions): Promise<Float32Array> {
    const { config, tables } = this.context;
    const { hiddenSize, rmsNormEps } = config;
    const given = validate.options<BlockForwardOptions>('options', options, FORWARD_OPTIONS);
    const windowLength = validate.integer('windowLength', given.windowLength, 1);
    const signal = validate.abortSignal('signal', given.signal);
    const until =
      given.until === undefined
        ? undefined
        : validate.oneOf(
            'until',
            given.until,
            INPUTS.map(({ name }) => name),
          );
    validate.float32Array('hidden', hidden);
    const { onInput } = given;
    const rows = hidden.length / hiddenSize;
    if (rows % windowLength !== 0) {
      throw new InvalidArgumentError(
        'hidden',
        `Expected hidden to hold whole windows of ${windowLength} · ${hiddenSize} elements but its length is ${hidden.length}.`,
      );
    }
    const shown = async (input: InputName, x: Float32Array): Promise<Float32Array> => {
      const other = onInput === undefined ? undefined : await onInput(input, x);
      return other === undefined ? x : validate.float32Array('what onInput returns', other, x.length);
    };
    const pause = async () => {
      await turn();
      signal?.throwIfAborted();
    };
    const { norms } = this;
    const workspace = new Workspace();
    const out = hidden.slice(); // before the caller can change it
    await pause();

    const normed = workspace.floats('normed', out.length);
    let x = rmsNorm(out, norms.input_layernorm, rmsNormEps, normed);
    x = await shown('self_attn', x);
    if (until === 'self_attn') return x;
    const all = this.attended(x, tables.rows(0, windowLength), workspace);
    const cache = layerCache(config, windowLength);
    for (let window = 0; window < rows / windowLength; window++) {
      const part = (array: Float32Array) => {
        const length = (array.length / rows) * windowLength;
        return array.subarray(window * length, (window + 1) * length);
      };
      attention(config, this.window, cache, 0, {
        ...all,
        queries: part(all.queries),
        keys: part(all.keys),
        values: part(all.values),
        out: part(all.out),
      });
    }
    x = await shown('self_attn.o_proj', all.out);
    if (until === 'self_attn.o_proj') return x;
    addInto(out, this.run('self_attn.o_proj', x, workspace));

    await pause();
    x = rmsNorm(out, norms.post_attention_layernorm, rmsNormEps, normed);
    x = await shown('mlp', x);
    if (until === 'mlp') return x;
    x = await shown('mlp.down_proj', this.gatedUp(x, workspace));
    if (until === 'mlp.down_proj') return x;
    addInto(out, this.run('mlp.down_proj', x, workspace));
    return out;
  }

  /**
   * Runs the block over tokens that come to a sequence, in place.
   *
   * @param hidden - `[rows, hiddenSize]`
   * @param past - Tokens that are in the cache.
   * @param angles - Those of the rows.
   */
  extend(hidden: Float32Array, cache: LayerCache, past: number, angles: Float32Array, workspace: Workspace): void {
    const { norms } = this;
    const { config } = this.context;
    const normed = workspace.floats('normed', hidden.length);
    rmsNorm(hidden, norms.input_layernorm, config.rmsNormEps, normed);
    const attended = this.attended(normed, angles, workspace);
    attention(config, this.window, cache, past, attended);
    addInto(hidden, this.run('self_attn.o_proj', attended.out, workspace));
    rmsNorm(hidden, norms.post_attention_layernorm, config.rmsNormEps, normed);
    addInto(hidden, this.run('mlp.down_proj', this.gatedUp(normed, workspace), workspace));
  }
}
