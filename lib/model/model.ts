/**
 * Running a decoder.
 *
 * @module
 */
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import { checkReadingOptions, weightsOf } from '../checkpoint/weights.js';
import { CheckpointError, InvalidArgumentError, invalidArgument } from '../errors.js';
import type { ComputeDtype } from '../matmul/linear.js';
import type { StaticActivations } from '../tensor/input-quantization.js';
import * as validate from '../validate.js';
import { Block, type BlockContext, type DecoderBlock } from './block.js';
import { type DecoderConfig, readConfig } from './config.js';
import { DecoderWeights, type WeightPrefix } from './decoder-weights.js';
import { Embedding } from './embedding.js';
import { type GenerateOptions, type Generation, type Generator, generate, type Sequence } from './generate.js';
import { readGgufConfig } from './gguf-config.js';
import { Head } from './head.js';
import { Loader } from './loader.js';
import { type LayerCache, layerCache, turn, Workspace } from './operations.js';
import { RotaryTables } from './rope.js';
import { storedActivations } from './static-layers.js';
import { endTokensOf, type OwnTokenizer, type Tokenizer, TokenizerOfModel, tokenizerOf } from './tokenizer.js';

/** Options of {@link openModel}. */
export interface OpenModelOptions {
  /**
   * In what numbers quantized weights compute, as in {@link LinearOptions.computeDtype}. Default `'float32'`, the values of
   * the file; `'int16'` and `'int8'` are faster.
   */
  computeDtype?: ComputeDtype;
  /**
   * `'stored'` (default): where a checkpoint has static scales of activations, linear layers quantize their inputs with them, and
   * multiply integers where both are int8; those of LLM.int8() compute as {@link llmInt8Linear}. `'float32'`: only the weights are quantized. Activations that a config wishes to be
   * quantized dynamically are floats in either case.
   */
  activations?: 'stored' | 'float32';
  /**
   * `'all'` (default): blocks stay in memory. `'one'`: a block's weights are read when it runs and freed after, so that
   * models larger than the memory run.
   */
  residentBlocks?: 'all' | 'one';
  /** As for all that reads checkpoints: the version of a GPTQ checkpoint whose config and data leave it open. */
  gptqVersion?: 1 | 2;
  /** Ends opening early. */
  signal?: AbortSignal;
}

/** Options of {@link DecoderModel.logits}. */
export interface LogitsOptions {
  /** Tokens of each window; default all. */
  windowLength?: number;
  /** Ends the work early. */
  signal?: AbortSignal;
}

/** A decoder that is ready to run. */
export interface DecoderModel {
  /** Where it was opened. */
  readonly path: string;
  readonly config: DecoderConfig;
  /** What names of its weights begin with: nothing for a checkpoint that was saved without the output layer. */
  readonly weightPrefix: WeightPrefix;
  /** The model's own; its `size` is 0 for a model without one. */
  readonly tokenizer: Tokenizer;
  /** What linear layers make of their inputs; `'mixed-static'` if it is not the same everywhere. */
  readonly activations: 'float32' | StaticActivations | 'mixed-static' | 'llm-int8';
  /**
   * The embeddings of tokens: `[n, hiddenSize]`.
   *
   * @throws {@link InvalidArgumentError} for a token from `vocabSize` on.
   */
  embed(tokens: Int32Array): Promise<Float32Array>;
  /**
   * A block with its weights, which the caller disposes. What is replaced in it is replaced there alone.
   *
   * @param index - From 0 to `config.numLayers` − 1.
   */
  openBlock(index: number): Promise<DecoderBlock>;
  /**
   * The last norm and the output layer: hidden states `[n, hiddenSize]` to logits `[n, vocabSize]`.
   *
   * @throws {@link CheckpointError} `MODEL_WEIGHT_MISSING` for a checkpoint that was saved without the output layer, which can be
   *   calibrated and quantized, but not evaluated.
   */
  head(hidden: Float32Array): Promise<Float32Array>;
  /**
   * Logits of all positions: of windows of equal length, one after the other, each from position 0.
   *
   * @returns `[windows · windowLength, vocabSize]`
   */
  logits(tokens: Int32Array, options?: LogitsOptions): Promise<Float32Array>;
  /**
   * The same, for some windows at a time, so that all of them are never in memory.
   *
   * @param each - Gets the number of the first window and the logits of as many as there are in them, `[rows, vocabSize]`,
   *   which are valid until it returns.
   */
  forEachLogits(
    tokens: Int32Array,
    windowLength: number,
    each: (firstWindow: number, logits: Float32Array) => void | Promise<void>,
    options?: { signal?: AbortSignal },
  ): Promise<void>;
  /**
   * Continues a prompt, with a cache of keys and values: a look at a model, for one text at a time.
   *
   * With dynamic rope scaling, past the original length, it does what Hugging Face does with its cache: keys stay as they were
   * rotated when they came, so that tokens differ from those of {@link DecoderModel.logits}, which rotates all alike.
   *
   * Ids that are no token of the tokenizer, as where a vocabulary was padded to a round size, are never chosen.
   *
   * @param prompt - A text, to which the tokenizer adds its special tokens, or token ids.
   * @param options - Defaults: the most probable token each time, until one ends the text; see {@link GenerateOptions}.
   * @returns What was added, and why it ended.
   */
  generate(prompt: string | Int32Array, options?: GenerateOptions): Promise<Generation>;
  /** Frees the weights and closes the files. */
  close(): Promise<void>;
}

