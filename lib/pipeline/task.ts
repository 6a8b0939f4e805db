/**
 * Units of work: what becomes of one weight. Each is independent of all others and gives the same bytes whenever it is done
 * again, in blocks of any size.
 *
 * @module
 */
import { floatsOf } from '../checkpoint/floats.js';
import type { FloatRows, LayoutWriter, Outline, Piece, Recipe } from '../checkpoint/layouts/layout.js';
import { SAFETENSORS_DTYPES, type SafetensorsDtype } from '../checkpoint/safetensors.js';
import { type TensorSpec, tensorBytes } from '../checkpoint/safetensors-writer.js';
import type { Scratch } from '../checkpoint/scratch.js';
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import type { LargeFloatDtype } from '../dtype.js';
import type { WeightSettings } from '../methods/linear-weight.js';
import { castTensorAsync } from '../tensor/cast.js';
import { type InputQuantization, roundedTo } from '../tensor/input-quantization.js';
import { quantizeTensor, quantizeTensorAsync } from '../tensor/quantize.js';
import { layoutOf, type QuantizedTensor, tensorOf } from '../tensor/quantized-tensor.js';
import { codesOf } from './grids-gguf.js';
import type { MethodParts, PartSummary } from './method-parts.js';

/**
 * What happens to a weight: `copied` as it is stored, `cast` to another float type, `quantized`, or `repacked`: the same codes
 * and scales in another layout.
 */
export type TaskKind = 'copied' | 'cast' | 'quantized' | 'repacked';

/** A tensor that is to be written. */
export interface OutputTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** What a block of work leaves. */
export interface BlockResult {
  readonly pieces: readonly Piece[];
  /** Bytes of input that it took. */
  readonly bytesRead: number;
}

/** A unit of work. */
export interface Task {
  readonly weight: Weight;
  /** What the result is compared with, where that is not the weight. */
  readonly reference?: Weight;
  /** What the method noted about the weight, if one made it. */
  notes?(): Promise<PartSummary | null>;
  /** The static activations that are written with the weight. */
  input?(): Promise<InputQuantization>;
  readonly kind: TaskKind;
  /** What the weight becomes, in words. */
  readonly as: string;
  readonly outputs: readonly OutputTensor[];
  /** Rows (`copied`: bytes) in all; blocks begin at multiples of `step`. */
  readonly length: number;
  readonly step: number;
  /** Elements (bytes) of one row of work: with the block's rows, what decides the memory that it takes. */
  readonly width: number;
  /** Whether blocks are strips of the stored tensors: better gathered than written one by one. */
  readonly transposed?: boolean;
  /** What must be known of the whole weight before the first block. */
  prepare?(blockRows: number, scratch: Scratch, signal: AbortSignal): Promise<void>;
  block(begin: number, end: number, scratch: Scratch, signal: AbortSignal): Promise<BlockResult>;
}

/** A stored tensor of a safetensors file, with its size. */
export function sized(spec: TensorSpec): OutputTensor {
  return { ...spec, bytes: tensorBytes(spec) };
}

/** What a layout's writer needs to know about a weight. */
export function outlineOf(weight: Weight): Outline {
  const { name, rows, columns } = weight;
  return { name, rows, columns, dtype: weight.dtype ?? 'float32' };
}

/** Static activations that come with a weight and are written with it, as the layout stores them; nothing for other layouts. */
function inputTask({ input }: Weight, { recipe }: LayoutWriter): Pick<Task, 'input'> {
  if (recipe.input === undefined || input === undefined) return {};
  return {
    input: async () => {
      const found = await input.read();
      return { ...found, scale: roundedTo(found.scale, recipe.scaleDtype) };
    },
  };
}

/** The outline of a weight for a block from row `begin` on: what belongs to no row goes with the first one. */
async function outlineAt(outline: Outline, begin: number, { input }: Pick<Task, 'input'>): Promise<Outline> {
  return input === undefined || begin > 0 ? outline : { ...outline, input: await input() };
}

/** The bytes of a weight, whatever it is stored as. */
function copyTask(weight: Weight): Task {
  const { parts } = weight;
  return {
    weight,
    kind: 'copied',
    as: weight.encoding.dtype,
    outputs: parts.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, bytes })),
    length: storedBytes(weight),
    step: 1,
    width: 1,
    async block(begin, end, scratch) {
      const data = scratch.bytes('input', end - begin, (parts[0]?.position ?? 0) + begin);
      const pieces: Piece[] = [];
      let first = 0;
      for (const part of parts) {
        const from = Math.max(begin, first);
        const to = Math.min(end, first + part.bytes);
        if (from < to) {
          const own = data.subarray(from - begin, to - begin);
          await part.read(from - first, own);
          pieces.push({ tensor: part.name, begin: from - first, data: own });
        }
        first += part.bytes;
      }
      return { pieces, bytesRead: end - begin };
    },
  };
}

