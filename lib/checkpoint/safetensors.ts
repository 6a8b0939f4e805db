/**
 * Reading safetensors files. The header is checked completely before anything is allocated from what it claims; tensor
 * data is read on demand.
 *
 * @module
 */
import type { FileHandle } from 'node:fs/promises';
import { addon } from '../addon.js';
import { CheckpointError, type CheckpointErrorCode } from '../errors.js';
import { canReadStrided, openForReading, readError, readFully, readStrided } from './file.js';
import type { StoredTensor } from './stored-tensor.js';
import { TensorMap } from './tensor-map.js';

/** Element types, as the format names them; the position is their number in the addon. */
export const SAFETENSORS_DTYPES = [
  'BOOL',
  'F4',
  'F6_E2M3',
  'F6_E3M2',
  'U8',
  'I8',
  'F8_E5M2',
  'F8_E4M3',
  'F8_E8M0',
  'F8_E4M3FNUZ',
  'F8_E5M2FNUZ',
  'I16',
  'U16',
  'F16',
  'BF16',
  'I32',
  'U32',
  'F32',
  'C64',
  'F64',
  'I64',
  'U64',
] as const;

export type SafetensorsDtype = (typeof SAFETENSORS_DTYPES)[number];

/** The most bytes that a header may have: the reference reader's limit. */
const MAX_HEADER_BYTES = 100_000_000;

/** SafetensorsFault in native/parse/safetensors_header.h, in its order, in the words of a message. */
const FAULTS: readonly (readonly [CheckpointErrorCode, string])[] = [
  ['SAFETENSORS_INVALID_JSON', ''],
  ['SAFETENSORS_HEADER_START', 'its header does not begin with {'],
  ['SAFETENSORS_INVALID_UTF8', 'its header is not valid UTF-8'],
  ['SAFETENSORS_INVALID_JSON', 'its header is not valid JSON'],
  [
    'SAFETENSORS_DUPLICATE_KEY',
    'a name or field comes twice in its header, and readers would disagree on which counts',
  ],
  ['SAFETENSORS_MISSING_FIELD', 'a tensor lacks dtype, shape or data_offsets'],
  ['SAFETENSORS_UNKNOWN_DTYPE', 'a tensor has a dtype that the format does not know'],
  ['SAFETENSORS_INVALID_SHAPE', 'a shape is not an array of non-negative integers'],
  ['SAFETENSORS_INVALID_OFFSETS', 'data_offsets are not two non-negative integers'],
  ['SAFETENSORS_INVALID_METADATA', '__metadata__ is not an object of strings'],
  ['SAFETENSORS_REVERSED_OFFSETS', 'a tensor ends before it begins'],
  ['SAFETENSORS_HOLE', 'there are bytes before a tensor that belong to none'],
  ['SAFETENSORS_OVERLAP', 'a tensor begins inside another one'],
  ['SAFETENSORS_SIZE_OVERFLOW', 'a shape or offset is too large to be true'],
  ['SAFETENSORS_MISALIGNED', 'the elements of a tensor do not fill whole bytes'],
  ['SAFETENSORS_SIZE_MISMATCH', 'data_offsets disagree with dtype and shape'],
  ['SAFETENSORS_TRUNCATED', 'the file ends before the last tensor does: it was not copied or downloaded completely'],
  ['SAFETENSORS_TRAILING_DATA', 'there are bytes after the last tensor'],
];

/** A file that tensors are read from. */
interface Source {
  readonly path: string;
  readonly handle: FileHandle;
  /** Reads that Node does not know of, and would close the file under. */
  readonly reads: Set<Promise<void>>;
}

/** A tensor of a file. A class, since a header can have a million of them. */
class FileTensor implements StoredTensor {
  constructor(
    protected readonly source: Source,
    readonly name: string,
    readonly dtype: SafetensorsDtype,
    readonly shape: readonly number[],
    readonly bytes: number,
    readonly position: number,
  ) {}

  get path(): string {
    return this.source.path;
  }

  read(begin: number, into: Uint8Array): Promise<void> {
    const { path, handle } = this.source;
    return readFully(path, handle, this.position + begin, into, this.name);
  }
}

