/**
 * One layer of a compressed-tensors checkpoint: its stored tensors as a weight.
 *
 * @module
 */
import { type LargeFloatDtype, packedRowBytes, type QuantDtype } from '../../../dtype.js';
import { unpackFieldsAsync } from '../../../tensor/fields.js';
import type { Checkpoint } from '../../checkpoint.js';
import type { Scratch } from '../../scratch.js';
import type { StoredTensor } from '../../stored-tensor.js';
import type { StoredInput, Weight } from '../../weight.js';
import { floatDtypeOf } from '../float.js';
import {
  activationParts,
  checkDtype,
  elementCount,
  layoutError,
  matrixShape,
  modelDtypeOf,
  readNumber,
  requiredPart,
  SCALE_DTYPES,
  shown,
  storedInput,
} from '../parts.js';
import {
  checkScaleShape,
  type ScaledWeightSpec,
  type Sharing,
  scaledWeight,
  scaleGrid,
  sharingTraits,
  storedCodes,
} from '../scaled-weight.js';
import type { ConfigGroup, WeightArguments } from './config.js';
import { columnOrder } from './group-index.js';
import { packingOfVersion, packingsOf, possibleReadings, type Reading, readShape, wordsFor } from './packing.js';
import { checkZeros, zeroPointsOf } from './zero-points.js';

/** How codes are stored, as far as types and names tell. */
type Kind = 'packed-int' | 'int' | 'float' | 'nvfp4' | 'mxfp4' | 'mxfp8';

/** The tensors of a layer. */
export interface StoredLayer {
  readonly name: string;
  readonly kind: Kind;
  readonly shape: readonly [number, number];
  readonly codes: StoredTensor;
  readonly scale: StoredTensor;
  readonly zeroPoint: StoredTensor | undefined;
  readonly groupIndex: StoredTensor | undefined;
  readonly globalScale: StoredTensor | undefined;
  readonly parts: readonly StoredTensor[];
  /** Its static activations, if its group has them. */
  input(group: ConfigGroup | null): StoredInput | null;
}

const isExponent = ({ dtype }: StoredTensor) => dtype === 'U8' || dtype === 'F8_E8M0';

function kindOf(codes: StoredTensor, scale: StoredTensor, packed: boolean): Kind {
  if (packed) {
    checkDtype(codes, ['I32', 'U8']);
    if (codes.dtype === 'I32') return 'packed-int';
    return isExponent(scale) ? 'mxfp4' : 'nvfp4';
  }
  checkDtype(codes, ['I8', 'F8_E4M3']);
  if (codes.dtype === 'I8') return 'int';
  return isExponent(scale) ? 'mxfp8' : 'float';
}

async function shapeOf(codes: StoredTensor, kind: Kind, shape: StoredTensor | undefined): Promise<[number, number]> {
  const [rows, width] = matrixShape(codes);
  if (kind === 'nvfp4' || kind === 'mxfp4') return [rows, 2 * width];
  if (shape === undefined) return [rows, width];
  const stored = await readShape(shape);
  if (stored[0] !== rows) {
    throw layoutError('LAYOUT_SHAPE', codes, `expected ${stored[0]} rows, as "${shape.name}" says, but it has ${rows}`);
  }
  return stored;
}