const STORED: Readonly<Record<LargeFloatDtype, SafetensorsDtype>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
};

function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Bytes of input behind some rows. */
function bytesBehind(weight: Weight, rows: number): number {
  return weight.rows === 0 ? 0 : (storedBytes(weight) * rows) / weight.rows;
}

/** A weight's values in a float type; its own by default. */
export function castTask(weight: Weight, dtype: LargeFloatDtype = weight.dtype ?? 'float32'): Task {
  const elementBytes = dtype === 'float32' ? 4 : 2;
  const { rows, columns, name, shape } = weight;
  return {
    weight,
    kind: 'cast',
    as: dtype,
    outputs: [sized({ name, dtype: STORED[dtype], shape })],
    length: rows,
    step: weight.rowStep,
    width: columns,
    async block(begin, end, scratch, signal) {
      const count = (end - begin) * columns;
      const floats = await floatsOf(await weight.read(begin, end, scratch), count, columns, scratch, signal);
      const begins = begin * columns * elementBytes;
      const data =
        dtype === 'float32'
          ? floats
          : await castTensorAsync(floats, { from: 'float32', to: dtype, out: scratch.halves('cast', count), signal });
      return {
        pieces: [{ tensor: name, begin: begins, data: bytesOf(data) }],
        bytesRead: bytesBehind(weight, end - begin),
      };
    },
  };
}

/** A weight as it is, in a safetensors file: its bytes, or from another container its values. */
export function keepTask(weight: Weight): Task {
  const isStored = weight.parts.every(({ dtype }) => SAFETENSORS_DTYPES.includes(dtype as SafetensorsDtype));
  return isStored || weight.dtype === null ? copyTask(weight) : castTask(weight);
}

/** How ranges are chosen; see `quantizeTensor`. */
export type RangeMethod = 'minmax' | 'mse' | { readonly percentile: number };

/** The buffers of a quantized block, out of scratch memory. */
function resultIn(scratch: Scratch, { recipe }: LayoutWriter, shape: readonly [number, number]): QuantizedTensor {
  const { dtype, scheme, granularity } = recipe;
  const layout = layoutOf(dtype, shape, granularity, recipe);
  const data = scratch.bytes('codes', layout.dataBytes);
  const scales = scratch.floats('scales', layout.parameterCount);
  const hasZeroPoints = scheme === 'asymmetric' || /^uint\d$/.test(dtype);
  const zeroPoints = hasZeroPoints ? scratch.integers('zeroPoints', layout.parameterCount) : null;
  return tensorOf(layout, dtype, scheme, data, scales, zeroPoints);
}

/** max|x| of a whole weight. */
async function largestOf(weight: Weight, blockRows: number, scratch: Scratch, signal: AbortSignal): Promise<number> {
  let largest = 0;
  for (let begin = 0; begin < weight.rows; begin += blockRows) {
    signal.throwIfAborted();
    const end = Math.min(weight.rows, begin + blockRows);
    const block = await weight.read(begin, end, scratch);
    const floats = await floatsOf(block, (end - begin) * weight.columns, weight.columns, scratch, signal);
    for (const value of floats) {
      const magnitude = Math.abs(value);
      if (magnitude > largest) largest = magnitude; // a NaN is found when it is quantized
    }
  }
  return largest;
}

/** What a recipe says to `quantizeTensor`: what goes with the dtype. */
export function quantizerOptions(recipe: Recipe): Omit<WeightSettings, 'range' | 'nested' | 'narrowRange'> {
  const { dtype, scheme, granularity, axis, groupSize, blockShape, scaleDtype } = recipe;
  const isCodebook = !/^u?int\d$/.test(dtype) || dtype === 'mxint8';
  return {
    dtype,
    granularity,
    ...(axis === undefined ? {} : { axis }),
    ...(groupSize === undefined ? {} : { groupSize }),
    ...(blockShape === undefined ? {} : { blockShape }),
    ...(isCodebook ? {} : { scheme }),
    ...(/^(mx|nvfp)/.test(dtype) ? {} : { scaleDtype }), // those of microscaling follow from their blocks
  };
}

