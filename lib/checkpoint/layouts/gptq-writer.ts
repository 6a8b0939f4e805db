/**
 * Writing weights in GPTQ's layout, versions 1 and 2: see gptq.ts for what is stored.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { CheckpointError } from '../../errors.js';
import type { QuantizedTensor, Scheme } from '../../tensor/quantized-tensor.js';
import type { Json } from '../checkpoint.js';
import type { TensorSpec } from '../safetensors-writer.js';
import type { LayoutWriter, Outline, Piece, Recipe } from './layout.js';
import {
  groupCount,
  layerNameOf,
  type PackedSetting,
  STORED_FLOATS,
  scalesPiece,
  sizeRefusal,
  unsignedCodes,
  wordsPiece,
} from './packed-writer.js';
import { CODE_DTYPES, type CodeBits, selectCodes, sharedWords, transposeWords } from './repack.js';
import { type GptqVersion, packZeroPoints } from './zero-points.js';

/** Settings of {@link gptqWriter}. */
export interface GptqSettings {
  readonly bits: CodeBits;
  readonly scheme: Scheme;
  /**
   * Inputs that share a scale; the last group may have fewer, as AutoGPTQ, GPTQModel and transformers take it (vLLM and the
   * kernels of ExLlama and Marlin do not). Null (−1 in the config): all of an output channel.
   */
  readonly groupSize: number | null;
  /**
   * Default: 1 ("gptq"), which more runtimes read. Asymmetric weights may have a zero point of 0, which only 2 ("gptq_v2")
   * can hold; and GPTQModel reads version 1 wrongly for three bits, and not at all if it is asymmetric and another's.
   */
  readonly version?: GptqVersion;
  /** Whether inputs may come sorted, with an order: `desc_act`. Default: false. */
  readonly actOrder?: boolean;
  /** Whether lm_head is quantized, too. Default: false. */
  readonly lmHead?: boolean;
  /** What scales are stored in. Default: `'float16'`, the only one that every runtime takes. */
  readonly scaleDtype?: LargeFloatDtype;
  /** Names of the tools, as `meta.quantizer` of the config: `['lowbit:1.0.0']`. */
  readonly tools?: readonly string[];
}

/** N and K must be multiples of this. */
const MULTIPLE = 32;

/** A layer name as a regular expression. */
function escaped(name: string): string {
  return name.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}

/**
 * What quantize_config.json holds, which AutoGPTQ and GPTQModel look for; the same, with the same names, is
 * `quantization_config` of config.json, which transformers and vLLM read.
 *
 * @param ignored - Names of linear layers that stay in float: excluded by patterns (`dynamic`), as GPTQModel and vLLM know
 *   them; lm_head by `lm_head`, unless it is quantized.
 */
export function gptqConfig(settings: GptqSettings, ignored: readonly string[]): Json {
  const { bits, scheme, groupSize, version = 1, actOrder = false, lmHead = false, tools = [] } = settings;
  const others = ignored.filter((name) => name !== 'lm_head');
  return {
    bits,
    group_size: groupSize ?? -1,
    desc_act: actOrder,
    static_groups: false,
    sym: scheme === 'symmetric',
    lm_head: lmHead,
    true_sequential: true,
    quant_method: 'gptq',
    checkpoint_format: version === 1 ? 'gptq' : 'gptq_v2',
    pack_dtype: 'int32',
    ...(others.length === 0 ? {} : { dynamic: Object.fromEntries(others.map((name) => [`-:^${escaped(name)}$`, {}])) }),
    ...(tools.length === 0 ? {} : { meta: { quantizer: [...tools] } }),
  };
}

class GptqWriter implements LayoutWriter {
  readonly format = 'gptq';
  readonly transposed = true;
  readonly recipe: Recipe;
  private readonly setting: PackedSetting;
  private readonly version: GptqVersion;

  constructor(private readonly settings: GptqSettings) {
    const { bits, scheme, groupSize, version = 1, scaleDtype = 'float16' } = settings;
    this.setting = { bits, scheme, groupSize, scaleDtype };
    this.version = version;
    this.recipe = {
      dtype: CODE_DTYPES[bits],
      scheme,
      ...(groupSize === null ? { granularity: 'per-channel', axis: 0 } : { granularity: 'per-group', groupSize }),
      scaleDtype,
      needsLargest: false,
      ...(settings.actOrder === true ? { ordered: true } : {}),
      ...(version === 1 ? { noLowestZeroPoint: true } : {}),
    };
  }

  refusal(weight: Outline): string | null {
    return sizeRefusal(weight, MULTIPLE, MULTIPLE);
  }

