/**
 * Writing compressed-tensors' "pack-quantized".
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { castTensorAsync } from '../../tensor/cast.js';
import {
  type PackedScheme,
  packCodes,
  packedNames,
  packedTensors,
  packShape,
  packZeroPoints,
  quantizationConfig,
} from '../compressed-tensors.js';
import type { LayoutWriter, Piece } from './layout.js';

export function packedWriter(scheme: PackedScheme, dtype: LargeFloatDtype): LayoutWriter {
  const { bits, groupSize } = scheme;
  const stored = ({ float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const)[dtype];
  return {
    format: 'compressed-tensors',
    recipe: {
      dtype: bits === 4 ? 'int4' : 'int8',
      scheme: scheme.scheme,
      ...(groupSize === null ? { granularity: 'per-channel', axis: 0 } : { granularity: 'per-group', groupSize }),
      scaleDtype: dtype,
      needsLargest: false,
    },
    refusal: ({ columns }) =>
      groupSize !== null && columns % groupSize !== 0
        ? `compressed-tensors has no shorter last group, but the input dimension is no multiple of the group size ${groupSize}`
        : null,
    outputs: ({ name, rows, columns }) => packedTensors(name, rows, columns, stored, scheme),
    rowStep: () => (scheme.scheme === 'asymmetric' ? 32 / bits : 1),
    async encode({ name, rows, columns }, begin, q) {
      const names = packedNames(name);
      const count = q.shape[0] as number;
      const groups = groupSize === null ? 1 : columns / groupSize;
      const words = Math.ceil((columns * bits) / 32);
      const scales = (await castTensorAsync(q.scales, { from: 'float32', to: dtype } as never)) as
        | Float32Array
        | Uint16Array;
      const pieces: Piece[] = [
        { tensor: names.packed, begin: begin * words * 4, data: packCodes(q, bits) },
        {
          tensor: names.scale,
          begin: begin * groups * scales.BYTES_PER_ELEMENT,
          data: new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength),
        },
      ];
      if (begin === 0) pieces.push({ tensor: names.shape, begin: 0, data: packShape(rows, columns) });
      if (q.zeroPoints !== null) {
        const firstWord = (begin * bits) / 32;
        pieces.push({
          tensor: names.zeroPoint,
          begin: firstWord * groups * 4,
          data: packZeroPoints(q.zeroPoints, count, groups, bits),
        });
      }
      return pieces;
    },
    config: (ignored) => quantizationConfig(scheme, ignored),
  };
}
