/**
 * What belongs to a model besides its weights: tokenizer, generation settings, templates, licence.
 *
 * @module
 */
import { cp, readdir } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import type { Output } from '../checkpoint/output.js';
import { outputError } from '../errors.js';
import { MANIFEST_NAME } from './manifest.js';

/** Weights in formats that the result would contradict. */
const OTHER_WEIGHTS = new Set([
  '.safetensors',
  '.bin',
  '.pt',
  '.pth',
  '.ckpt',
  '.h5',
  '.msgpack',
  '.gguf',
  '.onnx',
  '.ot',
]);

/** Files that say how weights are quantized. */
const CONFIGS = new Set([
  'config.json',
  'quantize_config.json',
  'quant_config.json',
  'hf_quant_config.json',
  MANIFEST_NAME,
]);

/** Copies it all; returns the names of the files that were left out: weights in other formats. */
export async function copyOtherFiles(checkpoint: Checkpoint, output: Output): Promise<string[]> {
  const leftOut: string[] = [];
  if (checkpoint.folder === null) return leftOut;
  const source = checkpoint.folder;
  for (const name of (await readdir(source)).sort()) {
    if (CONFIGS.has(name) || name.endsWith('.safetensors.index.json') || name.startsWith('.')) continue;
    if (OTHER_WEIGHTS.has(extname(name).toLowerCase())) {
      if (!checkpoint.files.some((file) => basename(file.path) === name)) leftOut.push(name);
      continue;
    }
    try {
      const isModel = (path: string) => !OTHER_WEIGHTS.has(extname(path).toLowerCase());
      await cp(join(source, name), output.file(name), { recursive: true, dereference: true, filter: isModel });
    } catch (cause) {
      throw outputError(join(output.path, name), cause);
    }
  }
  return leftOut;
}
