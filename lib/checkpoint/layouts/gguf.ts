/**
 * The weights of GGUF files: blocks and floats, by the names and with the rows that the Hugging Face model has.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { CheckpointError } from '../../errors.js';
import { dequantizeBlocksAsync } from '../../tensor/blocks.js';
import type { Checkpoint } from '../checkpoint.js';
import { type Architecture, architectureNamed, hfNameOf, queryOrKey, unpairRows } from '../gguf/architecture.js';
import { type GgufMetadata, integerOf, integersOf, stringOf } from '../gguf/metadata.js';
import { decodedTypeOf, tensorTypeNamed } from '../gguf/tensor-types.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { RowBlock, Weight } from '../weight.js';
import { floatDtypeOf, matrixOf } from './float.js';
import type { LayoutReader } from './layout.js';

function invalid(path: string, message: string, tensor: string): CheckpointError {
  return new CheckpointError('LAYOUT_INVALID', message, { path, tensor });
}

/** Rows of a head of query and key in each layer, for files whose rows are stored in pairs. */
class Heads {
  private readonly counts: { readonly q: ReturnType<typeof integersOf>; readonly k: ReturnType<typeof integersOf> };

  constructor(
    readonly architecture: Architecture,
    metadata: GgufMetadata,
    private readonly path: string,
  ) {
    const layers = integerOf(metadata, `${architecture.name}.block_count`, path) ?? 0;
    const q = integersOf(metadata, `${architecture.name}.attention.head_count`, layers, path);
    this.counts = { q, k: integersOf(metadata, `${architecture.name}.attention.head_count_kv`, layers, path) ?? q };
  }

  /** Rows of each head of a tensor whose rows are in pairs, or 1 for any other tensor. */
  rowsOf(tensor: StoredTensor): number {
    const place = queryOrKey(tensor.name);
    if (place === null) return 1;
    const count = this.counts[place.part]?.(place.layer);
    const [rows = 1] = tensor.shape;
    if (count === undefined || count === 0 || rows % (2 * count) !== 0) {
      const { name } = this.architecture;
      const key = `${name}.attention.head_count${place.part === 'k' ? '_kv' : ''}`;
      const message =
        `${this.path}: the ${rows} rows of ${JSON.stringify(tensor.name)} can't be divided into heads: ` +
        `${key} is ${count ?? `missing for layer ${place.layer}`}.`;
      throw invalid(this.path, message, tensor.name);
    }
    return rows / count;
  }
}

/** A scale for a whole tensor that lies beside NVFP4 blocks: `blk.0.ffn_up.scale` of `blk.0.ffn_up.weight`. */
async function outerScaleOf(scale: StoredTensor): Promise<number> {
  const bytes = new Uint8Array(4);
  await scale.read(0, bytes);
  return new DataView(bytes.buffer).getFloat32(0, true);
}

class GgufWeight implements Weight {
  readonly shape: readonly number[];
  readonly rows: number;
  readonly columns: number;
  readonly dtype: LargeFloatDtype | null;
  readonly encoding: Weight['encoding'];
  readonly parts: readonly StoredTensor[];
  readonly rowStep: number;
  private readonly rowBytes: number;
  /** Bytes of what is in pairs: a row, or an element of a bias. */
  private readonly unitBytes: number;

  constructor(
    readonly name: string,
    private readonly tensor: StoredTensor,
    private readonly outerScale: StoredTensor | undefined,
    /** Rows of a head whose rows are in pairs; otherwise 1. */
    private readonly headRows: number,
  ) {
    const { dtype, shape } = tensor;
    const float = floatDtypeOf(tensor);
    const decoded = decodedTypeOf(dtype);
    this.shape = shape;
    const { rows, columns } = matrixOf(shape);
    this.rows = rows;
    this.columns = columns;
    this.dtype = float ?? decoded?.dtype ?? null;
    this.encoding = {
      format: float !== null ? 'float' : decoded !== undefined ? 'gguf' : 'other',
      dtype: float ?? dtype,
      groupSize: decoded?.groupSize ?? null,
      traits: outerScale === undefined ? [] : ['scaled'],
    };
    this.parts = outerScale === undefined ? [tensor] : [tensor, outerScale];
    const type = tensorTypeNamed(dtype) as { blockLength: number; blockBytes: number };
    this.rowBytes = (columns / type.blockLength) * type.blockBytes;
    const isVector = shape.length < 2;
    this.rowStep = isVector ? 1 : headRows;
    this.unitBytes = isVector ? type.blockBytes : this.rowBytes;
    if (isVector && headRows > 1 && type.blockLength > 1) {
      const message = `${tensor.path}: the elements of ${JSON.stringify(tensor.name)} are in pairs, in blocks of ${dtype}.`;
      throw invalid(tensor.path, message, tensor.name);
    }
  }

