/**
 * What a method made of the weights of a model, kept in files of the unfinished work until it is written in its layout: so the
 * second half of the work reads parts as it reads weights, and an interrupted first half goes on where it was.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModelPart } from '../calibration/model-part.js';
import { openForReading, readFully } from '../checkpoint/file.js';
import { type Sharing, scaleGrid } from '../checkpoint/layouts/scaled-weight.js';
import type { RowBlock, Weight } from '../checkpoint/weight.js';
import { OutputError, outputError } from '../errors.js';
import type { GgufType } from '../tensor/blocks.js';
import type { Comparison } from '../tensor/compare.js';
import type { InputKind, InputQuantization } from '../tensor/input-quantization.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';

/** What a part's file begins with, besides the length of this in 4 bytes. */
interface Header {
  readonly kind: ModelPart['kind'];
  /** What is known of the tensor without its arrays; null for floats and blocks. */
  readonly tensor: Omit<QuantizedTensor, 'data' | 'scales' | 'zeroPoints'> | null;
  /** The type of blocks. */
  readonly type: GgufType | null;
  /** Of static activations; else null. */
  readonly inputScale: number | null;
  readonly inputZeroPoint: number | null;
  /** Bytes of each array, which follow one another. */
  readonly bytes: Readonly<Record<ArrayName, number>>;
  /** How far codes are from the weight; null for floats. */
  readonly measured: Comparison | null;
  readonly relativeError: number | null;
  readonly warnings: readonly string[];
}

const ARRAYS = ['data', 'scales', 'zeroPoints', 'order'] as const;
type ArrayName = (typeof ARRAYS)[number];

/** What is known of a part before its rows are read. */
export interface PartSummary {
  readonly measured: Comparison | null;
  readonly relativeError: number | null;
  readonly warnings: readonly string[];
}