const OPEN_OPTIONS: ReadonlySet<string> = new Set([
  'computeDtype',
  'activations',
  'residentBlocks',
  'gptqVersion',
  'signal',
]);
const LOGITS_OPTIONS: ReadonlySet<string> = new Set(['windowLength', 'signal']);
const EACH_OPTIONS: ReadonlySet<string> = new Set(['signal']);
const COMPUTE_DTYPES: readonly ComputeDtype[] = ['float32', 'int16', 'int8'];

/** Hidden states that go through all blocks together. */
const HIDDEN_BYTES = 256 * 2 ** 20;
/** Rows that go through a block, and bytes of logits that are computed, at a time: whole windows, at least one. */
const BLOCK_ROWS = 1024;
const LOGITS_BYTES = 64 * 2 ** 20;

/** Rows of a prompt that go through a block at a time. */
const PROMPT_ROWS = 512;

class Model implements DecoderModel, Generator {
  readonly path: string;
  readonly tokenizer: Tokenizer;
  private readonly blocks = new Map<number, Promise<Block>>();
  private readonly embedding: Embedding;
  private readonly output: Head;
  private closed = false;

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly context: BlockContext,
    private readonly ownTokenizer: OwnTokenizer | null,
    readonly endTokens: readonly number[],
    private readonly keepsBlocks: boolean,
    readonly activations: DecoderModel['activations'],
  ) {
    this.path = checkpoint.path;
    this.embedding = new Embedding(context.weights.embedding, keepsBlocks);
    this.output = new Head(context, keepsBlocks);
    this.tokenizer = ownTokenizer ?? noTokenizer(this.path);
  }

  get config(): DecoderConfig {
    return this.context.config;
  }

  get weightPrefix(): WeightPrefix {
    return this.context.weights.prefix;
  }

  private checkOpen(): void {
    if (this.closed)
      throw new InvalidArgumentError('model', `Expected ${this.path} to be open but it has been closed.`);
  }

  private checkTokens(argument: string, tokens: Int32Array): void {
    if (!(tokens instanceof Int32Array)) throw invalidArgument(argument, 'an Int32Array', tokens);
    const { vocabSize } = this.config;
    for (const [i, token] of tokens.entries()) {
      if (token >= 0 && token < vocabSize) continue;
      throw new InvalidArgumentError(
        argument,
        `Expected tokens of ${this.path} to lie in [0, ${vocabSize}), the rows of its embedding, but received ${token} at index ${i}.`,
      );
    }
  }

  private checkLength(argument: string, length: number): void {
    const { maxPositions, ropeScaling } = this.config;
    if (length <= maxPositions || ropeScaling.type === 'dynamic') return;
    throw new InvalidArgumentError(
      argument,
      `Expected at most ${maxPositions} tokens in a sequence, as ${this.path} has positions, but there are ${length}. ` +
        'Use shorter windows, or raise "max_position_embeddings" in its config with a rope scaling that allows it.',
    );
  }

  async embed(tokens: Int32Array): Promise<Float32Array> {
    this.checkOpen();
    this.checkTokens('tokens', tokens);
    return this.embedding.rows(tokens);
  }

  async openBlock(index: number): Promise<Block> {
    this.checkOpen();
    validate.integer('index', index, 0, this.config.numLayers - 1);
    return Block.open(index, this.context);
  }

  /** Runs something with a block: one that stays, or one that goes afterwards. */
  private async withBlock<T>(
    index: number,
    signal: AbortSignal | undefined,
    body: (block: Block) => Promise<T>,
  ): Promise<T> {
    this.checkOpen();
    if (!this.keepsBlocks) {
      const block = await Block.open(index, this.context, signal);
      try {
        return await body(block);
      } finally {
        block.dispose();
      }
    }
    let block = this.blocks.get(index);
    if (block === undefined) {
      block = Block.open(index, this.context);
      this.blocks.set(index, block);
      block.catch(() => this.blocks.delete(index));
    }
    return body(await block);
  }

  async head(hidden: Float32Array): Promise<Float32Array> {
    const { hiddenSize, vocabSize } = this.config;
    validate.float32Array('hidden', hidden);
    if (hidden.length % hiddenSize !== 0) {
      throw invalidArgument('hidden', `whole rows of ${hiddenSize} elements`, hidden);
    }
    this.checkOpen();
    this.context.weights.requireHead();
    const out = validate.allocated(Float32Array, (hidden.length / hiddenSize) * vocabSize);
    return out.length === 0 ? out : this.output.forward(hidden.slice(), out);
  }

  async logits(tokens: Int32Array, options: LogitsOptions = {}): Promise<Float32Array> {
    const given = validate.options<LogitsOptions>('options', options, LOGITS_OPTIONS);
    this.checkTokens('tokens', tokens);
    const windowLength = given.windowLength ?? Math.max(1, tokens.length);
    const { vocabSize } = this.config;
    const all = validate.allocated(Float32Array, tokens.length * vocabSize);
    const signal = given.signal === undefined ? {} : { signal: given.signal };
    await this.forEachLogits(
      tokens,
      windowLength,
      (first, logits) => all.set(logits, first * windowLength * vocabSize),
      signal,
    );
    return all;
  }

  async forEachLogits(
    tokens: Int32Array,
    windowLength: number,
    each: (firstWindow: number, logits: Float32Array) => void | Promise<void>,
    options: { signal?: AbortSignal } = {},
  ): Promise<void> {
    this.checkOpen();
    this.context.weights.requireHead();
    this.checkTokens('tokens', tokens);
    validate.integer('windowLength', windowLength, 1);
    this.checkLength('windowLength', windowLength);
    const given = validate.options<{ signal?: AbortSignal }>('options', options, EACH_OPTIONS);
    const signal = validate.abortSignal('signal', given.signal);
    if (tokens.length % windowLength !== 0) {
      throw new InvalidArgumentError(
        'tokens',
        `Expected whole windows of ${windowLength} tokens but there are ${tokens.length} tokens.`,
      );
    }
    const { hiddenSize, vocabSize, numLayers } = this.config;
    const windowsIn = (rows: number) => Math.max(1, Math.floor(rows / windowLength));
    const group = windowsIn(HIDDEN_BYTES / (4 * hiddenSize)) * windowLength;
    const part = windowsIn(BLOCK_ROWS) * windowLength;
    const headPart = windowsIn(LOGITS_BYTES / (4 * vocabSize)) * windowLength;
    for (let begin = 0; begin < tokens.length; begin += group) {
      const hidden = await this.embed(tokens.subarray(begin, begin + group));
      for (let layer = 0; layer < numLayers; layer++) {
        await this.withBlock(layer, signal, async (block) => {
          for (let at = 0; at < hidden.length; at += part * hiddenSize) {
            const rows = hidden.subarray(at, at + part * hiddenSize);
            rows.set(await block.forward(rows, signal === undefined ? { windowLength } : { windowLength, signal }));
          }
        });
      }
      for (let at = 0; at < hidden.length; at += headPart * hiddenSize) {
        signal?.throwIfAborted();
        const logits = await this.head(hidden.subarray(at, at + headPart * hiddenSize));
        await each((begin + at / hiddenSize) / windowLength, logits);
      }
    }
  }

  generate(prompt: string | Int32Array, options?: GenerateOptions): Promise<Generation> {
    return generate(this, prompt, options);
  }

  get hasTokenizer(): boolean {
    return this.ownTokenizer !== null;
  }

  private unknown: readonly number[] | null = null;

  get unknownTokens(): readonly number[] {
    const { ownTokenizer: own, config } = this;
    this.unknown ??=
      own === null ? [] : Array.from({ length: config.vocabSize }, (_, id) => id).filter((id) => !own.has(id));
    return this.unknown;
  }

  begin(prompt: Int32Array, wanted: number, signal: AbortSignal | undefined): { sequence: Sequence; room: number } {
    this.checkOpen();
    this.context.weights.requireHead();
    this.checkTokens('prompt', prompt);
    this.checkLength('prompt', prompt.length);
    const { config } = this;
    const { maxPositions, ropeScaling, numLayers } = config;
    const room = ropeScaling.type === 'dynamic' ? wanted : Math.min(wanted, maxPositions - prompt.length);
    const caches = Array.from({ length: numLayers }, () => layerCache(config, prompt.length + room));
    const workspace = new Workspace();
    let past = 0;
    const extend = async (tokens: Int32Array) => {
      const hidden = await this.embed(tokens);
      await this.extend(hidden, caches, past, workspace, signal);
      past += tokens.length;
      return this.output.forward(hidden.subarray(-config.hiddenSize), workspace.floats('logits', config.vocabSize));
    };
    return { sequence: { extend }, room };
  }

  /** Runs tokens that come to a sequence through all blocks, in place. */
  private async extend(
    hidden: Float32Array,
    caches: readonly LayerCache[],
    past: number,
    workspace: Workspace,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { hiddenSize, headDim } = this.config;
    const rows = hidden.length / hiddenSize;
    const angles = this.context.tables.rows(past, rows);
    for (const [layer, cache] of caches.entries()) {
      await this.withBlock(layer, signal, async (block) => {
        for (let row = 0; row < rows; row += PROMPT_ROWS) {
          if (rows > 1) await turn();
          signal?.throwIfAborted();
          const end = Math.min(rows, row + PROMPT_ROWS);
          block.extend(
            hidden.subarray(row * hiddenSize, end * hiddenSize),
            cache,
            past + row,
            angles.subarray(row * headDim, end * headDim),
            workspace,
          );
        }
      });
    }
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const block of await Promise.allSettled(this.blocks.values())) {
      if (block.status === 'fulfilled') block.value.dispose();
    }
    await this.output.close();
    await this.checkpoint.close();
  }
}