/** Where rows that lie apart can be read in one go. */
class StridedTensor extends FileTensor {
  async readRows(from: number, stride: number, rows: number, into: Uint8Array<SharedArrayBuffer>): Promise<void> {
    const { path, handle, reads } = this.source;
    // The strip that begins with a row's first byte is followed by the others.
    const read = readStrided(path, handle, this.position + from, stride, rows, into, from === 0, this.name);
    reads.add(read);
    try {
      await read;
    } finally {
      reads.delete(read);
    }
  }
}

/** An open safetensors file. */
export class SafetensorsFile {
  /** Close with {@link SafetensorsFile.close}. */
  private constructor(
    readonly path: string,
    /** By name, in the order of their data. */
    readonly tensors: ReadonlyMap<string, StoredTensor>,
    readonly metadata: ReadonlyMap<string, string>,
    private readonly source: Source,
  ) {}

  /**
   * Opens a file and checks its header.
   *
   * @throws {@link CheckpointError} with a code for each way in which the file can be wrong.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    const handle = await openForReading(path);
    try {
      const source: Source = { path, handle, reads: new Set() };
      const { tensors, metadata } = await readHeader(source);
      return new SafetensorsFile(path, tensors, metadata, source);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    const { reads, handle } = this.source;
    while (reads.size > 0) await Promise.allSettled(reads);
    await handle.close();
  }
}

async function readHeader(source: Source): Promise<{ tensors: TensorMap; metadata: Map<string, string> }> {
  const { path, handle } = source;
  const refuse = (code: CheckpointErrorCode, what: string, tensor?: string): never => {
    const about = tensor === undefined || tensor === '' ? '' : ` (tensor ${JSON.stringify(tensor)})`;
    throw new CheckpointError(code, `${path} is not a valid safetensors file: ${what}${about}.`, { path, tensor });
  };
  let fileBytes: number;
  try {
    const status = await handle.stat();
    if (status.isDirectory()) refuse('SAFETENSORS_TOO_SMALL', 'it is a folder');
    fileBytes = status.size;
  } catch (cause) {
    throw cause instanceof CheckpointError ? cause : readError(path, cause);
  }
  if (fileBytes < 8) refuse('SAFETENSORS_TOO_SMALL', `it has ${fileBytes} bytes, fewer than the 8 of the length`);
  const prefix = new Uint8Array(8);
  await readFully(path, handle, 0, prefix);
  const claimed = new DataView(prefix.buffer).getBigUint64(0, true);
  if (claimed > BigInt(MAX_HEADER_BYTES)) {
    refuse('SAFETENSORS_HEADER_TOO_LARGE', `it claims a header of ${claimed} bytes; the limit is ${MAX_HEADER_BYTES}`);
  }
  const headerBytes = Number(claimed);
  if (8 + headerBytes > fileBytes) {
    refuse(
      'SAFETENSORS_HEADER_LENGTH',
      `it claims a header of ${headerBytes} bytes but has only ${fileBytes - 8} more`,
    );
  }
  const text = new Uint8Array(headerBytes);
  await readFully(path, handle, 8, text);
  const header = addon.parseSafetensorsHeader(text, fileBytes - 8 - headerBytes);
  if (!('names' in header)) {
    const [code, what] = FAULTS[header.fault] ?? ['SAFETENSORS_INVALID_JSON', 'its header is not valid'];
    const where = code === 'SAFETENSORS_INVALID_JSON' ? ` at byte ${header.position} of the header` : '';
    return refuse(code, what + where, header.tensor);
  }
  const tensors: StoredTensor[] = [];
  const Tensor = canReadStrided ? StridedTensor : FileTensor;
  let dim = 0;
  header.names.forEach((name, i) => {
    const rank = header.ranks[i] as number;
    const shape = new Array<number>(rank);
    for (let axis = 0; axis < rank; axis++) shape[axis] = header.dims[dim++] as number;
    const begin = header.offsets[2 * i] as number;
    const bytes = (header.offsets[2 * i + 1] as number) - begin;
    const dtype = SAFETENSORS_DTYPES[header.dtypes[i] as number] as SafetensorsDtype;
    tensors.push(new Tensor(source, name, dtype, shape, bytes, 8 + headerBytes + begin));
  });
  const metadata = new Map<string, string>();
  for (let i = 0; i < header.metadata.length; i += 2) {
    metadata.set(header.metadata[i] as string, header.metadata[i + 1] as string);
  }
  return { tensors: new TensorMap(tensors), metadata };
}
