/** Checkpoints of quantized layers for tests: written without lowbit, read through it. */
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { floatsOf } from '../../lib/checkpoint/floats.js';
import type { LayoutWriter, Outline } from '../../lib/checkpoint/layouts/layout.js';
import { tensorBytes } from '../../lib/checkpoint/safetensors-writer.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import type { RowBlock, Weight } from '../../lib/checkpoint/weight.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { castTensor, type QuantizedTensor, unpackCodes } from '../../lib/index.js';
import { type RawTensor, safetensors, writeFolder } from './files.js';
import type { EncodedArray } from './vectors.js';

/** A stored tensor of a JSON file of vectors: `dtype` is that of safetensors. */
export function rawTensor({ dtype, shape, b64 }: EncodedArray): RawTensor {
  return { dtype, shape, data: new Uint8Array(Buffer.from(b64, 'base64')) };
}

export type Tensors = Record<string, RawTensor>;

let folders = 0;

/** A folder with these tensors, in one file or in shards, and a config.json if there is one. */
export function checkpointFolder(root: string, tensors: Tensors, config?: object, shards = 1): string {
  const folder = join(root, `checkpoint-${folders++}`);
  const files: Record<string, Buffer | object> = {};
  if (config !== undefined) files['config.json'] = config;
  if (shards === 1) {
    files['model.safetensors'] = safetensors(tensors);
  } else {
    const map: Record<string, string> = {};
    const parts: Tensors[] = Array.from({ length: shards }, () => ({}));
    Object.entries(tensors).forEach(([name, tensor], i) => {
      (parts[i % shards] as Tensors)[name] = tensor;
      map[name] = `model-${i % shards}.safetensors`;
    });
    parts.forEach((part, i) => {
      files[`model-${i}.safetensors`] = safetensors(part);
    });
    files['model.safetensors.index.json'] = { metadata: {}, weight_map: map };
  }
  return writeFolder(folder, files);
}

/** Opens a checkpoint, gives its weights to `use`, and closes it. */
export async function withWeights<T>(path: string, use: (weights: Map<string, Weight>) => Promise<T>): Promise<T> {
  const checkpoint = await openCheckpoint(path);
  try {
    return await use(new Map((await weightsOf(checkpoint)).map((weight) => [weight.name, weight])));
  } finally {
    await checkpoint.close();
  }
}

/** All rows of a weight in strips of about `strip` rows: each block as read. */
export async function forStrips(
  weight: Weight,
  strip: number,
  use: (block: RowBlock, begin: number, end: number, scratch: Scratch) => Promise<void>,
): Promise<void> {
  const scratch = new Scratch();
  const step = Math.max(1, Math.ceil(strip / weight.rowStep)) * weight.rowStep;
  for (let begin = 0; begin < weight.rows; begin += step) {
    const end = Math.min(weight.rows, begin + step);
    await use(await weight.read(begin, end, scratch), begin, end, scratch);
  }
}

/** The floats of a weight, as float32 numbers. */
export async function floats(weight: Weight, strip = weight.rows): Promise<Float32Array> {
  const out = new Float32Array(weight.rows * weight.columns);
  await forStrips(weight, strip, async (block, begin, end, scratch) => {
    const values = await floatsOf(block, (end - begin) * weight.columns, weight.columns, scratch);
    out.set(values, begin * weight.columns);
  });
  return out;
}

/** The bytes of a weight in its own float type: what a float checkpoint would hold. */
export async function floatBytes(weight: Weight, strip?: number): Promise<Buffer> {
  const values = await floats(weight, strip);
  const cast =
    weight.dtype === 'float32' ? values : castTensor(values, { from: 'float32', to: weight.dtype as 'float16' });
  return Buffer.from(cast.buffer, cast.byteOffset, cast.byteLength);
}

/** Codes (less zero points) and scales of a weight, element by element in the order of its columns. */
export async function exactly(weight: Weight, strip: number): Promise<{ codes: number[]; scales: number[] }> {
  const codes: number[] = [];
  const scales: number[] = [];
  await forStrips(weight, strip, async (block) => {
    if (block.kind !== 'quantized') throw new Error(`a block of ${block.kind}`);
    const { tensor } = block;
    const each = elements(tensor);
    const order = block.order ?? Int32Array.from({ length: weight.columns }, (_, i) => i);
    for (let row = 0; row < (tensor.shape[0] as number); row++) {
      const at = new Map(Array.from(order, (column, i) => [column, row * weight.columns + i]));
      for (let column = 0; column < weight.columns; column++) {
        const [code = 0, scale = 0] = each[at.get(column) as number] as [number, number];
        codes.push(code);
        scales.push(scale);
      }
    }
  });
  return { codes, scales };
}

