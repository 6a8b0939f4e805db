/** The tiny decoders of test/vectors, and texts for them. */
import { join } from 'node:path';
import { type CalibrationWindows, cutIntoWindows, type DecoderModel, openModel } from '../../lib/index.js';
import { VECTORS } from './vectors.js';

export function tinyModel(name = 'llama-gqa'): Promise<DecoderModel> {
  return openModel(join(VECTORS, 'models', name), { residentBlocks: 'one' });
}

/** Sentences without sense, the same on every run. */
export function text(words: number): string {
  return Array.from({ length: words }, (_, i) => ((i * 7919) % 9973).toString(36)).join(' ');
}

export function tinyWindows(
  model: DecoderModel,
  count = 6,
  shard?: { index: number; count: number },
): CalibrationWindows {
  const options = { windowLength: 16, count, seed: 1, ...(shard === undefined ? {} : { shard }) };
  return cutIntoWindows(model.tokenizer, [text(400), text(150).toUpperCase()], options);
}