  async read(begin: number, end: number, scratch: Scratch): Promise<RowBlock> {
    const { tensor, columns, rowStep, headRows } = this;
    const { path, name, dtype } = tensor;
    const float = floatDtypeOf(tensor);
    const decoded = decodedTypeOf(dtype);
    if (float === null && decoded === undefined) {
      const what =
        (tensorTypeNamed(dtype)?.blockLength ?? 1) > 1 ? 'whose blocks lowbit does not decode' : 'no weights';
      const message = `${path}: tensor ${JSON.stringify(name)} has the type ${dtype}, ${what}.`;
      throw new CheckpointError('GGUF_TYPE_NOT_DECODABLE', message, { path, tensor: name });
    }
    const bytes = (end - begin) * this.rowBytes;
    let data = scratch.bytes('input', bytes);
    await tensor.read(begin * this.rowBytes, data);
    let place = 'input';
    if (headRows > 1) {
      if (begin % rowStep !== 0 || (end % rowStep !== 0 && end !== this.rows)) {
        throw new RangeError(`rows ${begin} to ${end} of ${name} are no whole heads of ${rowStep}`);
      }
      place = 'unpaired';
      const unpaired = scratch.bytes(place, bytes);
      unpairRows(data, unpaired, this.unitBytes, headRows);
      data = unpaired;
    }
    const count = (end - begin) * columns;
    if (float !== null) {
      const floats = float === 'float32' ? scratch.floats(place, count) : scratch.halves(place, count);
      return { kind: 'float', dtype: float, data: floats };
    }
    const { type } = decoded as { type: Extract<RowBlock, { kind: 'blocks' }>['type'] };
    if (this.outerScale === undefined) return { kind: 'blocks', type, data };
    const scale = await outerScaleOf(this.outerScale);
    const out = scratch.floats('scaled', count);
    await dequantizeBlocksAsync(data, { type, rowLength: columns, out });
    for (let i = 0; i < count; i++) out[i] = (out[i] as number) * scale;
    return { kind: 'float', dtype: 'float32', data: out };
  }
}

/** The scale beside a tensor, if there is one. */
function outerScaleFor(tensor: StoredTensor, checkpoint: Checkpoint): StoredTensor | undefined {
  if (tensor.dtype !== 'nvfp4') return undefined;
  const scale = checkpoint.tensors.get(tensor.name.replace(/\.weight$/, '.scale'));
  if (scale === undefined) return undefined;
  if (scale.dtype !== 'f32' || scale.bytes !== 4) {
    const message =
      `${scale.path}: ${JSON.stringify(scale.name)} is the scale of NVFP4 blocks. ` +
      `Expected one float32 but it is ${scale.dtype} of shape [${scale.shape.join(', ')}].`;
    throw invalid(scale.path, message, scale.name);
  }
  return scale;
}

/**
 * Everything in a GGUF file. Names and rows of architectures that lowbit knows (`llama`, which Mistral is too, `qwen2`,
 * `qwen3`) are those of Hugging Face; other names stay as they are, `rope_freqs.weight` among them.
 */
export const ggufReader: LayoutReader = {
  format: 'gguf',
  async claim(checkpoint, left) {
    const { gguf: metadata, path } = checkpoint;
    if (checkpoint.container !== 'gguf' || metadata === null) return [];
    const architecture = architectureNamed(stringOf(metadata, 'general.architecture', path));
    const heads = architecture?.pairsRows ? new Heads(architecture, metadata, path) : null;
    const weights: Weight[] = [];
    const names = new Map<string, string>();
    const scales = new Set<StoredTensor>();
    for (const tensor of left.values()) {
      const scale = outerScaleFor(tensor, checkpoint);
      if (scale !== undefined) scales.add(scale);
    }
    for (const tensor of left.values()) {
      if (scales.has(tensor)) continue;
      const name = (architecture === null ? null : hfNameOf(architecture, tensor.name)) ?? tensor.name;
      const other = architecture === null ? undefined : names.get(name);
      if (other !== undefined) {
        const message = `${path}: both ${JSON.stringify(other)} and ${JSON.stringify(tensor.name)} would be ${JSON.stringify(name)}.`;
        throw invalid(path, message, tensor.name);
      }
      if (architecture !== null) names.set(name, tensor.name);
      weights.push(new GgufWeight(name, tensor, outerScaleFor(tensor, checkpoint), heads?.rowsOf(tensor) ?? 1));
    }
    left.clear();
    return weights;
  },
};
