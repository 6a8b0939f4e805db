/**
 * Quantizing a decoder, block by block, by methods that look at activations.
 *
 * @module
 */

import { DEFAULT_THRESHOLD } from '../matmul/llm-int8-matrix.js';
import { awqScales } from '../methods/awq.js';
import type { InputStatistics } from '../methods/input-statistics.js';
import {
  areBlocks,
  type BlockSettings,
  type LinearWeight,
  scaledSettings,
  type WeightSettings,
} from '../methods/linear-weight.js';
import { gptqTogether } from '../methods/quantize-weight.js';
import { type ActivationScales, searchSmoothQuant, smoothQuantScales } from '../methods/smoothquant.js';
import type { DecoderBlock } from '../model/block.js';
import { blockName, INPUTS, type InputName, LINEARS } from '../model/decoder-weights.js';
import type { DecoderModel } from '../model/model.js';
import { type BlockStates, openBlockStates } from './block-states.js';
import { columnsOf, embedWindows, inputNameOf, passThrough, samplePlaces } from './collect.js';
import { afterFolding, type BlockWeights, canFold, fold, readBlockWeights, storableScales } from './fold.js';
import { InputAccumulator } from './input-accumulator.js';
import { checkCodes } from './layer-inputs.js';
import { type BlockLayer, blocksPart, checkBlocks, hasCodes, partOf, quantizeLinear } from './layer-part.js';
import { layerOfPart, type ModelPart } from './model-part.js';
import {
  checkedWork,
  checkStatistics,
  fingerprintOf,
  isStatic,
  type QuantizeModelOptions,
  usedActivations,
  type Work,
} from './quantize-work.js';
import { sampleRows } from './sampled-rows.js';
import { SAMPLE_ROWS, type StatisticsFile } from './statistics-file.js';
import type { CalibrationWindows } from './windows.js';

/** Passes over the windows of one block. */
class BlockRun {
  private readonly kept: readonly ReadonlyMap<number, number>[];
  private readonly sampleCount: number;

  constructor(
    private readonly work: Work,
    private readonly windows: CalibrationWindows,
    private readonly states: BlockStates,
    private readonly block: DecoderBlock,
  ) {
    const sample = sampleRows(windows.places, windows.windowLength, SAMPLE_ROWS);
    this.kept = samplePlaces(windows, sample);
    this.sampleCount = sample.length;
  }

  /** Runs the block up to `until`, or to its end, and collects statistics of inputs on the way. */
  async collect(
    inputs: readonly InputName[],
    gram: boolean,
    until: InputName | null,
  ): Promise<Map<InputName, InputStatistics>> {
    const { block, states, windows, kept, sampleCount, work } = this;
    const { config } = work.model;
    const accumulators = new Map(
      inputs.map((name) => {
        const accumulator = new InputAccumulator(inputNameOf(block.index, name), columnsOf(config, name), {
          gram,
          sampleRows: sampleCount,
          device: work.device,
        });
        return [name, accumulator] as const;
      }),
    );
    const onWindow = (done: number) =>
      work.options.onProgress?.({
        blocks: block.index,
        totalBlocks: config.numLayers,
        windows: done,
        totalWindows: windows.tokens.length,
      });
    await passThrough({ block, states, windows, accumulators, kept, onWindow, signal: work.signal }, until);
    return new Map([...accumulators].map(([name, accumulator]) => [name, accumulator.finish()]));
  }
}

const ALL_INPUTS = INPUTS.map(({ name }) => name);

/** Finds scales for the inputs of a block, and folds them. */
async function transform(
  work: Work,
  block: DecoderBlock,
  weights: BlockWeights,
  statistics: ReadonlyMap<InputName, InputStatistics>,
): Promise<Map<InputName, Float32Array>> {
  const scalesOf = new Map<InputName, Float32Array>();
  for (const { name: input, linears } of INPUTS) {
    work.signal?.throwIfAborted();
    const chosen = linears.filter((name) => work.settingsOf(block.weightName(name)) !== null);
    const [first] = chosen;
    if (first === undefined || !canFold(block, weights, input)) continue;
    const readers = chosen.map((name) => weights.linears.get(name) as LinearWeight);
    const settings = chosen.flatMap((name) => work.settingsOf(block.weightName(name)) ?? []);
    const how = isStatic(work.activationsOf(block.weightName(first))) ? 'static' : 'dynamic';
    const wanted = await scalesFor(work, readers, statistics.get(input) as InputStatistics, settings, how);
    const scales = storableScales(block, weights, input, wanted);
    if (scales.every((scale) => scale === 1)) continue;
    fold(weights, input, scales);
    scalesOf.set(input, scales);
  }
  return scalesOf;
}

