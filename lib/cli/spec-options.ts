/**
 * Options that say how weights are stored: format, dtype, groups, layers; and plan files, which keep them.
 *
 * @module
 */
import { readFile, writeFile } from 'node:fs/promises';
import { type Command, InvalidArgumentError as InvalidOption, Option } from 'commander';
import type { ActivationDtype } from '../checkpoint/layouts/compressed-tensors/writer.js';
import { CheckpointError, invalidArgument, outputError } from '../errors.js';
import type { RangeOfInputs } from '../methods/input-statistics.js';
import { checkSpec } from '../pipeline/check-spec.js';
import { type CheckpointMethod, METHODS, type MethodSpec } from '../pipeline/method-spec.js';
import {
  ACTIVATIONS,
  type CheckpointDtype,
  type CheckpointFormat,
  CODE_LAYOUTS,
  type CodeLayout,
  completed,
  FORMATS,
  type LayerOverride,
  type LayerSpec,
  type QuantizationSpec,
  SPEC_OPTIONS,
} from '../pipeline/spec.js';
import type { RangeMethod } from '../pipeline/task.js';
import type { Granularity } from '../tensor/quantized-tensor.js';
import { options } from '../validate.js';
import { nonNegativeInteger, number, positiveInteger, regularExpression } from './options.js';

export interface SpecFlags {
  format?: { format: CheckpointFormat; dtype?: CheckpointDtype; layout?: CodeLayout };
  dtype?: CheckpointDtype;
  granularity?: Granularity;
  groupSize?: number;
  scheme?: 'symmetric' | 'asymmetric';
  range?: RangeMethod;
  include?: RegExp;
  exclude?: RegExp;
  layer?: LayerOverride[];
  nested?: boolean;
  activations?: ActivationDtype;
  activationRange?: RangeOfInputs;
  requantize?: boolean;
  imatrix?: string;
  method?: CheckpointMethod;
  text?: string[];
  statistics?: string;
  windows?: number;
  windowLength?: number;
  seed?: number;
  mode?: 'sequential' | 'parallel';
  descAct?: boolean;
  staticGroups?: boolean;
  dampPercent?: number;
  alpha?: number;
  plan?: string;
  writePlan?: string;
}

const ALIASES: Readonly<Record<string, CheckpointFormat>> = { ct: 'compressed-tensors', bnb: 'bitsandbytes' };

/** `gptq`, `gguf:q4_k_m`, `compressed-tensors:int-quantized`. */
export function checkpointFormat(text: string): NonNullable<SpecFlags['format']> {
  const [name = '', dtype, ...rest] = text.toLowerCase().split(':');
  const format = ALIASES[name] ?? (Object.hasOwn(FORMATS, name) ? (name as CheckpointFormat) : undefined);
  if (format === undefined || rest.length > 0) {
    throw new InvalidOption(`Expected one of ${Object.keys(FORMATS).join(', ')}, or gguf:<type>.`);
  }
  if (dtype === undefined) return { format };
  const layouts = format === 'compressed-tensors' ? CODE_LAYOUTS : [];
  const layout = layouts.find((known) => known === dtype);
  if (layout !== undefined) return { format, layout };
  const { dtypes } = FORMATS[format];
  const found = dtypes.find((known) => known === dtype);
  if (found === undefined) {
    throw new InvalidOption(`Expected ${format} with one of ${[...dtypes, ...layouts].join(', ')}.`);
  }
  return { format, dtype: found };
}

function rangeMethod(text: string): RangeMethod {
  return text === 'minmax' || text === 'mse' ? text : percentile(text, 'minmax, mse');
}

function activationRange(text: string): RangeOfInputs {
  return text === 'minmax' || text === 'mse' || text === 'entropy' ? text : percentile(text, 'minmax, mse, entropy');
}

/** `percentile:99.9` */
function percentile(text: string, others: string): { percentile: number } {
  const digits = /^percentile:(\d+(?:\.\d+)?)$/.exec(text)?.[1];
  if (digits !== undefined && Number(digits) > 50 && Number(digits) <= 100) return { percentile: Number(digits) };
  throw new InvalidOption(
    `Expected ${others} or percentile:<number above 50, at most 100>, for example percentile:99.9.`,
  );
}

