/**
 * What a checkpoint is as a Hugging Face folder: itself, or for a GGUF model what its metadata tell.
 *
 * @module
 */
import { readdir } from 'node:fs/promises';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { readError } from '../checkpoint/file.js';
import { configOfMetadata, ROPE_FACTORS } from '../checkpoint/gguf/config-of-metadata.js';
import { integerOf, stringOf } from '../checkpoint/gguf/metadata.js';
import { MOST_HEAD_ELEMENTS } from '../checkpoint/gguf/metadata-of-model.js';
import { tokenizerOfMetadata } from '../checkpoint/gguf/tokenizer-of-metadata.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import { CheckpointError } from '../errors.js';

/** A checkpoint whose config and weights are those of a Hugging Face model. */
export interface HuggingFaceModel {
  readonly checkpoint: Checkpoint;
  readonly weights: readonly Weight[];
  /** Files that the folder does not have yet, by name: a tokenizer. */
  readonly texts: ReadonlyMap<string, string>;
  readonly warnings: readonly string[];
}

/** What rotary frequencies are divided by, if the weights have it. */
async function ropeFactorsOf(weights: readonly Weight[], path: string): Promise<Float32Array | null> {
  const weight = weights.find(({ name }) => name === ROPE_FACTORS);
  if (weight === undefined) return null;
  const isVector = weight.shape.length === 1 && weight.columns <= MOST_HEAD_ELEMENTS / 2;
  const block = isVector ? await weight.read(0, weight.rows, new Scratch()) : null;
  if (block?.kind === 'float' && block.data instanceof Float32Array) return block.data.slice();
  const message = `Expected ${ROPE_FACTORS} of ${path} to be a vector of float32 numbers.`;
  throw new CheckpointError('LAYOUT_INVALID', message, { path, tensor: ROPE_FACTORS });
}

/** Whether a folder has a tokenizer of its own, which goes with it. */
async function hasTokenizer(folder: string | null): Promise<boolean> {
  if (folder === null) return false;
  try {
    const names = await readdir(folder);
    return names.includes('tokenizer.json') || names.includes('tokenizer.model');
  } catch (cause) {
    throw readError(folder, cause);
  }
}

/**
 * A checkpoint as a Hugging Face model.
 *
 * @throws {@link CheckpointError} `GGUF_UNSUPPORTED_MODEL` if a GGUF model has something that no such model of its
 *   architecture has, by name.
 */
export async function asHuggingFace(checkpoint: Checkpoint, weights: readonly Weight[]): Promise<HuggingFaceModel> {
  const { gguf, path, folder } = checkpoint;
  if (gguf === null) return { checkpoint, weights, texts: new Map(), warnings: [] };
  const shapes = new Map(weights.map(({ name, shape }) => [name, shape]));
  const config = configOfMetadata(gguf, shapes, await ropeFactorsOf(weights, path), path);
  const architecture = stringOf(gguf, 'general.architecture', path) ?? '';
  const contextLength = integerOf(gguf, `${architecture}.context_length`, path) ?? null;
  const { files, warnings } = (await hasTokenizer(folder))
    ? { files: new Map<string, string>(), warnings: [] }
    : tokenizerOfMetadata(gguf, contextLength);
  return {
    checkpoint: { ...checkpoint, config },
    weights: weights.filter(({ name }) => name !== ROPE_FACTORS),
    texts: files,
    warnings,
  };
}