  outputs({ name, rows, columns }: Outline): TensorSpec[] {
    const { bits, groupSize, scaleDtype } = this.setting;
    const layer = layerNameOf(name);
    const groups = groupCount(columns, groupSize);
    return [
      { name: `${layer}.qweight`, dtype: 'I32', shape: [(columns * bits) / 32, rows] },
      { name: `${layer}.qzeros`, dtype: 'I32', shape: [groups, (rows * bits) / 32] },
      { name: `${layer}.scales`, dtype: STORED_FLOATS[scaleDtype], shape: [groups, rows] },
      { name: `${layer}.g_idx`, dtype: 'I32', shape: [columns] },
    ];
  }

  rowStep(): number {
    return MULTIPLE;
  }

  async encode(weight: Outline, begin: number, tensor: QuantizedTensor, order: Int32Array | null): Promise<Piece[]> {
    const { bits, groupSize, scaleDtype } = this.setting;
    const { columns } = weight;
    const layer = layerNameOf(weight.name);
    const [rows = 0] = tensor.shape;
    if (begin % MULTIPLE !== 0 || rows % MULTIPLE !== 0 || begin + rows > weight.rows) {
      throw new RangeError(`rows ${begin} to ${begin + rows} of ${weight.rows} are no block of ${weight.name}`);
    }
    if (order !== null && this.settings.actOrder !== true) {
      throw new RangeError(`${weight.name}: its inputs are sorted, and this writer was made without actOrder`);
    }
    const { words, zeroPoints } = unsignedCodes(weight, tensor, this.setting);
    this.checkZeroPoints(weight, begin, zeroPoints, zeroPoints.length / rows);
    const wordRows = (columns * bits) / 32;
    let strip = sharedWords(wordRows * rows);
    await transposeWords(words, rows, wordRows, strip);
    if (order !== null) {
      const sorted = strip;
      strip = sharedWords(sorted.length);
      await selectCodes(sorted, bits, inverseOf(weight, order), rows, strip);
    }
    const groups = groupCount(columns, groupSize);
    const zeroWidth = (rows * bits) / 32;
    const zeroWords = new Uint32Array(groups * zeroWidth);
    packZeroPoints(zeroPoints, groups, rows, bits, this.version, zeroWords);
    const pieces = [
      wordsPiece(`${layer}.qweight`, strip, begin, rows, weight.rows),
      wordsPiece(`${layer}.qzeros`, zeroWords, (begin * bits) / 32, zeroWidth, (weight.rows * bits) / 32),
      await scalesPiece(weight, begin, tensor, `${layer}.scales`, scaleDtype),
    ];
    if (begin === 0) {
      const index = new Int32Array(columns);
      for (let i = 0; i < columns; i++) {
        index[order === null ? i : (order[i] as number)] = groupSize === null ? 0 : Math.floor(i / groupSize);
      }
      pieces.push({ tensor: `${layer}.g_idx`, begin: 0, data: new Uint8Array(index.buffer) });
    }
    return pieces;
  }

  config(ignored: readonly string[]): Json {
    return gptqConfig(this.settings, ignored);
  }

  private checkZeroPoints({ name }: Outline, begin: number, zeroPoints: Int32Array, groups: number): void {
    const lowest = this.version === 1 ? 1 : 0;
    const highest = 2 ** this.setting.bits - 1;
    const at = zeroPoints.findIndex((zero) => zero < lowest || zero > highest);
    if (at === -1) return;
    const where = `group ${at % groups} of output channel ${begin + Math.floor(at / groups)}`;
    const remedy = this.version === 1 ? ' Version 1 stores them less one: write version 2 ("gptq_v2").' : '';
    const message = `${name}: expected zero points from ${lowest} to ${highest} but ${where} has ${zeroPoints[at]}.${remedy}`;
    throw new CheckpointError('ZERO_POINT_OUT_OF_RANGE', message, { path: name, tensor: name });
  }
}

/** Where each input went. */
function inverseOf(weight: Outline, order: Int32Array): Int32Array {
  const inverse = new Int32Array(weight.columns).fill(-1);
  for (let i = 0; i < order.length; i++) inverse[order[i] as number] = i;
  if (order.length !== weight.columns || inverse.includes(-1)) {
    throw new RangeError(`${weight.name}: the order is no permutation of its ${weight.columns} inputs`);
  }
  return inverse;
}

/**
 * Writes weights in GPTQ's layout. `encode` takes tensors of the recipe's dtype, or of the signed one as wide.
 *
 * @throws CheckpointError from `encode`: `ZERO_POINT_OUT_OF_RANGE` for a zero point of 0 in version 1; ScaleOverflowError.
 */
export function gptqWriter(settings: GptqSettings): LayoutWriter {
  return new GptqWriter(settings);
}
