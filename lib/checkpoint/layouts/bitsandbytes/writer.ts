/**
 * Writing weights of bitsandbytes in four bits, and the `quantization_config` that transformers reads.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../../dtype.js';
import { swapNibblesAsync } from '../../../tensor/fields.js';
import { nestScales } from '../../../tensor/nested-scales.js';
import { NESTED_BLOCK, type QuantizedTensor } from '../../../tensor/quantized-tensor.js';
import type { Json } from '../../checkpoint.js';
import type { TensorSpec } from '../../safetensors-writer.js';
import type { LayoutWriter, Outline, Piece, Recipe } from '../layout.js';
import { bytesOf, checkEncoded } from '../writing.js';
import { bitsandbytesConfig } from './config.js';
import { type QuantState, quantStateBytes, quantStateLength, rowsOfBlocks, STATE_NAME } from './quant-state.js';
import { codeValues, dynamicMap, type FourBits } from './tables.js';

/** What to write. */
export interface BitsandbytesSettings {
  /** Default `nf4`. */
  readonly dtype?: FourBits;
  /** Elements that share an absmax: a power of two from 32 to 4096, default 64. */
  readonly blockSize?: number;
  /** Whether absmax values are quantized themselves ("double quantization"); default false. */
  readonly nested?: boolean;
  /** What transformers computes with; default the type of the model. */
  readonly computeDtype: LargeFloatDtype;
}

/** The absmax values of a weight whose rows come in strips. */
interface Gathered {
  readonly absmax: Float32Array;
  missing: number;
}

class Writer implements LayoutWriter {
  readonly format = 'bitsandbytes';
  readonly recipe: Recipe;
  private readonly gathered = new Map<string, Gathered>();

  constructor(
    private readonly dtype: FourBits,
    private readonly blockSize: number,
    private readonly nested: boolean,
    private readonly computeDtype: LargeFloatDtype,
  ) {
    this.recipe = {
      dtype,
      scheme: 'symmetric',
      granularity: 'per-group',
      groupSize: blockSize,
      scaleDtype: 'float32',
      needsLargest: false,
      nested,
      acrossRows: true,
    };
  }

  refusal({ rows, columns }: Outline): string | null {
    return rows * columns === 0 ? 'it is empty' : null;
  }

  private stateOf({ rows, columns, dtype }: Outline, offset: number): QuantState {
    const nested = this.nested ? { blockSize: NESTED_BLOCK, offset } : null;
    return { quantType: this.dtype, blockSize: this.blockSize, dtype, shape: [rows, columns], nested };
  }

  outputs(weight: Outline): TensorSpec[] {
    const { name, rows, columns } = weight;
    const count = rows * columns;
    const blocks = Math.ceil(count / this.blockSize);
    const specs: TensorSpec[] = [
      { name, dtype: 'U8', shape: [Math.ceil(count / 2), 1] },
      { name: `${name}.absmax`, dtype: this.nested ? 'U8' : 'F32', shape: [blocks] },
      { name: `${name}.quant_map`, dtype: 'F32', shape: [16] },
      { name: `${name}${STATE_NAME}${this.dtype}`, dtype: 'U8', shape: [quantStateLength(this.stateOf(weight, 0))] },
    ];
    if (this.nested) {
      specs.push({ name: `${name}.nested_absmax`, dtype: 'F32', shape: [Math.ceil(blocks / NESTED_BLOCK)] });
      specs.push({ name: `${name}.nested_quant_map`, dtype: 'F32', shape: [256] });
    }
    return specs;
  }

  /** Blocks do not end with rows: only after so many rows both do. */
  rowStep({ columns }: Outline): number {
    return rowsOfBlocks(columns, this.blockSize);
  }

