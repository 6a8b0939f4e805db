/**
 * Converting a quantized checkpoint into another format: the same values where the other format can hold them.
 *
 * @module
 */
import { type Checkpoint, type Json, openCheckpoint } from '../checkpoint/checkpoint.js';
import type { LayoutWriter } from '../checkpoint/layouts/layout.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { StoredInput, Weight } from '../checkpoint/weight.js';
import { checkReadingOptions, weightsOf } from '../checkpoint/weights.js';
import type { LargeFloatDtype } from '../dtype.js';
import { CheckpointError, InvalidArgumentError } from '../errors.js';
import { roundedTo, type StaticActivations, staticName } from '../tensor/input-quantization.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { carryOut, checkRunOptions, RUN_OPTIONS, type RunOptions, type RunReport } from './carry-out.js';
import { checkLayer } from './check-spec.js';
import { safetensorsFiles } from './files.js';
import { fitted, NoFit } from './grids.js';
import { blocksWith, codesOf, EXACT_TYPES, type ExactType } from './grids-gguf.js';
import { asHuggingFace } from './hugging-face.js';
import { configOf, type Group, type Plan, planOf, refuse, tasksOf, withTexts } from './plan.js';
import { planGgufExactly, planGgufQuantization } from './plan-gguf.js';
import { isChosen, isHead, isLinear, layerOf } from './selection.js';
import {
  type CheckpointDtype,
  type CheckpointFormat,
  type CodeLayout,
  FORMATS,
  LAYER_OPTIONS,
  type LayerSpec,
  otherConfigs,
  type WeightTraits,
  writerOf,
} from './spec.js';
import { castTask, keepTask, outlineOf, quantizeTask, repackTask, type Task } from './task.js';

/** Options of {@link convertCheckpoint}. */
export interface ConvertCheckpointOptions extends Omit<LayerSpec, 'format'>, RunOptions {
  /** The format to write; `'float'` dequantizes. */
  readonly to: CheckpointFormat | 'float';
  /** With `'float'`: the type of the weights. Default: that of the model. */
  readonly floatDtype?: LargeFloatDtype;
  /** Whether weights that the format can't hold exactly are quantized again. Default false: they are refused. */
  readonly requantize?: boolean;
}

const OPTIONS: ReadonlySet<string> = new Set([...RUN_OPTIONS, ...LAYER_OPTIONS, 'to', 'floatDtype', 'requantize']);

function isQuantized({ encoding }: Weight): boolean {
  return encoding.format !== 'float' && encoding.format !== 'other';
}

/** The codes in GGUF blocks that have one scale each. */
const CODES_OF_BLOCKS: Readonly<Record<string, string>> = { q4_0: 'int4', q5_0: 'int8', q8_0: 'int8' };

/** The dtype of a format that a weight's codes fit in: their own, or for integers the next wider one. */
function dtypeFor(format: CheckpointFormat, own: string): CheckpointDtype | undefined {
  const { dtypes } = FORMATS[format];
  const bits = /^int(\d)$/.exec(own)?.[1];
  const same = dtypes.find((dtype) => dtype === own);
  if (same !== undefined || bits === undefined || format === 'bitsandbytes') return same;
  return dtypes
    .filter((dtype) => /^int\d$/.test(dtype) && dtype > own)
    .sort()
    .at(0);
}

/** The setting that comes nearest to what a weight is stored as, where nothing else was asked for. */
function settingFor(weight: Weight, { to, ...given }: ConvertCheckpointOptions): LayerSpec {
  const format = to as CheckpointFormat;
  const { dtype, groupSize, traits, format: source } = weight.encoding;
  const bits = /^u?int(\d)$/.exec(dtype)?.[1];
  const own = bits === undefined ? (CODES_OF_BLOCKS[dtype] ?? dtype) : `int${bits}`;
  const known = dtypeFor(format, own);
  const isInteger = /^int\d$/.test(own) && /^int\d$/.test(given.dtype ?? known ?? own);
  const isFp8 = own === 'float8_e4m3fn' && known === own;
  const spec: LayerSpec = {
    format,
    ...(known === undefined ? {} : { dtype: known }),
    ...(isInteger && format !== 'bitsandbytes' && FORMATS[format].dtypes.some((candidate) => /^int\d$/.test(candidate))
      ? { groupSize, scheme: traits.includes('asymmetric') ? 'asymmetric' : 'symmetric' }
      : {}),
    ...(format === source && format === 'bitsandbytes' && groupSize !== null && given.dtype !== 'int8'
      ? { groupSize }
      : {}),
    ...(isFp8 && traits.includes('per-tensor') ? { granularity: 'per-tensor' } : {}),
    ...(isFp8 && traits.includes('per-channel') ? { granularity: 'per-channel' } : {}),
    ...(isFp8 && traits.some((trait) => trait.startsWith('blocks')) ? { granularity: 'per-block' } : {}),
    ...(format === source && given.dtype === undefined && given.layout === undefined ? codesOfTraits(weight) : {}),
    ...Object.fromEntries(
      LAYER_OPTIONS.flatMap((name) => (name in given ? [[name, given[name as keyof typeof given]]] : [])),
    ),
  };
  checkLayer({ ...spec }, '');
  return spec;
}