export const DTYPES: ReadonlySet<string> = new Set(Object.values(FORMATS).flatMap(({ dtypes }) => dtypes));

const OF_LAYER = 'g<n>, channel, tensor, block, sym, asym, act-<activations> or a layout';

/** `mlp=int8:g64`, `down_proj=int8:channel:act-float`, `down_proj=q6_k`, `layers\.0\.=float`. */
function layerOverride(text: string, before: LayerOverride[] = []): LayerOverride[] {
  const place = text.lastIndexOf('=');
  if (place < 1) throw new InvalidOption('Expected <regex>=<spec>, for example down_proj=int8:g64.');
  const match = regularExpression(text.slice(0, place));
  const [dtype = '', ...words] = text.slice(place + 1).split(':');
  if (dtype === 'float' && words.length === 0) return [...before, { match, spec: 'float' }];
  if (!DTYPES.has(dtype)) throw new InvalidOption(`Expected float or a dtype after = but received ${dtype}.`);
  let spec: LayerSpec = { dtype: dtype as CheckpointDtype };
  for (const word of words) {
    const group = /^g(\d+)$/.exec(word)?.[1];
    if (group !== undefined) spec = { ...spec, groupSize: positiveInteger(group) };
    else if (word === 'channel') spec = { ...spec, groupSize: null };
    else if (word === 'tensor') spec = { ...spec, granularity: 'per-tensor' };
    else if (word === 'block') spec = { ...spec, granularity: 'per-block' };
    else if (word === 'sym') spec = { ...spec, scheme: 'symmetric' };
    else if (word === 'asym') spec = { ...spec, scheme: 'asymmetric' };
    else if (CODE_LAYOUTS.includes(word as CodeLayout)) spec = { ...spec, layout: word as CodeLayout };
    else if (word.startsWith('act-')) spec = { ...spec, activations: activationsOfLayer(word.slice(4)) };
    else throw new InvalidOption(`Expected ${OF_LAYER} but received ${word}.`);
  }
  return [...before, { match, spec }];
}

function activationsOfLayer(name: string): ActivationDtype {
  const found = ACTIVATIONS.find((known) => known === name);
  if (found === undefined) throw new InvalidOption(`Expected act- with one of ${ACTIVATIONS.join(', ')}.`);
  return found;
}

export function activationsOption(): Option {
  return new Option(
    '--activations <dtype>',
    'compressed-tensors: what engines quantize activations to at run time (W8A8: int8 with --dtype int8); float: not at all; …-static: with scales that are found by calibration',
  ).choices(ACTIVATIONS);
}

