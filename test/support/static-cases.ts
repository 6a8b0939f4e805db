/** Layers with static activations that compressed-tensors stored and computed with. */
import { checkpointFolder, rawTensor } from './layouts.js';
import { type EncodedArray, readJson } from './vectors.js';

export interface StaticCase {
  name: string;
  format: string;
  weights: Record<string, unknown>;
  input_activations: Record<string, unknown>;
  tensors: Record<string, EncodedArray>;
  /** Activations, what their codes stand for, and what the layer makes of them. */
  x: EncodedArray;
  xq: EncodedArray;
  y: EncodedArray;
}

export const { cases: staticCases } = readJson<{ cases: StaticCase[] }>('compressed-tensors', 'static.json');

/** What config.json says of a case. */
export function staticConfig({ format, weights, input_activations }: StaticCase): object {
  return {
    torch_dtype: 'bfloat16',
    quantization_config: {
      quant_method: 'compressed-tensors',
      format,
      config_groups: { group_0: { targets: ['Linear'], weights, input_activations, output_activations: null } },
      ignore: [],
    },
  };
}

/** A checkpoint with the layer `model.up`. */
export function staticFolder(root: string, c: StaticCase, change: Record<string, EncodedArray | null> = {}): string {
  const { bias: _, ...stored } = c.tensors;
  const tensors = Object.entries({ ...stored, ...change }).flatMap(([part, tensor]) =>
    tensor === null ? [] : [[`model.up.${part}`, rawTensor(tensor)] as const],
  );
  return checkpointFolder(root, Object.fromEntries(tensors), staticConfig(c));
}