/** Finds the tensors of a layer, and checks what can be checked without a config. */
export async function storedLayer(left: ReadonlyMap<string, StoredTensor>, name: string): Promise<StoredLayer> {
  const packed = left.get(`${name}.weight_packed`);
  const plain = left.get(`${name}.weight`);
  if (packed !== undefined && plain !== undefined) {
    throw layoutError(
      'LAYOUT_INVALID',
      packed,
      `expected no "${plain.name}" beside it: the layer would have two weights`,
    );
  }
  const codes = (packed ?? plain) as StoredTensor;
  const scale = requiredPart(left, `${name}.weight_scale`, codes);
  const kind = kindOf(codes, scale, packed !== undefined);
  const shape = kind === 'packed-int' ? requiredPart(left, `${name}.weight_shape`, codes) : undefined;
  const globalScale = kind === 'nvfp4' ? requiredPart(left, `${name}.weight_global_scale`, codes) : undefined;
  const zeroPoint = left.get(`${name}.weight_zero_point`);
  const groupIndex = left.get(`${name}.weight_g_idx`);
  const parts = [codes, scale, shape, globalScale, zeroPoint, groupIndex, ...activationParts(left, name)];
  return {
    name,
    kind,
    shape: await shapeOf(codes, kind, shape),
    codes,
    scale,
    zeroPoint,
    groupIndex,
    globalScale,
    parts: parts.filter((part) => part !== undefined),
    input: (group) => (group?.input == null ? null : storedInput(left, name, group.input, codes)),
  };
}

function sharingOf(args: WeightArguments): Sharing {
  switch (args.strategy) {
    case 'tensor':
      return { granularity: 'per-tensor' };
    case 'channel':
      return { granularity: 'per-channel' };
    case 'block':
      return { granularity: 'per-block', blockShape: args.blockShape as [number, number] };
    default:
      return { granularity: 'per-group', groupSize: args.groupSize as number };
  }
}

/** What the shape of the scales says, where no config does. */
function inferredSharing({ kind, scale, shape: [rows, columns] }: StoredLayer): Sharing {
  if (kind === 'nvfp4') return { granularity: 'per-group', groupSize: 16 };
  if (kind === 'mxfp4' || kind === 'mxfp8') return { granularity: 'per-group', groupSize: 32 };
  if (elementCount(scale) === 1) return { granularity: 'per-tensor' };
  const [first = 0, groups = 1] = scale.shape;
  if (scale.shape.length <= 2 && first === rows) {
    if (groups === 1) return { granularity: 'per-channel' };
    if (columns % groups === 0) return { granularity: 'per-group', groupSize: columns / groups };
  }
  const message =
    `its shape ${shown(scale.shape)} does not tell how a weight of ${rows} rows and ${columns} columns shares scales, ` +
    'and there is no config.json that does';
  throw layoutError('LAYOUT_AMBIGUOUS', scale, message);
}

function isFixedFormat(kind: Kind): kind is 'nvfp4' | 'mxfp4' | 'mxfp8' {
  return kind === 'nvfp4' || kind === 'mxfp4' || kind === 'mxfp8';
}

/** Whether the arguments are those of this kind of codes at all. */
function kindFits(layer: StoredLayer, args: WeightArguments): boolean {
  const bits = { 'packed-int': args.bits, int: Math.min(args.bits, 8), float: 8, nvfp4: 4, mxfp4: 4, mxfp8: 8 }[
    layer.kind
  ];
  const type = layer.kind === 'packed-int' || layer.kind === 'int' ? 'int' : 'float';
  if (args.type !== type || args.bits !== bits || bits > 8) return false;
  if (isFixedFormat(layer.kind)) return args.groupSize === (layer.kind === 'nvfp4' ? 16 : 32);
  return true;
}

/** Whether a config group can be that of a layer. */
export function layerFits(layer: StoredLayer, { weights }: ConfigGroup): boolean {
  if (weights === null || !kindFits(layer, weights)) return false;
  const [rows, columns] = layer.shape;
  const { scaleRows, groups } = scaleGrid(rows, columns, sharingOf(weights));
  if (elementCount(layer.scale) !== scaleRows * groups) return false;
  if (layer.kind !== 'packed-int') return true;
  return packingsOf(columns, layer.codes.shape[1] as number, weights.bits).length > 0;
}

