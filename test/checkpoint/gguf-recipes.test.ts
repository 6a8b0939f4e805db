import { describe, expect, it } from 'vitest';
import {
  fileTypeOf,
  GGUF_RECIPES,
  type GgufRecipe,
  isQuantizable,
  type RecipeModel,
  type RecipeTensor,
  typesByRecipe,
  usesMoreBits,
} from '../../lib/checkpoint/gguf/recipes.js';
import { readJson } from '../support/vectors.js';

interface Case {
  layers: number;
  heads: number;
  headsKv: number;
  columns: number;
  tied: boolean;
  imatrix?: boolean;
  recipe: GgufRecipe;
  fileType: number;
  /** Kind of tensor → its type in all layers, or in each. */
  types: Record<string, string>;
}
const cases = readJson<Case[]>('gguf-files', 'recipes.json');

/** The tensors of a Llama, square but for key and value. */
function llama(layers: number, columns = 256, tied = false): RecipeTensor[] {
  const shape = [columns, columns];
  const kinds = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'];
  return [
    ...(tied ? [] : [{ name: 'output.weight', shape }]),
    { name: 'token_embd.weight', shape },
    { name: 'output_norm.weight', shape: [columns] },
    ...Array.from({ length: layers }, (_, i) => [
      { name: `blk.${i}.attn_norm.weight`, shape: [columns] },
      ...kinds.map((kind) => ({ name: `blk.${i}.${kind}.weight`, shape })),
    ]).flat(),
  ];
}

const model = (layers: number, more: Partial<RecipeModel> = {}): RecipeModel => ({
  architecture: 'llama',
  layers,
  heads: 32,
  headsKv: 32,
  hasImportance: false,
  ...more,
});

/** Layers in which a kind of tensor has a type. */
const layersWith = (types: Map<string, string>, kind: string, type: string) =>
  [...types].flatMap(([name, of]) => {
    const match = /^blk\.(\d+)\.(.+)\.weight$/.exec(name);
    return match !== null && match[2] === kind && of === type ? [Number(match[1])] : [];
  });

describe('types are those that llama-quantize chose', () => {
  const byModel = new Map<string, Case[]>();
  for (const one of cases) {
    const { layers, heads, headsKv, columns, tied, imatrix } = one;
    const name = `${layers} layers, ${heads}/${headsKv} heads, ${columns} columns${tied ? ', tied' : ''}${imatrix ? ', importance' : ''}`;
    byModel.set(name, [...(byModel.get(name) ?? []), one]);
  }

  it('has all recipes but those that the reference did not run', () => {
    expect(new Set(cases.map(({ recipe }) => recipe))).toEqual(
      new Set(GGUF_RECIPES.filter((recipe) => recipe !== 'mxfp4' && recipe !== 'nvfp4')),
    );
    expect(byModel.size).toBe(11);
  });

  it.each([...byModel])('%s', (_, recipes) => {
    for (const { layers, heads, headsKv, columns, tied, imatrix, recipe, fileType, types } of recipes) {
      expect(fileTypeOf(recipe)).toBe(fileType);
      // In another order than the file's: it must not matter.
      const tensors = llama(layers, columns, tied).reverse();
      const got = typesByRecipe(recipe, tensors, model(layers, { heads, headsKv, hasImportance: imatrix === true }));
      const kinds = new Map<string, string[]>();
      for (const { name, shape } of llama(layers, columns, tied)) {
        if (shape.length < 2) continue;
        const kind = name.replace(/^blk\.\d+\./, '');
        kinds.set(kind, [...(kinds.get(kind) ?? []), got.get(name) ?? 'f32']);
      }
      const compact = [...kinds].map(([kind, all]) => [kind, new Set(all).size === 1 ? all[0] : all.join(' ')]);
      expect({ recipe, ...Object.fromEntries(compact) }).toEqual({ recipe, ...types });
    }
  });
});

describe('rules in words', () => {
  it('more bits: the first and the last eighth, and every third layer between', () => {
    const layers = Array.from({ length: 32 }, (_, i) => i).filter((i) => usesMoreBits(i, 32));
    expect(layers).toEqual([0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
  });

  it('Q4_K_M of 32 layers', () => {
    const types = typesByRecipe('q4_k_m', llama(32), model(32));
    const more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
    expect(layersWith(types, 'attn_v', 'q6_k')).toEqual(more);
    expect(layersWith(types, 'ffn_down', 'q6_k')).toEqual(more);
    expect(layersWith(types, 'attn_q', 'q4_k').length).toBe(32);
    expect(types.get('output.weight')).toBe('q6_k');
    expect(types.get('token_embd.weight')).toBe('q4_k');
    expect(types.has('output_norm.weight')).toBe(false);
  });

  it('Q4_K_S of 32 layers: values of four layers, the first eighth of ffn_down', () => {
    const types = typesByRecipe('q4_k_s', llama(32), model(32));
    expect(layersWith(types, 'attn_v', 'q5_k')).toEqual([0, 1, 2, 3]);
    expect(layersWith(types, 'ffn_down', 'q5_k')).toEqual([0, 1, 2, 3]);
  });

  it('MXFP4 and NVFP4 are types like the others, the output has eight and six bits', () => {
    const mxfp4 = typesByRecipe('mxfp4', llama(2), model(2));
    expect(layersWith(mxfp4, 'ffn_up', 'mxfp4')).toEqual([0, 1]);
    expect(mxfp4.get('output.weight')).toBe('q8_0');
    const nvfp4 = typesByRecipe('nvfp4', llama(2), model(2));
    expect(layersWith(nvfp4, 'ffn_up', 'nvfp4')).toEqual([0, 1]);
    expect(nvfp4.get('output.weight')).toBe('q6_k');
    expect(typesByRecipe('nvfp4', llama(1, 96), model(1)).get('blk.0.ffn_up.weight')).toBe('f16');
  });

  it('what is not quantized', () => {
    const is = (name: string, ...shape: number[]) => isQuantizable({ name, shape });
    expect(is('blk.0.ffn_up.weight', 4, 4)).toBe(true);
    expect(is('blk.0.ffn_up.weight', 4)).toBe(false);
    expect(is('blk.0.ffn_up.weight', 1, 4)).toBe(false);
    expect(is('blk.0.ffn_up_exps.weight', 2, 4, 4)).toBe(true);
    expect(is('blk.0.attn_norm.weight', 4, 4)).toBe(false);
    expect(is('blk.0.ffn_gate_inp.weight', 4, 4)).toBe(false);
    expect(is('blk.0.ffn_up.bias', 4, 4)).toBe(false);
    expect(is('position_embd.weight', 4, 4)).toBe(false);
  });
});
