/**
 * The linear layers of a decoder: from float weights, quantized ones in any layout, and GGUF blocks.
 *
 * @module
 */
import { floatsOf } from '../checkpoint/floats.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { RowBlock, Weight } from '../checkpoint/weight.js';
import { type ComputeDtype, linear } from '../matmul/linear.js';
import type { LinearLayer } from '../matmul/linear-layer.js';
import type { PackedWeight } from '../matmul/packed-weight.js';
import { prepackAsync } from '../matmul/prepack.js';
import { prepackBlocksAsync } from '../matmul/prepack-blocks.js';
import type { GgufType } from '../tensor/blocks.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';

/** A linear layer on a packed weight, which it owns. */
export class PackedLinear implements LinearLayer {
  constructor(
    readonly weight: PackedWeight,
    readonly bias: Float32Array | null,
    readonly computeDtype: ComputeDtype,
    /** Column i of the packed weight is column `order[i]` of the layer's (GPTQ's act-order); null: the same. */
    readonly order: Int32Array | null = null,
  ) {}

  get rows(): number {
    return this.weight.rows;
  }

  get cols(): number {
    return this.weight.cols;
  }

  /** Whether the other one reads the same columns, so that a gate can be computed together with it. */
  readsLike({ order }: PackedLinear): boolean {
    return this.order === null || order === null
      ? this.order === order
      : this.order.every((column, i) => order[i] === column);
  }

  /** x with its columns in the weight's order. */
  ordered(x: Float32Array): Float32Array {
    const { order, cols } = this;
    if (order === null) return x;
    const to = new Float32Array(x.length);
    for (let row = 0; row < x.length; row += cols) {
      for (let i = 0; i < cols; i++) to[row + i] = x[row + (order[i] as number)] as number;
    }
    return to;
  }

  forward(x: Float32Array, out?: Float32Array): Float32Array {
    const { bias, computeDtype } = this;
    return linear(this.ordered(x), this.weight, {
      computeDtype,
      ...(bias === null ? {} : { bias }),
      ...(out === undefined ? {} : { out }),
    });
  }

  dispose(): void {
    this.weight.dispose();
  }
}

/** Packs rows of a weight as a file has them. */
async function packRows(
  block: RowBlock,
  rows: number,
  columns: number,
  signal: AbortSignal | undefined,
): Promise<PackedWeight> {
  const options = signal === undefined ? {} : { signal };
  const shape = [rows, columns] as const;
  switch (block.kind) {
    case 'quantized':
      if (block.tensor.shape[0] === rows) return prepackAsync(block.tensor, options);
      // Groups that run on from row to row, as bitsandbytes has them, are no groups of a packed row.
      return prepackAsync(await floatsOf(block, rows * columns, columns, new Scratch()), { shape, ...options });
    case 'blocks':
      return prepackBlocksAsync(block.data, { type: block.type, shape, ...options });
    case 'float':
      return block.data instanceof Float32Array
        ? prepackAsync(block.data, { shape, ...options })
        : prepackAsync(block.data, { shape, dtype: block.dtype as 'float16' | 'bfloat16', ...options });
  }
}

/**
 * The linear layer of a stored weight, which keeps its quantized form.
 *
 * @param weight - A matrix of a checkpoint.
 */
export function linearOfWeight(
  weight: Weight,
  bias: Float32Array | null,
  computeDtype: ComputeDtype,
  scratch: Scratch,
  signal?: AbortSignal,
): Promise<PackedLinear> {
  return linearOfRows(weight, 0, weight.rows, bias, computeDtype, scratch, signal);
}

/** The same of some of its rows, from a multiple of its `rowStep` on. */
export async function linearOfRows(
  weight: Weight,
  begin: number,
  end: number,
  bias: Float32Array | null,
  computeDtype: ComputeDtype,
  scratch: Scratch,
  signal?: AbortSignal,
): Promise<PackedLinear> {
  const block = await weight.read(begin, end, scratch);
  const packed = await packRows(block, end - begin, weight.columns, signal);
  const order = block.kind === 'quantized' ? block.order : null;
  return new PackedLinear(packed, bias, computeDtype, order === null ? null : order.slice());
}

/** The linear layer of a quantized tensor. */
export async function linearOfTensor(
  tensor: QuantizedTensor,
  bias: Float32Array | null,
  computeDtype: ComputeDtype,
  order: Int32Array | null = null,
): Promise<PackedLinear> {
  return new PackedLinear(await prepackAsync(tensor), bias, computeDtype, order);
}

/** The linear layer of GGUF blocks `[rows, columns]`. */
export async function linearOfBlocks(
  data: Uint8Array,
  type: GgufType,
  shape: readonly [number, number],
  bias: Float32Array | null,
): Promise<PackedLinear> {
  return new PackedLinear(await prepackBlocksAsync(data, { type, shape }), bias, 'float32');
}

/** Float32 copies of rows `begin` to `end` of a weight, `[end − begin, columns]`. */
export async function rowsOf(weight: Weight, begin: number, end: number, scratch: Scratch): Promise<Float32Array> {
  const count = (end - begin) * weight.columns;
  return (await floatsOf(await weight.read(begin, end, scratch), count, weight.columns, scratch)).slice();
}
