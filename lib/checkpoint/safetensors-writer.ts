/**
 * Writing safetensors files piece by piece: the header comes first and needs only the names, types and shapes; the data of
 * each tensor may then follow in any order and in any pieces, so that no tensor has to be in memory as a whole.
 *
 * @module
 */
import { SAFETENSORS_DTYPES, type SafetensorsDtype } from './safetensors.js';
import { type FileLayout, type Place, TensorFile } from './tensor-file.js';

/** A tensor to be written. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

const BITS: Readonly<Partial<Record<SafetensorsDtype, number>>> = {
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
};

/** Bytes that a tensor takes. */
export function tensorBytes({ dtype, shape }: TensorSpec): number {
  return (shape.reduce((product, dim) => product * dim, 1) * (BITS[dtype] ?? 8)) / 8;
}

/** The order of the reference writer: widest types first, so that every tensor is aligned, then by name. */
function inFileOrder(a: TensorSpec, b: TensorSpec): number {
  const byType = SAFETENSORS_DTYPES.indexOf(b.dtype) - SAFETENSORS_DTYPES.indexOf(a.dtype);
  return byType !== 0 ? byType : a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/** The bytes before the data: length, JSON, and spaces up to a multiple of 8. */
function headerOf(tensors: readonly TensorSpec[], metadata: ReadonlyMap<string, string>): Buffer {
  const entries: string[] = [];
  if (metadata.size > 0) entries.push(`"__metadata__":${JSON.stringify(Object.fromEntries(metadata))}`);
  let begin = 0;
  for (const tensor of tensors) {
    const end = begin + tensorBytes(tensor);
    const { dtype, shape } = tensor;
    entries.push(`${JSON.stringify(tensor.name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`);
    begin = end;
  }
  const json = Buffer.from(`{${entries.join(',')}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded));
  json.copy(header, 8);
  return header;
}

function layoutOf(tensors: readonly TensorSpec[], metadata: ReadonlyMap<string, string>): FileLayout {
  const ordered = [...tensors].sort(inFileOrder);
  const header = headerOf(ordered, metadata);
  const places = new Map<string, Place>();
  let position = header.length;
  for (const tensor of ordered) {
    const bytes = tensorBytes(tensor);
    places.set(tensor.name, { position, bytes });
    position += bytes;
  }
  return { header, places, fileBytes: position };
}

/** How large the file will be. */
export function safetensorsFileBytes(tensors: readonly TensorSpec[], metadata: ReadonlyMap<string, string>): number {
  return layoutOf(tensors, metadata).fileBytes;
}

/**
 * Begins a safetensors file, or opens one that was begun with the same tensors.
 *
 * @throws {@link OutputError}
 */
export function writeSafetensors(
  path: string,
  tensors: readonly TensorSpec[],
  metadata: ReadonlyMap<string, string>,
): Promise<TensorFile> {
  return TensorFile.open(path, layoutOf(tensors, metadata));
}
