/**
 * Reading weights of bitsandbytes.
 *
 * Four bits: `W` holds codes of all elements one after the other, the first in the high half of a byte, blocks of
 * `blocksize` elements share an absmax, whether a row ends in between or not.
 *
 * | tensor | dtype | content |
 * | --- | --- | --- |
 * | `W` | U8 [⌈n/2⌉, 1], or the same bytes as floats (`bnb_4bit_quant_storage`) | codes |
 * | `W.absmax` | F32 [blocks]; nested: U8 | nested: `map[code] · nested_absmax + offset` |
 * | `W.quant_map` | F32 [16] | the values of codes |
 * | `W.nested_absmax`, `W.nested_quant_map` | F32 [⌈blocks/256⌉], F32 [256] | |
 * | `W.quant_state.bitsandbytes__nf4` or `…__fp4` | U8 | JSON |
 *
 * LLM.int8(): `<layer>.weight` I8 [N, K], `<layer>.SCB` F32 [N], the largest magnitude of each row, `<layer>.weight_format` 0.
 *
 * Source: bitsandbytes 95f9af30, functional.py (QuantState), nn/modules.py (Linear8bitLt), backends/default/ops.py.
 *
 * @module
 */
import { CheckpointError } from '../../../errors.js';
import { DEFAULT_THRESHOLD } from '../../../matmul/llm-int8-matrix.js';
import { dequantizeLlmInt8Async, swapNibblesAsync } from '../../../tensor/fields.js';
import type { QuantizedTensor } from '../../../tensor/quantized-tensor.js';
import type { Checkpoint } from '../../checkpoint.js';
import { Scratch } from '../../scratch.js';
import type { StoredTensor } from '../../stored-tensor.js';
import type { RowBlock, Weight } from '../../weight.js';
import { matrixOf } from '../float.js';
import type { LayoutReader } from '../layout.js';
import {
  checkDtype,
  checkScales,
  checkShape,
  layoutError,
  matrixShape,
  modelDtypeOf,
  quantizationConfigOf,
  readFloats,
  requiredPart,
} from '../parts.js';
import { type QuantState, readQuantState, rowsOfBlocks, STATE_NAME } from './quant-state.js';
import { codeValues } from './tables.js';

/** Types whose bytes can be codes: `bnb_4bit_quant_storage`. */
const STORAGE = ['U8', 'I8', 'F32', 'F16', 'BF16'];

/** Absmax values that are quantized themselves. */
interface Nested {
  readonly absmax: StoredTensor;
  readonly map: Float32Array;
  readonly blockSize: number;
  readonly offset: number;
}

async function readTable(tensor: StoredTensor, length: number): Promise<Float32Array> {
  checkDtype(tensor, ['F32']);
  checkShape(tensor, [length]);
  const bytes = new Uint8Array(4 * length);
  await tensor.read(0, bytes);
  const table = new Float32Array(bytes.buffer);
  checkScales(tensor, table, 0, true);
  return table;
}

async function nestedOf(
  left: ReadonlyMap<string, StoredTensor>,
  name: string,
  absmax: StoredTensor,
  blocks: number,
  state: NonNullable<QuantState['nested']>,
): Promise<{ nested: Nested; parts: StoredTensor[] }> {
  checkDtype(absmax, ['U8']);
  const outer = requiredPart(left, `${name}.nested_absmax`, absmax);
  const map = requiredPart(left, `${name}.nested_quant_map`, absmax);
  checkDtype(outer, ['F32']);
  checkShape(outer, [Math.ceil(blocks / state.blockSize)]);
  return { nested: { absmax: outer, map: await readTable(map, 256), ...state }, parts: [outer, map] };
}

/** The absmax values of blocks `begin` … `begin + count`. */
async function readAbsmax(
  absmax: StoredTensor,
  nested: Nested | null,
  begin: number,
  count: number,
  scratch: Scratch,
): Promise<Float32Array> {
  if (nested === null) {
    const scales = await readFloats(absmax, begin, count, scratch, 'scales');
    checkScales(absmax, scales, begin, false);
    return scales;
  }
  const codes = scratch.bytes('absmax codes', count);
  await absmax.read(begin, codes);
  const first = Math.floor(begin / nested.blockSize);
  const last = Math.ceil((begin + count) / nested.blockSize);
  const outer = await readFloats(nested.absmax, first, last - first, scratch, 'nested absmax');
  checkScales(nested.absmax, outer, first, false);
  const scales = scratch.floats('scales', count);
  const { map, blockSize, offset } = nested;
  for (let i = 0; i < count; i++) {
    const scale = outer[Math.floor((begin + i) / blockSize) - first] as number;
    scales[i] = Math.fround((map[codes[i] as number] as number) * scale) + offset;
  }
  checkScales(absmax, scales, begin, true);
  return scales;
}

