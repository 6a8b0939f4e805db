/**
 * Models that are split into several GGUF files, `name-00001-of-00003.gguf` and so on. The first has the metadata.
 *
 * Source: llama.cpp, `tools/gguf-split` and `src/llama-model-loader.cpp` (2026).
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { CheckpointError, type CheckpointErrorCode } from '../../errors.js';
import type { StoredTensor } from '../stored-tensor.js';
import { GgufFile } from './gguf-file.js';
import { type GgufMetadata, integerOf } from './metadata.js';

/** An open model. */
export interface GgufModel {
  readonly files: readonly GgufFile[];
  /** Of all files, in their order. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Of the first file. */
  readonly metadata: GgufMetadata;
}

const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i;

/** The name of part `number` (from 1 on) of `count`. */
function splitName(prefix: string, number: number, count: number): string {
  return `${prefix}-${String(number).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.gguf`;
}

/** What the name of a part says of it, or null if it is not such a name. */
export function splitNameOf(name: string): { prefix: string; number: number; count: number } | null {
  const match = PART.exec(name);
  if (match === null) return null;
  return { prefix: match[1] as string, number: Number(match[2]), count: Number(match[3]) };
}

function refuse(code: CheckpointErrorCode, path: string, message: string, tensor?: string): never {
  throw new CheckpointError(code, message, { path, tensor });
}

/** Which part of how many a file says it is; a file that is not split is the first of one. */
function partOf(file: GgufFile): { number: number; count: number } {
  const { metadata, path } = file;
  const count = integerOf(metadata, 'split.count', path) ?? 1;
  const number = integerOf(metadata, 'split.no', path) ?? 0;
  if (count <= 1) return { number: 0, count: 1 };
  if (number >= count) refuse('GGUF_SPLIT_INVALID', path, `${path} says that it is part ${number + 1} of ${count}.`);
  return { number, count };
}

function checkPart(file: GgufFile, number: number, count: number): void {
  const part = partOf(file);
  if (part.number !== number || part.count !== count) {
    const { path } = file;
    refuse(
      'GGUF_SPLIT_INVALID',
      path,
      `${path} should be part ${number + 1} of ${count} but says that it is part ${part.number + 1} of ${part.count}.`,
    );
  }
}

/** Opens the parts after the first one, adding them to `files` as they are opened. */
async function openParts(first: GgufFile, count: number, files: GgufFile[]): Promise<void> {
  const { path } = first;
  const name = splitNameOf(basename(path));
  if (name === null || name.count !== count || name.number !== 1) {
    const expected = splitName('name', 1, count);
    refuse(
      'GGUF_SPLIT_INVALID',
      path,
      `${path} is the first of ${count} files of a split model. Expected a name like ${expected}, so that the others can be found.`,
    );
  }
  const paths = Array.from({ length: count - 1 }, (_, i) =>
    join(dirname(path), splitName((name as { prefix: string }).prefix, i + 2, count)),
  );
  // All names first: a missing part is known before any is read.
  for (const part of paths) {
    if (!existsSync(part)) {
      refuse('GGUF_SPLIT_MISSING', part, `${path} is the first of ${count} files, but ${part} does not exist.`);
    }
  }
  for (const [i, part] of paths.entries()) {
    const file = await GgufFile.open(part);
    files.push(file);
    checkPart(file, i + 1, count);
  }
}

/**
 * Opens a model of one file, or of all files of which `path` is the first.
 *
 * @throws {@link CheckpointError} `GGUF_SPLIT_NOT_FIRST` for another part than the first, `GGUF_SPLIT_MISSING` if a part is
 *   not there, `GGUF_SPLIT_INVALID` if parts contradict each other, `GGUF_DUPLICATE_TENSOR`, and those of
 *   {@link GgufFile.open}.
 */
export async function openGgufModel(path: string): Promise<GgufModel> {
  const files: GgufFile[] = [];
  try {
    const first = await GgufFile.open(path);
    files.push(first);
    const { number, count } = partOf(first);
    if (number !== 0) {
      const name = splitNameOf(basename(path));
      const start = name === null ? 'the first part' : join(dirname(path), splitName(name.prefix, 1, count));
      refuse('GGUF_SPLIT_NOT_FIRST', path, `${path} is part ${number + 1} of ${count}. Open ${start} instead.`);
    }
    if (count === 1) return { files, tensors: first.tensors, metadata: first.metadata };
    await openParts(first, count, files);
    const tensors = new Map<string, StoredTensor>();
    for (const file of files) {
      for (const tensor of file.tensors.values()) {
        const other = tensors.get(tensor.name);
        if (other !== undefined) {
          const message = `Tensor ${JSON.stringify(tensor.name)} is both in ${other.path} and in ${file.path}.`;
          refuse('GGUF_DUPLICATE_TENSOR', file.path, message, tensor.name);
        }
        tensors.set(tensor.name, tensor);
      }
    }
    const claimed = integerOf(first.metadata, 'split.tensors.count', path);
    if (claimed !== undefined && claimed !== tensors.size) {
      const message = `${path} says that its ${count} parts have ${claimed} tensors but they have ${tensors.size}.`;
      refuse('GGUF_SPLIT_INVALID', path, message);
    }
    return { files, tensors, metadata: first.metadata };
  } catch (error) {
    await Promise.all(files.map((file) => file.close()));
    throw error;
  }
}
