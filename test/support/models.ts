/** Tiny decoders with reference results: test/vectors/models. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { readSafetensors, safetensors, writeFolder } from './files.js';
import { type EncodedArray, readJson, VECTORS } from './vectors.js';

/** The model that is bundled with the project. */
export const BUNDLED = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');

/** What reference.json holds. */
export interface ModelReference {
  sequences: {
    input_ids: number[];
    logits: EncodedArray;
    greedy: { ids: number[] };
    greedy_kv_cache?: { ids: number[] };
  }[];
  tokenizer_checks?: { text: string; ids: number[] }[];
}

export const MODELS = [
  'llama-bias',
  'llama-gqa',
  'llama-rope-dynamic',
  'llama-rope-linear',
  'llama-rope-llama3',
  'llama-rope-yarn',
  'llama-tied-headdim',
  'mistral-sliding',
  'qwen2-sliding',
  'qwen2-tied',
  'qwen3-qknorm',
] as const;

export function referenceOf(name: string): ModelReference {
  return readJson<ModelReference>('models', name, 'reference.json');
}

/** A copy of a model, with one of its configs as config.json. */
export function copyModel(name: string, target: string, config = 'config.json'): string {
  const source = join(VECTORS, 'models', name);
  writeFolder(target, {});
  for (const file of readdirSync(source)) {
    if (!/^(config.*|reference)\.json$/.test(file)) copyFileSync(join(source, file), join(target, file));
  }
  copyFileSync(join(source, config), join(target, 'config.json'));
  return target;
}

export function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(got.length).toBe(expected.length);
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs((got[i] as number) - (expected[i] as number));
    if (!(difference <= largest)) largest = difference; // a NaN must not get lost
  }
  return largest;
}

/** The first layers of the bundled model, which are a model as well: in less time the same. */
export function bundledLayers(folder: string, count: number): string {
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(BUNDLED)) {
    if (/^(tokenizer|special_tokens|generation)/.test(name)) copyFileSync(join(BUNDLED, name), join(folder, name));
  }
  const { tensors } = readSafetensors(readFileSync(join(BUNDLED, 'model.safetensors')));
  const kept = [...tensors].filter(([name]) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? 0) < count);
  const data = kept.map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data: bytes }] as const);
  writeFileSync(join(folder, 'model.safetensors'), safetensors(Object.fromEntries(data)));
  const config = JSON.parse(readFileSync(join(BUNDLED, 'config.json'), 'utf8')) as object;
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, num_hidden_layers: count }));
  return folder;
}
