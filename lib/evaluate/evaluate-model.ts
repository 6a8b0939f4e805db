/**
 * How well a model predicts a text, and how far it is from the one it was made from.
 *
 * @module
 */

import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { checkReadingOptions } from '../checkpoint/weights.js';
import { CheckpointError, InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import type { ComputeDtype } from '../matmul/linear.js';
import type { DecoderBlock } from '../model/block.js';
import { blockName } from '../model/decoder-weights.js';
import { type DecoderModel, openModel } from '../model/model.js';
import { checkEmbedded, type Tokenizer, tokenizerOf } from '../model/tokenizer.js';
import * as validate from '../validate.js';
import { ACTIVATIONS, type Activations } from './activations.js';
import { checkpointSize } from './checkpoint-size.js';
import type { Evaluation } from './evaluation.js';
import { logitStatistics, NonFiniteLogits } from './logit-statistics.js';
import { Runner } from './runner.js';
import { Tally } from './tally.js';
import { type TextWindows, windowsOf } from './windows.js';

/** How far an evaluation has come. */
export interface EvaluationProgress {
  /** The path of the model. */
  readonly model: string;
  /** Windows that are done, and those that there are. */
  readonly windows: number;
  readonly totalWindows: number;
  /** Of the windows so far. */
  readonly perplexity: number;
}

/** Options of {@link evaluateModel}. */
export interface EvaluateOptions {
  /** What the model predicts. For a figure that others can compare with, say which text, and how it was cut. */
  text: string;
  /**
   * The original of a quantized model: a path, or an open model. It must have the same vocabulary and tokenizer. It computes in
   * float32, with the activations that are stored in it: an original that is quantized itself, to static activations, is taken
   * as it is. (One that is open, as it was opened.)
   */
  against?: string | DecoderModel;
  /**
   * What turns the text into tokens: one of an open model, or the path of a model that has one. Default: the model's own, or
   * where it has none, as some GGUF files, that of `against`.
   */
  tokenizer?: string | Tokenizer;
  /**
   * Tokens of a window, those that the tokenizer puts before a text included. Windows follow one another without overlap,
   * and what is left at the end of the text is dropped. Default: as many as the model has positions, but no more than 2048,
   * on which papers report perplexities.
   */
  windowLength?: number;
  /** Windows at most, evenly spaced over the text or, with `seed`, drawn at random. Default: all. */
  maxWindows?: number;
  /** An integer from 0 to 2³² − 1: the same draws the same windows. */
  seed?: number;
  /** For models that are given as paths; see {@link OpenModelOptions}. Default `'float32'`. Not for `against`. */
  computeDtype?: ComputeDtype;
  /**
   * Of the model, not of `against`. Default `'stored'`. A model that is given open has been opened with static activations or
   * without; others than those are refused.
   */
  activations?: Activations;
  /** `'one'`: only one block of a model is in memory at a time, and windows pass through in large batches. Default `'all'`. */
  residentBlocks?: 'all' | 'one';
  /** As for all that reads checkpoints. */
  gptqVersion?: 1 | 2;
  /** Called with each block of the model when it is opened, before it runs: a place to replace weights. */
  onBlock?: (block: DecoderBlock) => void | Promise<void>;
  /** Called after each batch of windows. */
  onProgress?: (progress: EvaluationProgress) => void;
  /** Ends the work early. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'text',
  'against',
  'tokenizer',
  'windowLength',
  'maxWindows',
  'seed',
  'computeDtype',
  'activations',
  'residentBlocks',
  'gptqVersion',
  'onBlock',
  'onProgress',
  'signal',
]);

/** The most tokens of a window unless more are asked for. */
const USUAL_WINDOW = 2048;
/** Tokens that go through all blocks together: of models whose blocks stay, and of those whose blocks are read every time. */
const BATCH_TOKENS = { all: 4096, one: 32768 } as const;
/** Logits that are computed at a time. */
const HEAD_ELEMENTS = 2 ** 23;

interface Given {
  readonly text: string;
  readonly against: string | DecoderModel | undefined;
  readonly tokenizer: string | Tokenizer | undefined;
  readonly windowLength: number | undefined;
  readonly maxWindows: number | null;
  readonly seed: number | null;
  readonly computeDtype: ComputeDtype;
  readonly activations: Activations;
  readonly residentBlocks: 'all' | 'one';
  readonly reading: { gptqVersion?: 1 | 2 };
  readonly onBlock: EvaluateOptions['onBlock'];
  readonly onProgress: EvaluateOptions['onProgress'];
  readonly signal: AbortSignal | undefined;
}

function isModel(value: unknown): value is DecoderModel {
  return typeof value === 'object' && value !== null && 'openBlock' in value && 'tokenizer' in value;
}

function checkModel(argument: string, value: unknown): string | DecoderModel {
  if (isModel(value)) return value;
  if (typeof value !== 'string') throw invalidArgument(argument, 'a path or a model that openModel opened', value);
  return validate.path(argument, value);
}

function checkTokenizer(value: unknown): string | Tokenizer | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'object' && value !== null && 'encode' in value && 'decode' in value) return value as Tokenizer;
  if (typeof value !== 'string') throw invalidArgument('tokenizer', 'a path or a tokenizer', value);
  return validate.path('tokenizer', value);
}

