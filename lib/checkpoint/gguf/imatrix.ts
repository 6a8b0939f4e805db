/**
 * llama.cpp's importance matrix: for each weight the mean square of each of its inputs over a text. It is a GGUF file since
 * 2025; before, it had a form of its own (`imatrix.dat`).
 *
 * Sources: llama.cpp, `tools/imatrix/imatrix.cpp` (`save_imatrix`, `save_imatrix_legacy`), `common/imatrix-loader.cpp` and
 * `tools/quantize/quantize.cpp` (`load_imatrix`), 2026.
 *
 * @module
 */
import { rename, rm } from 'node:fs/promises';
import { CheckpointError, InvalidArgumentError, invalidArgument, outputError } from '../../errors.js';
import { openForReading, readError, readFully } from '../file.js';
import type { StoredTensor } from '../stored-tensor.js';
import { GgufFile } from './gguf-file.js';
import { writeGguf } from './gguf-writer.js';
import { type GgufValue, ggufValue, integerOf, stringOf } from './metadata.js';

/** What is known of the inputs of one weight. */
export interface ImportanceEntry {
  /** Sums of squares, one for each input; for a mixture of experts one row of them for each expert, [experts, inputs]. */
  readonly sums: Float32Array;
  /** How many inputs were summed, [experts]. */
  readonly counts: readonly number[];
}

/** An importance matrix. */
export interface ImportanceMatrix {
  /** By the names of GGUF: `blk.0.attn_q.weight`. */
  readonly entries: ReadonlyMap<string, ImportanceEntry>;
  /** Names of the texts that the model read. */
  readonly datasets: readonly string[];
  /** How many chunks of text it read. */
  readonly chunkCount: number;
  /** Tokens of each chunk; 0 if that is not known. */
  readonly chunkSize: number;
}

/** The most bytes of values that are read: an importance matrix of a model of 400 billion weights has some 30 MB. */
const MAX_BYTES = 2 ** 31;

function checkEntry(name: string, value: unknown): ImportanceEntry {
  const { sums, counts } = (value ?? {}) as Partial<ImportanceEntry>;
  if (!(sums instanceof Float32Array)) throw invalidArgument(`${name}.sums`, 'a Float32Array', sums);
  if (!Array.isArray(counts) || counts.length === 0 || sums.length % counts.length !== 0) {
    throw invalidArgument(`${name}.counts`, 'an array of one number for each expert', counts);
  }
  return { sums, counts };
}

/**
 * The importance of each input: its mean square, 1 for an expert that no text came to. This is what `quantizeBlocks` takes.
 *
 * @returns `[K]`; for a stack of experts `[experts · K]`.
 * @throws {@link InvalidArgumentError} for anything but an entry of an {@link ImportanceMatrix}.
 */
export function importanceOf(entry: ImportanceEntry): Float32Array {
  const { sums, counts } = checkEntry('entry', entry);
  const columns = sums.length / counts.length;
  return sums.map((sum, i) => {
    const count = counts[Math.floor(i / columns)] as number;
    return count > 0 ? sum / Math.fround(count) : 1;
  });
}

function invalid(path: string, what: string, tensor?: string): CheckpointError {
  return new CheckpointError('IMATRIX_INVALID', `${path} is not a valid importance matrix: ${what}.`, { path, tensor });
}

/** An entry of a file, its numbers checked. */
function checked(path: string, name: string, sums: Float32Array, counts: readonly number[]): ImportanceEntry {
  const shown = JSON.stringify(name);
  if (counts.length === 0 || sums.length === 0 || sums.length % counts.length !== 0) {
    throw invalid(path, `${shown} has ${sums.length} sums for ${counts.length} counts`, name);
  }
  const bad = sums.findIndex((sum) => !(sum >= 0 && sum < Number.POSITIVE_INFINITY));
  if (bad >= 0) throw invalid(path, `sum ${bad} of ${shown} is ${sums[bad]}, which no sum of squares is`, name);
  const wrong = counts.findIndex((count) => !(count >= 0 && count < 2 ** 53));
  if (wrong >= 0) throw invalid(path, `count ${wrong} of ${shown} is ${counts[wrong]}`, name);
  return { sums, counts };
}

async function floatsOf(tensor: StoredTensor, path: string): Promise<Float32Array> {
  if (tensor.dtype !== 'f32')
    throw invalid(path, `${JSON.stringify(tensor.name)} is ${tensor.dtype}, not f32`, tensor.name);
  const floats = new Float32Array(tensor.bytes / 4);
  await tensor.read(0, new Uint8Array(floats.buffer));
  return floats;
}

/** Experts of a layer; each has a count. */
const MOST_COUNTS = 65_536;

const ENDINGS = /\.(in_sum2|counts)$/;

