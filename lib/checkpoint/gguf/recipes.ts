/**
 * Which type each tensor of a GGUF file gets: the mixtures of llama-quantize.
 *
 * Source: llama.cpp, `src/llama-quant.cpp` (August 2026): `tensor_allows_quantization`, `llama_tensor_get_type_impl`,
 * `tensor_type_fallback`; ids of file types from `include/llama.h`.
 *
 * @module
 */
import { tensorTypeNamed } from './tensor-types.js';

interface Mixture {
  /** `general.file_type`. */
  readonly fileType: number;
  /** The type of what no rule says otherwise of. */
  readonly base: string;
}

/** A mixture of types, by llama-quantize's name in lower case. */
export type GgufRecipe =
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'q4_0'
  | 'q4_1'
  | 'q5_0'
  | 'q5_1'
  | 'q8_0'
  | 'q2_k'
  | 'q2_k_s'
  | 'q3_k_s'
  | 'q3_k_m'
  | 'q3_k_l'
  | 'q4_k_s'
  | 'q4_k_m'
  | 'q5_k_s'
  | 'q5_k_m'
  | 'q6_k'
  | 'iq4_nl'
  | 'iq4_xs'
  | 'tq1_0'
  | 'tq2_0'
  | 'mxfp4'
  | 'nvfp4';

const MIXTURES: Readonly<Record<GgufRecipe, Mixture>> = {
  f32: { fileType: 0, base: 'f32' },
  f16: { fileType: 1, base: 'f16' },
  bf16: { fileType: 32, base: 'bf16' },
  q4_0: { fileType: 2, base: 'q4_0' },
  q4_1: { fileType: 3, base: 'q4_1' },
  q5_0: { fileType: 8, base: 'q5_0' },
  q5_1: { fileType: 9, base: 'q5_1' },
  q8_0: { fileType: 7, base: 'q8_0' },
  q2_k: { fileType: 10, base: 'q2_k' },
  q2_k_s: { fileType: 21, base: 'q2_k' },
  q3_k_s: { fileType: 11, base: 'q3_k' },
  q3_k_m: { fileType: 12, base: 'q3_k' },
  q3_k_l: { fileType: 13, base: 'q3_k' },
  q4_k_s: { fileType: 14, base: 'q4_k' },
  q4_k_m: { fileType: 15, base: 'q4_k' },
  q5_k_s: { fileType: 16, base: 'q5_k' },
  q5_k_m: { fileType: 17, base: 'q5_k' },
  q6_k: { fileType: 18, base: 'q6_k' },
  iq4_nl: { fileType: 25, base: 'iq4_nl' },
  iq4_xs: { fileType: 30, base: 'iq4_xs' },
  tq1_0: { fileType: 36, base: 'tq1_0' },
  tq2_0: { fileType: 37, base: 'tq2_0' },
  // llama-quantize has MXFP4 only for the experts of a mixture; here it is a type like the others.
  mxfp4: { fileType: 38, base: 'mxfp4' },
  nvfp4: { fileType: 39, base: 'nvfp4' },
};

/** Every recipe. */
export const GGUF_RECIPES = Object.keys(MIXTURES) as readonly GgufRecipe[];

/** `general.file_type` of a file that was made by a recipe. */
export function fileTypeOf(recipe: GgufRecipe): number {
  return MIXTURES[recipe].fileType;
}

/** `general.quantization_version`: of the block formats. */
export const QUANTIZATION_VERSION = 2;

/** What a recipe must know of a tensor. */
export interface RecipeTensor {
  /** GGUF's name. */
  readonly name: string;
  /** The outermost axis first. */
  readonly shape: readonly number[];
}

/** What a recipe must know of a model. */
export interface RecipeModel {
  readonly architecture: string;
  readonly layers: number;
  readonly heads: number;
  readonly headsKv: number;
  /** Whether rows are weighted by the importance of their inputs. */
  readonly hasImportance: boolean;
}

