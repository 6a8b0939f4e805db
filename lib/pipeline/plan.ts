/**
 * What will become of each tensor of a checkpoint: decided, checked and sized before any work.
 *
 * @module
 */
import type { Checkpoint, Json } from '../checkpoint/checkpoint.js';
import { type PackedScheme, packedTensors, quantizationConfig } from '../checkpoint/compressed-tensors.js';
import type { SafetensorsDtype } from '../checkpoint/safetensors.js';
import { safetensorsFileBytes, type TensorSpec, tensorBytes } from '../checkpoint/safetensors-writer.js';
import type { StoredTensor } from '../checkpoint/stored-tensor.js';
import type { LargeFloatDtype } from '../dtype.js';
import { CheckpointError } from '../errors.js';
import type { Scheme } from '../tensor/quantized-tensor.js';

/** How {@link quantizeCheckpoint} quantizes the linear layers. */
export interface QuantizationSpec {
  /** The code type of the weights. */
  readonly dtype: 'int4' | 'int8';
  /** Default `'symmetric'`. */
  readonly scheme?: Scheme;
  /** Elements along the input dimension that share a scale, or `null` for one scale per output channel. Default 128. */
  readonly groupSize?: number | null;
  /** How the range is chosen; see {@link quantizeTensor}. Default `'minmax'`. */
  readonly range?: 'minmax' | 'mse' | { readonly percentile: number };
  /** Only layers whose name matches. Default: all linear layers but the output head. */
  readonly include?: RegExp;
  /** No layers whose name matches. */
  readonly exclude?: RegExp;
}

/** A tensor that is quantized. */
export interface QuantizedEntry {
  readonly tensor: StoredTensor;
  readonly rows: number;
  readonly columns: number;
  readonly inputDtype: LargeFloatDtype;
  /** What it becomes. */
  readonly outputs: readonly TensorSpec[];
  readonly outputBytes: number;
}

/** A file of the result. */
export interface FilePlan {
  readonly name: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly outputs: readonly TensorSpec[];
  readonly quantized: readonly QuantizedEntry[];
  readonly copied: readonly StoredTensor[];
}

/** Everything that will happen. */
export interface Plan {
  readonly scheme: PackedScheme;
  readonly range: NonNullable<QuantizationSpec['range']>;
  readonly files: readonly FilePlan[];
  /** config.json of the result. */
  readonly config: Json;
  /** Bytes of all tensors before and after. */
  readonly inputBytes: number;
  readonly outputBytes: number;
  /** Bytes of the safetensors files of the result. */
  readonly fileBytes: number;
}

const FLOAT_DTYPES: Readonly<Partial<Record<string, LargeFloatDtype>>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
};

/**
 * Matrices that are no linear layers: embeddings (token, position, …) and routers; and the output head, which every engine
 * keeps in float by default.
 */
const NOT_LINEAR =
  /(^|\.)(embed[^.]*|[^.]*embeddings?|wte|wpe|shared|[^.]*norm[^.]*|ln_[^.]*|gate\.weight$|router)(\.|$)/i;
const OUTPUT_HEAD = /(^|\.)(lm_head|output|score|classifier|embed_out)\.weight$/;

function isMatrix(tensor: StoredTensor): boolean {
  return tensor.name.endsWith('.weight') && tensor.shape.length === 2 && FLOAT_DTYPES[tensor.dtype] !== undefined;
}

function isLinear(tensor: StoredTensor): boolean {
  return isMatrix(tensor) && !NOT_LINEAR.test(tensor.name);
}

function isChosen(tensor: StoredTensor, { include, exclude }: QuantizationSpec): boolean {
  if (exclude?.test(tensor.name)) return false;
  if (include !== undefined) return isMatrix(tensor) && include.test(tensor.name);
  return isLinear(tensor) && !OUTPUT_HEAD.test(tensor.name);
}

/** Every weight whose rows do not divide into groups, in one error. */
function checkGroups(chosen: readonly StoredTensor[], groupSize: number | null, path: string): void {
  if (groupSize === null) return;
  const ragged = chosen.filter((tensor) => (tensor.shape[1] as number) % groupSize !== 0);
  if (ragged.length === 0) return;
  const list = ragged.map(({ name, shape }) => `  ${name} [${shape.join(', ')}]`).join('\n');
  const message =
    `compressed-tensors has no shorter last group, but ${ragged.length} of ${chosen.length} weights have an input dimension ` +
    `that is no multiple of the group size ${groupSize}:\n${list}\n` +
    'Use another --group-size, --granularity per-channel, or leave them out with --exclude.';
  throw new CheckpointError('UNSUPPORTED_PLAN', message, { path, tensor: ragged[0]?.name });
}

