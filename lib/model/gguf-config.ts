/**
 * What a decoder in a GGUF file is.
 *
 * Sources: llama.cpp, `src/llama-model.cpp` and `src/models/*.cpp` (2026).
 *
 * @module
 */

import type { Json } from '../checkpoint/checkpoint.js';
import { architectureNamed } from '../checkpoint/gguf/architecture.js';
import { configOfMetadata, ROPE_FACTORS } from '../checkpoint/gguf/config-of-metadata.js';
import { type GgufMetadata, stringOf } from '../checkpoint/gguf/metadata.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import { CheckpointError } from '../errors.js';
import { type DecoderConfig, readConfig } from './config.js';
import { rowsOf } from './linear-layer.js';

/** config.json as the metadata say it, with refusals that speak of running the model. */
function jsonOf(metadata: GgufMetadata, weights: readonly Weight[], path: string): Json {
  const shapes = new Map(weights.map((weight) => [weight.name, weight.shape]));
  try {
    // Factors of rotary frequencies are used as they are, whatever scaling they come from.
    return configOfMetadata(metadata, shapes, null, path);
  } catch (error) {
    if (!(error instanceof CheckpointError) || error.code !== 'GGUF_UNSUPPORTED_MODEL') throw error;
    const what = error.message.slice(error.message.indexOf(': ') + 2);
    const details = { path, tensor: error.tensor, cause: error };
    throw new CheckpointError('MODEL_UNSUPPORTED', `lowbit can't run ${path}: ${what}`, details);
  }
}

/**
 * Reads the metadata of a GGUF file.
 *
 * @param weights - Those of the file, by Hugging Face's names.
 * @throws {@link CheckpointError} `MODEL_UNSUPPORTED`, `CONFIG_INVALID`, `GGUF_METADATA_TYPE`.
 */
export async function readGgufConfig(
  metadata: GgufMetadata,
  weights: readonly Weight[],
  path: string,
): Promise<DecoderConfig> {
  const name = stringOf(metadata, 'general.architecture', path);
  if (architectureNamed(name) === null) {
    const message =
      `lowbit can't run ${path}: its architecture is ${name ?? 'not named'}. ` +
      'Those it can are llama (with Mistral), qwen2, qwen3.';
    throw new CheckpointError('MODEL_UNSUPPORTED', message, { path });
  }
  // Biases are those that the file has.
  const config: DecoderConfig = { ...readConfig(jsonOf(metadata, weights, path), path), biased: [] };
  const frequencies = weights.find((weight) => weight.name === ROPE_FACTORS);
  if (frequencies === undefined) return config;
  const factors = await rowsOf(frequencies, 0, frequencies.rows, new Scratch());
  if (factors.length !== config.headDim / 2 || !factors.every((factor) => factor > 0)) {
    const message = `Expected ${ROPE_FACTORS} of ${path} to hold ${config.headDim / 2} positive factors.`;
    throw new CheckpointError('MODEL_WEIGHT_SHAPE', message, { path, tensor: ROPE_FACTORS });
  }
  if (config.ropeScaling.type !== 'none') {
    const message = `lowbit can't run ${path}: its rotary frequencies have factors, and are scaled (${config.ropeScaling.type}) as well.`;
    throw new CheckpointError('MODEL_UNSUPPORTED', message, { path });
  }
  return { ...config, ropeScaling: { type: 'factors', factors } };
}