type Category =
  | 'output'
  | 'embedding'
  | 'qkv'
  | 'v'
  | 'k'
  | 'q'
  | 'attention-output'
  | 'up'
  | 'gate'
  | 'down'
  | 'other';

function categoryOf(name: string): Category {
  if (name === 'output.weight') return 'output';
  if (name === 'token_embd.weight' || name === 'per_layer_token_embd.weight') return 'embedding';
  if (name.includes('attn_qkv.weight')) return 'qkv';
  if (name.includes('attn_kv_b.weight') || name.includes('attn_v.weight')) return 'v';
  if (name.includes('attn_k.weight')) return 'k';
  if (name.includes('attn_q.weight')) return 'q';
  if (name.includes('attn_output.weight')) return 'attention-output';
  if (name.includes('ffn_up')) return 'up';
  if (name.includes('ffn_gate')) return 'gate';
  return name.includes('ffn_down') ? 'down' : 'other';
}

/** Parts of names of small or sensitive tensors that stay as they are. */
const KEPT = /_norm\.weight|ffn_gate_inp\.weight|ssm_conv1d|shortconv\.conv\.weight|attn_rel_b\.weight|\.position_embd/;

/** Whether a tensor is quantized at all. Vectors, norms, routers and embeddings of positions are not. */
export function isQuantizable({ name, shape }: RecipeTensor): boolean {
  // Axes of length 1 outside do not count, as in ggml.
  const axes =
    shape.length -
    Math.max(
      0,
      shape.findIndex((dim) => dim !== 1),
    );
  return (
    axes >= 2 &&
    name.endsWith('weight') &&
    !KEPT.test(name) &&
    name !== 'position_embd.weight' &&
    name !== 'token_types.weight'
  );
}

/** Whether layer `i` of `n` gets more bits: the first and last eighth, and every third between. */
export function usesMoreBits(i: number, n: number): boolean {
  const eighth = Math.floor(n / 8);
  return i < eighth || i >= Math.floor((7 * n) / 8) || (i - eighth) % 3 === 2;
}

/** Types with blocks that fit shorter rows. */
const FALLBACKS: Readonly<Record<string, string>> = {
  iq4_xs: 'iq4_nl',
  q2_k: 'q4_0',
  q3_k: 'q4_0',
  tq1_0: 'q4_0',
  tq2_0: 'q4_0',
  q4_k: 'q5_0',
  q5_k: 'q5_1',
  q6_k: 'q8_0',
};

/** The type, or another one where rows are no whole blocks of it; float16 where none fits. */
function fitting(type: string, rowLength: number): string {
  const fits = (name: string) => rowLength % (tensorTypeNamed(name)?.blockLength ?? 1) === 0;
  if (fits(type)) return type;
  const other = FALLBACKS[type];
  return other !== undefined && fits(other) ? other : 'f16';
}

function typeOfOutput(recipe: GgufRecipe, base: string, rowLength: number): string {
  if (rowLength % (tensorTypeNamed(base)?.blockLength ?? 1) !== 0 || base === 'q8_0') return 'q8_0';
  // A mixture of MXFP4 keeps what is no expert in eight bits.
  return recipe === 'mxfp4' ? 'q8_0' : 'q6_k';
}

function typeOfValue(recipe: GgufRecipe, base: string, model: RecipeModel, i: number, n: number): string {
  const grouped = model.headsKv > 0 && Math.floor(model.heads / model.headsKv) >= 4;
  let type = base;
  if (recipe === 'q2_k') type = grouped ? 'q4_k' : 'q3_k';
  else if (recipe === 'q2_k_s' && grouped) type = 'q4_k';
  else if (recipe === 'q3_k_m') type = i < 2 ? 'q5_k' : 'q4_k';
  else if (recipe === 'q3_k_l') type = 'q5_k';
  else if ((recipe === 'iq4_nl' || recipe === 'iq4_xs') && grouped) type = 'q5_k';
  else if ((recipe === 'q4_k_m' || recipe === 'q5_k_m') && usesMoreBits(i, n)) type = 'q6_k';
  else if (recipe === 'q4_k_s' && i < 4) type = 'q5_k';
  // Llama 2 70B and its like, whose values are an eighth of the queries.
  const is70B = model.architecture === 'llama' && model.layers === 80 && model.heads !== model.headsKv;
  return is70B && (type === 'q3_k' || type === 'q4_k') ? 'q5_k' : type;
}