/** How the words of packed integers are to be read. */
async function readingOf(layer: StoredLayer, args: WeightArguments | null, version: string | null): Promise<Reading> {
  const { codes, shape } = layer;
  const [rows, columns] = shape;
  const words = codes.shape[1] as number;
  const widths = args === null ? [1, 2, 3, 4, 5, 6, 7, 8] : [args.bits];
  const readings = widths.flatMap((bits) => packingsOf(columns, words, bits).map((packing) => ({ bits, packing })));
  if (readings.length === 0) {
    const expected =
      args === null ? 'as many words as codes of 1 to 8 bits take' : `${wordsFor(columns, args.bits, 'dense')} words`;
    const message = `expected rows of ${expected} for ${columns} columns, but it has the shape [${rows}, ${words}]`;
    throw layoutError('LAYOUT_SHAPE', codes, message);
  }
  const possible = await possibleReadings(codes, columns, readings);
  const [only] = possible;
  if (possible.length === 1) return only as Reading;
  if (possible.length === 0) {
    throw layoutError(
      'LAYOUT_INVALID',
      codes,
      'expected unused bits of its words to be zero, but they are not in any packing',
    );
  }
  const packing = packingOfVersion(version);
  const chosen =
    args === null || packing === null ? undefined : possible.find((reading) => reading.packing === packing);
  if (chosen !== undefined) return chosen;
  const list = possible.map((reading) => `${reading.bits} bits, ${reading.packing}`).join('; ');
  const message = `its ${words} words for ${columns} columns can be read in several ways (${list}): neither a version in config.json nor unused bits tell which`;
  throw layoutError('LAYOUT_AMBIGUOUS', codes, message);
}

/** Codes of packed integers: those of 2, 3, 4 and 8 bits stay as they are stored, others become bytes. */
function packedCodes(
  { codes, shape: [, columns] }: StoredLayer,
  { bits, packing }: Reading,
): { codes: ScaledWeightSpec['codes']; unsigned: boolean; codeBits: number } {
  const stride = 4 * (codes.shape[1] as number);
  const unsigned = packing === 'dense' && (bits === 2 || bits === 3 || bits === 4 || bits === 8);
  const rowBytes = packedRowBytes(columns, bits);
  if (unsigned && rowBytes === stride) {
    return { codes: storedCodes(codes, `uint${bits}`, rowBytes), unsigned, codeBits: bits };
  }
  const dtype: QuantDtype = unsigned ? `uint${bits}` : 'int8';
  const read = async (begin: number, end: number, scratch: Scratch) => {
    const rows = end - begin;
    const stored = scratch.bytes('codes stored', rows * stride);
    await codes.read(begin * stride, stored);
    if (unsigned) {
      const out = scratch.bytes('codes', rows * rowBytes);
      for (let row = 0; row < rows; row++)
        out.set(stored.subarray(row * stride, row * stride + rowBytes), row * rowBytes);
      return { dtype, data: out };
    }
    const out = scratch.bytes('codes', rows * columns);
    const perWord = packing === 'dense' ? 0 : Math.floor(32 / bits);
    await unpackFieldsAsync(stored, { rows, columns, bits }, { stride, perWord, offset: 2 ** (bits - 1) }, out);
    return { dtype, data: out };
  };
  return { codes: read, unsigned, codeBits: unsigned ? bits : 8 };
}

/** Types of floats that formats of fixed blocks hold. */
const FIXED = {
  nvfp4: { dtype: 'nvfp4', shown: 'nvfp4', scales: ['F8_E4M3'] },
  mxfp4: { dtype: 'mxfp4', shown: 'mxfp4', scales: ['U8', 'F8_E8M0'] },
  mxfp8: { dtype: 'mxfp8_e4m3', shown: 'mxfp8_e4m3', scales: ['U8', 'F8_E8M0'] },
} as const;

async function orderOf(layer: StoredLayer, args: WeightArguments | null, sharing: Sharing): Promise<Int32Array | null> {
  const { groupIndex, codes, shape } = layer;
  if (groupIndex === undefined) {
    if (args?.reordered !== true) return null;
    throw layoutError(
      'LAYOUT_MISSING_PART',
      codes,
      `expected "${layer.name}.weight_g_idx" beside it, because actorder is "group"`,
    );
  }
  if (sharing.granularity === 'per-group') return columnOrder(groupIndex, shape[1], sharing.groupSize);
  throw layoutError('LAYOUT_INVALID', groupIndex, `expected groups of columns, but scales are ${sharing.granularity}`);
}

