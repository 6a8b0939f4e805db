/**
 * Scales that are quantized themselves, as bitsandbytes does.
 *
 * @module
 */
import { addon } from '../addon.js';
import { NESTED_BLOCK, type NestedScales } from './quantized-tensor.js';

/** @internal How many blocks with a largest magnitude of their own so many scales have. */
export const nestedBlocks = (scales: number): number => Math.ceil(scales / NESTED_BLOCK);

/** @internal The quantized form of scales, which become what it stands for. */
export function nestScales(scales: Float32Array): NestedScales {
  const data = new Uint8Array(scales.length);
  const absmax = new Float32Array(nestedBlocks(scales.length));
  const offset = new Float32Array(1);
  addon.nestScales(scales, data, absmax, offset);
  return { data, absmax, offset: offset[0] as number };
}
