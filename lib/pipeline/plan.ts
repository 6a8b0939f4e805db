/**
 * What will become of each weight of a checkpoint: decided, checked and sized before any work.
 *
 * @module
 */
import type { Checkpoint, Json } from '../checkpoint/checkpoint.js';
import type { LayoutWriter } from '../checkpoint/layouts/layout.js';
import type { Weight } from '../checkpoint/weight.js';
import { CheckpointError } from '../errors.js';
import { indexOf, type SizedFile, safetensorsFiles } from './files.js';
import type { MethodWork } from './method-work.js';
import { isChosen, isHead, isLinear, layerOf } from './selection.js';
import { completed, type LayerSpec, otherConfigs, type QuantizationSpec, writerOf } from './spec.js';
import { changedTask, keepTask, methodTask, outlineOf, quantizeTask, type Task } from './task.js';

/** Everything that will happen. */
export interface Plan {
  readonly files: readonly SizedFile[];
  /** Whether the one file is the result, rather than a folder. */
  readonly isSingleFile: boolean;
  /** Other files of the result, by name. */
  readonly texts: ReadonlyMap<string, string>;
  /** What decides the bytes of the result, besides those of the input. */
  readonly decisions: Json;
  /** Bytes of all tensors before and after. */
  readonly inputBytes: number;
  readonly outputBytes: number;
  /** Bytes that the files of the result take. */
  readonly fileBytes: number;
  /** What the result lacks, in sentences. */
  readonly warnings?: readonly string[];
  /** What has to be done before any weight is written; null for round-to-nearest. */
  readonly method?: MethodWork | null;
}

export function tasksOf(plan: Plan): Task[] {
  return plan.files.flatMap((file) => file.tasks);
}

/** The layers that share a setting, and how their weights are written. */
export interface Group {
  readonly spec: LayerSpec;
  readonly writer: LayoutWriter;
  readonly layers: string[];
}

/** One error for everything that can't be done. */
export function refuse(
  refusals: readonly { weight: Weight; reason: string }[],
  chosen: number,
  path: string,
  remedy: string,
): void {
  if (refusals.length === 0) return;
  const byReason = new Map<string, Weight[]>();
  for (const { weight, reason } of refusals) {
    const alike = byReason.get(reason);
    if (alike === undefined) byReason.set(reason, [weight]);
    else alike.push(weight);
  }
  const list = [...byReason]
    .map(([reason, weights]) => {
      const names = weights.map(({ name, shape }) => `  ${name} [${shape.join(', ')}]`).join('\n');
      return `${reason}:\n${names}`;
    })
    .join('\n');
  const message = `${refusals.length} of ${chosen} weights can't be quantized as asked.\n${list}\n${remedy}`;
  throw new CheckpointError('UNSUPPORTED_PLAN', message, { path, tensor: refusals[0]?.weight.name });
}

/** What applies to a layer: the last override whose pattern matches, else the default. */
function specOf(weight: Weight, spec: QuantizationSpec): LayerSpec | 'float' {
  const override = spec.layers?.filter(({ match }) => match.test(weight.name)).at(-1);
  return override === undefined ? spec : override.spec;
}

/** A config with several groups of layers: the first is for all linear layers, the others name theirs. */
export function configOf(groups: readonly Group[], ignored: readonly string[], path: string): Json {
  const [first, ...others] = groups;
  if (first === undefined) return {};
  const config = first.writer.config(ignored);
  if (others.length === 0) return config;
  const configGroups = config['config_groups'] as Record<string, Json> | undefined;
  if (configGroups === undefined) {
    const message =
      `${first.writer.format} has one setting for all quantized layers, but --layer asks for ` +
      `${groups.length}. Use compressed-tensors or GGUF, or --layer <regex>=float.`;
    throw new CheckpointError('UNSUPPORTED_PLAN', message, { path });
  }
  const merged: Record<string, Json> = {};
  for (const { writer, layers } of groups) {
    const { format, config_groups: own } = writer.config([]);
    const [group] = Object.values(own as Record<string, Json>);
    const isFirst = writer === first.writer;
    merged[`group_${Object.keys(merged).length}`] = { ...group, ...(isFirst ? {} : { targets: layers }), format };
  }
  const isMixed = new Set(groups.map(({ writer }) => writer.config([])['format'])).size > 1;
  return { ...config, ...(isMixed ? { format: 'mixed-precision' } : {}), config_groups: merged };
}

/**
 * Decides what becomes of each weight.
 *
 * @param checkpoint - With the config of a Hugging Face model.
 * @throws {@link CheckpointError} if the checkpoint is quantized already, no layer is chosen, or a chosen one can't be
 *   quantized this way; the message names every such tensor and what to do.
 */