/** How compressed-tensors stored integers and what it does with activations, which its other checkpoints keep. */
function codesOfTraits({ encoding: { traits }, input }: Weight): LayerSpec {
  const inputs = new Map<string, 'int8' | 'float8_e4m3fn'>([
    ['input int8 token dynamic', 'int8'],
    ['input int8 token dynamic asymmetric', 'int8'],
    ['input float8 token dynamic', 'float8_e4m3fn'],
  ]);
  const activations =
    input === undefined
      ? traits.map((trait) => inputs.get(trait)).find((found) => found !== undefined)
      : storedName(input, traits);
  const layout: CodeLayout | undefined = traits.includes('pack-quantized')
    ? 'pack-quantized'
    : traits.includes('int-quantized')
      ? activations === undefined
        ? 'naive-quantized'
        : 'int-quantized'
      : undefined;
  if (layout === undefined && input === undefined) return {}; // FP8: the dtype decides
  return { ...(layout === undefined ? {} : { layout }), ...(activations === undefined ? {} : { activations }) };
}

/** Static activations of a weight that quantizeCheckpoint could have written; others are dropped. */
function storedName(input: StoredInput, traits: readonly string[]): StaticActivations | undefined {
  const isPlain = traits.includes('per-channel') || traits.includes('per-tensor');
  const isInBytes = traits.includes(input.dtype === 'int8' ? 'int-quantized' : 'float-quantized');
  return isPlain && isInBytes && !traits.includes('asymmetric') ? staticName(input) : undefined;
}

/** Why the static activations of a layout can't be those of a weight; null if they can. */
function inputMisfit({ input }: Weight, { recipe }: LayoutWriter): string | null {
  if (recipe.input === undefined) return null;
  const wanted = staticName(recipe.input);
  if (input === undefined)
    return `it has no scale for ${wanted} activations, which "lowbit quantize" finds by calibration`;
  const own = staticName(input);
  return own === wanted ? null : `its activations are ${own}, not ${wanted}`;
}

function noRoomForOrder(format: string): string {
  return `its groups are those of act-order (g_idx), for which ${format} has no room`;
}

/**
 * Why values can't be held, found by trying; null if they can.
 *
 * @param unordered - The format, if columns must be in the weight's own order.
 */
async function misfitOf(
  weight: Weight,
  tryRows: (tensor: QuantizedTensor) => unknown,
  unordered: string | null,
  signal: AbortSignal | undefined,
): Promise<string | null> {
  const scratch = new Scratch();
  const step = weight.rowStep * Math.max(1, Math.floor(2 ** 20 / Math.max(1, weight.columns * weight.rowStep)));
  for (let begin = 0; begin < weight.rows; begin += step) {
    signal?.throwIfAborted();
    const end = Math.min(weight.rows, begin + step);
    try {
      const { tensor, order } = codesOf(await weight.read(begin, end, scratch), end - begin, weight.columns);
      await tryRows(tensor);
      if (order !== null && unordered !== null) return noRoomForOrder(unordered);
    } catch (error) {
      if (error instanceof NoFit) return error.message;
      throw error;
    }
  }
  return null;
}

/** Why a writer can't hold a weight's values; null if it can. */
async function misfit(weight: Weight, writer: LayoutWriter, signal: AbortSignal | undefined): Promise<string | null> {
  if (writer.own !== undefined) return `${writer.own.name} finds its codes and scales by a rule of its own`;
  const refusal = writer.refusal(outlineOf(weight));
  const unordered = writer.recipe.ordered === true ? null : writer.format;
  const { scaleDtype, input } = writer.recipe;
  const other = refusal ?? inputMisfit(weight, writer);
  if (other !== null) return other;
  if (input !== undefined && weight.input !== undefined) {
    const { scale } = await weight.input.read();
    if (roundedTo(scale, scaleDtype) !== scale) return `the scale of its activations, ${scale}, is no ${scaleDtype}`;
  }
  return misfitOf(weight, (tensor) => fitted(tensor, writer.recipe), unordered, signal);
}

