/**
 * Running a model over windows of text, and writing down what its linear layers read.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { Output } from '../checkpoint/output.js';
import type { Device } from '../device/device.js';
import { usableDevice } from '../device/usable-device.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import type { DecoderBlock } from '../model/block.js';
import type { DecoderConfig } from '../model/config.js';
import { INPUTS, type InputName, linearShapes } from '../model/decoder-weights.js';
import { TABLE_BYTES } from '../model/embedding.js';
import type { DecoderModel } from '../model/model.js';
import * as validate from '../validate.js';
import { type BlockStates, openBlockStates } from './block-states.js';
import { triangleLength } from './exact-sums.js';
import { InputAccumulator } from './input-accumulator.js';
import { modelIdentity } from './model-identity.js';
import { type SampledRow, sampleRows } from './sampled-rows.js';
import { SAMPLE_ROWS, type StatisticsHeader, StatisticsWriter, statisticsFileBytes } from './statistics-file.js';
import { type CalibrationWindows, checkVocabulary } from './windows.js';

/** How far the work on a model is. */
export interface CalibrationProgress {
  /** Blocks that are done. */
  readonly blocks: number;
  /** Blocks of the model. */
  readonly totalBlocks: number;
  /** Windows that went through the block that is under way. */
  readonly windows: number;
  /** Windows that go through each block. */
  readonly totalWindows: number;
}

/** Options of {@link collectStatistics}. */
export interface CollectOptions {
  /** The file to create. */
  output: string;
  /** Whether to collect xᵀ·x, which GPTQ and AWQ need: 8·K² bytes for each input of K channels. Default true. */
  gram?: boolean;
  /** Where Gram matrices are computed, with the same result; all else is the processor's. Default `'cpu'`. */
  device?: Device;
  /** Replaces a file that exists. Default false. */
  overwrite?: boolean;
  /** Throws away what an unfinished run left. Default false: it is continued. */
  restart?: boolean;
  /** The most bytes of memory that the process may take. Default: no limit. */
  maxMemory?: number;
  /** Called after each window of each block. */
  onProgress?: (progress: CalibrationProgress) => void;
  /** Ends the work early; the same call continues it. */
  signal?: AbortSignal;
}

/** What {@link collectStatistics} did. */
export interface CollectReport {
  /** The file. */
  readonly output: string;
  /** The path of the model. */
  readonly model: string;
  /** Windows that were seen, each of `windowLength` tokens. */
  readonly windows: number;
  readonly windowLength: number;
  /** Tokens that were seen. */
  readonly tokens: number;
  /** Inputs of linear layers, over all blocks. */
  readonly inputs: number;
  /** Whether the file holds Gram matrices. */
  readonly gram: boolean;
  /** What this call took; not what an earlier one had done. */
  readonly seconds: number;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'output',
  'gram',
  'device',
  'overwrite',
  'restart',
  'maxMemory',
  'onProgress',
  'signal',
]);

/** The name of what a group of linear layers reads. */
export function inputNameOf(block: number, input: InputName): string {
  return `layers.${block}.${input}`;
}

/** Channels of an input. */
export function columnsOf(config: DecoderConfig, input: InputName): number {
  const group = INPUTS.find(({ name }) => name === input) as (typeof INPUTS)[number];
  return linearShapes(config)[group.linears[0] as 'mlp.down_proj'][1];
}

/** For each window, which of its positions are kept, and at what place of the sample. */
export function samplePlaces(
  { places }: Pick<CalibrationWindows, 'places'>,
  sample: readonly SampledRow[],
): Map<number, number>[] {
  const byPlace = new Map(places.map(({ text, start }, i) => [`${text}:${start}`, i]));
  const kept = places.map(() => new Map<number, number>());
  sample.forEach(({ text, start, position }, place) => {
    kept[byPlace.get(`${text}:${start}`) as number]?.set(position, place);
  });
  return kept;
}

/** Writes the embeddings of all windows, if they are not there. */
export async function embedWindows(
  model: DecoderModel,
  windows: CalibrationWindows,
  states: BlockStates,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (states.next !== -1) return;
  for (const [i, tokens] of windows.tokens.entries()) {
    signal?.throwIfAborted();
    await states.write(i, await model.embed(tokens));
  }
  await states.advance();
}

