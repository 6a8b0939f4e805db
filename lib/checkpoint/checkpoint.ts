/**
 * Opening a checkpoint: a safetensors file, a Hugging Face folder with one or several of them, or a GGUF model of one or
 * several files.
 *
 * @module
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CheckpointError } from '../errors.js';
import { openForReading, readError } from './file.js';
import { foreignKind } from './foreign.js';
import type { GgufMetadata } from './gguf/metadata.js';
import { openGgufModel, splitNameOf } from './gguf/split.js';
import { SafetensorsFile } from './safetensors.js';
import type { StoredTensor } from './stored-tensor.js';

/** A JSON object, as read. */
export type Json = Record<string, unknown>;

/** One of the files of a checkpoint. */
export interface CheckpointFile {
  readonly path: string;
  /** `__metadata__` of a safetensors file; empty for GGUF. */
  readonly metadata: ReadonlyMap<string, string>;
  close(): Promise<void>;
}

/** An open checkpoint. */
export interface Checkpoint {
  readonly path: string;
  /** The folder, or null for a single file. */
  readonly folder: string | null;
  readonly container: 'safetensors' | 'gguf';
  readonly files: readonly CheckpointFile[];
  /** By name, file after file in the order of their data. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** config.json of the folder, if there is one. */
  readonly config: Json | null;
  /** The metadata of a GGUF model (of its first file); null for safetensors. */
  readonly gguf: GgufMetadata | null;
  close(): Promise<void>;
}

const INDEX_NAME = 'model.safetensors.index.json';

async function readJson(path: string, code: 'INDEX_INVALID' | 'CONFIG_INVALID'): Promise<Json> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw readError(path, cause);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError(code, `${path} is not valid JSON: ${(cause as Error).message}.`, { path, cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CheckpointError(code, `Expected ${path} to hold a JSON object.`, { path });
  }
  return value as Json;
}

/** The weight map of an index: tensor name → file name. */
function weightMapOf(index: Json, path: string): Map<string, string> {
  const { weight_map: map } = index;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new CheckpointError('INDEX_INVALID', `Expected ${path} to have an object "weight_map".`, { path });
  }
  const result = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    // A plain name: an index must not reach files outside its folder.
    if (typeof file !== 'string' || file === '' || basename(file) !== file || file === '..' || file.includes('\\')) {
      const message = `Expected "weight_map" of ${path} to map ${JSON.stringify(tensor)} to a file name in the same folder.`;
      throw new CheckpointError('INDEX_INVALID', message, { path, tensor });
    }
    result.set(tensor, file);
  }
  return result;
}

/** Whether a file is GGUF: by its name, or by its first letters where it has another one (as in Ollama's store). */
async function isGgufFile(path: string): Promise<boolean> {
  if (isGguf(path)) return true;
  if (path.endsWith('.safetensors')) return false;
  const handle = await openForReading(path);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, 0);
    if (bytesRead === 4 && buffer.toString('latin1') === 'GGUF') return true;
  } catch (cause) {
    throw readError(path, cause);
  } finally {
    await handle.close();
  }
  const foreign = foreignKind(path);
  if (foreign === null) return false;
  const message = `${path} is ${foreign.kind}. Expected a safetensors or GGUF file, or a folder. ${foreign.remedy}.`;
  throw new CheckpointError('NOT_A_CHECKPOINT', message, { path });
}

interface FileNames {
  readonly container: 'safetensors' | 'gguf';
  /** A GGUF model is opened by the name of its first file. */
  readonly names: string[];
  readonly weightMap: Map<string, string> | null;
}

const isGguf = (name: string) => name.toLowerCase().endsWith('.gguf');

/** The first file of the only GGUF model in a folder. */
function ggufNameOf(folder: string, entries: readonly string[]): string {
  const models = entries.filter((name) => isGguf(name) && (splitNameOf(name)?.number ?? 1) === 1);
  if (models.length === 1) return models[0] as string;
  const message =
    models.length === 0
      ? `${folder} holds parts of a GGUF model but not the first one, ...-00001-of-....gguf.`
      : `${folder} holds ${models.length} GGUF models: ${models.slice(0, 5).join(', ')}${models.length > 5 ? ' …' : ''}. Name one of them.`;
  throw new CheckpointError('NOT_A_CHECKPOINT', message, { path: folder });
}