/** The weight of a layer. */
export async function layerWeight(
  layer: StoredLayer,
  group: ConfigGroup | null,
  checkpoint: Checkpoint,
  version: string | null,
): Promise<Weight> {
  const { kind, codes, scale, shape } = layer;
  const args = group?.weights ?? null;
  if (args !== null && !kindFits(layer, args)) {
    const message = `expected ${args.type} of ${args.bits} bits (${args.strategy}), as config.json says, but it has ${codes.dtype} with scales of ${scale.dtype}`;
    throw layoutError('LAYOUT_DTYPE', codes, message);
  }
  const sharing = args === null ? inferredSharing(layer) : sharingOf(args);
  checkDtype(scale, isFixedFormat(kind) ? FIXED[kind].scales : SCALE_DTYPES);
  checkScaleShape(scale, scaleGrid(shape[0], shape[1], sharing));
  if (args?.symmetric === false && layer.zeroPoint === undefined) {
    throw layoutError(
      'LAYOUT_MISSING_PART',
      codes,
      `expected "${layer.name}.weight_zero_point" beside it, because the scheme is asymmetric`,
    );
  }
  const order = await orderOf(layer, args, sharing);
  const { groupSize, traits } = sharingTraits(sharing);
  const common = {
    name: `${layer.name}.weight`,
    shape,
    parts: layer.parts,
    input: layer.input(group),
    sharing,
    scale,
    order,
    dtype: floatDtypeOf(scale) ?? modelDtypeOf(checkpoint) ?? ('bfloat16' as LargeFloatDtype),
  };
  const encoding = (dtype: string, ...more: string[]) => ({
    format: 'compressed-tensors' as const,
    dtype,
    groupSize,
    traits: [...more, ...traits, ...(order === null ? [] : ['act-order']), ...(group?.traits ?? [])],
  });
  if (kind === 'int' || kind === 'packed-int') {
    const reading = kind === 'int' ? null : await readingOf(layer, args, version);
    const bits = reading?.bits ?? args?.bits ?? 8;
    const read =
      reading === null
        ? { codes: storedCodes(codes, 'int8', shape[1]), unsigned: false, codeBits: 8 }
        : packedCodes(layer, reading);
    const zeroPoints = zeroPointsOf(layer.zeroPoint, shape, sharing, reading, bits, read.unsigned);
    const words = reading?.packing === 'padded' ? ['padded words'] : [];
    return scaledWeight({
      ...common,
      codes: read.codes,
      bits: read.codeBits,
      zeroPoints,
      signedScales: true,
      encoding: encoding(
        `int${bits}`,
        reading === null ? 'int-quantized' : 'pack-quantized',
        ...words,
        ...(zeroPoints === null ? [] : ['asymmetric']),
      ),
    });
  }
  if (layer.zeroPoint !== undefined) await checkZeros(layer.zeroPoint);
  const bits = kind === 'nvfp4' || kind === 'mxfp4' ? 4 : 8;
  const fixed = isFixedFormat(kind) ? FIXED[kind] : null;
  const dtype = fixed?.dtype ?? 'float8_e4m3fn';
  return scaledWeight({
    ...common,
    codes: storedCodes(codes, dtype, packedRowBytes(shape[1], bits)),
    bits,
    zeroPoints: null,
    signedScales: fixed === null,
    ...(layer.globalScale === undefined ? {} : { global: { divisor: await readNumber(layer.globalScale) } }),
    encoding: encoding(
      fixed?.shown ?? dtype,
      fixed === null ? 'float-quantized' : kind === 'mxfp8' ? 'mxfp8-quantized' : `${kind}-pack-quantized`,
    ),
  });
}