async function scalesFor(
  { transforms, options, signal }: Work,
  readers: readonly LinearWeight[],
  statistics: InputStatistics,
  settings: readonly (WeightSettings | BlockSettings)[],
  activations: ActivationScales,
): Promise<Float32Array> {
  const withSignal = signal === undefined ? {} : { signal };
  if (transforms === 'awq') {
    const { grid, scaling } = options.awq ?? {};
    const found = await awqScales(readers, statistics, {
      weights: settings,
      ...(grid === undefined ? {} : { grid }),
      ...(scaling === undefined ? {} : { scaling }),
      ...withSignal,
    });
    return found.scales;
  }
  const alpha = options.smoothquant?.alpha ?? 'search';
  if (alpha !== 'search') {
    // Channels that were never seen may come yet, and must not be divided by 1e-5 then.
    return smoothQuantScales(readers, statistics.absMax, alpha).map((s, k) => (statistics.absMax[k] === 0 ? 1 : s));
  }
  return (await searchSmoothQuant(readers, statistics, { activations, ...withSignal })).scales;
}

/**
 * Quantizes the linear layers of a decoder, block by block, and yields what becomes of them in the order of computation: first
 * norms that scales were folded into, then layers. Whatever is not yielded stays as it is in the model. The result does not depend
 * on the number of threads. The model itself is not changed.
 *
 * One block is in memory at a time, and the hidden states of all windows, or with `scratch` one window's. With windows and
 * `mode: 'sequential'`, a block runs once for each input whose statistics a method needs, and once more to its end.
 *
 * To go on after an interruption, pass a `scratch` folder, and make each part durable before asking for the next one. When the
 * first part of block i + 1 is asked for (or the end), the folder has the hidden states that go into block i + 1 and a note that
 * block i is done; the same call with the same folder then begins with that block, and yields nothing of earlier ones. If the process
 * ends before, block i is done again, and gives the same parts. Where no windows run (statistics, or methods that need none), blocks
 * are independent, and the folder holds the note alone.
 *
 * @param model - From {@link openModel}; with `residentBlocks: 'one'` if it is large.
 * @param options - Defaults make int4 in groups of 128, rounded.
 * @returns The parts, each as soon as it is known.
 * @throws {@link InvalidArgumentError}; {@link CalibrationError} `STATISTICS_MISMATCH`, `STATISTICS_MISSING`,
 *   `VOCABULARY_MISMATCH`; {@link NonFiniteError} with the name of the layer; {@link OutputError} of the scratch folder;
 *   {@link DeviceError} and {@link OutOfMemoryError} of a device; the signal's reason.
 *
 * @example
 * ```ts
 * const windows = cutIntoWindows(model.tokenizer, [text], { windowLength: 512 });
 * for await (const part of quantizeModel(model, { method: 'awq', windows })) await store(part);
 * ```
 */
export async function* quantizeModel(
  model: DecoderModel,
  options: QuantizeModelOptions,
): AsyncGenerator<ModelPart, void, undefined> {
  const work = checkedWork(model, options);
  const { windows, scratch } = options;
  if (work.source === 'file') await checkStatistics(work, options.statistics as StatisticsFile);
  const runs = work.source === 'parallel' || work.source === 'sequential';
  const { numLayers, hiddenSize } = model.config;
  const states = await openBlockStates(
    scratch === undefined
      ? null
      : {
          folder: scratch,
          fingerprint: fingerprintOf(work),
          windowBytes: runs ? 4 * hiddenSize * (windows as CalibrationWindows).windowLength : 0,
          windows: runs ? (windows as CalibrationWindows).tokens.length : 0,
          blocks: numLayers,
        },
  );
  try {
    if (runs) await embedWindows(model, windows as CalibrationWindows, states, work.signal);
    else if (states.next === -1) await states.advance();
    while (states.next < numLayers) {
      work.signal?.throwIfAborted();
      const block = await model.openBlock(states.next);
      try {
        yield* quantizeBlock(work, block, states);
      } finally {
        block.dispose();
      }
      await states.advance();
    }
  } finally {
    await states.close();
  }
}

