/**
 * What GPTQ and AWQ have in common: layers that are stored as `qweight`, `qzeros` and `scales`, the latter [G, N] with one
 * for every group of inputs and every output channel.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { CheckpointError } from '../../errors.js';
import { castTensorAsync } from '../../tensor/cast.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import { floatDtypeOf } from './float.js';
import type { IntegerConfig } from './integer-config.js';
import { transposeWords } from './repack.js';
import { readColumns } from './strips.js';

/** The stored tensors of one layer, `<layer>.qweight` and so on. `<layer>.bias` is a tensor of its own. */
export interface PackedLayer {
  /** `model.layers.0.mlp.up_proj` */
  readonly layer: string;
  readonly qweight: StoredTensor;
  readonly scales: StoredTensor;
  readonly qzeros: StoredTensor | undefined;
  readonly groupIndex: StoredTensor | undefined;
  /** Output channels, N. */
  readonly rows: number;
  /** Scales of an output channel, G. */
  readonly groups: number;
  /** The float type of the scales. */
  readonly dtype: LargeFloatDtype;
}

const QWEIGHT = '.qweight';

export function layoutError(tensor: StoredTensor, what: string): CheckpointError {
  const message = `${tensor.path}: ${JSON.stringify(tensor.name)} ${what}.`;
  return new CheckpointError('LAYOUT_INVALID', message, { path: tensor.path, tensor: tensor.name });
}

export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

/** Throws if a tensor is not a matrix (or vector) of 32-bit integers. */
function checkIntegers(tensor: StoredTensor, rank: number): void {
  if (tensor.dtype !== 'I32' && tensor.dtype !== 'U32') {
    throw layoutError(tensor, `is of ${tensor.dtype}; expected I32, as words of 32 bits are packed`);
  }
  if (tensor.shape.length !== rank) {
    throw layoutError(tensor, `has shape ${shapeText(tensor.shape)}; expected ${rank === 1 ? 'one axis' : 'two axes'}`);
  }
}

/**
 * The layers among some tensors whose `qweight` and `scales` are there and can be told to be packed integers.
 *
 * @param strict - Whether all that have a `qweight` must be: what is missing is an error then, else such a layer is left.
 * @throws CheckpointError `LAYOUT_INVALID`.
 */
export function packedLayersOf(left: ReadonlyMap<string, StoredTensor>, strict: boolean): PackedLayer[] {
  const layers: PackedLayer[] = [];
  for (const [name, qweight] of left) {
    if (!name.endsWith(QWEIGHT)) continue;
    const layer = name.slice(0, -QWEIGHT.length);
    const part = (suffix: string) => left.get(`${layer}.${suffix}`);
    const scales = part('scales');
    if (scales === undefined) {
      if (!strict) continue;
      throw layoutError(qweight, `has no "${layer}.scales" beside it`);
    }
    const qzeros = part('qzeros');
    if (!strict && (qzeros === undefined || (qweight.dtype !== 'I32' && qweight.dtype !== 'U32'))) continue;
    checkIntegers(qweight, 2);
    if (qzeros !== undefined) checkIntegers(qzeros, 2);
    const groupIndex = part('g_idx');
    if (groupIndex !== undefined) checkIntegers(groupIndex, 1);
    const dtype = floatDtypeOf(scales);
    if (dtype === null) throw layoutError(scales, `is of ${scales.dtype}; expected F16, BF16 or F32`);
    const [groups = 0, rows = 0] = scales.shape;
    if (scales.shape.length !== 2 || groups === 0 || rows === 0) {
      throw layoutError(scales, `has shape ${shapeText(scales.shape)}; expected [groups, output channels]`);
    }
    const double = part('weight');
    if (double !== undefined) throw layoutError(double, `is stored twice: as it is, and packed as ${name}`);
    layers.push({ layer, qweight, scales, qzeros, groupIndex, rows, groups, dtype });
  }
  return layers;
}

/** Takes the tensors of a layer out of those that are left. */
export function takeLayer(left: Map<string, StoredTensor>, layer: PackedLayer): StoredTensor[] {
  const { qweight, qzeros, scales, groupIndex } = layer;
  const parts = [qweight, qzeros, scales, groupIndex].filter((part) => part !== undefined);
  for (const { name } of parts) left.delete(name);
  return parts;
}

/**
 * How many inputs share a scale.
 *
 * @returns A size, or null where one scale covers a row.
 * @throws CheckpointError `LAYOUT_INVALID` if no size that the config allows, or that divides K, gives so many groups.
 */
export function groupSizeOf(layer: PackedLayer, columns: number, config: IntegerConfig | null): number | null {
  const { groups, scales } = layer;
  const fits = (size: number) => groups === (size === -1 ? 1 : Math.ceil(columns / size));
  const said = config?.groupSize;
  if (said !== undefined && fits(said)) return said === -1 ? null : said;
  for (const size of config?.otherGroupSizes ?? []) if (fits(size)) return size === -1 ? null : size;
  if (said !== undefined) {
    const expected = `${said === -1 ? 1 : Math.ceil(columns / said)} for group_size ${said} of ${config?.source}`;
    throw layoutError(scales, `has ${groups} groups for ${columns} inputs; expected ${expected}`);
  }
  if (columns % groups !== 0) {
    throw layoutError(scales, `has ${groups} groups, which ${columns} inputs can't be divided into evenly`);
  }
  return groups === 1 ? null : columns / groups;
}

/**
 * Scales of output channels `begin` … `end`, in float32.
 *
 * @returns [end − begin, groups], in `scratch`.
 * @throws CheckpointError `LAYOUT_INVALID` if one is NaN or infinite.
 */
export async function readScales(
  { scales, rows, groups, dtype }: PackedLayer,
  begin: number,
  end: number,
  scratch: Scratch,
): Promise<Float32Array> {
  const width = end - begin;
  const count = groups * width;
  const elementBytes = dtype === 'float32' ? 4 : 2;
  const bytes = scratch.bytes('storedScales', count * elementBytes);
  await readColumns(scales, groups, rows * elementBytes, begin * elementBytes, width * elementBytes, bytes);
  let floats: Float32Array;
  if (dtype === 'float32') {
    floats = scratch.floats('storedScales', count);
  } else {
    const out = scratch.floats('wideScales', count);
    floats = await castTensorAsync(scratch.halves('storedScales', count), { from: dtype, to: 'float32', out });
  }
  for (let i = 0; i < count; i++) {
    const scale = floats[i] as number;
    if (Number.isFinite(scale)) continue;
    const [group, channel] = [Math.floor(i / width), begin + (i % width)];
    throw layoutError(scales, `holds ${scale} for group ${group} of output channel ${channel}`);
  }
  const out = scratch.floats('scales', count);
  await transposeWords(words(floats), groups, width, words(out));
  return out;
}

function words({ buffer, byteOffset, length }: Float32Array): Uint32Array {
  return new Uint32Array(buffer, byteOffset, length);
}