async function fromGguf(path: string): Promise<ImportanceMatrix> {
  const file = await GgufFile.open(path);
  try {
    const { metadata, tensors } = file;
    const type = stringOf(metadata, 'general.type', path);
    if (type !== 'imatrix')
      throw invalid(path, `its general.type is ${type === undefined ? 'missing' : JSON.stringify(type)}`);
    const names = metadata.get('imatrix.datasets');
    const chunkCount = integerOf(metadata, 'imatrix.chunk_count', path);
    const chunkSize = integerOf(metadata, 'imatrix.chunk_size', path);
    if (names === undefined || chunkCount === undefined || chunkSize === undefined) {
      throw invalid(path, 'imatrix.datasets, imatrix.chunk_count or imatrix.chunk_size is missing');
    }
    if (names.type !== 'array' || names.elementType !== 'string') throw invalid(path, 'imatrix.datasets are no names');
    const datasets = names.value.map((name) =>
      typeof name === 'string' ? name : Buffer.from(name).toString('latin1'),
    );
    const bytes = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
    if (bytes > MAX_BYTES) throw invalid(path, `it has ${bytes} bytes of values, more than ${MAX_BYTES}`);
    const entries = new Map<string, ImportanceEntry>();
    for (const tensor of tensors.values()) {
      if (!ENDINGS.test(tensor.name)) continue;
      const name = tensor.name.replace(ENDINGS, '');
      if (entries.has(name)) continue;
      const [sums, counts] = [tensors.get(`${name}.in_sum2`), tensors.get(`${name}.counts`)];
      if (sums === undefined || counts === undefined) {
        throw invalid(path, `${JSON.stringify(name)} has only ${sums === undefined ? 'counts' : 'sums'}`, name);
      }
      if (counts.bytes > sums.bytes || counts.bytes > 4 * MOST_COUNTS) {
        throw invalid(path, `${JSON.stringify(name)} has ${counts.bytes / 4} counts`, name);
      }
      const numbers = Array.from(await floatsOf(counts, path), Math.round);
      entries.set(name, checked(path, name, await floatsOf(sums, path), numbers));
    }
    if (entries.size === 0) throw invalid(path, 'it has no entries');
    return { entries, datasets, chunkCount, chunkSize };
  } finally {
    await file.close();
  }
}

/** The older form: entries one after the other, then how many chunks were read and of what. */
class DatReader {
  private at = 0;
  private readonly view: DataView;

