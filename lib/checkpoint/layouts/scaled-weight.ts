/**
 * A weight that is stored as codes and scales in tensors of their own: what compressed-tensors and FP8 have in common.
 *
 * @module
 */
import { type LargeFloatDtype, packedRowBytes, type QuantDtype } from '../../dtype.js';
import { gatherFieldsAsync } from '../../tensor/fields.js';
import type { QuantizedTensor } from '../../tensor/quantized-tensor.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { Encoding, RowBlock, StoredInput, Weight } from '../weight.js';
import { checkScales, checkShape, readFloats } from './parts.js';

/** What shares a scale. */
export type Sharing =
  | { readonly granularity: 'per-tensor' }
  | { readonly granularity: 'per-channel' }
  | { readonly granularity: 'per-group'; readonly groupSize: number }
  | { readonly granularity: 'per-block'; readonly blockShape: readonly [number, number] };

/** Where the scales of a weight [rows, columns] lie: so many for a row of them, one row for so many of the weight's. */
export interface ScaleGrid {
  readonly groups: number;
  readonly rowsPerScale: number;
  readonly scaleRows: number;
}

/** The grid of scales for a way of sharing them. */
export function scaleGrid(rows: number, columns: number, sharing: Sharing): ScaleGrid {
  switch (sharing.granularity) {
    case 'per-tensor':
      return { groups: 1, rowsPerScale: rows, scaleRows: 1 };
    case 'per-channel':
      return { groups: 1, rowsPerScale: 1, scaleRows: rows };
    case 'per-group':
      return { groups: Math.ceil(columns / sharing.groupSize), rowsPerScale: 1, scaleRows: rows };
    case 'per-block': {
      const [height, width] = sharing.blockShape;
      return { groups: Math.ceil(columns / width), rowsPerScale: height, scaleRows: Math.ceil(rows / height) };
    }
  }
}

/** Refuses a tensor of scales that does not have the shape of its grid. A dimension of 1 may be missing. */
export function checkScaleShape(scale: StoredTensor, { groups, scaleRows }: ScaleGrid): void {
  if (scaleRows === 1 && groups === 1) checkShape(scale, [scaleRows, groups], [1], []);
  else if (groups === 1) checkShape(scale, [scaleRows, groups], [scaleRows]);
  else checkShape(scale, [scaleRows, groups]);
}

/** Codes of some rows. */
export interface Codes {
  readonly dtype: QuantDtype;
  readonly data: Uint8Array;
}

/** A weight to be read. */
export interface ScaledWeightSpec {
  readonly name: string;
  /** Rows and columns. */
  readonly shape: readonly [number, number];
  /** Where the weight has more axes: all of them. */
  readonly fullShape?: readonly number[];
  readonly dtype: LargeFloatDtype;
  readonly encoding: Encoding;
  readonly parts: readonly StoredTensor[];
  /** Static quantization of what the layer reads; null if it has none. */
  readonly input: StoredInput | null;
  readonly sharing: Sharing;
  readonly scale: StoredTensor;
  /** Whether scales can be negative. */
  readonly signedScales: boolean;
  /** What scales are divided or multiplied by (NVFP4), and the number that gives back those of the file. */
  readonly global?: { readonly divisor: number } | { readonly factor: number };
  codes(begin: number, end: number, scratch: Scratch): Promise<Codes>;
  /** One for each scale of these rows; null for a symmetric weight. */
  readonly zeroPoints: ((begin: number, end: number, scratch: Scratch) => Promise<Int32Array>) | null;
  /** Column i of the codes as groups see them is column `order[i]` of the file; null: the same. */
  readonly order: Int32Array | null;
  /** Bits of a code; needed with `order`. */
  readonly bits: number;
}

function applyGlobal(scales: Float32Array, global: NonNullable<ScaledWeightSpec['global']>): void {
  if ('divisor' in global) {
    for (let i = 0; i < scales.length; i++) scales[i] = (scales[i] as number) / global.divisor;
  } else {
    for (let i = 0; i < scales.length; i++) scales[i] = (scales[i] as number) * global.factor;
  }
}

async function readRows(spec: ScaledWeightSpec, begin: number, end: number, scratch: Scratch): Promise<RowBlock> {
  const [rows, columns] = spec.shape;
  const { groups, rowsPerScale } = scaleGrid(rows, columns, spec.sharing);
  const first = Math.floor(begin / rowsPerScale);
  const count = (Math.ceil(end / rowsPerScale) - first) * groups;
  const scales = await readFloats(spec.scale, first * groups, count, scratch, 'scales');
  if (spec.global !== undefined) applyGlobal(scales, spec.global);
  checkScales(spec.scale, scales, first * groups, spec.signedScales);
  let { dtype, data } = await spec.codes(begin, end, scratch);
  if (spec.order !== null) {
    const { bits } = spec;
    const out = scratch.bytes('gathered', (end - begin) * packedRowBytes(columns, bits));
    data = await gatherFieldsAsync(data, { rows: end - begin, columns, bits }, spec.order, out);
  }
  const zeroPoints = spec.zeroPoints === null ? null : await spec.zeroPoints(begin, end, scratch);
  const scheme = zeroPoints === null ? 'symmetric' : 'asymmetric';
  const { global } = spec;
  const tensor: QuantizedTensor = {
    dtype,
    shape: [end - begin, columns],
    scheme,
    ...spec.sharing,
    ...(spec.sharing.granularity === 'per-channel' ? { axis: 0 } : {}),
    data,
    scales,
    zeroPoints,
    ...(global === undefined
      ? {}
      : { globalScale: 'divisor' in global ? global.divisor : Math.fround(1 / global.factor) }),
  };
  return { kind: 'quantized', tensor, order: spec.order };
}

/** The weight of a spec. */
export function scaledWeight(spec: ScaledWeightSpec): Weight {
  const [rows, columns] = spec.shape;
  const rowStep = spec.sharing.granularity === 'per-block' ? spec.sharing.blockShape[0] : 1;
  const { name, shape, dtype, encoding, parts, input } = spec;
  return {
    name,
    shape: spec.fullShape ?? shape,
    rows,
    columns,
    dtype,
    encoding,
    parts,
    rowStep,
    ...(input === null ? {} : { input }),
    read: (begin, end, scratch) => readRows(spec, begin, end, scratch),
  };
}

/** Codes that lie in the file as they are in memory, `rowBytes` for each row. */
export function storedCodes(tensor: StoredTensor, dtype: QuantDtype, rowBytes: number): ScaledWeightSpec['codes'] {
  return async (begin, end, scratch) => {
    const data = scratch.bytes('codes', (end - begin) * rowBytes, tensor.position + begin * rowBytes);
    await tensor.read(begin * rowBytes, data);
    return { dtype, data };
  };
}

/** How a way of sharing scales is shown: the group size and a trait. */
export function sharingTraits(sharing: Sharing): { groupSize: number | null; traits: string[] } {
  switch (sharing.granularity) {
    case 'per-tensor':
      return { groupSize: null, traits: ['per-tensor'] };
    case 'per-channel':
      return { groupSize: null, traits: ['per-channel'] };
    case 'per-group':
      return { groupSize: sharing.groupSize, traits: [] };
    case 'per-block':
      // A number alone would look like groups of one row.
      return { groupSize: null, traits: [`blocks of ${sharing.blockShape.join('×')}`] };
  }
}