function optionalFunction<T>(argument: string, value: T): T {
  if (value !== undefined && typeof value !== 'function') throw invalidArgument(argument, 'a function', value);
  return value;
}

function check(optionsValue: unknown): Given {
  const given = validate.options<EvaluateOptions>('options', optionsValue, OPTIONS);
  if (typeof given.text !== 'string') throw invalidArgument('text', 'a string', given.text);
  const { windowLength, maxWindows, seed } = given;
  return {
    text: given.text,
    against: given.against === undefined ? undefined : checkModel('against', given.against),
    tokenizer: checkTokenizer(given.tokenizer),
    windowLength: windowLength === undefined ? undefined : validate.integer('windowLength', windowLength, 2),
    maxWindows: maxWindows === undefined ? null : validate.integer('maxWindows', maxWindows, 1),
    seed: seed === undefined ? null : validate.integer('seed', seed, 0, 2 ** 32 - 1),
    computeDtype: validate.oneOf('computeDtype', given.computeDtype ?? 'float32', ['float32', 'int16', 'int8']),
    activations: validate.oneOf('activations', given.activations ?? 'stored', ACTIVATIONS),
    residentBlocks: validate.oneOf('residentBlocks', given.residentBlocks ?? 'all', ['all', 'one']),
    reading: checkReadingOptions(given),
    onBlock: optionalFunction('onBlock', given.onBlock),
    onProgress: optionalFunction('onProgress', given.onProgress),
    signal: validate.abortSignal('signal', given.signal),
  };
}

/** Opens what is given as a path; the caller closes what was opened here. */
async function opened(
  model: string | DecoderModel,
  { reading, signal }: Given,
  computeDtype: ComputeDtype,
  activations: Activations,
): Promise<DecoderModel> {
  if (typeof model !== 'string') {
    if (activations === 'stored' || model.activations === 'float32') return model;
    throw new InvalidArgumentError(
      'activations',
      `Expected activations 'stored' for ${model.path}, which was opened with ${model.activations} activations, but received ` +
        `'${activations}'. Open it with activations: 'float32'.`,
    );
  }
  // Blocks are opened one by one in any case; this keeps embeddings and the output layer in memory.
  const stored = activations === 'stored' ? 'stored' : 'float32';
  return openModel(model, {
    ...reading,
    computeDtype,
    activations: stored,
    ...(signal === undefined ? {} : { signal }),
  });
}

async function tokenizerFor(model: DecoderModel, original: DecoderModel | null, given: Given): Promise<Tokenizer> {
  const { tokenizer } = given;
  if (tokenizer === undefined) {
    return model.tokenizer.size === 0 && original !== null ? original.tokenizer : model.tokenizer;
  }
  if (typeof tokenizer !== 'string') return tokenizer;
  const checkpoint = await openCheckpoint(tokenizer);
  try {
    const found = await tokenizerOf(checkpoint);
    if (found !== null) return found;
    throw new CheckpointError('TOKENIZER_MISSING', `${tokenizer} has no tokenizer.`, { path: tokenizer });
  } finally {
    await checkpoint.close();
  }
}

