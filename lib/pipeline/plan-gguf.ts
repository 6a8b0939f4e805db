/**
 * What a model becomes as a GGUF file.
 *
 * @module
 */
import { basename, resolve } from 'node:path';
import type { Checkpoint, Json } from '../checkpoint/checkpoint.js';
import { architectureNamed, queryOrKey } from '../checkpoint/gguf/architecture.js';
import { ggufFileBytes, writeGguf } from '../checkpoint/gguf/gguf-writer.js';
import { type GgufMetadata, type GgufValue, ggufValue, integerOf, stringOf } from '../checkpoint/gguf/metadata.js';
import { describeModel } from '../checkpoint/gguf/metadata-of-model.js';
import { checkVocabularySize, type PlannedTensor, planGguf } from '../checkpoint/gguf/model-plan.js';
import { fileTypeOf, type GgufRecipe, QUANTIZATION_VERSION, typesByRecipe } from '../checkpoint/gguf/recipes.js';
import { tokenizerMetadata } from '../checkpoint/gguf/tokenizer.js';
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import { CheckpointError } from '../errors.js';
import type { GgufType } from '../tensor/blocks.js';
import type { SizedFile } from './files.js';
import { type GgufPlace, ggufChangedTask, ggufMethodTask, ggufTask } from './gguf-task.js';
import { checkNeeded, Importance } from './importance.js';
import { hashOf } from './journal.js';
import type { MethodWork } from './method-work.js';
import { type Plan, refuse } from './plan.js';
import { completed, type QuantizationSpec } from './spec.js';
import type { Task } from './task.js';

/** Numbers that follow from the config, as a weight. */
function constantWeight(name: string, data: Float32Array): Weight {
  return {
    name,
    shape: [data.length],
    rows: 1,
    columns: data.length,
    dtype: 'float32',
    encoding: { format: 'float', dtype: 'float32', groupSize: null, traits: [] },
    parts: [],
    rowStep: 1,
    read: async () => ({ kind: 'float', dtype: 'float32', data }),
  };
}

/** A tensor of the file, and what it is made from. */
interface Planned {
  readonly weight: Weight;
  readonly place: GgufPlace;
}

interface Content {
  readonly metadata: GgufMetadata;
  readonly tensors: readonly Planned[];
}

async function contentOfModel(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  recipe: GgufRecipe,
  hasImportance = false,
): Promise<Content> {
  const { path, folder, config } = checkpoint;
  if (folder === null || config === null) {
    const message = `A GGUF file needs config.json and a tokenizer. Expected ${path} to be the folder of a Hugging Face model.`;
    throw new CheckpointError('GGUF_UNSUPPORTED_MODEL', message, { path });
  }
  const description = describeModel(config, path);
  checkVocabularySize(description, weights, path);
  const tokenizer = await tokenizerMetadata(folder, description.vocabularySize, config);
  const { metadata, tensors } = planGguf(description, tokenizer, weights, {
    recipe,
    name: basename(resolve(path)),
    hasImportance,
    path,
  });
  const byName = new Map(weights.map((weight) => [weight.name, weight]));
  const planned = tensors.map(({ source, data, name, dtype, headRows }: PlannedTensor): Planned => {
    const weight = data === null ? byName.get(source as string) : constantWeight(name, data);
    return { weight: weight as Weight, place: { name, type: dtype as GgufPlace['type'], headRows } };
  });
  return { metadata, tensors: planned };
}

