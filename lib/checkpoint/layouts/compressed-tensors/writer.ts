/**
 * Writing the compressed-tensors layout: the tensors of reader.ts, and the `quantization_config` that vLLM and transformers
 * read. Integers are packed as version 0.18.0 does, without gaps.
 *
 * @module
 */
import { type LargeFloatDtype, packedRowBytes, type QuantDtype } from '../../../dtype.js';
import { castTensor } from '../../../tensor/cast.js';
import { type FieldRows, gatherFieldsAsync, moveFieldsAsync, unpackFieldsAsync } from '../../../tensor/fields.js';
import { inputKindOf, type StaticActivations } from '../../../tensor/input-quantization.js';
import type { QuantizedTensor, Scheme } from '../../../tensor/quantized-tensor.js';
import type { Json } from '../../checkpoint.js';
import type { SafetensorsDtype } from '../../safetensors.js';
import { type TensorSpec, tensorBytes } from '../../safetensors-writer.js';
import { Scratch } from '../../scratch.js';
import type { LayoutWriter, Outline, Piece, Recipe } from '../layout.js';
import { type Sharing, scaleGrid } from '../scaled-weight.js';
import { bytesOf, checkEncoded, groupRefusal, inverseOrder, STORED_FLOATS } from '../writing.js';
import type { FORMATS } from './config.js';
import { writtenConfig } from './config-writer.js';
import { groupIndexOf } from './group-index.js';
import { packShape, packZeroPointFields, wordsFor, zeroPointStep } from './packing.js';

/**
 * What activations become at run time: nothing else; codes with a scale for each token or group of it; or codes with one scale
 * for all, which calibration finds and the file keeps.
 */
export type ActivationDtype = 'float' | 'int8' | 'float8_e4m3fn' | 'mxfp4' | 'mxfp8_e4m3' | StaticActivations;

/** What to write. */
export interface CompressedTensorsSettings {
  readonly format: (typeof FORMATS)[number];
  /**
   * The codes: `int2`, `int3`, `int4` or `int8` with pack-quantized (default int4), int-quantized and naive-quantized (default
   * int8; one to a byte), `float8_e4m3fn` with naive-quantized. The other formats have one type each.
   */
  readonly dtype?: 'int2' | 'int3' | 'int4' | 'int8' | 'float8_e4m3fn';
  /**
   * What engines quantize activations to, at run time: nothing of it is stored but this wish, and if it is static the scale
   * and zero point of every layer; symmetric weights per tensor or channel in bytes go with it. Default: what the format is
   * for, `int8` with int-quantized, `float8_e4m3fn` with float-quantized (but for groups), `mxfp8_e4m3` with
   * mxfp8-quantized, else `float`: not at all.
   */
  readonly activations?: ActivationDtype;
  /** Integers only; default symmetric. */
  readonly scheme?: Scheme;
  /** Default: groups of 128 with pack-quantized, else channels. The formats of fixed blocks have no choice. */
  readonly sharing?: Sharing;
  /** Of the scales, where the format leaves it open: the model's. */
  readonly scaleDtype: LargeFloatDtype;
  /** Whether weights may come with an order of their columns, which becomes `weight_g_idx`; with groups only. */
  readonly actOrder?: boolean;
}

/** Settings with everything decided. */
export interface WriterPlan {
  readonly format: CompressedTensorsSettings['format'];
  readonly dtype: QuantDtype;
  readonly bits: number;
  readonly scheme: Scheme;
  readonly sharing: Sharing;
  readonly scaleDtype: LargeFloatDtype;
  readonly actOrder: boolean;
  readonly activations: ActivationDtype;
}

const FIXED_DTYPES: Partial<Record<CompressedTensorsSettings['format'], QuantDtype>> = {
  'float-quantized': 'float8_e4m3fn',
  'nvfp4-pack-quantized': 'nvfp4',
  'mxfp4-pack-quantized': 'mxfp4',
  'mxfp8-quantized': 'mxfp8_e4m3',
};

const BITS: Partial<Record<QuantDtype, number>> = { int2: 2, int3: 3, int4: 4, nvfp4: 4, mxfp4: 4 };