/** Two models can be compared position by position if the same tokens mean the same text. */
function checkSameVocabulary(model: DecoderModel, original: DecoderModel, text: string): void {
  const [ours, theirs] = [model.config.vocabSize, original.config.vocabSize];
  if (ours !== theirs) {
    throw new InvalidArgumentError(
      'against',
      `Expected ${original.path} to have the vocabulary of ${model.path}, ${ours} tokens, but it has ${theirs}. ` +
        'Compare with the model that it was made from.',
    );
  }
  const tokenizers = [model.tokenizer, original.tokenizer];
  if (tokenizers.some(({ size }) => size === 0)) return;
  const probe = text.slice(0, 65536);
  const [a, b] = tokenizers.map((tokenizer) => tokenizer.encode(probe)) as [Int32Array, Int32Array];
  if (a.length === b.length && a.every((token, i) => b[i] === token)) return;
  throw new InvalidArgumentError(
    'against',
    `Expected ${original.path} to turn the text into the tokens of ${model.path}, but their tokenizers differ. ` +
      'Compare with the model that it was made from.',
  );
}

/** A window must have no more tokens than the models have positions. */
function windowLengthFor(given: number | undefined, model: DecoderModel, original: DecoderModel | null): number {
  if (given === undefined) {
    return Math.min(USUAL_WINDOW, model.config.maxPositions, original?.config.maxPositions ?? USUAL_WINDOW);
  }
  for (const { path, config } of original === null ? [model] : [model, original]) {
    if (given <= config.maxPositions || config.ropeScaling.type === 'dynamic') continue;
    throw new InvalidArgumentError(
      'windowLength',
      `Expected windowLength to be at most ${config.maxPositions}, as ${path} has positions, but received ${given}.`,
    );
  }
  return given;
}

/** Windows that go through the blocks together. */
interface Batch {
  /** The first of them. */
  readonly first: number;
  readonly inputs: Int32Array;
}

/** What an error about numbers that are not finite says about a model: where they stop being so. */
async function located(
  error: unknown,
  runner: Runner,
  { indices, inputLength }: TextWindows,
  { first, inputs }: Batch,
  row: number,
): Promise<unknown> {
  if (!(error instanceof NonFiniteError) || error.tensor !== undefined) return error;
  const { path, config, weightPrefix } = runner.model;
  const [what, at] =
    error instanceof NonFiniteLogits
      ? [`The logits of ${path} hold`, row + error.row]
      : [`What the output layer of ${path} is given holds`, row + Math.floor(error.index / config.hiddenSize)];
  const window = Math.floor(at / inputLength);
  const found = await runner.firstNonFinite(inputs.subarray(window * inputLength, (window + 1) * inputLength));
  const where =
    found === null
      ? 'All blocks give finite numbers: look at the last norm and the output layer.'
      : `The first numbers that are not finite come out of layer ${found.layer}, at position ${found.position}.`;
  return new NonFiniteError(
    `${what} ${error.value} at position ${at % inputLength} of window ${indices[first + window]}. ${where}`,
    error.index,
    error.value,
    found === null ? undefined : blockName(weightPrefix, found.layer),
  );
}

/** Runs both models over all windows, a batch at a time, and the output layers over parts of it. */
async function run(model: Runner, original: Runner | null, windows: TextWindows, given: Given): Promise<Tally> {
  const { signal, onProgress, residentBlocks } = given;
  const { inputLength, indices } = windows;
  const { vocabSize } = model.model.config;
  const tally = new Tally(windows);
  const batch = Math.max(1, Math.floor(BATCH_TOKENS[residentBlocks] / inputLength));
  const part = Math.max(1, Math.floor(HEAD_ELEMENTS / vocabSize));
  for (let first = 0; first < indices.length; first += batch) {
    signal?.throwIfAborted();
    const count = Math.min(batch, indices.length - first);
    const inputs = windows.inputs(first, count);
    const targets = windows.targets(first, count);
    const hidden = await model.hidden(inputs, inputLength);
    const originalHidden = original === null ? null : await original.hidden(inputs, inputLength);
    for (let row = 0; row < inputs.length; row += part) {
      const end = Math.min(inputs.length, row + part);
      const fail = async (error: unknown, runner: Runner): Promise<never> => {
        throw await located(error, runner, windows, { first, inputs }, row);
      };
      const logitsOf = (runner: Runner, all: Float32Array) => {
        const { hiddenSize } = runner.model.config;
        const rows = all.subarray(row * hiddenSize, end * hiddenSize);
        return runner.head(rows).catch((error: unknown) => fail(error, runner));
      };
      const logits = await logitsOf(model, hidden);
      const reference = original === null || originalHidden === null ? null : await logitsOf(original, originalHidden);
      const statistics = await logitStatistics(logits, reference, targets.subarray(row, end), vocabSize, signal).catch(
        (error: unknown) =>
          fail(error, error instanceof NonFiniteLogits && error.ofReference && original !== null ? original : model),
      );
      tally.add(first * inputLength + row, statistics);
    }
    onProgress?.({
      model: model.model.path,
      windows: first + count,
      totalWindows: indices.length,
      perplexity: tally.perplexity(first + count),
    });
  }
  return tally;
}