/** A GGUF file in other types: its metadata stay. */
function contentOfGguf(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  recipe: GgufRecipe,
  hasImportance = false,
): Content {
  const { path } = checkpoint;
  const metadata = checkpoint.gguf as GgufMetadata;
  const architecture = stringOf(metadata, 'general.architecture', path) ?? '';
  const isPaired = architectureNamed(architecture)?.pairsRows === true;
  const number = (key: string) => integerOf(metadata, `${architecture}.${key}`, path);
  const heads = number('attention.head_count') ?? 1;
  const named = weights.map((weight) => ({ weight, name: weight.parts[0]?.name ?? weight.name, shape: weight.shape }));
  const types = typesByRecipe(recipe, named, {
    architecture,
    layers: number('block_count') ?? 0,
    heads,
    headsKv: number('attention.head_count_kv') ?? heads,
    hasImportance,
  });
  const tensors = named.map(({ weight, name }): Planned => {
    const own = weight.parts[0]?.dtype as GgufPlace['type'];
    // The rows of a vector in pairs are its elements.
    const headRows = isPaired && queryOrKey(name) !== null ? headRowsOf(weight, name, metadata, architecture, path) : 1;
    return { weight, place: { name, type: (types.get(name) as GgufPlace['type']) ?? own, headRows } };
  });
  const entries = new Map<string, GgufValue>(metadata);
  entries.set('general.file_type', ggufValue.uint32(fileTypeOf(recipe)));
  entries.set('general.quantization_version', ggufValue.uint32(QUANTIZATION_VERSION));
  for (const key of ['split.no', 'split.count', 'split.tensors.count']) entries.delete(key);
  return { metadata: entries, tensors };
}

function headRowsOf(weight: Weight, name: string, metadata: GgufMetadata, architecture: string, path: string): number {
  const { part } = queryOrKey(name) as { part: 'q' | 'k' };
  const heads = integerOf(metadata, `${architecture}.attention.head_count`, path) ?? 1;
  const count = part === 'q' ? heads : (integerOf(metadata, `${architecture}.attention.head_count_kv`, path) ?? heads);
  return (weight.shape[0] ?? 0) / count;
}

const isBlock = (type: string) => !/^(f32|f16|bf16)$/.test(type);

/** Changes of single layers: another type, or none of the blocks. */
function overridden({ weight, place }: Planned, spec: QuantizationSpec): Planned {
  const { name } = weight;
  const float = weight.dtype === 'float32' ? 'f32' : weight.dtype === 'float16' ? 'f16' : 'bf16';
  const isLeftOut = spec.exclude?.test(name) || (spec.include !== undefined && !spec.include.test(name));
  if (isBlock(place.type) && isLeftOut) return { weight, place: { ...place, type: float } };
  const override = spec.layers?.filter(({ match }) => match.test(name)).at(-1);
  if (override === undefined || !isBlock(place.type)) return { weight, place };
  const type = override.spec === 'float' ? float : (completed({ ...override.spec, format: 'gguf' }).dtype as string);
  return { weight, place: { ...place, type: type.replace(/_[sml]$/, '') as GgufPlace['type'] } };
}

/**
 * Decides what becomes of each weight in a GGUF file: llama-quantize's mixtures.
 *
 * @throws {@link CheckpointError} if llama.cpp has no such architecture, or the model can't be expressed in it; the message
 *   names what.
 */
export async function planGgufQuantization(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  spec: QuantizationSpec,
  work: MethodWork | null = null,
): Promise<Plan> {
  const { path } = checkpoint;
  const recipe = completed({ ...spec, format: 'gguf' }).dtype as GgufRecipe;
  const quantized = weights.find(({ encoding }) => encoding.format !== 'float' && encoding.format !== 'other');
  if (quantized !== undefined && spec.requantize !== true) {
    const message =
      `${path} is quantized already: ${quantized.name} is ${quantized.encoding.dtype}. Start from the float model, or pass ` +
      'requantize (--requantize) to quantize what is left of it.';
    throw new CheckpointError('ALREADY_QUANTIZED', message, { path, tensor: quantized.name });
  }
  const matrix = await Importance.from(spec.imatrix);
  const content =
    checkpoint.container === 'gguf'
      ? contentOfGguf(checkpoint, weights, recipe, matrix !== null)
      : await contentOfModel(checkpoint, weights, recipe, matrix !== null);
  const tensors = content.tensors.map((planned) => overridden(planned, spec));
  const places = tensors.flatMap(({ weight: { columns, encoding }, place: { name, type } }) =>
    isBlock(type) && encoding.dtype !== type ? [{ name, type, columns }] : [],
  );
  const importance = matrix?.of(places, path) ?? new Map<string, Float32Array>();
  checkNeeded(recipe, places, importance, path);
  const made = work === null ? new Set<Weight>() : addToWork(work, tensors, importance, spec, path);
  const tasks = tensors.map(({ weight, place }) => {
    const own = importance.get(place.name);
    if (work !== null && made.has(weight)) return ggufMethodTask(weight, place, work.parts);
    if (work?.mayChange(weight.name) === true && !isBlock(place.type))
      return ggufChangedTask(weight, place, work.parts);
    return ggufTask(weight, place, own === undefined ? {} : { importance: own });
  });
  const metadata = new Map([...content.metadata, ...(matrix?.metadata ?? [])]);
  const plan = planOfTasks(tasks, metadata, recipe, checkpoint.config);
  const decisions = {
    ...plan.decisions,
    ...(matrix === null ? {} : { imatrix: matrix.hash }),
    ...(work === null ? {} : { method: work.decisions }),
  };
  return { ...plan, decisions, method: work };
}