/** The smallest block type that holds each quantized weight exactly. */
async function exactTypes(
  weights: readonly Weight[],
  path: string,
  signal: AbortSignal | undefined,
): Promise<Map<string, ExactType>> {
  const types = new Map<string, ExactType>();
  const refusals: { weight: Weight; reason: string }[] = [];
  const quantized = weights.filter(isQuantized);
  for (const weight of quantized) {
    if (weight.encoding.traits.includes('act-order')) {
      refusals.push({ weight, reason: noRoomForOrder('GGUF') });
      continue;
    }
    let reason: string | null = null;
    for (const type of EXACT_TYPES) {
      const why = await misfitOf(weight, (tensor) => blocksWith(tensor, type), 'GGUF', signal);
      if (why === null) types.set(weight.name, type);
      reason ??= why;
      if (why === null) break;
    }
    if (!types.has(weight.name)) refusals.push({ weight, reason: `no block type holds it: ${reason}` });
  }
  const remedy = 'Name a type, as gguf:q4_k_m, and pass requantize (--requantize) to quantize them again.';
  refuse(refusals, quantized.length, path, remedy);
  return types;
}

/** The writer of a setting; with float32 scales if those of the model's type can't hold the weight's. */
async function writerFor(
  weight: Weight,
  spec: LayerSpec,
  about: WeightTraits,
  signal: AbortSignal | undefined,
): Promise<{ writer: LayoutWriter; key: string; reason: string | null }> {
  const usual = writerOf(spec, weight.dtype ?? 'float32', about);
  const reason = await misfit(weight, usual.writer, signal);
  if (reason === null || usual.writer.recipe.scaleDtype === 'float32') return { ...usual, reason };
  const wide = writerOf(spec, 'float32', about);
  if (wide.writer.recipe.scaleDtype !== 'float32') return { ...usual, reason };
  const rest = await misfit(weight, wide.writer, signal);
  return rest === null ? { writer: wide.writer, key: `${wide.key} float32`, reason: null } : { ...usual, reason };
}

/** A plan that says what it leaves out unasked: scales that were found by calibration. */
function withLosses(plan: Plan, { to, activations }: ConvertCheckpointOptions): Plan {
  const lost = tasksOf(plan).filter(({ weight, input }) => weight.input !== undefined && input === undefined).length;
  if (lost === 0 || activations !== undefined) return plan;
  const warning =
    `The scales of static activations of ${lost} layers are left out: ` +
    `${to === 'compressed-tensors' ? 'they do not go with these weights' : `${to} has no place for them`}, so that activations stay floats.`;
  return { ...plan, warnings: [...(plan.warnings ?? []), warning] };
}

async function planConversion(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  options: ConvertCheckpointOptions,
): Promise<Plan> {
  return withLosses(await planFormat(checkpoint, weights, options), options);
}

async function planFormat(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  options: ConvertCheckpointOptions,
): Promise<Plan> {
  if (options.to === 'gguf') {
    const { dtype, requantize = false, signal } = options;
    if (dtype !== undefined) return planGgufQuantization(checkpoint, weights, { format: 'gguf', dtype, requantize });
    return planGgufExactly(checkpoint, weights, await exactTypes(weights, checkpoint.path, signal));
  }
  const model = await asHuggingFace(checkpoint, weights);
  return withTexts(await planFolder(model.checkpoint, model.weights, options), model.texts, model.warnings);
}