/** Adds these options to a command. */
export function withSpecOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '-f, --format <format>',
        `what to write: ${Object.keys(FORMATS).join(', ')}; gguf with its type, as gguf:q4_k_m; compressed-tensors with the layout of its codes, as compressed-tensors:int-quantized`,
      ).argParser(checkpointFormat),
    )
    .addOption(new Option('-d, --dtype <dtype>', 'code type of the weights').choices([...DTYPES]))
    .addOption(
      new Option(
        '--granularity <granularity>',
        'what shares a scale: for integers a group of inputs or an output channel; for FP8 all but a group',
      ).choices(['per-tensor', 'per-channel', 'per-group', 'per-block']),
    )
    .option('-g, --group-size <n>', 'inputs that share a scale (default: 128)', positiveInteger)
    .addOption(
      new Option('--scheme <scheme>', 'symmetric: zero point 0; asymmetric: a zero point for each scale').choices([
        'symmetric',
        'asymmetric',
      ]),
    )
    .option('--range <method>', 'how the range is chosen: minmax (default), mse, or percentile:<p>', rangeMethod)
    .option('--include <regex>', 'quantize only the weights whose name matches', regularExpression)
    .option('--exclude <regex>', 'keep the weights whose name matches in float', regularExpression)
    .option(
      '--layer <regex=spec>',
      'treat layers otherwise: float, or a dtype with :g<n>, :channel, :tensor, :block, :sym, :asym, :act-<activations>; may be given several times',
      layerOverride,
    )
    .addOption(activationsOption())
    .option(
      '--activation-range <method>',
      'static activations: how their range is chosen: minmax (default), mse, entropy, or percentile:<p>',
      activationRange,
    )
    .option('--nested', 'bitsandbytes: quantize the scales as well (double quantization)')
    .option('--requantize', 'quantize weights that are quantized already once more')
    .option('--imatrix <file>', "gguf: weigh errors by an importance matrix of llama.cpp's llama-imatrix")
    .addOption(
      new Option(
        '--method <method>',
        'how weights are rounded (default: "rtn"); all but rtn and hqq need a text, and so do static activations',
      ).choices(METHODS),
    )
    .option('--text <file...>', 'texts to calibrate with, for gptq, awq, awq-gptq, smoothquant, static activations')
    .option('--statistics <file>', 'what lowbit calibrate made of a text, instead of the text')
    .option('--windows <n>', 'windows of text (default: 128)', positiveInteger)
    .option('--window-length <n>', 'tokens of a window (default: 512, or the positions of the model)', positiveInteger)
    .option('--seed <n>', 'which windows are taken (default: 0)', nonNegativeInteger)
    .addOption(
      new Option(
        '--mode <mode>',
        'sequential: layers see inputs from quantized ones before them; parallel: from float ones',
      ).choices(['sequential', 'parallel']),
    )
    .option('--desc-act', 'gptq: columns with large inputs first, groups in that order (act-order with g_idx)')
    .option('--static-groups', 'gptq: act-order within groups as they are, without g_idx (the default)')
    .option('--damp-percent <x>', 'gptq: what is added to the diagonal (default: 0.01)', number)
    .option('--alpha <x>', 'smoothquant: exponent from 0 to 1 (default: searched for)', number)
    .option('--plan <file>', 'read these options from a file that --write-plan made; others on the line count more')
    .option('--write-plan <file>', 'write these options to a file, for repeatable runs');
}

/** A plan file: the options, with regular expressions as text. */
interface PlanFile extends MethodSpec {
  format?: CheckpointFormat;
  dtype?: CheckpointDtype;
  scheme?: 'symmetric' | 'asymmetric';
  granularity?: Granularity;
  groupSize?: number | null;
  layout?: CodeLayout;
  activations?: ActivationDtype;
  nested?: boolean;
  range?: RangeMethod;
  include?: string;
  exclude?: string;
  layers?: { match: string; spec: LayerSpec | 'float' }[];
  requantize?: boolean;
  imatrix?: string;
}

/** The options of a plan file. Whatever it says is checked as the options of a call are. */
async function readPlan(path: string): Promise<QuantizationSpec> {
  const invalid = (why: string, cause?: unknown) =>
    new CheckpointError('PLAN_INVALID', `${path} is no plan: ${why}.`, { path, cause });
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw invalid((cause as Error).message, cause);
  }
  const pattern = (name: string, source: unknown) => {
    if (typeof source === 'string') return new RegExp(source);
    throw invalidArgument(name, 'a regular expression, as a string,', source);
  };
  try {
    const plan = options<Record<keyof PlanFile, unknown>>('the plan', JSON.parse(text), new Set(SPEC_OPTIONS));
    const { include, exclude, layers, ...rest } = plan;
    if (layers !== undefined && !Array.isArray(layers)) throw invalidArgument('layers', 'an array', layers);
    const spec = {
      ...rest,
      ...(include === undefined ? {} : { include: pattern('include', include) }),
      ...(exclude === undefined ? {} : { exclude: pattern('exclude', exclude) }),
      ...(layers === undefined
        ? {}
        : {
            layers: layers.map((layer: unknown, i) => {
              const known = new Set(['match', 'spec']);
              const { match, spec } = options<{ match: unknown; spec: unknown }>(`layers[${i}]`, layer, known);
              return { match: pattern(`layers[${i}].match`, match), spec };
            }),
          }),
    };
    checkSpec(spec);
    return spec as QuantizationSpec;
  } catch (cause) {
    throw invalid((cause as Error).message.replace(/\.$/, ''), cause);
  }
}