function bytesOf(array: ArrayBufferView | null): Uint8Array {
  return array === null ? new Uint8Array(0) : new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** The parts of a model in a folder. */
export class MethodParts {
  private folder = '';
  private readonly headers = new Map<string, { header: Header; begin: number }>();

  /** Where they lie; known when the work begins. */
  async openIn(folder: string): Promise<void> {
    try {
      await mkdir(folder, { recursive: true });
    } catch (cause) {
      throw outputError(folder, cause);
    }
    this.folder = folder;
  }

  private pathOf(name: string): string {
    // Names of tensors are no names of files.
    return join(this.folder, `${createHash('sha256').update(name).digest('hex').slice(0, 32)}.part`);
  }

  /** Writes a part; when this returns, it is on disk. */
  async write(part: ModelPart): Promise<void> {
    const arrays: Record<ArrayName, Uint8Array> =
      part.kind === 'quantized'
        ? {
            data: part.tensor.data,
            scales: bytesOf(part.tensor.scales),
            zeroPoints: bytesOf(part.tensor.zeroPoints),
            order: bytesOf(part.order),
          }
        : { data: bytesOf(part.data), scales: bytesOf(null), zeroPoints: bytesOf(null), order: bytesOf(null) };
    let tensor: Header['tensor'] = null;
    if (part.kind === 'quantized') {
      const { data: _, scales: __, zeroPoints: ___, ...rest } = part.tensor;
      tensor = rest;
    }
    const header: Header = {
      kind: part.kind,
      tensor,
      type: part.kind === 'blocks' ? part.type : null,
      inputScale: part.kind === 'quantized' ? part.inputScale : null,
      inputZeroPoint: part.kind === 'quantized' ? part.inputZeroPoint : null,
      bytes: Object.fromEntries(ARRAYS.map((name) => [name, arrays[name].length])) as Header['bytes'],
      measured: part.kind === 'float' ? null : part.measured,
      relativeError: part.kind === 'float' ? null : part.relativeError,
      warnings: part.kind === 'quantized' ? part.warnings : [],
    };
    const text = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(text.length);
    const path = this.pathOf(part.name);
    try {
      const handle = await open(`${path}.new`, 'w');
      try {
        for (const bytes of [length, text, ...ARRAYS.map((name) => arrays[name])]) await handle.writeFile(bytes);
        await handle.datasync();
      } finally {
        await handle.close();
      }
      await rename(`${path}.new`, path);
    } catch (cause) {
      throw outputError(path, cause);
    }
    this.headers.delete(part.name);
  }

  /** Null if there is no such part. Headers are kept: a weight is read in many blocks. */
  private async header(name: string): Promise<{ header: Header; begin: number } | null> {
    const known = this.headers.get(name);
    if (known !== undefined) return known;
    const path = this.pathOf(name);
    let handle: Awaited<ReturnType<typeof open>>;
    try {
      handle = await open(path, 'r');
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw outputError(path, cause);
    }
    try {
      const length = Buffer.alloc(4);
      await readFully(path, handle, 0, length);
      const text = Buffer.alloc(length.readUInt32LE());
      await readFully(path, handle, 4, text);
      const found = { header: JSON.parse(text.toString()) as Header, begin: 4 + text.length };
      this.headers.set(name, found);
      return found;
    } finally {
      await handle.close();
    }
  }

  /** What was noted about a part; null if the method left the weight alone. */
  async summary(name: string): Promise<PartSummary | null> {
    return (await this.header(name))?.header ?? null;
  }

  /** Rows of a part, as a weight has them; null if the method left the weight alone. */
  async read(name: string, rows: number, columns: number, begin: number, end: number): Promise<RowBlock | null> {
    const found = await this.header(name);
    if (found === null) return null;
    const { header } = found;
    const path = this.pathOf(name);
    const handle = await openForReading(path);
    const read = async (array: ArrayName, first: number, bytes: number): Promise<ArrayBuffer> => {
      let position = found.begin;
      for (const other of ARRAYS) {
        if (other === array) break;
        position += header.bytes[other];
      }
      const buffer = new ArrayBuffer(bytes);
      await readFully(path, handle, position + first, new Uint8Array(buffer), name);
      return buffer;
    };
    try {
      if (header.kind === 'float') {
        const data = new Float32Array(await read('data', 4 * columns * begin, 4 * columns * (end - begin)));
        return { kind: 'float', dtype: 'float32', data };
      }
      const rowBytes = rows === 0 ? 0 : header.bytes.data / rows;
      const codes = new Uint8Array(await read('data', rowBytes * begin, rowBytes * (end - begin)));
      if (header.kind === 'blocks') return { kind: 'blocks', type: header.type as GgufType, data: codes };
      const { tensor } = header;
      if (tensor === null) throw new OutputError('WRITE_FAILED', `${path} is damaged.`, { path });
      const count = end - begin;
      const { groups, rowsPerScale } = scaleGrid(rows, columns, tensor as Sharing);
      const first = Math.floor(begin / rowsPerScale) * groups;
      const own = Math.ceil(end / rowsPerScale) * groups - first;
      const zeroPoints = header.bytes.zeroPoints === 0 ? null : await read('zeroPoints', 4 * first, 4 * own);
      return {
        kind: 'quantized',
        tensor: {
          ...tensor,
          shape: [count, columns],
          data: codes,
          scales: new Float32Array(await read('scales', 4 * first, 4 * own)),
          zeroPoints: zeroPoints === null ? null : new Int32Array(zeroPoints),
        } as QuantizedTensor,
        order: header.bytes.order === 0 ? null : new Int32Array(await read('order', 0, header.bytes.order)),
      };
    } finally {
      await handle.close();
    }
  }

  /** The static activations that the method found for a weight's layer. */
  private async inputOf(name: string, { dtype }: InputKind): Promise<InputQuantization> {
    const found = await this.header(name);
    const { inputScale = null, inputZeroPoint = null } = found?.header ?? {};
    if (inputScale !== null) return { dtype, scale: inputScale, zeroPoint: inputZeroPoint };
    const path = this.pathOf(name);
    throw new OutputError('WRITE_FAILED', `${path} has no scale of the activations of ${name}.`, { path });
  }

  /**
   * The weight as the method left it.
   *
   * @param input - The static activations that it is to have.
   */
  weightOf(original: Weight, input?: InputKind): Weight {
    const { name, shape, rows, columns, dtype, encoding, parts } = original;
    return {
      name,
      shape,
      rows,
      columns,
      dtype,
      encoding,
      parts,
      rowStep: 1,
      ...(input === undefined ? {} : { input: { ...input, read: () => this.inputOf(name, input) } }),
      read: async (begin, end, scratch) =>
        (await this.read(name, rows, columns, begin, end)) ?? original.read(begin, end, scratch),
    };
  }
}