/** Stands where there is no tokenizer, until it is needed. */
function noTokenizer(path: string): Tokenizer {
  const missing = (): never => {
    const message = `${path} has no tokenizer. Put its tokenizer.json beside the weights, or use token ids.`;
    throw new CheckpointError('TOKENIZER_MISSING', message, { path });
  };
  return { size: 0, encode: missing, decode: missing };
}

/**
 * Opens a decoder: Llama 2 and 3, Mistral, Qwen2, Qwen2.5, Qwen3.
 *
 * @param path - A Hugging Face folder or a GGUF file, float or in any quantized format that lowbit reads. Quantized weights
 *   stay so in memory.
 * @returns A model that holds its files open until `close()`.
 * @throws {@link CheckpointError} with a code for each way in which the files can be wrong; `MODEL_UNSUPPORTED` for an
 *   architecture, or something in its config, that can't be run; `MODEL_WEIGHT_MISSING`, `MODEL_WEIGHT_SHAPE`. A tokenizer may
 *   have ids that the model has no embedding for: whatever turns a text into them throws `TOKENIZER_MISMATCH`.
 *
 * Sources: Touvron et al., "LLaMA" (arXiv:2302.13971), and the models that follow it; Hugging Face transformers, whose logits
 * are the reference.
 *
 * @example
 * ```ts
 * const model = await openModel('Llama-3.2-1B-int4', { computeDtype: 'int8' });
 * const { text } = await model.generate('The quick brown fox', { maxTokens: 32 });
 * await model.close();
 * ```
 */