/** Rounds a weight to the nearest codes of a layout. */
export function quantizeTask(weight: Weight, writer: LayoutWriter, range: RangeMethod): Task {
  const outline = outlineOf(weight);
  const { rows, columns } = weight;
  const { recipe } = writer;
  const { dtype, needsLargest, acrossRows = false } = recipe;
  // Those of the whole tensor are given, since a block of rows does not know the rest.
  let whole: object = {};
  const common = quantizerOptions(recipe);
  const stored = inputTask(weight, writer);
  return {
    weight,
    ...stored,
    kind: 'quantized',
    as: dtype,
    outputs: writer.outputs(outline).map(sized),
    length: rows,
    step: leastCommonMultiple(writer.rowStep(outline), weight.rowStep),
    transposed: writer.transposed === true,
    width: columns,
    ...(needsLargest
      ? {
          async prepare(blockRows, scratch, signal) {
            whole = parametersOfAll(recipe, await largestOf(weight, blockRows, scratch, signal));
          },
        }
      : {}),
    async block(begin, end, scratch, signal) {
      const read = await floatRows(begin, end, scratch, signal);
      const bytesRead = bytesBehind(weight, end - begin);
      if (writer.own !== undefined)
        return { pieces: await writer.own.quantize(outline, begin, read, signal), bytesRead };
      const tensor = await quantized(read, end - begin, scratch, signal);
      const pieces = await writer.encode(await outlineAt(outline, begin, stored), begin, tensor, null, scratch);
      return { pieces, bytesRead };
    },
  };

  /** Rows in the type in which they are stored; what is not stored in float is dequantized once. */
  async function floatRows(begin: number, end: number, scratch: Scratch, signal: AbortSignal): Promise<FloatRows> {
    const block = await weight.read(begin, end, scratch);
    if (block.kind === 'float') return block;
    const count = (end - begin) * columns;
    return { dtype: 'float32', data: await floatsOf(block, count, columns, scratch, signal) };
  }

  async function quantized(
    read: FloatRows,
    rowCount: number,
    scratch: Scratch,
    signal: AbortSignal,
  ): Promise<QuantizedTensor> {
    const count = rowCount * columns;
    const shape = acrossRows ? ([1, count] as const) : ([rowCount, columns] as const);
    const out = resultIn(scratch, writer, shape);
    const searched = range === 'minmax' || Object.keys(whole).length > 0 ? {} : { range };
    return (await quantizeTensorAsync(read.data, {
      ...common,
      ...searched,
      ...whole,
      shape,
      inputDtype: read.dtype,
      out,
      signal,
      // The combination is checked at run time: TypeScript can't follow it through the spread.
    } as never)) as QuantizedTensor;
  }
}

/** What follows from the largest magnitude of a tensor: one scale for all, or the scale of scales. */
function parametersOfAll({ dtype, scaleDtype }: LayoutWriter['recipe'], largest: number): object {
  if (!Number.isFinite(largest)) return {}; // quantizing will name the element
  const input = Float32Array.of(largest);
  if (dtype === 'nvfp4') return { globalScale: quantizeTensor(input, { dtype }).globalScale };
  return { scales: quantizeTensor(input, { dtype, scaleDtype } as never).scales };
}

/** A weight's own codes and scales in another layout, which has room for them. */
export function repackTask(
  weight: Weight,
  writer: LayoutWriter,
  refit: (tensor: QuantizedTensor) => Promise<QuantizedTensor>,
): Task {
  const outline = outlineOf(weight);
  const stored = inputTask(weight, writer);
  return {
    weight,
    ...stored,
    kind: 'repacked',
    as: writer.recipe.dtype,
    outputs: writer.outputs(outline).map(sized),
    length: weight.rows,
    step: leastCommonMultiple(writer.rowStep(outline), weight.rowStep),
    transposed: writer.transposed === true,
    width: weight.columns,
    async block(begin, end, scratch) {
      const { tensor, order } = codesOf(await weight.read(begin, end, scratch), end - begin, weight.columns);
      const from = await outlineAt(outline, begin, stored);
      const pieces = await writer.encode(from, begin, await refit(tensor), order, scratch);
      return { pieces, bytesRead: bytesBehind(weight, end - begin) };
    },
  };
}

/** A weight's codes as a method made them. How far they are from the original, the method has measured. */
export function methodTask(weight: Weight, writer: LayoutWriter, parts: MethodParts): Task {
  const made = parts.weightOf(weight, writer.recipe.input);
  return {
    ...repackTask(made, writer, async (tensor) => tensor),
    weight,
    kind: 'quantized',
    notes: () => parts.summary(weight.name),
    reference: made,
  };
}

/** A float tensor that a method may have changed. */
export function changedTask(weight: Weight, parts: MethodParts): Task {
  const made = parts.weightOf(weight);
  return { ...castTask(made), weight, reference: made };
}

export function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return (a / x) * b;
}