/** [code − zero point, scale] of every element; the code itself where there are no zero points. */
export function elements(tensor: QuantizedTensor): [number, number][] {
  const [rows = 0, columns = 0] = tensor.shape;
  const codes = unpackCodes(tensor);
  const unsigned = /^uint(\d)$/.exec(tensor.dtype);
  const symmetric = unsigned === null ? 0 : 2 ** (Number(unsigned[1]) - 1);
  return Array.from(codes, (code, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const set = parameterOf(tensor, row, column, rows, columns);
    return [code - (tensor.zeroPoints?.[set] ?? symmetric), tensor.scales[set] as number];
  });
}

function parameterOf(tensor: QuantizedTensor, row: number, column: number, _rows: number, columns: number): number {
  switch (tensor.granularity) {
    case 'per-tensor':
      return 0;
    case 'per-channel':
      return row;
    case 'per-group': {
      const size = tensor.groupSize as number;
      return row * Math.ceil(columns / size) + Math.floor(column / size);
    }
    case 'per-block': {
      const [height, width] = tensor.blockShape as [number, number];
      return Math.floor(row / height) * Math.ceil(columns / width) + Math.floor(column / width);
    }
  }
}

/** Rows of a tensor that a writer gets: quantized as a whole, then cut, so that strips agree. */
export type Strip = (begin: number, end: number) => { tensor: QuantizedTensor; order: Int32Array | null };

/** The stored tensors that a writer makes of a weight, strip by strip. */
export async function written(writer: LayoutWriter, weight: Outline, strips: Strip, rows: number): Promise<Tensors> {
  const specs = writer.outputs(weight);
  const data = new Map(specs.map((spec) => [spec.name, new Uint8Array(tensorBytes(spec))]));
  const touched = new Map(specs.map((spec) => [spec.name, new Uint8Array(tensorBytes(spec))]));
  const step = Math.max(1, Math.ceil(rows / writer.rowStep(weight))) * writer.rowStep(weight);
  for (let begin = 0; begin < weight.rows; begin += step) {
    const { tensor, order } = strips(begin, Math.min(weight.rows, begin + step));
    for (const piece of await writer.encode(weight, begin, tensor, order)) {
      const target = data.get(piece.tensor) as Uint8Array;
      const marks = touched.get(piece.tensor) as Uint8Array;
      const length = piece.rowBytes ?? piece.data.length;
      for (let at = 0, to = piece.begin; at < piece.data.length; at += length, to += piece.stride ?? length) {
        target.set(piece.data.subarray(at, at + length), to);
        for (let i = to; i < to + length; i++) marks[i] = (marks[i] as number) + 1;
      }
    }
  }
  for (const [name, marks] of touched) {
    if (marks.some((count) => count !== 1)) throw new Error(`bytes of ${name} were written twice or never`);
  }
  return Object.fromEntries(
    specs.map((spec) => [
      spec.name,
      { dtype: spec.dtype, shape: [...spec.shape], data: data.get(spec.name) as Uint8Array },
    ]),
  );
}

/** Rows of a quantized matrix; where blocks of rows share scales, `begin` is a multiple of their height. */
export function cutRows(q: QuantizedTensor, begin: number, end: number): QuantizedTensor {
  const [rows = 0, columns = 0] = q.shape;
  const rowBytes = q.data.length / rows;
  const sets = q.scales.length / rows;
  let [from, to] = [begin * sets, end * sets];
  if (q.granularity === 'per-tensor') [from, to] = [0, 1];
  if (q.granularity === 'per-block') {
    const [height, width] = q.blockShape as [number, number];
    const across = Math.ceil(columns / width);
    [from, to] = [(begin / height) * across, Math.ceil(end / height) * across];
  }
  return {
    ...q,
    shape: [end - begin, columns],
    data: q.data.slice(begin * rowBytes, end * rowBytes),
    scales: q.scales.slice(from, to),
    zeroPoints: q.zeroPoints === null ? null : q.zeroPoints.slice(from, to),
  };
}
