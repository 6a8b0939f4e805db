/**
 * Writing FP8 weights as transformers and vLLM read them; see fp8.ts.
 *
 * @module
 */
import type { QuantizedTensor } from '../../tensor/quantized-tensor.js';
import type { Json } from '../checkpoint.js';
import type { TensorSpec } from '../safetensors-writer.js';
import type { LayoutWriter, Outline, Piece, Recipe } from './layout.js';
import { type Sharing, scaleGrid } from './scaled-weight.js';
import { bytesOf, checkEncoded } from './writing.js';

/** What to write. */
export interface Fp8Settings {
  /**
   * `per-block`: DeepSeek's blocks of 128 × 128, default. `per-tensor`: one scale for each weight, called as vLLM reads it
   * (transformers does not). `per-channel`: one for each row, as `fbgemm_fp8`.
   */
  readonly granularity?: 'per-block' | 'per-tensor' | 'per-channel';
}

const BLOCK = [128, 128] as const;

class Writer implements LayoutWriter {
  readonly format = 'fp8';
  readonly recipe: Recipe;

  constructor(private readonly sharing: Exclude<Sharing, { granularity: 'per-group' }>) {
    this.recipe = {
      dtype: 'float8_e4m3fn',
      scheme: 'symmetric',
      ...sharing,
      ...(sharing.granularity === 'per-channel' ? { axis: 0 } : {}),
      scaleDtype: 'float32',
      needsLargest: sharing.granularity === 'per-tensor',
    };
  }

  refusal({ name }: Outline): string | null {
    return name.endsWith('.weight') ? null : 'its name does not end with ".weight"';
  }

  private scaleName(name: string): string {
    return this.sharing.granularity === 'per-block' ? `${name}_scale_inv` : `${name}_scale`;
  }

  outputs({ name, rows, columns }: Outline): TensorSpec[] {
    const { scaleRows, groups } = scaleGrid(rows, columns, this.sharing);
    const shape = this.sharing.granularity === 'per-tensor' ? [1] : [scaleRows, groups];
    return [
      { name, dtype: 'F8_E4M3', shape: [rows, columns] },
      { name: this.scaleName(name), dtype: 'F32', shape },
    ];
  }

  rowStep(_weight: Outline): number {
    return this.sharing.granularity === 'per-block' ? this.sharing.blockShape[0] : 1;
  }

  async encode(weight: Outline, begin: number, tensor: QuantizedTensor, order: Int32Array | null): Promise<Piece[]> {
    const { sharing } = this;
    checkEncoded({ dtype: 'float8_e4m3fn', scheme: 'symmetric', sharing }, weight, tensor);
    if (order !== null) throw new RangeError('FP8 keeps the order of columns');
    const { groups, rowsPerScale } = scaleGrid(weight.rows, weight.columns, sharing);
    const pieces: Piece[] = [{ tensor: weight.name, begin: begin * weight.columns, data: tensor.data }];
    if (sharing.granularity !== 'per-tensor' || begin === 0) {
      const first = Math.floor(begin / rowsPerScale) * groups;
      pieces.push({ tensor: this.scaleName(weight.name), begin: 4 * first, data: bytesOf(tensor.scales) });
    }
    return pieces;
  }

  config(ignored: readonly string[]): Json {
    if (this.sharing.granularity === 'per-channel') {
      return { quant_method: 'fbgemm_fp8', activation_scale_ub: 1200, modules_to_not_convert: [...ignored] };
    }
    return {
      quant_method: 'fp8',
      fmt: 'e4m3',
      activation_scheme: 'dynamic',
      // Without this field transformers assumes blocks.
      weight_block_size: this.sharing.granularity === 'per-block' ? [...this.sharing.blockShape] : null,
      modules_to_not_convert: [...ignored],
    };
  }
}

/** A writer of FP8 weights. */
export function fp8Writer({ granularity = 'per-block' }: Fp8Settings = {}): LayoutWriter {
  return new Writer(granularity === 'per-block' ? { granularity, blockShape: BLOCK } : { granularity });
}
