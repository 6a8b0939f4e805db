/**
 * What becomes of a weight in a GGUF file: blocks, or floats of another type.
 *
 * @module
 */
import { floatsOf } from '../checkpoint/floats.js';
import { pairRows } from '../checkpoint/gguf/architecture.js';
import { ggufTensorBytes } from '../checkpoint/gguf/gguf-writer.js';
import type { Scratch } from '../checkpoint/scratch.js';
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import type { LargeFloatDtype } from '../dtype.js';
import { blockFormatOf, type GgufType, quantizeBlocksAsync } from '../tensor/blocks.js';
import { castTensorAsync } from '../tensor/cast.js';
import { blocksWith, codesOf, type ExactType } from './grids-gguf.js';
import type { MethodParts } from './method-parts.js';
import { leastCommonMultiple, type Task } from './task.js';

/** How a weight is stored in GGUF. */
export interface GgufPlace {
  /** `blk.0.attn_q.weight` */
  readonly name: string;
  readonly type: GgufType | 'f32' | 'f16' | 'bf16';
  /** Rows of a head of query or key, which are stored in pairs; 1 for all others. */
  readonly headRows: number;
}

const FLOATS: Readonly<Record<string, LargeFloatDtype>> = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' };

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

async function asFloats(
  floats: Float32Array,
  to: LargeFloatDtype,
  scratch: Scratch,
  signal: AbortSignal,
): Promise<Uint8Array> {
  if (to === 'float32') return bytesOf(floats);
  const out = scratch.halves('cast', floats.length);
  return bytesOf(await castTensorAsync(floats, { from: 'float32', to, out, signal }));
}

function asBlocks(
  floats: Float32Array,
  type: GgufType,
  rowLength: number,
  importance: Float32Array | undefined,
  scratch: Scratch,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { length, bytes } = blockFormatOf('type', type);
  const out = scratch.bytes('blocks made', (floats.length / length) * bytes);
  const how = { type, rowLength, out, signal };
  return quantizeBlocksAsync(floats, importance === undefined ? how : { ...how, importance });
}

/**
 * A weight as a tensor of a GGUF file. Blocks of the same type are taken over as they are.
 *
 * @param options - `importance`: how much errors count, for each column; `exact`: the blocks hold the weight's own codes.
 */
export function ggufTask(
  weight: Weight,
  { name, type, headRows }: GgufPlace,
  { importance, exact = false }: { importance?: Float32Array; exact?: boolean } = {},
): Task {
  const { rows, columns, shape } = weight;
  const isVector = shape.length < 2;
  const float = FLOATS[type];
  const spec = { name, dtype: type, shape };
  const bytes = ggufTensorBytes(spec);
  const rowBytes = rows === 0 ? 0 : bytes / rows;
  const isSame = weight.encoding.format === 'gguf' && weight.encoding.dtype === type;
  const isExact = exact && float === undefined && !isSame;
  return {
    weight,
    kind: isSame || isExact ? 'repacked' : float === undefined ? 'quantized' : 'cast',
    as: type,
    outputs: [{ ...spec, bytes }],
    length: rows,
    step: leastCommonMultiple(isVector ? 1 : headRows, weight.rowStep),
    width: columns,
    async block(begin, end, scratch, signal) {
      const count = (end - begin) * columns;
      const bytesRead = rows === 0 ? 0 : (storedBytes(weight) * (end - begin)) / rows;
      const read = await weight.read(begin, end, scratch);
      let data: Uint8Array;
      if (read.kind === 'blocks' && read.type === type) {
        data = read.data;
      } else if (isExact) {
        data = blocksWith(codesOf(read, end - begin, columns).tensor, type as ExactType);
      } else {
        const floats = await floatsOf(read, count, columns, scratch, signal);
        data =
          float === undefined
            ? await asBlocks(floats, type as GgufType, columns, importance, scratch, signal)
            : await asFloats(floats, float, scratch, signal);
      }
      if (headRows > 1) {
        const paired = scratch.bytes('paired', data.length);
        pairRows(data, paired, isVector ? rowBytes / columns : rowBytes, headRows);
        data = paired;
      }
      return { pieces: [{ tensor: name, begin: begin * rowBytes, data }], bytesRead };
    },
  };
}

/** A weight as a method made it: its blocks, or integers that they hold as they are. */
export function ggufMethodTask(weight: Weight, place: GgufPlace, parts: MethodParts): Task {
  const made = parts.weightOf(weight);
  return {
    ...ggufTask(made, place, { exact: true }),
    weight,
    kind: 'quantized',
    notes: () => parts.summary(weight.name),
    reference: made,
  };
}

/** A float tensor that a method may have changed. */
export function ggufChangedTask(weight: Weight, place: GgufPlace, parts: MethodParts): Task {
  const made = parts.weightOf(weight);
  return { ...ggufTask(made, place), weight, reference: made };
}
