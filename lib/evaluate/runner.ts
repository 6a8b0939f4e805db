/**
 * Running a model over windows of tokens, with its hidden states in hand.
 *
 * @module
 */
import type { DecoderBlock } from '../model/block.js';
import type { InputName } from '../model/decoder-weights.js';
import type { DecoderModel } from '../model/model.js';
import { type Activations, roundedToInt8 } from './activations.js';

export interface RunnerOptions {
  readonly activations: Activations;
  readonly residentBlocks: 'all' | 'one';
  readonly onBlock: ((block: DecoderBlock) => void | Promise<void>) | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Rows that go through a block at a time: whole windows, at least one. */
const BLOCK_ROWS = 1024;

/** Opens the blocks of a model once, or each when it runs. */
export class Runner {
  private readonly resident: DecoderBlock[] = [];
  /** Time that the model took. */
  seconds = 0;

  constructor(
    readonly model: DecoderModel,
    private readonly options: RunnerOptions,
  ) {}

  /** Hidden states after the last block, `[tokens, hiddenSize]`. */
  hidden(tokens: Int32Array, windowLength: number): Promise<Float32Array> {
    return this.timed(async () => {
      const hidden = await this.model.embed(tokens);
      for (let layer = 0; layer < this.model.config.numLayers; layer++) {
        await this.withBlock(layer, (block) => this.forward(block, hidden, windowLength));
      }
      return hidden;
    });
  }

  /** Logits of some hidden states. */
  head(hidden: Float32Array): Promise<Float32Array> {
    return this.timed(() => this.model.head(hidden));
  }

  /**
   * Where numbers of a window stop being finite: the first block whose output is not, and the position; null where it is the
   * output layer.
   */
  async firstNonFinite(tokens: Int32Array): Promise<{ layer: number; position: number } | null> {
    const { hiddenSize, numLayers } = this.model.config;
    const hidden = await this.model.embed(tokens);
    for (let layer = 0; layer < numLayers; layer++) {
      await this.withBlock(layer, (block) => this.forward(block, hidden, tokens.length));
      const at = hidden.findIndex((value) => !Number.isFinite(value));
      if (at >= 0) return { layer, position: Math.floor(at / hiddenSize) };
    }
    return null;
  }

  dispose(): void {
    for (const block of this.resident.splice(0)) block.dispose();
  }

  private async timed<T>(body: () => Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await body();
    } finally {
      this.seconds += (performance.now() - start) / 1000;
    }
  }

  private async withBlock(layer: number, body: (block: DecoderBlock) => Promise<void>): Promise<void> {
    const { residentBlocks, onBlock } = this.options;
    const known = this.resident[layer];
    if (known !== undefined) return body(known);
    const block = await this.model.openBlock(layer);
    try {
      await onBlock?.(block);
      await body(block);
    } catch (error) {
      block.dispose();
      throw error;
    }
    if (residentBlocks === 'all') this.resident[layer] = block;
    else block.dispose();
  }

  /** Runs a block over all windows, in place. */
  private async forward(block: DecoderBlock, hidden: Float32Array, windowLength: number): Promise<void> {
    const { activations, signal } = this.options;
    const { hiddenSize } = this.model.config;
    const part = Math.max(1, Math.floor(BLOCK_ROWS / windowLength)) * windowLength * hiddenSize;
    const options = {
      windowLength,
      ...(signal === undefined ? {} : { signal }),
      ...(activations !== 'int8-dynamic'
        ? {}
        : { onInput: (input: InputName, x: Float32Array) => roundedToInt8(x, this.columnsOf(input), signal) }),
    };
    for (let begin = 0; begin < hidden.length; begin += part) {
      const rows = hidden.subarray(begin, begin + part);
      rows.set(await block.forward(rows, options));
    }
  }

  /** How many activations of a token the linear layers of an input read. */
  private columnsOf(input: InputName): number {
    const { hiddenSize, intermediateSize, numHeads, headDim } = this.model.config;
    switch (input) {
      case 'self_attn.o_proj':
        return numHeads * headDim;
      case 'mlp.down_proj':
        return intermediateSize;
      default:
        return hiddenSize;
    }
  }
}
