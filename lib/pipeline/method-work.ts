/**
 * Quantizing by a method that runs the model: block after block into parts, from which the layout is then written.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { quantizeModel } from '../calibration/quantize-model.js';
import type { LayerActivations } from '../calibration/quantize-work.js';
import { StatisticsFile } from '../calibration/statistics-file.js';
import { cutIntoWindows, usualWindowLength } from '../calibration/windows.js';
import type { Json } from '../checkpoint/checkpoint.js';
import { hashFiles } from '../checkpoint/file-hash.js';
import type { LayoutWriter } from '../checkpoint/layouts/layout.js';
import { readText } from '../checkpoint/text.js';
import type { Weight } from '../checkpoint/weight.js';
import type { ReadingOptions } from '../checkpoint/weights.js';
import type { Device } from '../device/device.js';
import { InvalidArgumentError, outputError } from '../errors.js';
import type { BlockSettings, WeightSettings } from '../methods/linear-weight.js';
import type { DecoderConfig } from '../model/config.js';
import {
  blockName,
  INPUTS,
  type LinearName,
  linearShapes,
  NORMS,
  type WeightPrefix,
} from '../model/decoder-weights.js';
import { type DecoderModel, openModel } from '../model/model.js';
import type { GgufType } from '../tensor/blocks.js';
import { MethodParts } from './method-parts.js';
import { type MethodSpec, settingsForBlocks, usesModel } from './method-spec.js';
import type { Progress } from './run.js';
import type { LayerSpec } from './spec.js';
import { quantizerOptions, type RangeMethod } from './task.js';

/** What is asked of a method. */
type AskedFor = MethodSpec &
  Pick<LayerSpec, 'activations'> & {
    readonly range?: RangeMethod;
    readonly layers?: unknown;
    /** It decides nothing: results are the same. */
    readonly device?: Device;
  };

/** Node.js, the addon, and what writing takes at least. */
const LEAST_BYTES = 192 * 2 ** 20;

/** The work of a method on a model. */
export class MethodWork {
  readonly parts = new MethodParts();
  /** The most bytes of memory that it takes, besides what the process takes without it. */
  readonly bytes: number;
  private readonly prefix: WeightPrefix;
  private readonly linears = new Set<string>();
  private readonly norms = new Set<string>();
  private readonly settings = new Map<string, WeightSettings | BlockSettings>();
  private readonly activations = new Map<string, LayerActivations>();
  /** Whether there is anything to go on from. */
  begun = false;

  private constructor(
    private readonly path: string,
    private readonly spec: AskedFor,
    private readonly reading: ReadingOptions,
    private readonly texts: readonly string[],
    /** SHA-256 of the statistics file, if there is one. */
    private readonly statisticsHash: string | undefined,
    { config, weightPrefix }: DecoderModel,
  ) {
    this.prefix = weightPrefix;
    for (let layer = 0; layer < config.numLayers; layer++) {
      for (const name of INPUTS.flatMap(({ linears }) => linears))
        this.linears.add(`${blockName(weightPrefix, layer)}.${name}.weight`);
      for (const name of NORMS) this.norms.add(`${blockName(weightPrefix, layer)}.${name}.weight`);
    }
    this.bytes = this.bytesOf(config);
  }

  /** Null for round-to-nearest, which needs no model. */
  static async of(path: string, spec: AskedFor, reading: ReadingOptions): Promise<MethodWork | null> {
    if (!usesModel(spec)) return null;
    const texts = await Promise.all((spec.calibration?.text ?? []).map(readText));
    const { statistics } = spec.calibration ?? {};
    const hashes = statistics === undefined ? null : await hashFiles([statistics]).hashes;
    const model = await openModel(path, { residentBlocks: 'one', ...reading });
    await model.close();
    return new MethodWork(path, spec, reading, texts, hashes?.get(statistics as string), model);
  }

  /** What the work is for, in messages. */
  get name(): string {
    const { method = 'rtn' } = this.spec;
    return method === 'rtn' ? 'static activations' : method;
  }

  /** Whether the method makes codes of a weight. */
  quantizes(name: string): boolean {
    return this.linears.has(name);
  }

  /** Whether a tensor that stays in float may get other values, since scales are folded into it. */
  mayChange(name: string): boolean {
    return this.folds && (this.norms.has(name) || this.linears.has(name));
  }

  /** Whether weights are no longer those of the original before they are rounded. */
  get folds(): boolean {
    return this.spec.method === 'awq' || this.spec.method === 'awq-gptq' || this.spec.method === 'smoothquant';
  }