async function writePlan(path: string, spec: QuantizationSpec): Promise<void> {
  const { include, exclude, layers, imatrix, ...rest } = spec;
  const { format, dtype, scheme, granularity, groupSize } = completed(spec);
  const plan: PlanFile = {
    ...rest,
    ...(format === 'gguf' ? { format, dtype } : { format, dtype, scheme }),
    ...(/^int\d$/.test(dtype) ? { granularity, ...(groupSize === null ? {} : { groupSize }) } : {}),
    ...(typeof imatrix === 'string' ? { imatrix } : {}),
    ...(include === undefined ? {} : { include: include.source }),
    ...(exclude === undefined ? {} : { exclude: exclude.source }),
    ...(layers === undefined ? {} : { layers: layers.map(({ match, spec }) => ({ match: match.source, spec })) }),
  };
  try {
    await writeFile(path, `${JSON.stringify(plan, null, 2)}\n`);
  } catch (cause) {
    throw outputError(path, cause);
  }
}

/** Those of the options given that have a value; undefined if none has. */
function given<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } | undefined {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return entries.length === 0 ? undefined : (Object.fromEntries(entries) as ReturnType<typeof given<T>>);
}

function methodOf(flags: SpecFlags): MethodSpec {
  const {
    activationRange,
    text,
    statistics,
    windows,
    windowLength,
    seed,
    mode,
    descAct,
    staticGroups,
    dampPercent,
    alpha,
  } = flags;
  return {
    ...given({
      method: flags.method,
      activationRange,
      calibration: given({ text, statistics, windows, windowLength, seed, mode }),
      gptq: given({
        descAct,
        staticGroups: staticGroups ?? (descAct === true ? false : undefined),
        dampPercent,
      }),
      smoothquant: given({ alpha }),
    }),
  } as MethodSpec;
}

/** Options of a method, with those of a plan file behind them; a text or statistics take the place of the plan's. */
function withMethod(base: MethodSpec, said: MethodSpec): MethodSpec {
  const { text: _, statistics: __, ...rest } = base.calibration ?? {};
  const replaces = said.calibration?.text !== undefined || said.calibration?.statistics !== undefined;
  return {
    ...said,
    ...(said.gptq === undefined ? {} : { gptq: { ...base.gptq, ...said.gptq } }),
    ...(said.smoothquant === undefined ? {} : { smoothquant: { ...base.smoothquant, ...said.smoothquant } }),
    ...(said.calibration === undefined
      ? {}
      : { calibration: { ...(replaces ? rest : base.calibration), ...said.calibration } }),
  };
}

/** What the options say, with those of a plan file behind them. */
export async function specOf(flags: SpecFlags, command: Command): Promise<QuantizationSpec> {
  if (flags.granularity !== undefined && flags.granularity !== 'per-group' && flags.groupSize !== undefined) {
    command.error('error: --group-size goes with --granularity per-group');
  }
  if (flags.dtype !== undefined && flags.format?.dtype !== undefined && flags.dtype !== flags.format.dtype) {
    command.error(`error: --dtype ${flags.dtype} contradicts --format ${flags.format.format}:${flags.format.dtype}`);
  }
  const dtype = flags.dtype ?? flags.format?.dtype;
  const { granularity, groupSize } = flags;
  const base: QuantizationSpec = flags.plan === undefined ? {} : await readPlan(flags.plan);
  const spec: QuantizationSpec = {
    ...base,
    ...(flags.format === undefined ? {} : { format: flags.format.format }),
    ...(dtype === undefined ? {} : { dtype }),
    ...(flags.scheme === undefined ? {} : { scheme: flags.scheme }),
    ...(granularity === undefined ? {} : { granularity }),
    ...(groupSize === undefined ? {} : { groupSize }),
    ...(flags.format?.layout === undefined ? {} : { layout: flags.format.layout }),
    ...(flags.activations === undefined ? {} : { activations: flags.activations }),
    ...(flags.nested === undefined ? {} : { nested: flags.nested }),
    ...(flags.range === undefined ? {} : { range: flags.range }),
    ...(flags.include === undefined ? {} : { include: flags.include }),
    ...(flags.exclude === undefined ? {} : { exclude: flags.exclude }),
    ...(flags.layer === undefined ? {} : { layers: flags.layer }),
    ...(flags.requantize === undefined ? {} : { requantize: flags.requantize }),
    ...(flags.imatrix === undefined ? {} : { imatrix: flags.imatrix }),
    ...withMethod(base, methodOf(flags)),
  };
  if (flags.writePlan !== undefined) await writePlan(flags.writePlan, spec);
  return spec;
}
