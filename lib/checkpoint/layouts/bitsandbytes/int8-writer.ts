/**
 * Writing weights of LLM.int8(), and the `quantization_config` that transformers reads.
 *
 * @module
 */
import { quantizeLlmInt8Async } from '../../../matmul/llm-int8-matrix.js';
import type { TensorSpec } from '../../safetensors-writer.js';
import type { FloatRows, LayoutWriter, Outline, Piece, Recipe } from '../layout.js';
import { bytesOf } from '../writing.js';
import { bitsandbytesConfig } from './config.js';

/** `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`, to which bitsandbytes adds `.SCB`. */
const layerOf = (name: string) => name.replace(/\.weight$/, '');

/** Codes are those of {@link quantizeLlmInt8}: float32 numbers times 127/absmax, whose inverse is no scale of `quantizeTensor`. */
const RECIPE: Recipe = {
  dtype: 'int8',
  scheme: 'symmetric',
  granularity: 'per-channel',
  axis: 0,
  scaleDtype: 'float32',
  needsLargest: false,
};

/** The writer of LLM.int8() weights: codes [N, K], `SCB`, the largest magnitude of each row, and 0 for rows after rows. */
export const llmInt8Writer: LayoutWriter = {
  format: 'bitsandbytes',
  recipe: RECIPE,

  refusal({ name, rows, columns }: Outline): string | null {
    if (!name.endsWith('.weight')) return 'bitsandbytes knows weights of layers only, whose names end in .weight';
    return rows * columns === 0 ? 'it is empty' : null;
  },

  outputs({ name, rows, columns }: Outline): TensorSpec[] {
    return [
      { name, dtype: 'I8', shape: [rows, columns] },
      { name: `${layerOf(name)}.SCB`, dtype: 'F32', shape: [rows] },
      { name: `${layerOf(name)}.weight_format`, dtype: 'U8', shape: [] },
    ];
  },

  rowStep: () => 1,

  async encode({ name }: Outline): Promise<Piece[]> {
    throw new RangeError(`${name}: LLM.int8() has codes of its own`);
  },

  own: {
    name: 'LLM.int8()',

    async quantize(
      { name, columns }: Outline,
      begin: number,
      { dtype, data }: FloatRows,
      signal: AbortSignal,
    ): Promise<Piece[]> {
      const shape = [data.length / columns, columns] as const;
      const { codes, absmax } = await quantizeLlmInt8Async(data, { shape, inputDtype: dtype, signal });
      return [
        { tensor: name, begin: begin * columns, data: bytesOf(codes) },
        { tensor: `${layerOf(name)}.SCB`, begin: 4 * begin, data: bytesOf(absmax) },
        ...(begin === 0 ? [{ tensor: `${layerOf(name)}.weight_format`, begin: 0, data: Uint8Array.of(0) }] : []),
      ];
    },
  },

  config: (ignored) => bitsandbytesConfig({ load_in_8bit: true }, ignored),
};