async function* quantizeBlock(work: Work, block: DecoderBlock, states: BlockStates): AsyncGenerator<ModelPart> {
  const { model, transforms, rounding, source, options } = work;
  const names = LINEARS.map((name) => block.weightName(name));
  const activations = usedActivations(names, work.settingsOf, work.activationsOf);
  const hasStatic = [...activations].some(isStatic);
  const isLast = block.index === model.config.numLayers - 1;
  const weights = await readBlockWeights(block, model.config);
  const run =
    source === 'parallel' || source === 'sequential'
      ? new BlockRun(work, options.windows as CalibrationWindows, states, block)
      : null;
  const gram = transforms === 'awq' || rounding === 'gptq';
  let all: ReadonlyMap<InputName, InputStatistics> = new Map();
  if (source === 'file') all = await fromFile(options.statistics as StatisticsFile, block.index);
  else if (source === 'parallel') all = await (run as BlockRun).collect(ALL_INPUTS, gram, null);
  else if (transforms !== null) all = await (run as BlockRun).collect(ALL_INPUTS, gram, 'mlp.down_proj');

  const scales = transforms === null ? new Map<InputName, Float32Array>() : await transform(work, block, weights, all);
  for (const [name, data] of weights.norms) {
    if (!weights.changed.has(name)) continue;
    block.setNorm(name, data);
    const full = `${blockName(model.weightPrefix, block.index)}.${name}.weight`;
    yield { kind: 'float', name: full, block: block.index, shape: [data.length], data };
  }
  // The largest magnitudes can be divided by scales, histograms and signs can't: those are collected once more.
  const isDivisible = (options.range ?? 'minmax') === 'minmax' && !activations.has('static-asymmetric');
  const observesAnew = source === 'parallel' && hasStatic && scales.size > 0 && !isDivisible;
  for (const name of weights.linears.keys()) {
    if ((source === 'sequential' || observesAnew) && weights.changed.has(name))
      block.replace(name, (weights.linears.get(name) as LinearWeight).data);
  }
  const ranges = observesAnew ? await (run as BlockRun).collect(ALL_INPUTS, false, 'mlp.down_proj') : null;
  // After folding, ranges of static activations and GPTQ's matrices are those of what really comes in.
  const collectsAnew = source === 'sequential' && (rounding === 'gptq' || hasStatic);
  for (const { name: input, linears } of INPUTS) {
    const before = all.get(input);
    const statistics = collectsAnew
      ? ((await (run as BlockRun).collect([input], gram, input)).get(input) as InputStatistics)
      : before === undefined
        ? null
        : withRanges(afterFolding(before, scales.get(input)), ranges?.get(input));
    const layers = linears.map((linear) => {
      const name = block.weightName(linear);
      const given = work.settingsOf(name);
      const settings = given === null ? null : scaledSettings(given, scales.get(input));
      return { linear, name, weight: weights.linears.get(linear) as LinearWeight, settings };
    });
    const chosen = layers.filter((layer): layer is BlockLayer => layer.settings !== null);
    for (const { name, settings } of chosen) {
      const activations = work.activationsOf(name);
      if (areBlocks(settings)) checkBlocks(name, settings, work, activations);
      else if (activations !== 'none') checkCodes(name, settings, activations, transforms === 'smoothquant');
    }
    const together =
      rounding === 'gptq'
        ? await gptqTogether(chosen.filter(hasCodes), statistics as InputStatistics, options.gptq, work)
        : null;
    for (const { settings, ...layer } of layers) {
      work.signal?.throwIfAborted();
      const { linear, name, weight } = layer;
      if (settings === null) {
        if (!weights.changed.has(linear)) continue;
        yield { kind: 'float', name, block: block.index, shape: [weight.rows, weight.columns], data: weight.data };
        continue;
      }
      const part = areBlocks(settings)
        ? await blocksPart(work, block, { ...layer, settings }, statistics)
        : await partOf(
            work,
            block,
            { ...layer, settings },
            together?.get(name) ?? (await quantizeLinear(work, { ...layer, settings }, statistics)),
            statistics,
          );
      if (source === 'sequential') {
        const activations = work.activationsOf(name);
        const how = activations === 'llm-int8' ? { threshold: options.threshold ?? DEFAULT_THRESHOLD } : activations;
        block.replace(linear, await layerOfPart(part, block.bias(linear), how));
      }
      yield part;
    }
  }
  if (source === 'sequential' && !isLast) await (run as BlockRun).collect([], false, null);
}

/** Statistics with the ranges of others, if there are any. */
function withRanges(statistics: InputStatistics, others: InputStatistics | undefined): InputStatistics {
  return others === undefined ? statistics : { ...statistics, range: others.range };
}

async function fromFile(file: StatisticsFile, block: number): Promise<Map<InputName, InputStatistics>> {
  const statistics = new Map<InputName, InputStatistics>();
  for (const name of ALL_INPUTS) statistics.set(name, await file.read(inputNameOf(block, name)));
  return statistics;
}
