/**
 * `quant_state`: a tensor of bytes that are JSON, and say how a weight of four bits is stored.
 *
 * Source: bitsandbytes 95f9af30, functional.py, QuantState.as_dict and from_dict.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../../dtype.js';
import { describe } from '../../../errors.js';
import type { Json } from '../../checkpoint.js';
import type { StoredTensor } from '../../stored-tensor.js';
import { checkDtype, layoutError } from '../parts.js';
import type { FourBits } from './tables.js';

/** What a quant_state says. */
export interface QuantState {
  readonly quantType: FourBits;
  readonly blockSize: number;
  /** Of the weight before it was quantized. */
  readonly dtype: LargeFloatDtype;
  readonly shape: readonly number[];
  /** Absmax values that were quantized themselves; null if they are floats. */
  readonly nested: { readonly blockSize: number; readonly offset: number } | null;
}

/** What comes before the type of codes in the name of the tensor. */
export const STATE_NAME = '.quant_state.bitsandbytes__';

/**
 * Rows after which a block of codes ends with a row, where blocks run over all rows as if they were one.
 *
 * @param blockSize - A power of two.
 */
export function rowsOfBlocks(columns: number, blockSize: number): number {
  let rows = blockSize;
  for (let n = columns; rows > 1 && n % 2 === 0; n /= 2) rows /= 2;
  return rows;
}

const LARGEST_STATE = 1 << 16;
const BLOCK_SIZES: readonly unknown[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];
const FIELDS: ReadonlySet<string> = new Set(['quant_type', 'blocksize', 'dtype', 'shape']);
const NESTED_FIELDS: ReadonlySet<string> = new Set(['nested_blocksize', 'nested_dtype', 'nested_offset']);

async function readJson(tensor: StoredTensor): Promise<Json> {
  checkDtype(tensor, ['U8']);
  if (tensor.bytes > LARGEST_STATE) {
    throw layoutError('LAYOUT_INVALID', tensor, `expected a few hundred bytes of JSON, but it has ${tensor.bytes}`);
  }
  const bytes = new Uint8Array(tensor.bytes);
  await tensor.read(0, bytes);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw layoutError('LAYOUT_INVALID', tensor, `expected JSON, but it is not: ${(cause as Error).message}`);
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  throw layoutError('LAYOUT_INVALID', tensor, `expected a JSON object, but it is ${describe(value)}`);
}

/** Reads and checks a quant_state, whose name ends with the type of codes `named`. */
export async function readQuantState(tensor: StoredTensor, named: string): Promise<QuantState> {
  const given = await readJson(tensor);
  const check = (field: string, holds: boolean, expected: string) => {
    if (holds) return;
    throw layoutError(
      'LAYOUT_INVALID',
      tensor,
      `expected ${field} to be ${expected}, but it is ${describe(given[field])}`,
    );
  };
  for (const field of Object.keys(given)) {
    if (FIELDS.has(field) || NESTED_FIELDS.has(field)) continue;
    throw layoutError('LAYOUT_INVALID', tensor, `it has the field ${describe(field)}, which lowbit does not know`);
  }
  const { quant_type: type, blocksize, dtype, shape } = given;
  check(
    'quant_type',
    type === named && (type === 'nf4' || type === 'fp4'),
    `"nf4" or "fp4", and "${named}" as its name says`,
  );
  check('blocksize', BLOCK_SIZES.includes(blocksize), 'a power of two from 32 to 4096');
  check('dtype', dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16', 'float32, float16 or bfloat16');
  const dims = Array.isArray(shape) ? (shape as unknown[]) : [];
  const count = dims.reduce<number>(
    (product, dim) => product * (Number.isSafeInteger(dim) ? (dim as number) : Number.NaN),
    1,
  );
  const isShape = dims.length > 0 && dims.every((dim) => (dim as number) > 0) && Number.isSafeInteger(count);
  check('shape', isShape, 'the dimensions of a weight');
  const common = {
    quantType: type as FourBits,
    blockSize: blocksize as number,
    dtype: dtype as LargeFloatDtype,
    shape: dims as number[],
  };
  if (!Object.keys(given).some((field) => NESTED_FIELDS.has(field))) return { ...common, nested: null };
  const { nested_blocksize: nestedSize, nested_dtype: nestedDtype, nested_offset: offset } = given;
  check('nested_blocksize', Number.isSafeInteger(nestedSize) && (nestedSize as number) > 0, 'an integer of at least 1');
  check('nested_dtype', nestedDtype === 'float32', '"float32"');
  check('nested_offset', typeof offset === 'number' && Number.isFinite(Math.fround(offset)), 'a finite number');
  return { ...common, nested: { blockSize: nestedSize as number, offset: Math.fround(offset as number) } };
}

/** Room for a number in JSON. */
const NUMBER_WIDTH = 24;

/** The length of {@link quantStateBytes}, which does not depend on the offset. */
export function quantStateLength(state: QuantState): number {
  return quantStateBytes({ ...state, nested: state.nested === null ? null : { ...state.nested, offset: 0 } }).length;
}

/**
 * A quant_state as Python's `json.dumps` writes it. With nested absmax it ends with spaces, so that its length is known
 * before the offset is.
 */
export function quantStateBytes({ quantType, blockSize, dtype, shape, nested }: QuantState): Uint8Array {
  const fields = [
    `"quant_type": "${quantType}"`,
    `"blocksize": ${blockSize}`,
    `"dtype": "${dtype}"`,
    `"shape": [${shape.join(', ')}]`,
  ];
  let padding = 0;
  if (nested !== null) {
    // The shortest decimal that is the float32 number as a double, as Python prints it.
    const offset = String(nested.offset);
    padding = NUMBER_WIDTH - offset.length;
    fields.push(`"nested_blocksize": ${nested.blockSize}`, '"nested_dtype": "float32"', `"nested_offset": ${offset}`);
  }
  return new TextEncoder().encode(`{${fields.join(', ')}}${' '.repeat(padding)}`);
}