  /** Whether columns may come in another order than the weight's. */
  get orders(): boolean {
    const { method, gptq } = this.spec;
    const { descAct = gptq?.groupAware !== true, staticGroups = true } = gptq ?? {};
    return (method === 'gptq' || method === 'awq-gptq') && descAct && !staticGroups;
  }

  /** Why a layout can't hold what the method would make of a weight; null if it can. */
  misfit({ name, columns }: Weight, { format, recipe, own }: LayoutWriter): string | null {
    if (!this.quantizes(name)) {
      return recipe.input === undefined ? null : 'calibration sees no inputs but those of the layers of blocks';
    }
    if (own !== undefined) return `${own.name} rounds weights by a rule of its own, not by ${this.spec.method}`;
    const { dtype, granularity, groupSize, scheme } = recipe;
    const { method } = this.spec;
    if (this.orders && granularity === 'per-group' && recipe.ordered !== true) {
      return `${format} has no room for the order of act-order (use static groups)`;
    }
    if (recipe.acrossRows === true && columns % (groupSize ?? 1) !== 0) {
      return `its rows of ${columns} elements are no multiple of the block size ${groupSize}`;
    }
    if (recipe.nested === true) {
      return `its scales would be quantized again after ${method} had chosen codes by them (leave nested out)`;
    }
    const isInteger = /^u?int\d$/.test(dtype) && (granularity === 'per-group' || granularity === 'per-channel');
    if (!isInteger && (method === 'gptq' || method === 'hqq' || method === 'awq-gptq')) {
      return `${method} makes integers per group or per channel, not ${dtype} ${granularity}`;
    }
    const isInt8 = dtype === 'int8' && granularity === 'per-channel' && scheme === 'symmetric';
    if (method === 'smoothquant' && !isInt8) {
      return `smoothquant makes symmetric int8 per channel, to go with int8 activations, not ${scheme} ${dtype} ${granularity}`;
    }
    if (method === 'hqq' && scheme === 'symmetric') return 'hqq searches for zero points: its scheme is asymmetric';
    if (recipe.noLowestZeroPoint === true && scheme === 'asymmetric') {
      return `GPTQ version 1 has no zero point of 0, which ${method} may find (use gptq_v2)`;
    }
    return null;
  }

  /** Notes how a weight is to be quantized. */
  add(name: string, { recipe }: LayoutWriter): void {
    const { range, method } = this.spec;
    const usual = method === 'smoothquant' ? 'dynamic' : 'none';
    const { input } = recipe;
    this.activations.set(
      name,
      input === undefined ? usual : input.scheme === 'symmetric' ? 'static' : 'static-asymmetric',
    );
    this.settings.set(name, { ...quantizerOptions(recipe), ...(range === undefined ? {} : { range }) });
  }

  /** Notes that a weight is to become blocks of a type; why it can't, if it can't. */
  addBlocks(name: string, type: GgufType, importance: Float32Array | undefined): string | null {
    const { method = 'rtn' } = this.spec;
    if (this.orders) return 'GGUF has no room for the order of act-order (use static groups)';
    const settings = settingsForBlocks(method, type, importance);
    if (typeof settings === 'string') return settings;
    this.settings.set(name, settings);
    return null;
  }

  private windowLengthOf(maxPositions: number): number {
    return this.spec.calibration?.windowLength ?? usualWindowLength(maxPositions);
  }

  /** What decides the result, besides the model. */
  get decisions(): Json {
    const { method, calibration, activationRange, gptq, awq, smoothquant } = this.spec;
    const { text: _, statistics, ...rest } = calibration ?? {};
    const texts = this.texts.map((text) => createHash('sha256').update(text).digest('hex'));
    return {
      method: method ?? 'rtn',
      calibration: { ...rest, ...(statistics === undefined ? { texts } : { statistics: this.statisticsHash }) },
      ...(activationRange === undefined ? {} : { activationRange }),
      ...(gptq === undefined ? {} : { gptq }),
      ...(awq === undefined ? {} : { awq }),
      ...(smoothquant === undefined ? {} : { smoothquant }),
    };
  }