/**
 * Measures how well a model predicts a text: perplexity, nats per token and byte, with standard errors. Against the original
 * of a quantized model, also how far it is from it: KL divergence, agreement of the most probable tokens, and the change of
 * the nats, paired by window, which shows losses far smaller than the error of the perplexity itself.
 *
 * The text is cut into consecutive windows that do not overlap. Each begins with what the tokenizer puts before a text (most
 * often "<s>"); all tokens of the text are scored given those before them in the window. Where the tokenizer puts nothing
 * there, the first token of each window is not scored. Log-softmax and sums are in float64; models run one batch of windows
 * after the other, so that neither the logits of the text nor the probabilities of the original are ever held.
 *
 * @param model - A Hugging Face folder, a GGUF file, or a model that {@link openModel} opened, which stays open.
 * @param options - At least `text`.
 * @returns Estimates with their standard errors, over all windows; `against` is null without an original.
 * @throws {@link InvalidArgumentError} for wrong options, a text that fills no window, or an original of another vocabulary;
 *   {@link CheckpointError} if a model can't be read or run; {@link NonFiniteError} if its numbers stop being finite, naming
 *   the layer; the signal's reason when it aborts.
 *
 * Sources: Kullback and Leibler, "On Information and Sufficiency" (1951); Jelinek et al., "Perplexity" (1977).
 *
 * @example
 * ```ts
 * const { perplexity, against } = await evaluateModel('Llama-3.2-1B-int4', { text, against: 'Llama-3.2-1B' });
 * perplexity.value; // of the text
 * against.perplexityChange.value; // 0.02: 2 % worse than the original
 * against.klDivergence.value; // nats
 * ```
 */
export async function evaluateModel(model: string | DecoderModel, options: EvaluateOptions): Promise<Evaluation> {
  const subject = checkModel('model', model);
  const given = check(options);
  const { signal, text, against } = given;
  const start = performance.now();
  signal?.throwIfAborted();
  const toClose: { close(): Promise<void> }[] = [];
  const runners: Runner[] = [];
  const open = async (which: string | DecoderModel, computeDtype: ComputeDtype, activations: Activations) => {
    const result = await opened(which, given, computeDtype, activations);
    if (typeof which === 'string') toClose.push(result);
    return result;
  };
  const runnerOf = (which: DecoderModel, activations: Activations, onBlock: EvaluateOptions['onBlock']) => {
    const runner = new Runner(which, { activations, onBlock, residentBlocks: given.residentBlocks, signal });
    runners.push(runner);
    return runner;
  };
  try {
    const ours = await open(subject, given.computeDtype, given.activations);
    const original = against === undefined ? null : await open(against, 'float32', 'stored');
    if (original !== null) checkSameVocabulary(ours, original, text);
    const windowLength = windowLengthFor(given.windowLength, ours, original);
    const tokenizer = await tokenizerFor(ours, original, given);
    await ours.head(new Float32Array(0)); // refuses what has no output layer, before anything runs
    const windows = windowsOf(text, tokenizer, { ...given, windowLength });
    checkEmbedded(windows.tokens, tokenizer, ours.config.vocabSize, ours.path);
    const runner = runnerOf(ours, given.activations, given.onBlock);
    const originalRunner = original === null ? null : runnerOf(original, 'stored', undefined);
    const tally = await run(runner, originalRunner, windows, given);
    return {
      model: ours.path,
      windowLength,
      windows: windows.indices.length,
      totalWindows: windows.total,
      tokens: windows.indices.length * windows.scored,
      bytes: windows.bytes.reduce((a, b) => a + b, 0),
      activations: given.activations === 'stored' ? ours.activations : given.activations,
      checkpoint: typeof subject === 'string' ? await checkpointSize(subject, given.reading) : null,
      ...tally.quality(runner.seconds),
      against: originalRunner === null ? null : tally.distance(originalRunner.model.path, originalRunner.seconds),
      seconds: (performance.now() - start) / 1000,
    };
  } finally {
    for (const runner of runners) runner.dispose();
    await Promise.all(toClose.map((which) => which.close()));
  }
}
