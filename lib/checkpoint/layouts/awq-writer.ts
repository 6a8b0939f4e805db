/**
 * Writing weights in AWQ's "gemm" layout: see awq.ts for what is stored.
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
import { rowsToAwq, sharedWords } from './repack.js';
import { groupRefusal } from './writing.js';
import { packAwqZeroPoints } from './zero-points.js';

/** Settings of {@link awqWriter}. */
export interface AwqSettings {
  /** Symmetric weights (`zero_point: false`) get zero points as well, all 8: there are readers that need them. */
  readonly scheme: Scheme;
  /** Inputs that share a scale; null (−1 in the config): all of an output channel. */
  readonly groupSize: number | null;
  /** What scales are stored in. Default: `'float16'`, the only one that AutoAWQ's kernels take. */
  readonly scaleDtype?: LargeFloatDtype;
}

const BITS = 4;

/** N and K must be multiples of this: channels, and codes, in a word. */
const MULTIPLE = 8;

/**
 * What quant_config.json holds, which older tools look for, with the names of llm-awq.
 *
 * @param ignored - Names of linear layers that stay in float.
 */
export function awqQuantConfig({ scheme, groupSize }: AwqSettings, ignored: readonly string[]): Json {
  return {
    zero_point: scheme === 'asymmetric',
    q_group_size: groupSize ?? -1,
    w_bit: BITS,
    version: 'GEMM',
    modules_to_not_convert: ignored.length === 0 ? null : [...ignored],
  };
}

class AwqWriter implements LayoutWriter {
  readonly format = 'awq';
  readonly transposed = true;
  readonly recipe: Recipe;
  private readonly setting: PackedSetting;

  constructor({ scheme, groupSize, scaleDtype = 'float16' }: AwqSettings) {
    this.setting = { bits: BITS, scheme, groupSize, scaleDtype };
    this.recipe = {
      dtype: 'uint4',
      scheme,
      ...(groupSize === null ? { granularity: 'per-channel', axis: 0 } : { granularity: 'per-group', groupSize }),
      scaleDtype,
      needsLargest: false,
    };
  }

  refusal(weight: Outline): string | null {
    const { groupSize } = this.setting;
    // AutoAWQ, transformers and vLLM refuse a shorter last group.
    return (
      sizeRefusal(weight, MULTIPLE, MULTIPLE) ?? (groupSize === null ? null : groupRefusal(weight.columns, groupSize))
    );
  }

  outputs({ name, rows, columns }: Outline): TensorSpec[] {
    const { groupSize, scaleDtype } = this.setting;
    const layer = layerNameOf(name);
    const groups = groupCount(columns, groupSize);
    return [
      { name: `${layer}.qweight`, dtype: 'I32', shape: [columns, rows / MULTIPLE] },
      { name: `${layer}.qzeros`, dtype: 'I32', shape: [groups, rows / MULTIPLE] },
      { name: `${layer}.scales`, dtype: STORED_FLOATS[scaleDtype], shape: [groups, rows] },
    ];
  }

  rowStep(): number {
    return MULTIPLE;
  }

  async encode(weight: Outline, begin: number, tensor: QuantizedTensor, order: Int32Array | null): Promise<Piece[]> {
    const { name, columns } = weight;
    const layer = layerNameOf(name);
    const [rows = 0] = tensor.shape;
    if (begin % MULTIPLE !== 0 || rows % MULTIPLE !== 0 || begin + rows > weight.rows) {
      throw new RangeError(`rows ${begin} to ${begin + rows} of ${weight.rows} are no block of ${name}`);
    }
    if (order !== null) {
      const message = `${name}: its inputs are in act-order, which AWQ's layout can't hold. Dequantize it, and quantize it anew.`;
      throw new CheckpointError('LAYOUT_UNSUPPORTED', message, { path: name, tensor: name });
    }
    const { words, zeroPoints } = unsignedCodes(weight, tensor, this.setting);
    const groups = groupCount(columns, this.setting.groupSize);
    this.checkZeroPoints(name, begin, zeroPoints, groups);
    const width = rows / MULTIPLE;
    const strip = sharedWords(words.length);
    await rowsToAwq(words, columns / MULTIPLE, width, strip);
    const zeroWords = new Uint32Array(groups * width);
    packAwqZeroPoints(zeroPoints, groups, rows, zeroWords);
    const perRow = weight.rows / MULTIPLE;
    return [
      wordsPiece(`${layer}.qweight`, strip, begin / MULTIPLE, width, perRow),
      wordsPiece(`${layer}.qzeros`, zeroWords, begin / MULTIPLE, width, perRow),
      await scalesPiece(weight, begin, tensor, `${layer}.scales`, this.setting.scaleDtype),
    ];
  }

  config(ignored: readonly string[]): Json {
    const { scheme, groupSize } = this.setting;
    return {
      quant_method: 'awq',
      bits: BITS,
      group_size: groupSize ?? -1,
      zero_point: scheme === 'asymmetric',
      version: 'gemm',
      modules_to_not_convert: ignored.length === 0 ? null : [...ignored],
    };
  }

  private checkZeroPoints(name: string, begin: number, zeroPoints: Int32Array, groups: number): void {
    const at = zeroPoints.findIndex((zero) => zero < 0 || zero > 15);
    if (at === -1) return;
    const where = `group ${at % groups} of output channel ${begin + Math.floor(at / groups)}`;
    const message = `${name}: expected zero points from 0 to 15 but ${where} has ${zeroPoints[at]}.`;
    throw new CheckpointError('ZERO_POINT_OUT_OF_RANGE', message, { path: name, tensor: name });
  }
}

/**
 * Writes weights in AWQ's "gemm" layout. `encode` takes tensors of uint4, or of int4.
 *
 * @throws CheckpointError from `encode`: `LAYOUT_UNSUPPORTED` for act-order, `ZERO_POINT_OUT_OF_RANGE`; ScaleOverflowError.
 */
export function awqWriter(settings: AwqSettings): LayoutWriter {
  return new AwqWriter(settings);
}
