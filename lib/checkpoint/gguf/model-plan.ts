/**
 * What becomes of a Hugging Face model in a GGUF file: every tensor with its type, and all metadata.
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import { type Architecture, ggufNameOf, hfNameOf, isDerived, queryOrKey } from './architecture.js';
import type { GgufTensorSpec } from './gguf-writer.js';
import { type GgufValue, ggufValue } from './metadata.js';
import type { GgufDescription } from './metadata-of-model.js';
import { fileTypeOf, type GgufRecipe, QUANTIZATION_VERSION, typesByRecipe } from './recipes.js';

/** A weight of the model. */
export interface ModelWeight {
  /** Hugging Face's name. */
  readonly name: string;
  readonly shape: readonly number[];
}

/** A tensor of the file that is to be. */
export interface PlannedTensor extends GgufTensorSpec {
  /** The weight that it is made from, by Hugging Face's name; null if `data` has it. */
  readonly source: string | null;
  /** Rows (of a bias, elements) of each head that `pairRows` must bring into pairs; 1: they stay. */
  readonly headRows: number;
  /** The float32 numbers of a tensor that follows from config.json. */
  readonly data: Float32Array | null;
}

export interface GgufPlan {
  readonly metadata: Map<string, GgufValue>;
  /** In the order of the weights. */
  readonly tensors: PlannedTensor[];
}

export interface GgufPlanOptions {
  readonly recipe: GgufRecipe;
  /** `general.name`. */
  readonly name?: string;
  /** Whether rows are weighted by the importance of their inputs: some mixtures depend on it. */
  readonly hasImportance?: boolean;
  /** The model's folder, for messages. */
  readonly path: string;
}

/** What every layer has. */
const LAYER = ['attn_norm', 'attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_norm', 'ffn_gate', 'ffn_up', 'ffn_down'];

/** Every layer must be there, and no other one: llama.cpp would refuse the file. */
function checkLayers(tensors: readonly PlannedTensor[], layers: number, { name }: Architecture, path: string): void {
  const invalid = (message: string, tensor?: string): never => {
    throw new CheckpointError('CONFIG_INVALID', message, { path, tensor });
  };
  for (const { name: ggufName, source } of tensors) {
    const layer = /^blk\.(\d+)\./.exec(ggufName)?.[1];
    if (layer !== undefined && Number(layer) >= layers) {
      invalid(
        `config.json of ${path} says ${layers} layers, but there is ${JSON.stringify(source)}.`,
        source ?? undefined,
      );
    }
  }
  const names = new Set(tensors.map((tensor) => tensor.name));
  const kinds = name === 'qwen3' ? [...LAYER, 'attn_q_norm', 'attn_k_norm'] : LAYER;
  const need = (ggufName: string) => {
    if (names.has(ggufName)) return;
    const source = hfNameOf({ name, pairsRows: false }, ggufName) ?? ggufName;
    invalid(`${path} has ${layers} layers, says its config.json, but no weight ${JSON.stringify(source)}.`, source);
  };
  need('output_norm.weight');
  // One by one, up to the first that is missing: a config may say 2^31 layers.
  for (let i = 0; i < layers; i++) for (const kind of kinds) need(`blk.${i}.${kind}.weight`);
}

/**
 * Makes sure that the model has an embedding for as many tokens as its config.json says, before a vocabulary of that size is
 * made.
 *
 * @throws {@link CheckpointError} `CONFIG_INVALID`.
 */
