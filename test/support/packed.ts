/** GPTQ's and AWQ's packing written down once more, code by code: the judge of what lowbit reads and writes. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Checkpoint, openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import type { LayoutWriter, Outline, Piece } from '../../lib/checkpoint/layouts/layout.js';
import { type TensorSpec, tensorBytes } from '../../lib/checkpoint/safetensors-writer.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import type { RowBlock, Weight } from '../../lib/checkpoint/weight.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { type QuantizedTensor, unpackCodes } from '../../lib/index.js';
import { type RawTensor, safetensors } from './files.js';

function addBits(words: Uint32Array | Uint8Array, i: number, bits: number): void {
  words[i] = (words[i] as number) | bits;
}

/** Codes of a weight [rows, columns], as GPTQ's qweight [columns · bits / 32, rows]. */
export function gptqWords(codes: ArrayLike<number>, rows: number, columns: number, bits: number): Uint32Array {
  const words = new Uint32Array((columns * bits * rows) / 32);
  for (let n = 0; n < rows; n++) {
    for (let k = 0; k < columns; k++) {
      for (let b = 0; b < bits; b++) {
        if ((((codes[n * columns + k] as number) >> b) & 1) === 0) continue;
        const bit = k * bits + b;
        addBits(words, Math.floor(bit / 32) * rows + n, 1 << (bit % 32));
      }
    }
  }
  return words;
}

/** Numbers [rows, groups] packed along the rows: qzeros [groups, rows · bits / 32]. */
export function gptqZeroWords(numbers: ArrayLike<number>, rows: number, groups: number, bits: number): Uint32Array {
  const turned = Array.from({ length: rows * groups }, (_, i) => numbers[(i % rows) * groups + Math.floor(i / rows)]);
  const words = new Uint32Array((groups * rows * bits) / 32);
  for (let g = 0; g < groups; g++) {
    const row = gptqWords(turned.slice(g * rows, (g + 1) * rows) as number[], 1, rows, bits);
    words.set(row, g * row.length);
  }
  return words;
}

const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7];

/** Numbers [rows, columns], as AWQ's words [columns, rows / 8]. */
export function awqWords(numbers: ArrayLike<number>, rows: number, columns: number): Uint32Array {
  const words = new Uint32Array((columns * rows) / 8);
  for (let k = 0; k < columns; k++) {
    for (let c = 0; c < rows / 8; c++) {
      for (let i = 0; i < 8; i++) {
        const n = 8 * c + (AWQ_ORDER[i] as number);
        addBits(words, (k * rows) / 8 + c, (numbers[n * columns + k] as number) << (4 * i));
      }
    }
  }
  return words;
}

/** [rows, columns] → [columns, rows] */
export function turned<T extends Float32Array | Uint16Array>(x: T, rows: number, columns: number): T {
  const out = x.slice() as T;
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = x[r * columns + c] as number;
  return out;
}

/** Codes packed as a QuantizedTensor has them. */
export function packedRows(codes: ArrayLike<number>, rows: number, columns: number, bits: number): Uint8Array {
  const rowBytes = Math.ceil((columns * bits) / 8);
  const data = new Uint8Array(rows * rowBytes);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      for (let b = 0; b < bits; b++) {
        const bit = c * bits + b;
        if ((((codes[r * columns + c] as number) >> b) & 1) !== 0)
          addBits(data, r * rowBytes + (bit >> 3), 1 << (bit & 7));
      }
    }
  }
  return data;
}

/** A checkpoint of these tensors: in one file, or a file for each, with an index. */
export async function checkpointOf(
  folder: string,
  tensors: Record<string, RawTensor>,
  files: Record<string, unknown> = {},
  sharded = false,
): Promise<Checkpoint> {
  mkdirSync(folder, { recursive: true });
  for (const [name, json] of Object.entries(files)) writeFileSync(join(folder, name), JSON.stringify(json));
  if (!sharded) {
    writeFileSync(join(folder, 'model.safetensors'), safetensors(tensors));
    return openCheckpoint(folder);
  }
  const weight_map: Record<string, string> = {};
  Object.entries(tensors).forEach(([name, tensor], i) => {
    weight_map[name] = `model-${i}.safetensors`;
    writeFileSync(join(folder, `model-${i}.safetensors`), safetensors({ [name]: tensor }));
  });
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map }));
  return openCheckpoint(folder);
}

