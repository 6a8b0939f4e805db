/**
 * The weights of a checkpoint, whatever layouts they are stored in.
 *
 * @module
 */
import { invalidArgument } from '../errors.js';
import type { Checkpoint } from './checkpoint.js';
import { awqReader } from './layouts/awq.js';
import { bitsandbytesReader } from './layouts/bitsandbytes/reader.js';
import { compressedTensorsReader } from './layouts/compressed-tensors/reader.js';
import { plainWeight } from './layouts/float.js';
import { fp8Reader } from './layouts/fp8.js';
import { ggufReader } from './layouts/gguf.js';
import { type GptqReaderOptions, gptqReader } from './layouts/gptq.js';
import type { LayoutReader } from './layouts/layout.js';
import { TensorMap } from './tensor-map.js';
import type { Weight } from './weight.js';

/** What decides where files leave it open. */
export type ReadingOptions = GptqReaderOptions;

/** @internal */
export const READING_OPTIONS = ['gptqVersion'] as const;

/** @internal Checks what is said about reading. */
export function checkReadingOptions({ gptqVersion }: { gptqVersion?: unknown }): ReadingOptions {
  if (gptqVersion === undefined) return {};
  if (gptqVersion !== 1 && gptqVersion !== 2) throw invalidArgument('gptqVersion', '1 or 2', gptqVersion);
  return { gptqVersion };
}

/** Asked in this order; what none claims is a tensor of its own. */
function layoutsOf(options: ReadingOptions): readonly LayoutReader[] {
  return [ggufReader, gptqReader(options), awqReader, compressedTensorsReader, bitsandbytesReader, fp8Reader];
}

/**
 * Every weight of a checkpoint, in the order of its first stored tensor.
 *
 * @throws {@link CheckpointError} `LAYOUT_INVALID`, `LAYOUT_AMBIGUOUS`.
 */
export async function weightsOf(checkpoint: Checkpoint, options: ReadingOptions = {}): Promise<Weight[]> {
  const left = new TensorMap([...checkpoint.tensors.values()]);
  const claimed: Weight[] = [];
  for (const layout of layoutsOf(options)) {
    for (const weight of await layout.claim(checkpoint, left)) claimed.push(weight);
  }
  const plain = Array.from(left.values(), plainWeight);
  if (claimed.length === 0) return plain;
  if (plain.length === 0 && checkpoint.container === 'gguf') return claimed; // in the order of the file
  const places = new Map<string, number>();
  for (const name of checkpoint.tensors.keys()) places.set(name, places.size);
  const first = ({ parts }: Weight) => Math.min(...parts.map(({ name }) => places.get(name) ?? 0));
  return [...claimed, ...plain]
    .map((weight) => [first(weight), weight] as const)
    .sort(([a], [b]) => a - b)
    .map(([, weight]) => weight);
}
