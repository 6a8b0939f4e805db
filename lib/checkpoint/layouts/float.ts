/**
 * Weights that are stored as they are: floats of 16 and 32 bits, and everything that no layout of quantized weights claims.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { Encoding, RowBlock, Weight } from '../weight.js';

const FLOATS: ReadonlyMap<string, LargeFloatDtype> = new Map([
  ['F32', 'float32'],
  ['F16', 'float16'],
  ['BF16', 'bfloat16'],
  ['f32', 'float32'],
  ['f16', 'float16'],
  ['bf16', 'bfloat16'],
]);

/** The float type of a stored tensor, or null if it holds something else. */
export function floatDtypeOf(tensor: StoredTensor): LargeFloatDtype | null {
  return FLOATS.get(tensor.dtype) ?? null;
}

/** A shape as rows and columns. What is empty has no rows: a file may claim 2^53 of them, of no elements each. */
export function matrixOf(shape: readonly number[]): { rows: number; columns: number } {
  const columns = shape.at(-1) ?? 1;
  let rows = columns === 0 ? 0 : 1;
  for (let axis = 0; axis < shape.length - 1; axis++) rows = shape[axis] === 0 ? 0 : rows * (shape[axis] as number);
  return { rows, columns };
}

const ENCODINGS = new Map<string, Encoding>();

/** The encoding of a tensor on its own, one object for each type. */
function encodingOf(dtype: LargeFloatDtype | null, stored: string): Encoding {
  const name = dtype ?? stored;
  let encoding = ENCODINGS.get(name);
  if (encoding === undefined) {
    encoding = { format: dtype === null ? 'other' : 'float', dtype: name, groupSize: null, traits: [] };
    ENCODINGS.set(name, encoding);
  }
  return encoding;
}

/** A tensor on its own as a weight. A class, since a checkpoint can have a million of them. */
class PlainWeight implements Weight {
  readonly rows: number;
  readonly columns: number;
  readonly dtype: LargeFloatDtype | null;
  readonly encoding: Encoding;
  readonly rowStep = 1;

  constructor(private readonly tensor: StoredTensor) {
    const { rows, columns } = matrixOf(tensor.shape);
    this.rows = rows;
    this.columns = columns;
    this.dtype = floatDtypeOf(tensor);
    this.encoding = encodingOf(this.dtype, tensor.dtype);
  }

  get name(): string {
    return this.tensor.name;
  }

  get shape(): readonly number[] {
    return this.tensor.shape;
  }

  get parts(): readonly StoredTensor[] {
    return [this.tensor];
  }

  async read(begin: number, end: number, scratch: Scratch): Promise<RowBlock> {
    const { tensor, dtype, columns } = this;
    if (dtype === null) throw new RangeError(`${tensor.name} is no float tensor`);
    const count = (end - begin) * columns;
    const elementBytes = dtype === 'float32' ? 4 : 2;
    const first = begin * columns * elementBytes;
    const bytes = scratch.bytes('input', count * elementBytes, tensor.position + first);
    await tensor.read(first, bytes);
    const { buffer, byteOffset } = bytes;
    const isWide = dtype === 'float32';
    const data = isWide ? new Float32Array(buffer, byteOffset, count) : new Uint16Array(buffer, byteOffset, count);
    return { kind: 'float', dtype, data };
  }
}

/** A tensor on its own as a weight. */
export function plainWeight(tensor: StoredTensor): Weight {
  return new PlainWeight(tensor);
}