export async function openModel(path: string, options: OpenModelOptions = {}): Promise<DecoderModel> {
  validate.path('path', path);
  const given = validate.options<OpenModelOptions>('options', options, OPEN_OPTIONS);
  const computeDtype = validate.oneOf('computeDtype', given.computeDtype ?? 'float32', COMPUTE_DTYPES);
  const activations = validate.oneOf('activations', given.activations ?? 'stored', ['stored', 'float32']);
  const quantizesInputs = activations === 'stored';
  const resident = validate.oneOf('residentBlocks', given.residentBlocks ?? 'all', ['all', 'one']);
  const reading = checkReadingOptions(given);
  const signal = validate.abortSignal('signal', given.signal);
  signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(path);
  try {
    const stored = await weightsOf(checkpoint, reading);
    signal?.throwIfAborted();
    const { gguf, config: json } = checkpoint;
    if (gguf === null && json === null) {
      const message =
        checkpoint.folder === null
          ? `${path} is a file of weights alone. Name its folder, with config.json beside it.`
          : `${path} has no config.json, which says what model it is.`;
      throw new CheckpointError('CONFIG_INVALID', message, { path });
    }
    const config = gguf === null ? readConfig(json ?? {}, path) : await readGgufConfig(gguf, stored, path);
    const weights = new DecoderWeights(config, stored, path);
    const found = await tokenizerOf(checkpoint);
    const tokenizer = found === null ? null : new TokenizerOfModel(found, config.vocabSize, path);
    const tables = new RotaryTables(config);
    const context: BlockContext = { config, weights, computeDtype, quantizesInputs, tables, loader: new Loader() };
    const endTokens = [...config.eosTokenIds, ...(await endTokensOf(checkpoint))];
    const kinds = quantizesInputs ? storedActivations(stored) : 'float32';
    return new Model(checkpoint, context, tokenizer, endTokens, resident === 'all', kinds);
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}
