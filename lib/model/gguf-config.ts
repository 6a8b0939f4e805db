/**
 * What a decoder in a GGUF file is.
 *
 * Sources: llama.cpp, `src/llama-model.cpp` and `src/models/*.cpp` (2026).
 *
 * @module
 */
import { architectureNamed } from '../checkpoint/gguf/architecture.js';
import { configOfMetadata } from '../checkpoint/gguf/config-of-metadata.js';
import { type GgufMetadata, stringOf } from '../checkpoint/gguf/metadata.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import { CheckpointError } from '../errors.js';
import { type DecoderConfig, readConfig } from './config.js';
import { rowsOf } from './linear-layer.js';

const FREQUENCIES = 'rope_freqs.weight';

/**
 * Reads the metadata of a GGUF file.
 *
 * @param weights - Those of the file, by Hugging Face's names.
 * @throws {@link CheckpointError} `MODEL_UNSUPPORTED`, `CONFIG_INVALID`.
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
  const shapes = new Map(weights.map((weight) => [weight.name, weight.shape]));
  shapes.delete(FREQUENCIES); // scaling of any kind, as factors
  const config = readConfig(configOfMetadata(metadata, shapes, null, path), path);
  const number = (key: string): number | undefined => {
    const value = metadata.get(`${name}.${key}`)?.value;
    return typeof value === 'number' ? value : undefined;
  };
  const { ropeScaling: scaling } = config;
  const rotated = number('rope.dimension_count') ?? config.headDim;
  if (rotated !== config.headDim) {
    const message = `lowbit can't run ${path}: it rotates only ${rotated} of the ${config.headDim} elements of each head.`;
    throw new CheckpointError('MODEL_UNSUPPORTED', message, { path });
  }
  if (scaling.type === 'yarn') {
    const betaFast = number('rope.scaling.yarn_beta_fast') ?? scaling.betaFast;
    const betaSlow = number('rope.scaling.yarn_beta_slow') ?? scaling.betaSlow;
    return { ...config, ropeScaling: { ...scaling, betaFast, betaSlow } };
  }
  const frequencies = weights.find((weight) => weight.name === FREQUENCIES);
  if (frequencies === undefined) return config;
  const factors = await rowsOf(frequencies, 0, frequencies.rows, new Scratch());
  if (factors.length !== config.headDim / 2 || !factors.every((factor) => factor > 0)) {
    const message = `Expected ${FREQUENCIES} of ${path} to hold ${config.headDim / 2} positive factors.`;
    throw new CheckpointError('MODEL_WEIGHT_SHAPE', message, { path, tensor: FREQUENCIES });
  }
  return { ...config, ropeScaling: { type: 'factors', factors } };
}