interface FourBitWeight {
  readonly codes: StoredTensor;
  readonly absmax: StoredTensor;
  readonly nested: Nested | null;
  readonly state: QuantState;
}

/** Elements `begin` … `end`, which begin with a block, as a tensor of some shape. */
async function readElements(
  { codes, absmax, nested, state }: FourBitWeight,
  begin: number,
  end: number,
  scratch: Scratch,
  sharing: Pick<QuantizedTensor, 'shape' | 'granularity' | 'groupSize'>,
): Promise<QuantizedTensor> {
  const first = begin / state.blockSize;
  const count = Math.ceil(end / state.blockSize) - first;
  const scales = await readAbsmax(absmax, nested, first, count, scratch);
  const data = scratch.bytes('codes', Math.ceil((end - begin) / 2));
  await codes.read(begin / 2, data);
  await swapNibblesAsync(data, data);
  return { dtype: state.quantType, scheme: 'symmetric', ...sharing, data, scales, zeroPoints: null };
}

async function fourBitWeight(left: ReadonlyMap<string, StoredTensor>, stateTensor: StoredTensor): Promise<Weight> {
  const at = stateTensor.name.indexOf(STATE_NAME);
  const name = stateTensor.name.slice(0, at);
  const state = await readQuantState(stateTensor, stateTensor.name.slice(at + STATE_NAME.length));
  const codes = requiredPart(left, name, stateTensor);
  checkDtype(codes, STORAGE);
  const { rows, columns } = matrixOf(state.shape);
  const count = rows * columns;
  if (codes.bytes !== Math.ceil(count / 2)) {
    const expected = `expected ${Math.ceil(count / 2)} bytes for the shape [${state.shape.join(', ')}] of its quant_state`;
    throw layoutError('LAYOUT_SHAPE', codes, `${expected}, but it has ${codes.bytes}`);
  }
  const blocks = Math.ceil(count / state.blockSize);
  const absmax = requiredPart(left, `${name}.absmax`, codes);
  checkShape(absmax, [blocks], [blocks, 1]);
  const map = requiredPart(left, `${name}.quant_map`, codes);
  const values = await readTable(map, 16);
  if (!codeValues(state.quantType).every((value, i) => value === values[i])) {
    throw layoutError('LAYOUT_UNSUPPORTED', map, `expected the values of ${state.quantType}, but it holds others`);
  }
  if (state.nested === null) checkDtype(absmax, ['F32']);
  const inner = state.nested === null ? null : await nestedOf(left, name, absmax, blocks, state.nested);
  const weight: FourBitWeight = { codes, absmax, nested: inner?.nested ?? null, state };
  const groups = { granularity: 'per-group', groupSize: state.blockSize } as const;
  return {
    name,
    shape: state.shape,
    rows,
    columns,
    dtype: state.dtype,
    encoding: {
      format: 'bitsandbytes',
      dtype: state.quantType,
      groupSize: state.blockSize,
      traits: inner === null ? [] : ['nested'],
    },
    parts: [codes, stateTensor, absmax, map, ...(inner?.parts ?? [])],
    rowStep: rowsOfBlocks(columns, state.blockSize),
    async read(begin, end, scratch) {
      // Where blocks run on from row to row, the rows come as one.
      const shape = columns % state.blockSize === 0 ? [end - begin, columns] : [1, (end - begin) * columns];
      const tensor = await readElements(weight, begin * columns, end * columns, scratch, { shape, ...groups });
      return { kind: 'quantized', tensor, order: null };
    },
  };
}

/** The storage order of LLM.int8() weights that is read: rows. Others are those of certain GPUs. */
async function checkRowFormat(tensor: StoredTensor): Promise<void> {
  checkDtype(tensor, ['U8']);
  checkShape(tensor, [], [1]);
  const value = new Uint8Array(1);
  await tensor.read(0, value);
  if (value[0] !== 0) {
    throw layoutError(
      'LAYOUT_UNSUPPORTED',
      tensor,
      `expected 0, rows after rows, but it is ${value[0]}: an order of tiles`,
    );
  }
}

