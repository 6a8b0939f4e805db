/**
 * The stored tensors that make up a quantized weight: checking them, and reading scales.
 *
 * @module
 */
import type { LargeFloatDtype, SmallFloatDtype } from '../../dtype.js';
import { CheckpointError, type CheckpointErrorCode } from '../../errors.js';
import { castTensorAsync } from '../../tensor/cast.js';
import type { InputKind } from '../../tensor/input-quantization.js';
import type { Checkpoint, Json } from '../checkpoint.js';
import { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { StoredInput } from '../weight.js';

/** An error about a stored tensor: which file, which tensor, what was expected and what came. */
export function layoutError(code: CheckpointErrorCode, tensor: StoredTensor, message: string): CheckpointError {
  return new CheckpointError(code, `Tensor ${JSON.stringify(tensor.name)} of ${tensor.path}: ${message}.`, {
    path: tensor.path,
    tensor: tensor.name,
  });
}

/** A shape as messages show it. */
export function shown(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

/** A part that must be there. `beside` is one that is. */
export function requiredPart(
  tensors: ReadonlyMap<string, StoredTensor>,
  name: string,
  beside: StoredTensor,
): StoredTensor {
  const part = tensors.get(name);
  if (part !== undefined) return part;
  const message = `expected ${JSON.stringify(name)} beside it, but the checkpoint has no such tensor`;
  throw layoutError('LAYOUT_MISSING_PART', beside, message);
}

/** Refuses a tensor that has none of these types. */
export function checkDtype(tensor: StoredTensor, allowed: readonly string[]): void {
  if (allowed.includes(tensor.dtype)) return;
  throw layoutError('LAYOUT_DTYPE', tensor, `expected ${allowed.join(' or ')}, but it has ${tensor.dtype}`);
}

/** Whether two shapes are the same. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/** Refuses a tensor that has none of these shapes. */
export function checkShape(tensor: StoredTensor, ...allowed: (readonly number[])[]): void {
  if (allowed.some((shape) => sameShape(shape, tensor.shape))) return;
  const message = `expected the shape ${allowed.map(shown).join(' or ')}, but it has ${shown(tensor.shape)}`;
  throw layoutError('LAYOUT_SHAPE', tensor, message);
}

/** The rows and columns of a weight, which must be a matrix with at least one element. */
export function matrixShape(tensor: StoredTensor): [number, number] {
  const [rows = 0, columns = 0] = tensor.shape;
  if (tensor.shape.length === 2 && rows > 0 && columns > 0) return [rows, columns];
  const message = `expected a matrix of quantized weights, but it has the shape ${shown(tensor.shape)}`;
  throw layoutError('LAYOUT_SHAPE', tensor, message);
}

/** How many elements a tensor has. */
export function elementCount(tensor: StoredTensor): number {
  return tensor.shape.reduce((product, dim) => product * dim, 1);
}

/** Types of scales. */
export const SCALE_DTYPES = ['F32', 'F16', 'BF16'] as const;

const FLOATS: ReadonlyMap<string, { dtype: LargeFloatDtype | SmallFloatDtype; bytes: number }> = new Map([
  ['F32', { dtype: 'float32', bytes: 4 }],
  ['F16', { dtype: 'float16', bytes: 2 }],
  ['BF16', { dtype: 'bfloat16', bytes: 2 }],
  ['F8_E4M3', { dtype: 'float8_e4m3fn', bytes: 1 }],
  ['F8_E8M0', { dtype: 'float8_e8m0fnu', bytes: 1 }],
  // As MX formats store it: torch had no type for it for long.
  ['U8', { dtype: 'float8_e8m0fnu', bytes: 1 }],
]);

/**
 * Elements `begin` … `begin + count` of a tensor of floats, in float32; those of U8 are E8M0 numbers.
 *
 * @param name - The buffer of `scratch` that holds them.
 */
export async function readFloats(
  tensor: StoredTensor,
  begin: number,
  count: number,
  scratch: Scratch,
  name: string,
): Promise<Float32Array> {
  const type = FLOATS.get(tensor.dtype);
  if (type === undefined) throw layoutError('LAYOUT_DTYPE', tensor, `expected floats, but it has ${tensor.dtype}`);
  const out = scratch.floats(name, count);
  const stored =
    type.bytes === 4 ? scratch.bytes(name, 4 * count) : scratch.bytes(`${name} stored`, type.bytes * count);
  await tensor.read(begin * type.bytes, stored);
  if (type.bytes === 4 || count === 0) return out;
  const from = type.bytes === 2 ? scratch.halves(`${name} stored`, count) : stored;
  await castTensorAsync(from as Uint16Array, { from: type.dtype as 'float16', to: 'float32', out });
  return out;
}

/**
 * Refuses scales that are NaN or infinite, or negative where that can't be.
 *
 * @param begin - The number of the first of them in the tensor, for messages.
 */
export function checkScales(tensor: StoredTensor, scales: Float32Array, begin: number, negative: boolean): void {
  const lowest = negative ? -3.5e38 : 0;
  for (let i = 0; i < scales.length; i++) {
    const scale = scales[i] as number;
    if (scale >= lowest && scale <= 3.5e38) continue;
    const expected = negative ? 'finite scales' : 'scales that are finite and not negative';
    throw layoutError('LAYOUT_SCALE', tensor, `expected ${expected}, but element ${begin + i} is ${scale}`);
  }
}

/** A single positive number, such as a scale of a whole tensor. */
export async function readNumber(tensor: StoredTensor): Promise<number> {
  checkDtype(tensor, ['F32']);
  checkShape(tensor, [], [1]);
  const bytes = new Uint8Array(4);
  await tensor.read(0, bytes);
  const value = new DataView(bytes.buffer).getFloat32(0, true);
  const isPositive = value > 0 && value < Number.POSITIVE_INFINITY;
  if (isPositive && Math.fround(1 / value) < Number.POSITIVE_INFINITY) return value;
  throw layoutError('LAYOUT_SCALE', tensor, `expected a positive number with a finite inverse, but it is ${value}`);
}

/** The float type that config.json says the model has, or null. */
export function modelDtypeOf({ config }: Checkpoint): LargeFloatDtype | null {
  const inner = config?.['text_config'];
  const places = [config, typeof inner === 'object' ? (inner as Json | null) : null];
  for (const place of places) {
    for (const key of ['torch_dtype', 'dtype']) {
      const value = place?.[key];
      if (value === 'float32' || value === 'float16' || value === 'bfloat16') return value;
    }
  }
  return null;
}

/** The `quantization_config` of a checkpoint, or what older writers called so. */
export function quantizationConfigOf({ config }: Checkpoint): Json | null {
  const value = config?.['quantization_config'] ?? config?.['compression_config'];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const inner = (value as Json)['quantization_config'];
  if (typeof inner !== 'object' || inner === null) return value as Json;
  return { ...(value as Json), ...(inner as Json) };
}

/** What is stored of a layer's activations; readers of weights have no use for it, but it belongs to the weight. */
const ACTIVATION_PARTS = [
  'input_scale',
  'input_zero_point',
  'input_global_scale',
  'input_scale_ub',
  'activation_scale',
  'output_scale',
  'output_zero_point',
] as const;

/**
 * Static activations of a layer: `<layer>.input_scale`, one number, and if they are asymmetric `<layer>.input_zero_point`, I8.
 *
 * @param beside - A tensor of the layer, for messages.
 * @throws CheckpointError `LAYOUT_MISSING_PART`, `LAYOUT_DTYPE`, `LAYOUT_SHAPE`.
 */
export function storedInput(
  tensors: ReadonlyMap<string, StoredTensor>,
  layer: string,
  kind: InputKind,
  beside: StoredTensor,
): StoredInput {
  const scale = requiredPart(tensors, `${layer}.input_scale`, beside);
  checkDtype(scale, SCALE_DTYPES);
  checkShape(scale, [1], [], [1, 1]);
  const zero = kind.scheme === 'symmetric' ? null : requiredPart(tensors, `${layer}.input_zero_point`, beside);
  if (zero !== null) {
    checkDtype(zero, ['I8']);
    checkShape(zero, [1], [], [1, 1]);
  }
  const read = async () => {
    const [value = Number.NaN] = await readFloats(scale, 0, 1, new Scratch(), 'input scale');
    if (!(value > 0 && Math.fround(1 / value) < Number.POSITIVE_INFINITY && value < Number.POSITIVE_INFINITY)) {
      const message = `expected a positive number with a finite inverse, but it is ${value}`;
      throw layoutError('LAYOUT_SCALE', scale, message);
    }
    const bytes = new Uint8Array(1);
    await zero?.read(0, bytes);
    return { dtype: kind.dtype, scale: value, zeroPoint: zero === null ? null : (new Int8Array(bytes.buffer)[0] ?? 0) };
  };
  return { ...kind, read };
}

/** The tensors of a layer's activations. */
export function activationParts(tensors: ReadonlyMap<string, StoredTensor>, layer: string): StoredTensor[] {
  return ACTIVATION_PARTS.flatMap((part) => tensors.get(`${layer}.${part}`) ?? []);
}