/** Tells a method which blocks it is to make; the weights of which it will. */
function addToWork(
  work: MethodWork,
  tensors: readonly Planned[],
  importance: ReadonlyMap<string, Float32Array>,
  spec: QuantizationSpec,
  path: string,
): Set<Weight> {
  const own = tensors.filter(({ weight, place }) => work.quantizes(weight.name) && isBlock(place.type));
  const refusals = own.flatMap(({ weight, place: { name, type } }) => {
    const reason = work.addBlocks(weight.name, type as GgufType, importance.get(name));
    return reason === null ? [] : [{ weight, reason }];
  });
  const remedy =
    'Choose q4_0, q5_0 or q8_0 for them (--layer <regex>=<type>), leave them in float (--exclude <regex>), or choose another method.';
  refuse(refusals, own.length, path, remedy);
  if (own.length > 0) return new Set(own.map(({ weight }) => weight));
  const message = `${path} has no layers of a block to quantize by ${spec.method}: as chosen, all of them stay in float.`;
  throw new CheckpointError('NOTHING_TO_QUANTIZE', message, { path });
}

/**
 * A GGUF file with the very values of a quantized model: quantized weights in the block types that hold them, all others
 * as they are.
 *
 * @param types - Block types of the quantized weights, by name.
 */
export async function planGgufExactly(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  types: ReadonlyMap<string, GgufType>,
): Promise<Plan> {
  const counts = new Map<GgufType, number>();
  for (const type of types.values()) counts.set(type, (counts.get(type) ?? 0) + 1);
  const [[most] = ['f16' as const]] = [...counts].sort(([, a], [, b]) => b - a);
  const recipe = most as GgufRecipe;
  const content =
    checkpoint.container === 'gguf'
      ? contentOfGguf(checkpoint, weights, recipe)
      : await contentOfModel(checkpoint, weights, recipe);
  const tasks = content.tensors.map(({ weight, place }) => {
    const own =
      weight.dtype === 'float32' || weight.shape.length < 2 ? 'f32' : weight.dtype === 'float16' ? 'f16' : 'bf16';
    const type = types.get(weight.name);
    return ggufTask(weight, { ...place, type: type ?? own }, { exact: type !== undefined });
  });
  return planOfTasks(tasks, content.metadata, recipe, checkpoint.config);
}

function planOfTasks(tasks: readonly Task[], metadata: GgufMetadata, recipe: GgufRecipe, config: Json | null): Plan {
  const specs = tasks.flatMap((task) => task.outputs);
  const file: SizedFile = {
    name: 'model.gguf',
    tasks,
    bytes: ggufFileBytes(specs, metadata),
    open: (file) => writeGguf(file, specs, metadata),
  };
  return {
    files: [file],
    isSingleFile: true,
    texts: new Map(),
    decisions: {
      config: hashOf(config), // the order of rows and rotary factors follow from it
      recipe,
      tasks: tasks.map(({ weight, kind, as }) => [weight.name, kind, as]),
      metadata: [...metadata.keys()],
    },
    inputBytes: tasks.reduce((sum, { weight }) => sum + storedBytes(weight), 0),
    outputBytes: specs.reduce((sum, { bytes }) => sum + bytes, 0),
    fileBytes: file.bytes,
  };
}
