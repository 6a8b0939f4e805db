/** A Hugging Face model as a GGUF file, with the pieces of lib/checkpoint/gguf and nothing else. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { floatsOf } from '../../lib/checkpoint/floats.js';
import { pairRows } from '../../lib/checkpoint/gguf/architecture.js';
import { GgufFile } from '../../lib/checkpoint/gguf/gguf-file.js';
import { writeGguf } from '../../lib/checkpoint/gguf/gguf-writer.js';
import { describeModel } from '../../lib/checkpoint/gguf/metadata-of-model.js';
import { planGguf } from '../../lib/checkpoint/gguf/model-plan.js';
import type { GgufRecipe } from '../../lib/checkpoint/gguf/recipes.js';
import { tokenizerMetadata } from '../../lib/checkpoint/gguf/tokenizer.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { castTensor, type GgufType, quantizeBlocks } from '../../lib/index.js';

function encoded(dtype: string, values: Float32Array, rowLength: number): ArrayBufferView {
  if (dtype === 'f32') return values;
  if (dtype === 'f16') return castTensor(values, { from: 'float32', to: 'float16' });
  if (dtype === 'bf16') return castTensor(values, { from: 'float32', to: 'bfloat16' });
  return quantizeBlocks(values, { type: dtype as GgufType, rowLength });
}

/** Writes the model of a folder to `path`; `configName` is what config.json is called there. */
export async function writeModel(
  folder: string,
  path: string,
  recipe: GgufRecipe,
  configName = 'config.json',
): Promise<void> {
  const config = JSON.parse(readFileSync(join(folder, configName), 'utf8')) as Record<string, unknown>;
  const checkpoint = await openCheckpoint(folder);
  const weights = await weightsOf(checkpoint);
  const description = describeModel(config, folder);
  const tokenizer = await tokenizerMetadata(folder, description.vocabularySize, config);
  const { metadata, tensors } = planGguf(description, tokenizer, weights, { recipe, path: folder, name: 'test' });
  const writer = await writeGguf(path, tensors, metadata);
  const scratch = new Scratch();
  for (const { name, dtype, source, headRows, data } of tensors) {
    let values = data;
    let rowLength = data?.length ?? 0;
    const weight = weights.find((candidate) => candidate.name === source);
    if (weight !== undefined) {
      const { rows, columns } = weight;
      values = (await floatsOf(await weight.read(0, rows, scratch), rows * columns, columns, scratch)).slice();
      rowLength = columns;
    }
    const result = encoded(dtype, values as Float32Array, rowLength);
    let bytes = new Uint8Array(result.buffer, result.byteOffset, result.byteLength);
    if (headRows > 1) {
      const paired = new Uint8Array(bytes.length);
      const units = weight?.shape.length === 1 ? weight.columns : (weight?.rows ?? 1);
      pairRows(bytes, paired, bytes.length / units, headRows);
      bytes = paired;
    }
    await writer.write(name, 0, bytes);
  }
  await writer.close();
  await checkpoint.close();
}

/** SHA-256 of all tensors of a GGUF file: names, types, shapes and bytes, in the order of the names. */
export async function hashOfTensors(path: string): Promise<string> {
  const file = await GgufFile.open(path);
  const hash = createHash('sha256');
  for (const tensor of [...file.tensors.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const bytes = new Uint8Array(tensor.bytes);
    await tensor.read(0, bytes);
    hash.update(`${tensor.name} ${tensor.dtype} ${tensor.shape.join('x')}\n`).update(bytes);
  }
  await file.close();
  return hash.digest('hex');
}