function typeOfDown(recipe: GgufRecipe, base: string, model: RecipeModel, i: number): string {
  const n = model.layers;
  const isEarly = i < Math.floor(n / 8);
  switch (recipe) {
    case 'q2_k':
      return 'q3_k';
    case 'q2_k_s':
      return isEarly ? 'q4_k' : base;
    case 'q3_k_m':
      return i < Math.floor(n / 16) ? 'q5_k' : 'q4_k';
    case 'q3_k_l':
      return 'q5_k';
    case 'q4_k_m':
    case 'q5_k_m':
      return usesMoreBits(i, n) ? 'q6_k' : base;
    case 'iq4_nl':
    case 'iq4_xs':
      return isEarly && !model.hasImportance ? 'q5_k' : base;
    case 'q4_k_s':
      return isEarly ? 'q5_k' : base;
    case 'q4_0':
      return isEarly && model.hasImportance ? 'q4_1' : base;
    case 'q5_0':
      return isEarly && model.hasImportance ? 'q5_1' : base;
    default:
      return base;
  }
}

const ATTENTION_OUTPUT: Readonly<Partial<Record<GgufRecipe, string>>> = {
  q2_k: 'q3_k',
  q3_k_m: 'q4_k',
  q3_k_l: 'q5_k',
};

/** Layers in order, then names: the order in which llama-quantize counts tensors. */
function byLayerThenName(a: string, b: string): number {
  const layer = (name: string) => Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1);
  return layer(a) - layer(b) || (a < b ? -1 : a > b ? 1 : 0);
}

/**
 * The type of every tensor that is to be quantized, by name; what is missing stays as it is (vectors and norms in float32).
 *
 * @param tensors - All tensors of the file, in any order.
 */
export function typesByRecipe(
  recipe: GgufRecipe,
  tensors: readonly RecipeTensor[],
  model: RecipeModel,
): Map<string, string> {
  const { base } = MIXTURES[recipe];
  const quantizes = (tensorTypeNamed(base)?.blockLength ?? 1) > 1;
  const isTied = !tensors.some(({ name }) => name === 'output.weight');
  const values = tensors.filter(({ name }) => ['v', 'qkv'].includes(categoryOf(name))).length;
  const types = new Map<string, string>();
  const seen = { value: 0, down: 0 };
  for (const tensor of [...tensors].sort((a, b) => byLayerThenName(a.name, b.name))) {
    if (!isQuantizable(tensor)) continue;
    const { name, shape } = tensor;
    const rowLength = shape.at(-1) ?? 1;
    const category = categoryOf(name);
    let type: string = base;
    if (quantizes) {
      if (category === 'output' || (isTied && category === 'embedding')) {
        type = typeOfOutput(recipe, base, rowLength);
      } else if (category === 'embedding') {
        if (recipe === 'tq1_0' || recipe === 'tq2_0') type = 'q4_k';
      } else if (category === 'v' || category === 'qkv') {
        type = typeOfValue(recipe, base, model, seen.value++, values);
      } else if (category === 'down') {
        type = typeOfDown(recipe, base, model, seen.down++);
      } else if (category === 'attention-output') {
        type = ATTENTION_OUTPUT[recipe] ?? base;
      }
      type = fitting(type, rowLength);
    }
    types.set(name, type);
  }
  return types;
}