function planOf(settings: CompressedTensorsSettings): WriterPlan {
  const { format, scheme = 'symmetric', scaleDtype, actOrder = false } = settings;
  const packs = format === 'pack-quantized';
  const dtype = FIXED_DTYPES[format] ?? settings.dtype ?? (packs ? 'int4' : 'int8');
  const allowed = ['int2', 'int3', 'int4', 'int8', ...(format === 'naive-quantized' ? ['float8_e4m3fn'] : [])];
  if (FIXED_DTYPES[format] === undefined ? !allowed.includes(dtype) : (settings.dtype ?? dtype) !== dtype) {
    throw new RangeError(`${format} does not hold ${settings.dtype}`);
  }
  const isInteger = dtype.startsWith('int');
  if (!isInteger && scheme !== 'symmetric') throw new RangeError(`${dtype} has no zero points`);
  const groupSize = dtype === 'nvfp4' ? 16 : dtype.startsWith('mx') ? 32 : null;
  const sharing: Sharing =
    groupSize !== null
      ? { granularity: 'per-group', groupSize }
      : (settings.sharing ?? (packs ? { granularity: 'per-group', groupSize: 128 } : { granularity: 'per-channel' }));
  if (packs && sharing.granularity === 'per-block') throw new RangeError('pack-quantized has no blocks');
  if (actOrder && (sharing.granularity !== 'per-group' || !isInteger)) {
    throw new RangeError('act-order needs integers in groups');
  }
  const activations = settings.activations ?? usualActivations(format, sharing);
  if (!activationsOf(dtype).includes(activations)) throw new RangeError(`${dtype} does not go with ${activations}`);
  const isPlain = sharing.granularity === 'per-tensor' || sharing.granularity === 'per-channel';
  if (inputKindOf(activations) !== null && (packs || scheme !== 'symmetric' || !isPlain)) {
    throw new RangeError(`${activations} needs symmetric weights in bytes, with a scale per tensor or channel`);
  }
  return { format, dtype, bits: BITS[dtype] ?? 8, scheme, sharing, scaleDtype, actOrder, activations };
}

/** What activations can become beside weights of a type. */
export function activationsOf(dtype: QuantDtype): readonly ActivationDtype[] {
  if (/^int\d$/.test(dtype)) {
    const dynamic = ['float', 'int8', 'float8_e4m3fn'] as const;
    return dtype === 'int8' ? [...dynamic, 'int8-static', 'int8-static-asymmetric'] : dynamic;
  }
  if (dtype === 'float8_e4m3fn') return ['float', 'float8_e4m3fn', 'float8_e4m3fn-static'];
  if (dtype === 'nvfp4') return ['float']; // NVFP4 activations need a scale that calibration finds
  return ['float', dtype as ActivationDtype];
}

/** What activations become where nothing is said. */
function usualActivations(format: CompressedTensorsSettings['format'], sharing: Sharing): ActivationDtype {
  if (format === 'int-quantized') return 'int8';
  if (format === 'mxfp8-quantized') return 'mxfp8_e4m3';
  return format === 'float-quantized' && sharing.granularity !== 'per-group' ? 'float8_e4m3fn' : 'float';
}

function recipeOf({ dtype, scheme, sharing, scaleDtype, actOrder, activations }: WriterPlan): Recipe {
  const input = inputKindOf(activations);
  return {
    dtype,
    scheme,
    ...sharing,
    ...(sharing.granularity === 'per-channel' ? { axis: 0 } : {}),
    scaleDtype: isBlockFormat(dtype) ? 'float32' : scaleDtype,
    needsLargest: dtype === 'nvfp4' || sharing.granularity === 'per-tensor',
    ...(actOrder ? { ordered: true } : {}),
    ...(input === null ? {} : { input }),
  };
}

function isBlockFormat(dtype: QuantDtype): boolean {
  return dtype === 'nvfp4' || dtype.startsWith('mx');
}

const isPacked = ({ format }: WriterPlan) => format.endsWith('pack-quantized');

function scaleType({ dtype, scaleDtype }: WriterPlan): SafetensorsDtype {
  if (dtype === 'nvfp4') return 'F8_E4M3';
  return isBlockFormat(dtype) ? 'U8' : STORED_FLOATS[scaleDtype];
}

/** `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`. */
function layerOf(name: string): string {
  return name.slice(0, -'.weight'.length);
}