export function planQuantization(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  spec: QuantizationSpec,
  work: MethodWork | null = null,
): Plan {
  const { path } = checkpoint;
  const chosen = weights.filter((weight) => isChosen(weight, spec) && specOf(weight, spec) !== 'float');
  const method = checkpoint.config?.['quantization_config'];
  const quantized = weights.find(({ encoding }) => encoding.format !== 'float' && encoding.format !== 'other');
  if ((quantized !== undefined || method !== undefined) && spec.requantize !== true) {
    const found =
      quantized === undefined
        ? 'config.json says so'
        : `${quantized.name} is ${quantized.encoding.dtype} (${quantized.encoding.format})`;
    const message =
      `${path} is quantized already: ${found}. Start from the float checkpoint, change the ` +
      'format with "lowbit convert", or pass requantize (--requantize) to quantize what is left of it.';
    throw new CheckpointError('ALREADY_QUANTIZED', message, { path, tensor: quantized?.name });
  }
  if (chosen.length === 0) {
    const matrices = weights.filter(({ shape, encoding }) => shape.length === 2 && encoding.format !== 'other');
    const names = matrices.slice(0, 5).map(({ name }) => name);
    const message =
      `${path} has no linear layers to quantize as chosen. Its matrices: ` +
      `${names.join(', ') || 'none in float32, float16 or bfloat16'}.`;
    throw new CheckpointError('NOTHING_TO_QUANTIZE', message, { path });
  }
  const groups = new Map<string, Group>();
  const writers = new Map<Weight, LayoutWriter>();
  const refusals: { weight: Weight; reason: string }[] = [];
  const hasHead = chosen.some(isHead);
  for (const weight of chosen) {
    const layerSpec: LayerSpec = {
      ...(specOf(weight, spec) as LayerSpec),
      format: spec.format ?? 'compressed-tensors',
    };
    // Zero points are what HQQ searches for.
    const isInteger = /^int\d$/.test(completed(layerSpec).dtype);
    const { writer, key } = writerOf(
      spec.method === 'hqq' && isInteger ? { scheme: 'asymmetric', ...layerSpec } : layerSpec,
      weight.dtype ?? 'float32',
      { hasHead, ordered: work?.orders ?? false },
    );
    const group = groups.get(key) ?? { spec: layerSpec, writer, layers: [] };
    groups.set(key, group);
    group.layers.push(layerOf(weight.name));
    const reason = writer.refusal(outlineOf(weight)) ?? work?.misfit(weight, writer) ?? null;
    if (reason !== null) refusals.push({ weight, reason });
    else {
      writers.set(weight, writer);
      if (work?.quantizes(weight.name)) work.add(weight.name, writer);
    }
  }
  const hasOneSetting = spec.format !== undefined && spec.format !== 'compressed-tensors';
  const remedy = hasOneSetting
    ? 'Choose other settings for all, or leave these in float (--exclude <regex>).'
    : 'Choose other settings for them (--layer <regex>=<spec>), or leave them in float (--exclude <regex>).';
  refuse(refusals, chosen.length, path, remedy);
  if (work !== null && !chosen.some(({ name }) => work.quantizes(name))) {
    const message = `${path} has no chosen layers in the blocks of its decoder, as ${work.name} needs them, but ${chosen[0]?.name}.`;
    throw new CheckpointError('UNSUPPORTED_PLAN', message, { path, tensor: chosen[0]?.name });
  }
  const tasks = weights.map((weight): Task => {
    const writer = writers.get(weight);
    if (writer === undefined) {
      return work?.mayChange(weight.name) ? changedTask(weight, work.parts) : keepTask(weight);
    }
    if (work?.quantizes(weight.name)) return methodTask(weight, writer, work.parts);
    return quantizeTask(weight, writer, spec.range ?? 'minmax');
  });
  const files = safetensorsFiles(checkpoint, tasks);
  const ignored = weights.filter((weight) => isLinear(weight) && !writers.has(weight)).map(({ name }) => layerOf(name));
  const quantizationConfig = configOf([...groups.values()], ignored, path);
  const texts = new Map(
    [...otherConfigs(spec, quantizationConfig, ignored)].map(([name, json]) => [
      name,
      `${JSON.stringify(json, null, 2)}\n`,
    ]),
  );
  const plan = planOf(files, { ...checkpoint.config, quantization_config: quantizationConfig }, texts, {
    tasks: tasks.map(({ weight, kind, as }) => [weight.name, kind, as]),
    range: spec.range ?? 'minmax',
    ...(work === null ? {} : { method: work.decisions }),
  });
  const shortened = [...writers].filter(
    ([{ columns }, { format, recipe }]) => format === 'gptq' && columns % (recipe.groupSize ?? 1) !== 0,
  );
  const warnings =
    shortened.length === 0
      ? []
      : [
          `The last groups of ${shortened.length} layers are shorter than the others, which ExLlama and Marlin, and so vLLM, do not ` +
            'take: choose a group size that divides their inputs.',
        ];
  return { ...plan, method: work, warnings };
}

/** A plan of safetensors files. */
export function planOf(
  files: readonly SizedFile[],
  config: Json,
  texts: ReadonlyMap<string, string>,
  decisions: Json,
): Plan {
  const all = new Map(texts);
  if (files.length > 1) all.set('model.safetensors.index.json', indexOf(files));
  all.set('config.json', `${JSON.stringify(config, null, 2)}\n`);
  const tasks = files.flatMap((file) => file.tasks);
  return {
    files,
    isSingleFile: false,
    texts: all,
    decisions: { ...decisions, texts: [...all] },
    inputBytes: tasks.reduce((sum, { weight }) => sum + weight.parts.reduce((bytes, part) => bytes + part.bytes, 0), 0),
    outputBytes: tasks.reduce(
      (sum, { outputs }) => sum + outputs.reduce((bytes, output) => bytes + output.bytes, 0),
      0,
    ),
    fileBytes: files.reduce((sum, file) => sum + file.bytes, 0),
  };
}

/** A plan whose result has more files, and less than it should have. */
export function withTexts(plan: Plan, texts: ReadonlyMap<string, string>, warnings: readonly string[]): Plan {
  return { ...plan, texts: new Map([...texts, ...plan.texts]), warnings: [...(plan.warnings ?? []), ...warnings] };
}