/** A weight as a whole, read in blocks of some rows. */
export interface WholeWeight {
  codes: number[];
  scales: number[];
  zeroPoints: number[];
  order: number[] | null;
  blocks: RowBlock[];
}

/** Reads a quantized weight in blocks. */
export async function readWhole(weight: Weight, blockRows: number): Promise<WholeWeight> {
  const scratch = new Scratch();
  const whole: WholeWeight = { codes: [], scales: [], zeroPoints: [], order: null, blocks: [] };
  for (let begin = 0; begin < weight.rows; begin += blockRows) {
    const block = await weight.read(begin, Math.min(weight.rows, begin + blockRows), scratch);
    if (block.kind !== 'quantized') throw new Error(`a block of ${block.kind}`);
    const { tensor, order } = block;
    whole.codes.push(...unpackCodes(tensor));
    whole.scales.push(...tensor.scales);
    whole.zeroPoints.push(...(tensor.zeroPoints as Int32Array));
    whole.order = order === null ? null : Array.from(order);
    whole.blocks.push(structuredClone(block));
  }
  return whole;
}

/** The only weight of that name. */
export async function weightOf(checkpoint: Checkpoint, name: string): Promise<Weight> {
  const weight = (await weightsOf(checkpoint)).find((w) => w.name === name);
  if (weight === undefined) throw new Error(`no ${name}`);
  return weight;
}

/** Some rows of a tensor. */
function rowsOf(tensor: QuantizedTensor, begin: number, end: number): QuantizedTensor {
  const [rows = 0, columns = 0] = tensor.shape;
  const bytes = tensor.data.length / rows;
  const groups = tensor.scales.length / rows;
  return {
    ...tensor,
    shape: [end - begin, columns],
    data: tensor.data.slice(begin * bytes, end * bytes),
    scales: tensor.scales.slice(begin * groups, end * groups),
    zeroPoints: tensor.zeroPoints?.slice(begin * groups, end * groups) ?? null,
  };
}

/** What a writer makes of a tensor, block after block: every byte of every output once. */
export async function writeWhole(
  writer: LayoutWriter,
  weight: Outline,
  tensor: QuantizedTensor,
  order: Int32Array | null,
  blockRows: number,
): Promise<Map<string, TensorSpec & { data: Uint8Array }>> {
  const outputs = new Map(
    writer.outputs(weight).map((spec) => [spec.name, { ...spec, data: new Uint8Array(tensorBytes(spec)) }]),
  );
  const written = new Map([...outputs].map(([name, { data }]) => [name, new Uint8Array(data.length)]));
  for (let begin = 0; begin < weight.rows; begin += blockRows) {
    const end = Math.min(weight.rows, begin + blockRows);
    for (const piece of await writer.encode(weight, begin, rowsOf(tensor, begin, end), order)) {
      put(piece, outputs.get(piece.tensor)?.data, written.get(piece.tensor));
    }
  }
  for (const [name, times] of written) {
    const at = times.findIndex((n) => n !== 1);
    if (at !== -1) throw new Error(`byte ${at} of ${name} was written ${times[at]} times`);
  }
  return outputs;
}

function put(piece: Piece, data: Uint8Array | undefined, times: Uint8Array | undefined): void {
  if (data === undefined || times === undefined) throw new Error(`${piece.tensor} is no output`);
  const { rowBytes = piece.data.length, stride = rowBytes } = piece;
  for (let from = 0, to = piece.begin; from < piece.data.length; from += rowBytes, to += stride) {
    if (to + rowBytes > data.length) throw new Error(`a piece of ${piece.tensor} ends outside it`);
    data.set(piece.data.subarray(from, from + rowBytes), to);
    for (let i = 0; i < rowBytes; i++) times[to + i] = (times[to + i] as number) + 1;
  }
}