  constructor(
    private readonly bytes: Buffer,
    private readonly path: string,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  private take(count: number, what: string): number {
    if (count > this.left) {
      const message = `${this.path} is not a valid importance matrix: it ends inside ${what}. It was not copied or downloaded completely, or is something else.`;
      throw new CheckpointError('IMATRIX_TRUNCATED', message, { path: this.path });
    }
    const begin = this.at;
    this.at += count;
    return begin;
  }

  integer(what: string): number {
    return this.view.getInt32(this.take(4, what), true);
  }

  text(length: number, what: string): string {
    const begin = this.take(length, what);
    return this.bytes.toString('utf8', begin, begin + length);
  }

  floats(count: number, what: string): Float32Array {
    const begin = this.take(4 * count, what);
    return Float32Array.from({ length: count }, (_, i) => this.view.getFloat32(begin + 4 * i, true));
  }
}

/** Bytes that an entry has at least: the lengths of its name and values, its calls, a letter and a value. */
const MIN_ENTRY = 17;

function fromDat(bytes: Buffer, path: string): ImportanceMatrix {
  const reader = new DatReader(bytes, path);
  const count = reader.integer('its head');
  if (count < 1 || count * MIN_ENTRY > reader.left) {
    throw invalid(path, `it is neither GGUF nor the older form, whose first number is that of its entries: ${count}`);
  }
  const entries = new Map<string, ImportanceEntry>();
  for (let i = 0; i < count; i++) {
    const what = `entry ${i + 1} of ${count}`;
    const length = reader.integer(what);
    if (length < 1 || length > 1024) throw invalid(path, `the name of ${what} has ${length} bytes`);
    const name = reader.text(length, what);
    if (entries.has(name)) throw invalid(path, `there are two entries ${JSON.stringify(name)}`, name);
    const calls = reader.integer(what);
    const values = reader.integer(what);
    if (values < 1) throw invalid(path, `${what}, ${JSON.stringify(name)}, has ${values} values`, name);
    // Sums without a count are means already.
    entries.set(name, checked(path, name, reader.floats(values, what), [calls > 0 ? calls : 1]));
  }
  // What follows is not there in the oldest files.
  const chunkCount = reader.left >= 4 ? Math.max(0, reader.integer('its end')) : 0;
  const length = reader.left >= 4 ? reader.integer('its end') : 0;
  const datasets = length > 0 && length <= reader.left ? [reader.text(length, 'its end')] : [];
  return { entries, datasets, chunkCount, chunkSize: 0 };
}

/**
 * Reads an importance matrix of llama.cpp's `llama-imatrix`: GGUF, or the older form.
 *
 * @returns Its entries, in the order of the file.
 * @throws {@link CheckpointError} `IMATRIX_INVALID`, `IMATRIX_TRUNCATED` or a code of GGUF's if the file is no such thing;
 *   `FILE_NOT_FOUND`, `READ_FAILED`.
 */
export async function readImatrix(path: string): Promise<ImportanceMatrix> {
  if (typeof path !== 'string') throw new InvalidArgumentError('path', 'Expected path to be a string.');
  const handle = await openForReading(path);
  try {
    const { size } = await handle.stat().catch((cause: unknown) => {
      throw readError(path, cause);
    });
    const head = new Uint8Array(Math.min(4, size));
    await readFully(path, handle, 0, head);
    if (Buffer.from(head).toString('latin1') === 'GGUF') return await fromGguf(path);
    if (size > MAX_BYTES) throw invalid(path, `it has ${size} bytes, more than ${MAX_BYTES}`);
    const bytes = Buffer.alloc(size);
    await readFully(path, handle, 0, bytes);
    return fromDat(bytes, path);
  } finally {
    await handle.close();
  }
}

/** @internal Checks an importance matrix that is given as an object. */
export function checkImatrix(argument: string, value: unknown): ImportanceMatrix {
  const { entries, datasets, chunkCount, chunkSize } = (value ?? {}) as Partial<ImportanceMatrix>;
  const fail = (what: string): never => {
    throw new InvalidArgumentError(argument, `Expected ${argument} to be an importance matrix ${what}.`);
  };
  if (!(entries instanceof Map)) return fail('with a Map "entries"');
  if (!Array.isArray(datasets) || !datasets.every((name) => typeof name === 'string')) fail('with names as "datasets"');
  for (const [key, number] of Object.entries({ chunkCount, chunkSize })) {
    if (!Number.isInteger(number) || (number as number) < 0 || (number as number) >= 2 ** 32) {
      fail(`with a non-negative 32-bit integer "${key}"`);
    }
  }
  for (const [name, entry] of entries as Map<unknown, Partial<ImportanceEntry> | undefined>) {
    const { sums, counts } = entry ?? {};
    if (typeof name !== 'string' || !(sums instanceof Float32Array) || !Array.isArray(counts)) {
      return fail('whose entries have a name, "sums" (Float32Array) and "counts" (an array)');
    }
    try {
      checked(argument, name, sums, counts);
    } catch (error) {
      fail(`without errors: ${(error as Error).message}`);
    }
  }
  return value as ImportanceMatrix;
}

/**
 * Writes an importance matrix as llama.cpp's `llama-imatrix` does (GGUF), for `llama-quantize --imatrix` and for
 * {@link quantizeCheckpoint}. The file appears complete, or not at all.
 *
 * @param path - Usually ends in `.gguf`; a file of this name is replaced.
 * @throws {@link InvalidArgumentError}; {@link CheckpointError} `GGUF_TENSOR_NAME` for a name of more than 55 bytes;
 *   {@link OutputError}.
 */
export async function writeImatrix(path: string, matrix: ImportanceMatrix): Promise<void> {
  if (typeof path !== 'string' || path === '') throw new InvalidArgumentError('path', 'Expected path to name a file.');
  const { entries, datasets, chunkCount, chunkSize } = checkImatrix('matrix', matrix);
  const metadata = new Map<string, GgufValue>([
    ['general.type', ggufValue.string('imatrix')],
    ['imatrix.datasets', ggufValue.strings(datasets)],
    ['imatrix.chunk_count', ggufValue.uint32(chunkCount)],
    ['imatrix.chunk_size', ggufValue.uint32(chunkSize)],
  ]);
  const sorted = [...entries].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  const parts = sorted.flatMap(([name, { sums, counts }]) => {
    // Axes of length 1 outside are left out, as ggml does it.
    const experts = counts.length === 1 ? [] : [counts.length];
    return [
      { name: `${name}.in_sum2`, dtype: 'f32', shape: [...experts, sums.length / counts.length], data: sums },
      { name: `${name}.counts`, dtype: 'f32', shape: [...experts, 1], data: Float32Array.from(counts) },
    ];
  });
  const partial = `${path}.part`;
  try {
    const file = await writeGguf(partial, parts, metadata);
    try {
      for (const { name, data } of parts) {
        await file.write(name, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(partial, path).catch((cause: unknown) => {
      throw outputError(path, cause);
    });
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}