/** The tensors of a weight, by what they hold. */
function specsOf(plan: WriterPlan, { name, rows, columns }: Outline): Record<string, TensorSpec> {
  const { format, dtype, bits, sharing } = plan;
  const layer = layerOf(name);
  const { groups, scaleRows } = scaleGrid(rows, columns, sharing);
  const scaleShape = sharing.granularity === 'per-tensor' ? [1] : [scaleRows, groups];
  const specs: Record<string, TensorSpec> = {
    codes:
      format === 'pack-quantized'
        ? { name: `${layer}.weight_packed`, dtype: 'I32', shape: [rows, wordsFor(columns, bits, 'dense')] }
        : isPacked(plan)
          ? { name: `${layer}.weight_packed`, dtype: 'U8', shape: [rows, packedRowBytes(columns, 4)] }
          : { name, dtype: dtype.startsWith('int') ? 'I8' : 'F8_E4M3', shape: [rows, columns] },
    scale: { name: `${layer}.weight_scale`, dtype: scaleType(plan), shape: scaleShape },
  };
  if (format === 'pack-quantized') specs['shape'] = { name: `${layer}.weight_shape`, dtype: 'I64', shape: [2] };
  if (dtype === 'nvfp4') specs['global'] = { name: `${layer}.weight_global_scale`, dtype: 'F32', shape: [1] };
  if (plan.scheme === 'asymmetric') {
    const packs = packsZeroPoints(plan);
    specs['zeroPoint'] = {
      name: `${layer}.weight_zero_point`,
      dtype: packs ? 'I32' : 'I8',
      shape: packs ? [wordsFor(rows, bits, 'dense'), groups] : scaleShape,
    };
  }
  const input = inputKindOf(plan.activations);
  if (input !== null) specs['inputScale'] = { name: `${layer}.input_scale`, dtype: scaleType(plan), shape: [1] };
  if (input?.scheme === 'asymmetric') {
    specs['inputZeroPoint'] = { name: `${layer}.input_zero_point`, dtype: 'I8', shape: [1] };
  }
  if (plan.actOrder) specs['groupIndex'] = { name: `${layer}.weight_g_idx`, dtype: 'I32', shape: [columns] };
  return specs;
}

/** Zero points of a whole tensor are a byte. */
function packsZeroPoints({ format, scheme, sharing }: WriterPlan): boolean {
  return format === 'pack-quantized' && scheme === 'asymmetric' && sharing.granularity !== 'per-tensor';
}

/** The codes as they are stored: signed ones with an offset in pack-quantized, else bytes; in the columns' own order. */
async function storedCodes(
  plan: WriterPlan,
  tensor: QuantizedTensor,
  order: Int32Array | null,
  scratch: Scratch,
): Promise<Uint8Array> {
  const [rows = 0, columns = 0] = tensor.shape;
  const { bits } = plan;
  const fields = { rows, columns, bits };
  const data = order === null ? tensor.data : await gatherFieldsAsync(tensor.data, fields, inverseOrder(order));
  const inStride = packedRowBytes(columns, bits);
  const outStride = plan.format === 'pack-quantized' ? 4 * wordsFor(columns, bits, 'dense') : inStride;
  const unsigned = tensor.dtype.startsWith('uint');
  if (!isPacked(plan) && bits < 8) return codeBytes(data, fields, unsigned);
  const flip = plan.format === 'pack-quantized' ? !unsigned : unsigned;
  if (!flip && inStride === outStride) return data;
  const out = scratch.bytes('stored codes', rows * outStride);
  return moveFieldsAsync(data, fields, { inStride, outStride, flip }, out);
}

/** Codes of fewer than eight bits, one to a byte. */
async function codeBytes(data: Uint8Array, fields: FieldRows, unsigned: boolean): Promise<Uint8Array> {
  const { rows, columns, bits } = fields;
  const stride = packedRowBytes(columns, bits);
  let from = data;
  if (!unsigned) {
    from = new Uint8Array(new SharedArrayBuffer(rows * stride));
    await moveFieldsAsync(data, fields, { inStride: stride, outStride: stride, flip: true }, from);
  }
  const out = new Uint8Array(new SharedArrayBuffer(rows * columns));
  return unpackFieldsAsync(from, fields, { stride, perWord: 0, offset: 2 ** (bits - 1) }, out);
}

function storedScales(
  plan: WriterPlan,
  { scales, globalScale }: Pick<QuantizedTensor, 'scales' | 'globalScale'>,
): Uint8Array {
  if (plan.dtype === 'nvfp4') {
    const times = scales.map((scale) => scale * (globalScale as number));
    return castTensor(times, { from: 'float32', to: 'float8_e4m3fn' });
  }
  if (isBlockFormat(plan.dtype)) return castTensor(scales, { from: 'float32', to: 'float8_e8m0fnu' });
  if (plan.scaleDtype === 'float32') return bytesOf(scales);
  return bytesOf(castTensor(scales, { from: 'float32', to: plan.scaleDtype }));
}

/** Zero points as they are stored, from those of a tensor of either signedness. */
function storedZeroPoints(plan: WriterPlan, tensor: QuantizedTensor): Uint8Array {
  const half = 2 ** (plan.bits - 1);
  const own = tensor.dtype.startsWith('uint') ? half : 0;
  const given = tensor.zeroPoints ?? new Int32Array(tensor.scales.length).fill(own);
  if (!packsZeroPoints(plan)) return bytesOf(Int8Array.from(given, (zeroPoint) => zeroPoint - own));
  const [rows = 0] = tensor.shape;
  const fields = given.map((zeroPoint) => zeroPoint - own + half);
  return packZeroPointFields(fields, rows, fields.length / rows, plan.bits);
}