async function int8Weight(
  checkpoint: Checkpoint,
  left: ReadonlyMap<string, StoredTensor>,
  absmax: StoredTensor,
): Promise<Weight> {
  const layer = absmax.name.slice(0, -'.SCB'.length);
  const codes = requiredPart(left, `${layer}.weight`, absmax);
  checkDtype(codes, ['I8']);
  const [rows, columns] = matrixShape(codes);
  checkDtype(absmax, ['F32']);
  checkShape(absmax, [rows], [rows, 1]);
  const format = left.get(`${layer}.weight_format`);
  if (format !== undefined) await checkRowFormat(format);
  return {
    name: codes.name,
    shape: codes.shape,
    rows,
    columns,
    dtype: modelDtypeOf(checkpoint) ?? 'float16',
    encoding: { format: 'bitsandbytes', dtype: 'int8', groupSize: null, traits: ['LLM.int8()'] },
    parts: format === undefined ? [codes, absmax] : [codes, absmax, format],
    rowStep: 1,
    async read(begin, end, scratch): Promise<RowBlock> {
      const count = end - begin;
      const scales = await readAbsmax(absmax, null, begin, count, scratch);
      const data = scratch.bytes('codes', count * columns);
      await codes.read(begin * columns, data);
      const out = scratch.floats('across', count * columns);
      await dequantizeLlmInt8Async(data, scales, count, columns, out);
      return { kind: 'float', dtype: 'float32', data: out };
    },
    llmInt8: {
      threshold: thresholdOf(checkpoint),
      async read(begin, end) {
        const count = end - begin;
        const scales = (await readAbsmax(absmax, null, begin, count, new Scratch())).slice();
        const bytes = new Uint8Array(new SharedArrayBuffer(count * columns));
        await codes.read(begin * columns, bytes);
        return { codes: new Int8Array(bytes.buffer), absmax: scales };
      },
    },
  };
}

/** `llm_int8_threshold` of the config. */
function thresholdOf(checkpoint: Checkpoint): number {
  const value = quantizationConfigOf(checkpoint)?.['llm_int8_threshold'] ?? DEFAULT_THRESHOLD;
  if (typeof value === 'number' && value >= 0 && Number.isFinite(value)) return value;
  const { path } = checkpoint;
  const message = `Expected llm_int8_threshold in the quantization_config of ${path} to be a number of at least 0 but received ${JSON.stringify(value)}.`;
  throw new CheckpointError('CONFIG_INVALID', message, { path });
}

/** Parts of a weight whose quant_state is missing. */
function refuseOrphans(left: ReadonlyMap<string, StoredTensor>, usesBitsandbytes: boolean): void {
  for (const tensor of left.values()) {
    const isPart = /\.(absmax|quant_map|nested_absmax|nested_quant_map)$/.test(tensor.name);
    const base = isPart ? tensor.name.slice(0, tensor.name.lastIndexOf('.')) : tensor.name;
    if (isPart ? !left.has(base) : !(usesBitsandbytes && /\.weight$/.test(base))) continue;
    if (!isPart && tensor.dtype !== 'U8' && tensor.dtype !== 'I8') continue;
    const expected = isPart || tensor.dtype === 'U8' ? `${base}${STATE_NAME}nf4` : `${base.slice(0, -7)}.SCB`;
    throw layoutError(
      'LAYOUT_MISSING_PART',
      tensor,
      `expected ${JSON.stringify(expected)} beside it, but the checkpoint has no such tensor`,
    );
  }
}

/** The reader of bitsandbytes weights. */
export const bitsandbytesReader: LayoutReader = {
  format: 'bitsandbytes',

  async claim(checkpoint: Checkpoint, left: Map<string, StoredTensor>): Promise<Weight[]> {
    const method = quantizationConfigOf(checkpoint)?.['quant_method'];
    const usesBitsandbytes = method === 'bitsandbytes';
    if (method !== undefined && !usesBitsandbytes) return [];
    const weights: Weight[] = [];
    for (const tensor of [...left.values()]) {
      const weight = tensor.name.includes(STATE_NAME)
        ? await fourBitWeight(left, tensor)
        : tensor.name.endsWith('.SCB')
          ? await int8Weight(checkpoint, left, tensor)
          : null;
      if (weight === null) continue;
      for (const part of weight.parts) left.delete(part.name);
      weights.push(weight);
    }
    refuseOrphans(left, usesBitsandbytes);
    return weights;
  },
};