  /**
   * A block's weights, packed and as floats, what a method makes of the largest one, and what is collected of its inputs. Much
   * of it is over when the next part comes, but memory is given back late, so what follows is counted on top.
   */
  private bytesOf(config: DecoderConfig): number {
    const { method, calibration } = this.spec;
    const shapes = linearShapes(config);
    const folds = this.folds ? 4 : 0;
    const rounds = method === 'gptq' || method === 'awq-gptq';
    const isParallel = calibration?.mode === 'parallel' || calibration?.statistics !== undefined;
    let weights = 0;
    let largest = 0;
    let squares = 0; // of all inputs
    let widest = 0; // square of one
    let swept = 0; // what GPTQ has at a time
    for (const { linears } of INPUTS) {
      const counts = linears.map((name) => shapes[name][0] * shapes[name][1]);
      const count = counts.reduce((a, b) => a + b, 0);
      const square = shapes[linears[0] as LinearName][1] ** 2;
      weights += count;
      largest = Math.max(largest, ...counts);
      squares += square;
      widest = Math.max(widest, square);
      // Layers that read the same, as one and in a copy; their errors and targets; codes. The matrix in a copy, and its factor.
      swept = Math.max(swept, 6 * square + 17 * count);
    }
    // Sums are two float64 for each pair of inputs, their result a float32; those of a window, and a copy of the result.
    const [sums, passing] = [12, 12 * widest];
    const collected = sums * squares + passing;
    let grams = 0;
    if (method === 'awq' || (rounds && isParallel)) grams = collected;
    else if (method === 'gptq') grams = sums * widest + Math.max(passing, 4 * widest + swept);
    else if (method === 'awq-gptq') grams = Math.max(collected, 4 * squares + sums * widest + 4 * widest + swept);
    const length = method === 'hqq' ? 0 : this.windowLengthOf(config.maxPositions);
    const activations = 4 * length * (8 * config.hiddenSize + 4 * config.intermediateSize);
    return (8 + folds) * weights + 16 * largest + grams + activations;
  }

  /** @throws {@link InvalidArgumentError} if `maxMemory` is not enough. */
  checkMemory(maxMemory: number | undefined): void {
    const needed = this.bytes + LEAST_BYTES;
    if (maxMemory === undefined || needed <= maxMemory) return;
    throw new InvalidArgumentError(
      'maxMemory',
      `Expected maxMemory of at least ${Math.ceil(needed / 1e6)} MB for ${this.name} on this model, whose blocks ` +
        `are as large, but ${(maxMemory / 1e6).toFixed(0)} MB were allowed.`,
    );
  }

  /**
   * Runs the method, or goes on with it, in a folder of the unfinished work.
   *
   * @throws What {@link openModel} and {@link quantizeModel} throw.
   */
  async produce(
    folder: string,
    totalBytes: number,
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly onProgress?: ((progress: Progress) => void) | undefined;
    },
  ): Promise<void> {
    const { signal, onProgress } = options;
    const [scratch, parts] = [join(folder, 'blocks'), join(folder, 'parts')];
    await mkdir(scratch, { recursive: true }).catch((cause: unknown) => {
      throw outputError(folder, cause);
    });
    await this.parts.openIn(parts);
    const { method = 'rtn', calibration, activationRange, gptq, device, awq, smoothquant } = this.spec;
    const model = await openModel(this.path, {
      residentBlocks: 'one',
      activations: 'float32', // those of a checkpoint that is quantized once more are not wanted
      ...this.reading,
      ...(signal === undefined ? {} : { signal }),
    });
    let statistics: StatisticsFile | null = null;
    try {
      statistics = calibration?.statistics === undefined ? null : await StatisticsFile.open(calibration.statistics);
      const windows =
        this.texts.length === 0
          ? null
          : cutIntoWindows(model.tokenizer, this.texts, {
              windowLength: this.windowLengthOf(model.config.maxPositions),
              ...(calibration?.windows === undefined ? {} : { count: calibration.windows }),
              ...(calibration?.seed === undefined ? {} : { seed: calibration.seed }),
            });
      const made = quantizeModel(model, {
        method,
        activations: (name) => this.activations.get(name) ?? 'none',
        ...(activationRange === undefined ? {} : { range: activationRange }),
        weights: (name) => this.settings.get(name) ?? null,
        ...(windows === null ? {} : { windows }),
        ...(statistics === null ? {} : { statistics }),
        ...(calibration?.mode === undefined ? {} : { mode: calibration.mode }),
        ...(gptq === undefined ? {} : { gptq }),
        ...(device === undefined ? {} : { device }),
        ...(awq === undefined ? {} : { awq }),
        ...(smoothquant === undefined ? {} : { smoothquant }),
        scratch,
        onProgress: ({ blocks, totalBlocks, windows: done, totalWindows }) =>
          onProgress?.({
            stage: 'calibrate',
            tensor: blockName(this.prefix, blocks),
            bytes: Math.round((totalBytes * (blocks + done / Math.max(1, totalWindows))) / totalBlocks),
            totalBytes,
            tensors: blocks,
            totalTensors: totalBlocks,
          }),
        ...(signal === undefined ? {} : { signal }),
      });
      for await (const part of made) {
        await this.parts.write(part);
        this.begun = true;
      }
    } finally {
      await statistics?.close();
      await model.close();
    }
  }
}