  async encode(weight: Outline, begin: number, tensor: QuantizedTensor, order: Int32Array | null): Promise<Piece[]> {
    const { name, columns } = weight;
    const { dtype, blockSize } = this;
    if (order !== null) throw new RangeError(`${dtype} keeps the order of columns`);
    const count = this.checkRows(weight, begin, tensor);
    const codes = new Uint8Array(new SharedArrayBuffer(tensor.data.length));
    await swapNibblesAsync(tensor.data, codes);
    // What is left of the last byte is the code of 0.
    if (count % 2 === 1 && dtype === 'nf4') codes[codes.length - 1] = ((codes.at(-1) as number) & 0xf0) | 7;
    const firstBlock = (begin * columns) / blockSize;
    const pieces: Piece[] = [{ tensor: name, begin: (begin * columns) / 2, data: codes }];
    if (begin === 0) {
      pieces.push({ tensor: `${name}.quant_map`, begin: 0, data: bytesOf(codeValues(dtype)) });
      if (this.nested) pieces.push({ tensor: `${name}.nested_quant_map`, begin: 0, data: bytesOf(dynamicMap()) });
    }
    if (this.nested) {
      pieces.push(...this.gather(weight, firstBlock, tensor.scales));
    } else {
      pieces.push({ tensor: `${name}.absmax`, begin: 4 * firstBlock, data: bytesOf(tensor.scales) });
      if (begin === 0) pieces.push(this.statePiece(weight, 0));
    }
    return pieces;
  }

  /** Makes sure that rows are whole blocks, whatever rows the tensor has itself; returns how many elements they have. */
  private checkRows(weight: Outline, begin: number, tensor: QuantizedTensor): number {
    const { dtype, blockSize } = this;
    const [lines = 0, length = 0] = tensor.shape;
    const count = lines * length;
    const end = begin + count / weight.columns;
    const step = rowsOfBlocks(weight.columns, blockSize);
    const isWhole = Number.isInteger(end) && begin % step === 0 && (end % step === 0 || end === weight.rows);
    if (!isWhole || end > weight.rows || (lines !== 1 && length % blockSize !== 0)) {
      throw new RangeError(`${weight.name}: rows ${begin} to ${end} are no blocks of ${blockSize}`);
    }
    checkEncoded(
      { dtype, scheme: 'symmetric', sharing: { granularity: 'per-group', groupSize: blockSize } },
      { ...weight, columns: count },
      { ...tensor, shape: [1, count] },
    );
    return count;
  }

  private statePiece(weight: Outline, offset: number): Piece {
    const data = quantStateBytes(this.stateOf(weight, offset));
    return { tensor: `${weight.name}${STATE_NAME}${this.dtype}`, begin: 0, data };
  }

  /** Absmax values are quantized relative to their mean, so only when all are there. */
  private gather(weight: Outline, firstBlock: number, scales: Float32Array): Piece[] {
    const { name, rows, columns } = weight;
    const blocks = Math.ceil((rows * columns) / this.blockSize);
    const known = this.gathered.get(name) ?? { absmax: new Float32Array(blocks), missing: blocks };
    this.gathered.set(name, known);
    known.absmax.set(scales, firstBlock);
    known.missing -= scales.length;
    if (known.missing !== 0) return [];
    this.gathered.delete(name);
    const { data, absmax, offset } = nestScales(known.absmax);
    return [
      { tensor: `${name}.absmax`, begin: 0, data },
      { tensor: `${name}.nested_absmax`, begin: 0, data: bytesOf(absmax) },
      this.statePiece(weight, offset),
    ];
  }

  config(ignored: readonly string[]): Json {
    const own = {
      load_in_4bit: true,
      bnb_4bit_quant_type: this.dtype,
      bnb_4bit_use_double_quant: this.nested,
      bnb_4bit_compute_dtype: this.computeDtype,
      bnb_4bit_quant_storage: 'uint8',
    };
    return bitsandbytesConfig(own, ignored);
  }
}

/**
 * A writer of bitsandbytes weights in four bits.
 *
 * @throws RangeError for a block size that bitsandbytes does not know.
 */
export function bitsandbytesWriter(settings: BitsandbytesSettings): LayoutWriter {
  const { dtype = 'nf4', blockSize = 64, nested = false, computeDtype } = settings;
  if (![32, 64, 128, 256, 512, 1024, 2048, 4096].includes(blockSize)) {
    throw new RangeError(`bitsandbytes has no blocks of ${blockSize}`);
  }
  return new Writer(dtype, blockSize, nested, computeDtype);
}