/**
 * Decides what becomes of each tensor.
 *
 * @throws {@link CheckpointError} if the checkpoint is quantized already, no layer is chosen, or a chosen one can't be
 *   quantized this way; the message names every such tensor and what to do.
 */
export function planQuantization(checkpoint: Checkpoint, spec: QuantizationSpec): Plan {
  const { path } = checkpoint;
  const method = checkpoint.config?.['quantization_config'];
  if (method !== undefined) {
    const name = (method as { quant_method?: unknown } | null)?.quant_method;
    const message = `${path} is quantized already (${typeof name === 'string' ? name : 'quantization_config in config.json'}). Start from the float checkpoint.`;
    throw new CheckpointError('ALREADY_QUANTIZED', message, { path });
  }
  const all = [...checkpoint.tensors.values()];
  const chosen = all.filter((tensor) => isChosen(tensor, spec));
  if (chosen.length === 0) {
    const matrices = all.filter(isMatrix).slice(0, 5);
    const message =
      `${path} has no linear layers to quantize as chosen. Its matrices: ` +
      `${matrices.map(({ name }) => name).join(', ') || 'none in float32, float16 or bfloat16'}.`;
    throw new CheckpointError('NOTHING_TO_QUANTIZE', message, { path });
  }
  const groupSize = spec.groupSize === undefined ? 128 : spec.groupSize;
  checkGroups(chosen, groupSize, path);
  const scheme: PackedScheme = { bits: spec.dtype === 'int4' ? 4 : 8, scheme: spec.scheme ?? 'symmetric', groupSize };
  const isQuantized = new Set(chosen);
  const files = checkpoint.files.map((file): FilePlan => {
    const own = all.filter((tensor) => tensor.path === file.path);
    const quantized = own.filter((tensor) => isQuantized.has(tensor)).map((tensor) => quantizedEntry(tensor, scheme));
    const copied = own.filter((tensor) => !isQuantized.has(tensor));
    return {
      name:
        checkpoint.folder === null
          ? 'model.safetensors'
          : file.path.slice(checkpoint.folder.length).replace(/^[\\/]+/, ''),
      metadata: new Map([['format', 'pt'], ...file.metadata]),
      outputs: [
        ...quantized.flatMap((entry) => entry.outputs),
        ...copied.map(({ name, dtype, shape }) => ({ name, dtype: dtype as SafetensorsDtype, shape })),
      ],
      quantized,
      copied,
    };
  });
  const ignore = all
    .filter((tensor) => isLinear(tensor) && !isQuantized.has(tensor))
    .map(({ name }) => name.slice(0, -'.weight'.length));
  const outputs = files.flatMap((file) => file.outputs);
  checkNames(outputs, path);
  return {
    scheme,
    range: spec.range ?? 'minmax',
    files,
    config: { ...checkpoint.config, quantization_config: quantizationConfig(scheme, ignore) },
    inputBytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    outputBytes: outputs.reduce((sum, tensor) => sum + tensorBytes(tensor), 0),
    fileBytes: files.reduce((sum, file) => sum + safetensorsFileBytes(file.outputs, file.metadata), 0),
  };
}

function quantizedEntry(tensor: StoredTensor, scheme: PackedScheme): QuantizedEntry {
  const [rows = 0, columns = 0] = tensor.shape;
  const outputs = packedTensors(tensor.name, rows, columns, tensor.dtype as SafetensorsDtype, scheme);
  return {
    tensor,
    rows,
    columns,
    inputDtype: FLOAT_DTYPES[tensor.dtype] as LargeFloatDtype,
    outputs,
    outputBytes: outputs.reduce((sum, output) => sum + tensorBytes(output), 0),
  };
}

/** A checkpoint may already have a tensor of the name that a quantized one gets. */
function checkNames(outputs: readonly TensorSpec[], path: string): void {
  const seen = new Set<string>();
  for (const { name } of outputs) {
    if (seen.has(name)) {
      const message = `${path} already holds a tensor ${JSON.stringify(name)}, a name that quantizing needs.`;
      throw new CheckpointError('UNSUPPORTED_PLAN', message, { path, tensor: name });
    }
    seen.add(name);
  }
}
