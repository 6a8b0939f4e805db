/**
 * Scales that are quantized themselves, as bitsandbytes does.
 *
 * @module
 */
import { addon } from '../addon.js';
import { NESTED_BLOCK, type NestedScales } from './quantized-tensor.js';

/** @internal The quantized form of scales, which become what it stands for. */
export function nestScales(scales: Float32Array): NestedScales {
  const data = new Uint8Array(scales.length);
  const absmax = new Float32Array(Math.ceil(scales.length / NESTED_BLOCK));
  const offset = new Float32Array(1);
  addon.nestScales(scales, data, absmax, offset);
  return { data, absmax, offset: offset[0] as number };
}