async function fileNamesOf(folder: string): Promise<FileNames> {
  let entries: string[];
  try {
    entries = await readdir(folder);
  } catch (cause) {
    throw readError(folder, cause);
  }
  if (entries.includes(INDEX_NAME)) {
    const path = join(folder, INDEX_NAME);
    const weightMap = weightMapOf(await readJson(path, 'INDEX_INVALID'), path);
    const names = [...new Set(weightMap.values())].sort();
    for (const name of names) {
      if (!entries.includes(name)) {
        const message = `${path} names ${name}, which is not in the folder: the checkpoint was not copied completely.`;
        throw new CheckpointError('INDEX_MISSING_SHARD', message, { path: join(folder, name) });
      }
    }
    return { container: 'safetensors', names, weightMap };
  }
  const names = entries.filter((name) => name.endsWith('.safetensors'));
  if (names.includes('model.safetensors') || names.length === 1) {
    const only = names.length === 1 ? names : ['model.safetensors'];
    return { container: 'safetensors', names: only, weightMap: null };
  }
  if (names.length === 0 && entries.some(isGguf)) {
    return { container: 'gguf', names: [ggufNameOf(folder, entries)], weightMap: null };
  }
  const found = names.length === 0 ? 'no safetensors file' : `${names.length} safetensors files but no ${INDEX_NAME}`;
  const others = entries.filter((name) => /\.(bin|pt|pth|onnx|h5|tflite)$/i.test(name));
  const remedy =
    others.length === 0
      ? ''
      : ` ${others[0]} is ${foreignKind(others[0] as string)?.kind}: save the model as safetensors with the tool that made it.`;
  const message = `${folder} holds ${found}. Expected a Hugging Face folder with model.safetensors, or shards and their index, or a GGUF model.${remedy}`;
  throw new CheckpointError('NOT_A_CHECKPOINT', message, { path: folder });
}

/** config.json of a folder, or null if it has none. */
async function configOf(folder: string): Promise<Json | null> {
  try {
    return await readJson(join(folder, 'config.json'), 'CONFIG_INVALID');
  } catch (error) {
    if ((error as CheckpointError).code === 'FILE_NOT_FOUND') return null;
    throw error;
  }
}

async function openGguf(path: string, folder: string | null, file: string): Promise<Checkpoint> {
  const { files, tensors, metadata } = await openGgufModel(file);
  const close = async () => {
    await Promise.all(files.map((part) => part.close()));
  };
  try {
    return {
      path,
      folder,
      container: 'gguf',
      files: files.map((part) => ({ path: part.path, metadata: new Map(), close: () => part.close() })),
      tensors,
      config: folder === null ? null : await configOf(folder),
      gguf: metadata,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The tensors of all files, by name. */
function tensorsOf(files: readonly SafetensorsFile[]): ReadonlyMap<string, StoredTensor> {
  const [first] = files;
  if (files.length === 1 && first !== undefined) return first.tensors;
  const tensors = new Map<string, StoredTensor>();
  for (const file of files) {
    for (const tensor of file.tensors.values()) {
      const other = tensors.get(tensor.name);
      if (other !== undefined) {
        const message = `Tensor ${JSON.stringify(tensor.name)} is both in ${other.path} and in ${file.path}.`;
        throw new CheckpointError('INDEX_DUPLICATE_TENSOR', message, { path: file.path, tensor: tensor.name });
      }
      tensors.set(tensor.name, tensor);
    }
  }
  return tensors;
}

/**
 * Opens a checkpoint and checks the headers of all its files.
 *
 * @param path - A `.safetensors` or `.gguf` file (of a split GGUF model the first), or a folder with `model.safetensors`,
 *   with shards and `model.safetensors.index.json`, or with one GGUF model.
 * @throws {@link CheckpointError} with a code for each way in which it can be wrong.
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(path)).isDirectory();
  } catch (cause) {
    throw readError(path, cause);
  }
  const folder = isFolder ? path : dirname(path);
  const found: FileNames = isFolder
    ? await fileNamesOf(path)
    : { container: (await isGgufFile(path)) ? 'gguf' : 'safetensors', names: [basename(path)], weightMap: null };
  const { container, names, weightMap } = found;
  if (container === 'gguf') return openGguf(path, isFolder ? path : null, join(folder, names[0] as string));
  const files: SafetensorsFile[] = [];
  const close = async () => {
    await Promise.all(files.map((file) => file.close()));
  };
  try {
    for (const name of names) files.push(await SafetensorsFile.open(join(folder, name)));
    const tensors = tensorsOf(files);
    for (const [tensor, name] of weightMap ?? []) {
      if (tensors.get(tensor)?.path !== join(folder, name)) {
        const message = `${INDEX_NAME} says that ${JSON.stringify(tensor)} is in ${name}, but it is not.`;
        throw new CheckpointError('INDEX_MISSING_TENSOR', message, { path: join(folder, name), tensor });
      }
    }
    const config = isFolder ? await configOf(path) : null;
    return { path, folder: isFolder ? path : null, container, files, tensors, config, gguf: null, close };
  } catch (error) {
    await close();
    throw error;
  }
}