/** @internal What a pass over the windows of a block needs. */
export interface Pass {
  readonly block: DecoderBlock;
  readonly states: BlockStates;
  readonly windows: CalibrationWindows;
  readonly accumulators: ReadonlyMap<InputName, InputAccumulator>;
  readonly kept: readonly ReadonlyMap<number, number>[];
  readonly onWindow?: (done: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * @internal Runs a block over all windows, one after the other: so what is collected of a window depends on nothing else.
 *
 * @param until - Stops there, and writes no hidden states.
 */
export async function passThrough(pass: Pass, until: InputName | null): Promise<void> {
  const { block, states, windows, accumulators, kept, signal } = pass;
  for (let i = 0; i < windows.tokens.length; i++) {
    signal?.throwIfAborted();
    const hidden = await block.forward(await states.read(i), {
      windowLength: windows.windowLength,
      onInput: async (input, x) => {
        await accumulators.get(input)?.add(x, kept[i] as ReadonlyMap<number, number>, signal);
      },
      ...(until === null ? {} : { until }),
      ...(signal === undefined ? {} : { signal }),
    });
    if (until === null) await states.write(i, hidden);
    pass.onWindow?.(i + 1);
  }
}

/** Node.js, the addon and this library. */
const BASE_BYTES = 160 * 2 ** 20;

/** The most bytes that collecting takes: one block, its sums, and the activations of a window. */
function peakBytes(config: DecoderConfig, windowLength: number, gram: boolean): number {
  const shapes = Object.values(linearShapes(config));
  const weights = shapes.reduce((sum, [rows, columns]) => sum + 4 * rows * columns, 0);
  const inputs = INPUTS.map(({ name }) => columnsOf(config, name));
  const widest = inputs.reduce((a, b) => Math.max(a, b));
  const sums = inputs.reduce((sum, k) => sum + (gram ? 16 * triangleLength(k) : 0) + 4 * SAMPLE_ROWS * k, 0);
  const partial = gram ? 8 * widest * widest : 0;
  const activations = 4 * windowLength * (8 * config.hiddenSize + 4 * config.intermediateSize);
  const embedding = Math.min(TABLE_BYTES, 4 * config.vocabSize * config.hiddenSize);
  return BASE_BYTES + weights + sums + partial + activations + embedding;
}

function checkMemory(config: DecoderConfig, windowLength: number, gram: boolean, ceiling: number | undefined): void {
  if (ceiling === undefined) return;
  const needed = peakBytes(config, windowLength, gram);
  if (needed <= ceiling) return;
  const without = peakBytes(config, windowLength, false);
  const remedy =
    gram && without <= ceiling
      ? ` Without Gram matrices (gram: false, --no-gram), which GPTQ and AWQ need, ${Math.ceil(without / 1e6)} MB do.`
      : '';
  throw new InvalidArgumentError(
    'maxMemory',
    `Expected maxMemory of at least ${Math.ceil(needed / 1e6)} MB for this model, ` +
      `but ${Math.floor(ceiling / 1e6)} MB were allowed.${remedy}`,
  );
}

/** @internal */
export function checkModel(value: unknown): void {
  const { config, openBlock } = (value ?? {}) as Partial<DecoderModel>;
  if (typeof config !== 'object' || typeof openBlock !== 'function') {
    throw invalidArgument('model', 'a model that openModel opened', value);
  }
}

/** @internal */
export function checkModelAndWindows(model: DecoderModel, windows: CalibrationWindows): void {
  checkModel(model);
  const { tokens, places, windowLength } = (windows ?? {}) as Partial<CalibrationWindows>;
  if (!Array.isArray(tokens) || !Array.isArray(places) || typeof windowLength !== 'number') {
    throw invalidArgument('windows', 'windows that cutIntoWindows made', windows);
  }
  checkVocabulary(windows, model.config.vocabSize);
  const { maxPositions } = model.config;
  if (windows.windowLength > maxPositions) {
    throw new InvalidArgumentError(
      'windows',
      `Expected windows of at most ${maxPositions} tokens, as the model has positions, but they have ${windows.windowLength}.`,
    );
  }
}

/**
 * Runs a model over windows of text, and writes statistics of the activations that its linear layers read to a file: for each
 * group of layers that share an input the Gram matrix, sums and largest magnitudes of channels, a histogram for the ranges of
 * static quantization, and some rows as they are.
 *
 * One block is in memory at a time, with its sums; hidden states of all windows lie on disk beside the output, so that a run that
 * was ended is continued by the same call, block by block. Statistics of parts of the windows ({@link WindowOptions.shard}), from
 * any number of machines with the same instruction set, are merged by {@link mergeStatistics} to the very bytes of a single run.
 *
 * @param model - From {@link openModel}; with `residentBlocks: 'one'` if it is large.
 * @param windows - From {@link cutIntoWindows}.
 * @param options - At least `output`.
 * @returns What the file holds.
 * @throws {@link CalibrationError} `VOCABULARY_MISMATCH`, `CALIBRATION_OVERFLOW`; {@link NonFiniteError} with the name of the
 *   input; {@link InvalidArgumentError}, for example if `maxMemory` does not suffice; {@link OutputError}; {@link DeviceError} and
 *   {@link OutOfMemoryError} of a device.
 *
 * @example
 * ```ts
 * const model = await openModel('Llama-3.2-1B', { residentBlocks: 'one' });
 * const windows = cutIntoWindows(model.tokenizer, [await readFile('calib.txt', 'utf8')]);
 * await collectStatistics(model, windows, { output: 'stats.safetensors' });
 * ```
 */
export async function collectStatistics(
  model: DecoderModel,
  windows: CalibrationWindows,
  options: CollectOptions,
): Promise<CollectReport> {
  const start = performance.now();
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const path = validate.path('output', given['output']);
  const gram = validate.boolean('gram', given['gram'], true);
  const overwrite = validate.boolean('overwrite', given['overwrite'], false);
  const restart = validate.boolean('restart', given['restart'], false);
  const signal = validate.abortSignal('signal', given['signal']);
  checkModelAndWindows(model, windows);
  usableDevice('device', given['device']);
  const { config } = model;
  if (options.maxMemory !== undefined) validate.integer('maxMemory', options.maxMemory, 1);
  checkMemory(config, windows.windowLength, gram, options.maxMemory);
  const header: StatisticsHeader = {
    model: await modelIdentity(model.path, signal),
    inputs: Array.from({ length: config.numLayers }, (_, block) =>
      INPUTS.map(({ name }) => ({ name: inputNameOf(block, name), columns: columnsOf(config, name) })),
    ).flat(),
    gram,
    windowLength: windows.windowLength,
    prefix: windows.prefix,
    texts: windows.texts,
    selections: [windows.selection],
    places: windows.places,
    sample: sampleRows(windows.places, windows.windowLength, SAMPLE_ROWS),
  };
  const fingerprint = createHash('sha256').update(JSON.stringify(header)).digest('hex');
  const kept = samplePlaces(windows, header.sample);
  const work = await Output.open(path, { bytes: statisticsFileBytes(header), overwrite, restart });
  let states: BlockStates | null = null;
  let writer: StatisticsWriter | null = null;
  try {
    states = await openBlockStates({
      folder: work.workPath,
      fingerprint,
      windowBytes: 4 * windows.windowLength * config.hiddenSize,
      windows: windows.tokens.length,
      blocks: config.numLayers,
    });
    writer = await StatisticsWriter.begin(work, header);
    await embedWindows(model, windows, states, signal);
    while (states.next < config.numLayers) {
      const index = states.next;
      const accumulators = new Map(
        INPUTS.map(({ name }) => {
          const settings = { gram, sampleRows: header.sample.length, device: options.device };
          return [name, new InputAccumulator(inputNameOf(index, name), columnsOf(config, name), settings)] as const;
        }),
      );
      const block = await model.openBlock(index);
      try {
        const onWindow = (done: number) =>
          options.onProgress?.({
            blocks: index,
            totalBlocks: config.numLayers,
            windows: done,
            totalWindows: windows.tokens.length,
          });
        await passThrough({ block, states, windows, accumulators, kept, onWindow, signal }, null);
      } finally {
        block.dispose();
      }
      for (const accumulator of accumulators.values()) await writer.write(accumulator);
      await writer.sync();
      await states.advance();
    }
    await states.close();
    await writer.publish();
  } catch (error) {
    await states?.close();
    await writer?.close();
    // What was begun with other options stays; so does what another call can go on with.
    const stays = (states === null && work.continued) || signal?.aborted === true || canContinue(error);
    await (stays ? work.leave() : work.discard());
    throw error;
  }
  return {
    output: path,
    model: header.model,
    windows: windows.tokens.length,
    windowLength: windows.windowLength,
    tokens: windows.tokens.length * windows.windowLength,
    inputs: header.inputs.length,
    gram,
    seconds: (performance.now() - start) / 1000,
  };
}

/** Whether the work was ended by something that passes: a full disk, say. */
function canContinue(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return code === 'DISK_FULL' || code === 'WRITE_FAILED' || code === 'READ_FAILED';
}