export function checkVocabularySize(
  { architecture, vocabularySize }: GgufDescription,
  weights: readonly ModelWeight[],
  path: string,
): void {
  const source = hfNameOf(architecture, 'token_embd.weight') as string;
  const embedding = weights.find(({ name }) => name === source);
  if (embedding === undefined) {
    const message = `${path} has no weight that becomes token_embd.weight.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path });
  }
  const { shape } = embedding;
  if (shape.length === 2 && shape[0] === vocabularySize && shape[1] !== 0) return;
  const message = `Expected ${vocabularySize} rows, the vocab_size of config.json, in ${JSON.stringify(source)} of ${path} but its shape is [${shape.join(', ')}].`;
  throw new CheckpointError('CONFIG_INVALID', message, { path, tensor: source });
}

/**
 * Plans a GGUF file.
 *
 * @param description - From `describeModel`.
 * @param tokenizer - From `tokenizerMetadata`.
 * @param weights - All weights of the model, with their shapes.
 * @throws {@link CheckpointError} `GGUF_UNSUPPORTED_MODEL` for a weight that the architecture does not have, by name;
 *   `CONFIG_INVALID` for one whose shape is not what config.json says, or that is missing.
 */
export function planGguf(
  description: GgufDescription,
  tokenizer: ReadonlyMap<string, GgufValue>,
  weights: readonly ModelWeight[],
  { recipe, name, hasImportance = false, path }: GgufPlanOptions,
): GgufPlan {
  const { architecture, heads, headsKv, headDim, ropeFactors, isTied, vocabularySize } = description;
  const unexpected = (weight: ModelWeight, expected: string): never => {
    const message = `Expected ${expected} in ${JSON.stringify(weight.name)} of ${path} but its shape is [${weight.shape.join(', ')}].`;
    throw new CheckpointError('CONFIG_INVALID', message, { path, tensor: weight.name });
  };
  checkVocabularySize(description, weights, path);
  const tensors: PlannedTensor[] = [];
  for (const weight of weights) {
    if (isDerived(weight.name) || (isTied && weight.name === 'lm_head.weight')) continue;
    const ggufName = ggufNameOf(architecture, weight.name);
    if (ggufName === null) {
      const message = `${path} can't be written as GGUF: ${architecture.name} has no tensor for ${JSON.stringify(weight.name)}.`;
      throw new CheckpointError('GGUF_UNSUPPORTED_MODEL', message, { path, tensor: weight.name });
    }
    const place = queryOrKey(ggufName);
    const rows = (place?.part === 'q' ? heads : headsKv) * headDim;
    if (place !== null && weight.shape[0] !== rows) unexpected(weight, `${rows} rows, as config.json says,`);
    if (['token_embd.weight', 'output.weight'].includes(ggufName) && weight.shape[0] !== vocabularySize) {
      unexpected(weight, `${vocabularySize} rows, the vocab_size of config.json,`);
    }
    const headRows = place !== null && architecture.pairsRows ? headDim : 1;
    tensors.push({ name: ggufName, dtype: 'f32', shape: weight.shape, source: weight.name, headRows, data: null });
  }
  if (!isTied && !tensors.some((tensor) => tensor.name === 'output.weight')) {
    const hint = 'Its config.json does not say that it is tied to the embedding.';
    const message = `${path} has no weight that becomes output.weight. ${hint}`;
    throw new CheckpointError('CONFIG_INVALID', message, { path });
  }
  const layers = Number(description.metadata.get(`${architecture.name}.block_count`)?.value);
  checkLayers(tensors, layers, architecture, path);
  if (ropeFactors !== null) {
    const shape = [ropeFactors.length];
    tensors.push({ name: 'rope_freqs.weight', dtype: 'f32', shape, source: null, headRows: 1, data: ropeFactors });
  }
  const types = typesByRecipe(recipe, tensors, {
    architecture: architecture.name,
    layers,
    heads,
    headsKv,
    hasImportance,
  });
  return {
    metadata: new Map([
      ...description.metadata,
      ...(name === undefined ? [] : [['general.name', ggufValue.string(name)] as const]),
      ['general.file_type', ggufValue.uint32(fileTypeOf(recipe))],
      ['general.quantization_version', ggufValue.uint32(QUANTIZATION_VERSION)],
      ...tokenizer,
    ]),
    tensors: tensors.map((tensor) => ({ ...tensor, dtype: types.get(tensor.name) ?? 'f32' })),
  };
}