class Writer implements LayoutWriter {
  readonly format = 'compressed-tensors';
  readonly recipe: Recipe;
  /** Of NVFP4 weights that were begun. */
  private readonly globalScales = new Map<string, number>();

  constructor(private readonly plan: WriterPlan) {
    this.recipe = recipeOf(plan);
  }

  refusal({ name, columns }: Outline): string | null {
    if (!name.endsWith('.weight')) return 'its name does not end with ".weight"';
    const { sharing } = this.plan;
    if (sharing.granularity !== 'per-group') return null;
    if (!isBlockFormat(this.plan.dtype)) return groupRefusal(columns, sharing.groupSize);
    if (columns % sharing.groupSize === 0) return null;
    return `its ${columns} inputs are no multiple of the ${sharing.groupSize} of a block of ${this.plan.dtype}`;
  }

  outputs(weight: Outline): TensorSpec[] {
    return Object.values(specsOf(this.plan, weight));
  }

  rowStep(_weight: Outline): number {
    const { sharing, bits } = this.plan;
    if (sharing.granularity === 'per-block') return sharing.blockShape[0];
    return packsZeroPoints(this.plan) ? zeroPointStep(bits) : 1;
  }

  async encode(
    weight: Outline,
    begin: number,
    tensor: QuantizedTensor,
    order: Int32Array | null,
    scratch: Scratch = new Scratch(),
  ): Promise<Piece[]> {
    const { plan } = this;
    checkEncoded(plan, weight, tensor);
    if (order !== null && !plan.actOrder) {
      throw new RangeError(`${weight.name}: its columns are sorted, and this writer was made without actOrder`);
    }
    const specs = specsOf(plan, weight);
    const { groups, rowsPerScale } = scaleGrid(weight.rows, weight.columns, plan.sharing);
    const scaleIndex = Math.floor(begin / rowsPerScale) * groups;
    const pieces: Piece[] = [];
    const add = (part: string, at: number, data: Uint8Array) => {
      const spec = specs[part];
      if (spec !== undefined) pieces.push({ tensor: spec.name, begin: at, data });
    };
    const codes = specs['codes'] as TensorSpec;
    add('codes', begin * (tensorBytes(codes) / weight.rows), await storedCodes(plan, tensor, order, scratch));
    if (plan.sharing.granularity !== 'per-tensor' || begin === 0) {
      const scales = storedScales(plan, tensor);
      add('scale', scaleIndex * (scales.length / tensor.scales.length), scales);
      if (plan.scheme === 'asymmetric') {
        const at = packsZeroPoints(plan) ? 4 * groups * ((begin * plan.bits) / 32) : scaleIndex;
        add('zeroPoint', at, storedZeroPoints(plan, tensor));
      }
    }
    if (plan.dtype === 'nvfp4') this.rememberGlobal(weight.name, tensor.globalScale as number);
    if (begin === 0) {
      if (specs['shape'] !== undefined) add('shape', 0, packShape(weight.rows, weight.columns));
      if (specs['global'] !== undefined) add('global', 0, bytesOf(Float32Array.of(tensor.globalScale as number)));
      if (specs['inputScale'] !== undefined) {
        const { input } = weight;
        if (input === undefined) throw new RangeError(`${weight.name} comes without the scale of its activations`);
        add('inputScale', 0, storedScales(plan, { scales: Float32Array.of(input.scale) }));
        add('inputZeroPoint', 0, bytesOf(Int8Array.of(input.zeroPoint ?? 0)));
      }
      if (plan.actOrder && plan.sharing.granularity === 'per-group') {
        const places = order ?? Int32Array.from({ length: weight.columns }, (_, i) => i);
        add('groupIndex', 0, bytesOf(groupIndexOf(places, plan.sharing.groupSize)));
      }
    }
    return pieces;
  }

  /** Strips of a weight that were quantized with different global scales would not fit together. */
  private rememberGlobal(name: string, value: number): void {
    const known = this.globalScales.get(name);
    if (known !== undefined && known !== value) throw new RangeError(`strips of ${name} have different global scales`);
    this.globalScales.set(name, value);
  }

  config(ignored: readonly string[]): Json {
    return writtenConfig(this.plan, ignored);
  }
}

/**
 * A writer of compressed-tensors weights.
 *
 * @throws RangeError if the settings contradict each other.
 */
export function compressedTensorsWriter(settings: CompressedTensorsSettings): LayoutWriter {
  return new Writer(planOf(settings));
}