async function planFolder(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  options: ConvertCheckpointOptions,
): Promise<Plan> {
  const { path } = checkpoint;
  const { to, floatDtype, requantize = false, signal } = options;
  const config = { ...checkpoint.config };
  delete config['quantization_config'];
  if (to === 'float') {
    const tasks = weights.map((weight) =>
      isQuantized(weight) || (floatDtype !== undefined && weight.dtype !== null && weight.dtype !== floatDtype)
        ? castTask(weight, floatDtype ?? weight.dtype ?? 'float32')
        : keepTask(weight),
    );
    return planOf(safetensorsFiles(checkpoint, tasks), config, new Map(), decisionsOf(tasks));
  }
  const groups = new Map<string, Group>();
  const refusals: { weight: Weight; reason: string }[] = [];
  const written = new Set<Weight>();
  const tasks: Task[] = [];
  // One for all, since layers that engines fuse must be alike.
  const about = {
    ordered: weights.some(({ encoding }) => encoding.traits.includes('act-order')),
    hasHead: checkpoint.container !== 'gguf' && weights.some((weight) => isQuantized(weight) && isHead(weight)),
  };
  for (const weight of weights) {
    if (!isQuantized(weight)) {
      tasks.push(keepTask(weight));
      continue;
    }
    // GGUF quantizes embeddings and the output head as well, which no engine looks for in the other formats.
    if (checkpoint.container === 'gguf' && !isChosen(weight, {})) {
      tasks.push(castTask(weight, 'float32'));
      continue;
    }
    const spec = settingFor(weight, options);
    const { writer, key, reason } = await writerFor(weight, spec, about, signal);
    const isLost = writer.refusal(outlineOf(weight)) !== null || inputMisfit(weight, writer) !== null;
    if (reason !== null && (!requantize || isLost)) {
      refusals.push({ weight, reason });
      continue;
    }
    const group = groups.get(key) ?? { spec, writer, layers: [] };
    groups.set(key, group);
    group.layers.push(layerOf(weight.name));
    written.add(weight);
    tasks.push(
      reason === null
        ? repackTask(weight, writer, (tensor) => fitted(tensor, writer.recipe))
        : quantizeTask(weight, writer, 'minmax'),
    );
  }
  if (written.size === 0 && refusals.length === 0) {
    const message = `${path} has no quantized weights. Use "lowbit quantize" for float ones.`;
    throw new CheckpointError('NOTHING_TO_QUANTIZE', message, { path });
  }
  refuse(
    refusals,
    refusals.length + written.size,
    path,
    'Pass requantize (--requantize) to quantize them again, or choose another format.',
  );
  const ignored = weights.filter((weight) => isLinear(weight) && !written.has(weight)).map(({ name }) => layerOf(name));
  const quantizationConfig = configOf([...groups.values()], ignored, path);
  const [first] = groups.values();
  const texts = new Map(
    [...otherConfigs(first?.spec ?? {}, quantizationConfig, ignored)].map(([name, json]) => [
      name,
      `${JSON.stringify(json, null, 2)}\n`,
    ]),
  );
  const files = safetensorsFiles(checkpoint, tasks);
  return planOf(files, { ...config, quantization_config: quantizationConfig }, texts, decisionsOf(tasks));
}

function decisionsOf(tasks: readonly Task[]): Json {
  return { tasks: tasks.map(({ weight, kind, as }) => [weight.name, kind, as]) };
}

/** @internal Checks the options of {@link convertCheckpoint}. */
function checkConversion(optionsValue: unknown): ConvertCheckpointOptions {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, OPTIONS) as Record<string, unknown>;
  checkRunOptions(given);
  const to = validate.oneOf('to', given['to'], ['float', ...(Object.keys(FORMATS) as CheckpointFormat[])]);
  if (given['floatDtype'] !== undefined) {
    validate.oneOf('floatDtype', given['floatDtype'], ['float32', 'float16', 'bfloat16']);
    if (to !== 'float') throw new InvalidArgumentError('floatDtype', "Expected floatDtype with to: 'float' only.");
  }
  validate.boolean('requantize', given['requantize'], false);
  if (to === 'float') {
    for (const name of LAYER_OPTIONS) {
      if (given[name] !== undefined) throw new InvalidArgumentError(name, `Expected no ${name} with to: 'float'.`);
    }
  } else {
    checkLayer({ ...given, format: to }, '');
  }
  return given as unknown as ConvertCheckpointOptions;
}

/**
 * Converts a quantized checkpoint into another format. Weights whose codes and scales the other format can hold keep their
 * values, bit for bit (`kind: 'repacked'` in the report); others are refused, or quantized again with `requantize`
 * (`kind: 'quantized'`). `to: 'float'` dequantizes.
 *
 * @param input - A quantized checkpoint: a folder, or a safetensors or GGUF file.
 * @param options - At least `to` and `output`. Without `dtype`, `scheme` and `groupSize` those of the input are kept;
 *   act-order (`g_idx`) is, wherever the format has room for it.
 * @returns What became of each weight, read back from the result.
 * @throws {@link CheckpointError} if the input can't be read, or `UNSUPPORTED_PLAN` with every weight that can't be held and
 *   the reason; {@link OutputError}; {@link InvalidArgumentError}; the signal's reason when it aborts.
 *
 * @example
 * ```ts
 * await convertCheckpoint('model-AWQ', { to: 'compressed-tensors', output: 'model-ct' });
 * ```
 */
export async function convertCheckpoint(input: string, options: ConvertCheckpointOptions): Promise<RunReport> {
  if (typeof input !== 'string') throw new InvalidArgumentError('input', 'Expected input to be a path.');
  const checked = checkConversion(options);
  checked.signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(input);
  try {
    const plan = await planConversion(checkpoint, await weightsOf(checkpoint, checkReadingOptions(checked)), checked);
    return await carryOut(input, checkpoint, plan, checked);
  } finally {
    await checkpoint.close();
  }
}
