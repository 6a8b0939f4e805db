/**
 * What {@link quantizeModel} is asked to do, checked before anything is done.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { CPU, type Device, deviceIndex, unsupported } from '../device/device.js';
import { usableDevice } from '../device/usable-device.js';
import { CalibrationError, InvalidArgumentError, invalidArgument } from '../errors.js';
import type { AwqScaling } from '../methods/awq.js';
import type { RangeOfInputs } from '../methods/input-statistics.js';
import type { BlockSettings, WeightSettings } from '../methods/linear-weight.js';
import type { GptqChoices, Rounding } from '../methods/quantize-weight.js';
import { blockName, INPUTS } from '../model/decoder-weights.js';
import type { DecoderModel } from '../model/model.js';
import * as validate from '../validate.js';
import { type CalibrationProgress, checkModel, checkModelAndWindows } from './collect.js';
import { modelIdentity } from './model-identity.js';
import { StatisticsFile } from './statistics-file.js';
import type { CalibrationWindows } from './windows.js';

/**
 * Methods of {@link quantizeModel}.
 *
 * | method | weights | needs |
 * | --- | --- | --- |
 * | `rtn` | rounded to the nearest code of any dtype; NF4 and FP4 of bitsandbytes among them, with `nested`; GGUF blocks | nothing |
 * | `gptq` | {@link gptq}: errors are made up for by the columns that follow | windows or statistics |
 * | `hqq` | {@link hqq}: a search for zero points of unsigned codes | nothing |
 * | `awq` | {@link awqScales}, {@link awqClip}, then rounded, or GGUF blocks | windows or statistics |
 * | `awq-gptq` | the scales of AWQ, then GPTQ | windows or statistics |
 * | `smoothquant` | {@link smoothQuantScales}, then rounded to int8; activations int8 | windows or statistics |
 * | `llm-int8` | int8 per output channel, activations int8 but for outliers | nothing |
 */
export type QuantizationMethod = 'rtn' | 'gptq' | 'hqq' | 'awq' | 'awq-gptq' | 'smoothquant' | 'llm-int8';

/**
 * What becomes of the activations that a layer reads: nothing; int8 with a scale for each token; or codes of the weights' type
 * with one scale for all, found by calibration: int8, symmetric or asymmetric, or float8_e4m3fn, symmetric.
 */
export type LayerActivations = 'none' | 'dynamic' | 'static' | 'static-asymmetric';

/** Options of {@link quantizeModel}. */
export interface QuantizeModelOptions {
  method: QuantizationMethod;
  /**
   * How weights are quantized; a function decides by the name of each (`model.layers.0.mlp.up_proj.weight`), null leaves it in
   * float. Default: int4 in groups of 128; for `smoothquant`, `llm-int8` and whenever activations are int8, int8 per channel.
   * `{ type }` makes GGUF blocks, with `rtn` and `awq`.
   */
  weights?: WeightSettings | BlockSettings | ((name: string) => WeightSettings | BlockSettings | null);
  /** Texts to run the model on; from {@link cutIntoWindows}. */
  windows?: CalibrationWindows;
  /** What was collected before, instead of windows. */
  statistics?: StatisticsFile;
  /**
   * `'sequential'` (default with windows): each layer is quantized for the inputs that it gets from the quantized layers before
   * it. `'parallel'` (always with statistics): for those of the float model, so that blocks are independent of each other.
   */
  mode?: 'sequential' | 'parallel';
  /**
   * Whether activations become codes as well; a function decides by the name of each weight. Layers that read the same should have
   * the same, since engines fuse them. Default: `'dynamic'` for `smoothquant`, `'none'` otherwise.
   */
  activations?: LayerActivations | ((name: string) => LayerActivations);
  /**
   * How the ranges of static activations are found. Default `'minmax'`. Where scales are folded and `statistics` given, ranges of
   * the other methods are those of their sampled rows.
   */
  range?: RangeOfInputs;
  /** Options of {@link gptq}. */
  gptq?: GptqChoices;
  /**
   * Where `gptq` and `awq-gptq` compute Gram matrices and codes, with the same result; all else is the processor's. Default
   * `'cpu'`.
   */
  device?: Device;
  /** Exponents that are tried (default 20), from what scales follow (default `'both'`), and whether weights are clipped (default true). */
  awq?: { readonly grid?: number; readonly scaling?: AwqScaling; readonly clip?: boolean };
  /** The exponent from 0 to 1, or `'search'` (default): for each input the one with the least error. */
  smoothquant?: { readonly alpha?: number | 'search' };
  /** Magnitude from which activations count as outliers (`llm-int8`). Default 6. */
  threshold?: number;
  /**
   * A folder, which must exist, for hidden states and a note of what is done. With it a run that was ended is continued by the
   * same call; see {@link quantizeModel}. Without, hidden states are in memory.
   */
  scratch?: string;
  /** Called after each window of each pass through a block. */
  onProgress?: (progress: CalibrationProgress) => void;
  /** Ends the work early. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'method',
  'weights',
  'windows',
  'statistics',
  'mode',
  'activations',
  'range',
  'gptq',
  'device',
  'awq',
  'smoothquant',
  'threshold',
  'scratch',
  'onProgress',
  'signal',
]);
const METHODS = ['rtn', 'gptq', 'hqq', 'awq', 'awq-gptq', 'smoothquant', 'llm-int8'] as const;
const ACTIVATIONS = ['none', 'dynamic', 'static', 'static-asymmetric'] as const;
const INT8: WeightSettings = { dtype: 'int8', granularity: 'per-channel', axis: 0 };
const INT4: WeightSettings = { dtype: 'int4', granularity: 'per-group', groupSize: 128 };

/** @internal What becomes of the activations of those weights that are quantized. */
export function usedActivations(
  names: readonly string[],
  settingsOf: Work['settingsOf'],
  activationsOf: Work['activationsOf'],
): ReadonlySet<LayerActivations | 'llm-int8'> {
  return new Set(names.filter((name) => settingsOf(name) !== null).map(activationsOf));
}

/**
 * @internal What computes GPTQ, once it is known to be there.
 *
 * @throws {@link InvalidArgumentError}; {@link DeviceError} `NO_DEVICE`, and `DEVICE_UNSUPPORTED` for other methods.
 */
export function deviceFor({
  method = 'rtn',
  device,
  gptq,
}: {
  readonly method?: QuantizationMethod;
  readonly device?: Device;
  readonly gptq?: GptqChoices | undefined;
}): Device | undefined {
  if (typeof gptq === 'object' && gptq !== null && 'device' in gptq) {
    throw new InvalidArgumentError('gptq.device', 'Expected device beside gptq, not in it.');
  }
  const index = device === undefined ? CPU : deviceIndex('device', device);
  if (index !== CPU && method !== 'gptq' && method !== 'awq-gptq') {
    throw unsupported('method', `method gptq or awq-gptq rather than ${method}`, index);
  }
  usableDevice('device', device);
  return device;
}

/** Everything decided. */
export interface Work {
  readonly model: DecoderModel;
  readonly method: QuantizationMethod;
  readonly rounding: Rounding;
  readonly transforms: 'awq' | 'smoothquant' | null;
  readonly settingsOf: (name: string) => WeightSettings | BlockSettings | null;
  readonly activationsOf: (name: string) => LayerActivations | 'llm-int8';
  readonly source: 'none' | 'file' | 'parallel' | 'sequential';
  readonly options: QuantizeModelOptions;
  readonly device: Device | undefined;
  readonly signal: AbortSignal | undefined;
}

/** @internal */
export function isStatic(activations: LayerActivations | 'llm-int8'): boolean {
  return activations === 'static' || activations === 'static-asymmetric';
}

/** The names of all weights of the blocks, in the order of computation. */
function weightNames({ config, weightPrefix }: DecoderModel): string[] {
  return Array.from({ length: config.numLayers }, (_, block) =>
    INPUTS.flatMap(({ linears }) => linears.map((name) => `${blockName(weightPrefix, block)}.${name}.weight`)),
  ).flat();
}

/** What becomes of the activations of each layer. */
function activationsFrom(value: unknown, usual: LayerActivations): (name: string) => LayerActivations {
  const check = (choice: unknown) => validate.oneOf('activations', choice, ACTIVATIONS);
  if (typeof value === 'function') return (name) => check(value(name));
  const choice = check(value ?? usual);
  return () => choice;
}

/** @throws {@link InvalidArgumentError} */
export function checkedWork(model: DecoderModel, options: QuantizeModelOptions): Work {
  checkModel(model);
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const method = validate.oneOf('method', given['method'], METHODS);
  const usual = method === 'smoothquant' ? 'dynamic' : 'none';
  const choiceOf = activationsFrom(given['activations'], usual);
  const activationsOf = method === 'llm-int8' ? () => 'llm-int8' as const : choiceOf;
  const { weights = (name: string) => (activationsOf(name) === 'none' ? INT4 : INT8) } = options;
  if (typeof weights !== 'function' && (typeof weights !== 'object' || weights === null)) {
    throw invalidArgument('weights', 'an object or a function', weights);
  }
  const { windows, statistics } = options;
  if (windows !== undefined && statistics !== undefined) {
    throw new InvalidArgumentError('statistics', 'Expected windows or statistics, but received both.');
  }
  const transforms =
    method === 'awq' || method === 'awq-gptq' ? 'awq' : method === 'smoothquant' ? 'smoothquant' : null;
  const rounding = method === 'gptq' || method === 'awq-gptq' ? 'gptq' : method === 'hqq' ? 'hqq' : 'rtn';
  const settingsOf = typeof weights === 'function' ? weights : () => weights;
  const kinds = usedActivations(weightNames(model), settingsOf, activationsOf);
  const hasStatic = [...kinds].some(isStatic);
  const needs = transforms !== null || rounding === 'gptq' || hasStatic;
  if (needs && windows === undefined && statistics === undefined) {
    const what = transforms === null && rounding !== 'gptq' ? 'static activations' : method;
    throw new InvalidArgumentError(
      'windows',
      `Expected windows of text or statistics, which ${what} can't do without. cutIntoWindows makes the former, lowbit calibrate the latter.`,
    );
  }
  const mode = validate.oneOf('mode', given['mode'] ?? (statistics === undefined ? 'sequential' : 'parallel'), [
    'sequential',
    'parallel',
  ]);
  if (statistics !== undefined && !(statistics instanceof StatisticsFile)) {
    throw invalidArgument('statistics', 'a StatisticsFile', statistics);
  }
  if (mode === 'sequential' && statistics !== undefined) {
    throw new InvalidArgumentError(
      'mode',
      "Expected mode 'parallel' with statistics, which are those of the float model.",
    );
  }
  if (
    transforms !== null &&
    statistics !== undefined &&
    kinds.has('static-asymmetric') &&
    (options.range ?? 'minmax') === 'minmax'
  ) {
    throw new InvalidArgumentError(
      'activations',
      `Expected symmetric static activations for ${method} from statistics, whose extremes have no sign once scales are folded. ` +
        "Calibrate on windows of text, or choose another range, such as 'mse'.",
    );
  }
  if (windows !== undefined) checkModelAndWindows(model, windows);
  const device = deviceFor(options);
  return {
    model,
    method,
    rounding,
    transforms,
    settingsOf,
    activationsOf,
    source: !needs ? 'none' : statistics !== undefined ? 'file' : mode,
    options,
    device,
    signal: validate.abortSignal('signal', given['signal']),
  };
}

/** Whether statistics are of this model, and hold what the method needs. */
export async function checkStatistics(
  { model, transforms, rounding, method, signal }: Work,
  file: StatisticsFile,
): Promise<void> {
  const { header, path } = file;
  if (header.model !== (await modelIdentity(model.path, signal))) {
    const message = `${path} holds statistics of another model than ${model.path}. Calibrate this one.`;
    throw new CalibrationError('STATISTICS_MISMATCH', message);
  }
  if ((transforms === 'awq' || rounding === 'gptq') && !header.gram) {
    const message = `${path} has no Gram matrices, which ${method} needs. Calibrate anew without gram: false (--no-gram).`;
    throw new CalibrationError('STATISTICS_MISSING', message);
  }
  if (header.places.length === 0) {
    const message = `${path} holds no windows: it is a part of a calibration. Merge all parts first.`;
    throw new CalibrationError('STATISTICS_MISSING', message);
  }
}

/** Everything that the hidden states depend on. */
export function fingerprintOf(work: Work): string {
  const { model, options, method, activationsOf, source, settingsOf } = work;
  const { windows, range, gptq, awq, smoothquant, threshold } = options;
  const settings = weightNames(model).map((name) => [settingsOf(name), activationsOf(name)]);
  const { windowLength, places, prefix } = windows ?? {};
  const [path, statistics] = [resolve(model.path), options.statistics?.header ?? null];
  const all = [path, statistics, method, source, settings, range, gptq, awq, smoothquant, threshold];
  return createHash('sha256')
    .update(JSON.stringify([...all, windowLength, prefix, places], shortened))
    .digest('hex');
}

/** Importances by their hash, since there is one for each layer. */
function shortened(_: string, value: unknown): unknown {
  if (!(value instanceof Float32Array)) return value;
  return createHash('sha256')
    .update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
    .digest('hex');
}
