/**
 * From GGUF blocks to packed weights.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import { type BlockFormat, blockFormatOf, type GgufType } from '../tensor/blocks.js';
import * as validate from '../validate.js';
import { filled, type PackedWeight, weightOfHandle } from './packed-weight.js';

/** Options of {@link prepackBlocks}. */
export interface PrepackBlocksOptions {
  /** The block type. */
  type: GgufType;
  /** `[N, K]`: rows and columns of the weight matrix. K is a multiple of the block length. */
  shape: readonly [number, number];
  /** Where the products will be computed. Default, and all that there is so far: `'cpu'`. */
  device?: 'cpu';
}

/** The same, with a signal that ends the work early. */
export interface PrepackBlocksAsyncOptions extends PrepackBlocksOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['type', 'shape', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  readonly data: Uint8Array;
  readonly type: GgufType;
  readonly format: BlockFormat;
  readonly rows: number;
  readonly columns: number;
}

function prepare(dataValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const format = blockFormatOf('type', given['type']);
  const type = given['type'] as GgufType;
  if (given['device'] !== undefined) validate.oneOf('device', given['device'], ['cpu']);
  const shape = validate.shape('shape', given['shape']);
  const [rows = 0, columns = 0] = shape;
  if (shape.length !== 2) throw invalidArgument('shape', 'two numbers, [N, K],', given['shape']);
  if (columns % format.length !== 0) {
    throw invalidArgument('shape', `a multiple of ${format.length} columns for ${type}`, given['shape']);
  }
  const data = validate.uint8Array('data', dataValue, ((rows * columns) / format.length) * format.bytes);
  return { data, type, format, rows, columns };
}

/** The addon's error in the words of the caller's arguments. */
function explained(error: unknown, { type }: Prepared): unknown {
  const { code, index } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'data');
  return new InvalidArgumentError(
    'data',
    `Expected finite scales but those of ${type} block ${index} of data are not.`,
  );
}

/**
 * Packs a weight matrix of GGUF blocks for {@link linear}, as {@link prepack} does with other weights: codes, scales and
 * offsets stay what they are, and products are those of the values that {@link dequantizeBlocks} gives.
 *
 * Blocks of 5 and 6 bits take 8, those of 3 bits 4; scales that are codes themselves become float32.
 *
 * @param data - Blocks of W[N, K], row after row, as GGUF files hold them.
 * @param options - `type`; `shape`, `[N, K]`; `device`, default `'cpu'`.
 * @returns A weight of the kind `'quantized'` with `rows` N and `cols` K.
 * @throws {@link InvalidArgumentError} for a wrong type, shape or length, or a block with a scale that is not finite;
 *   {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * const w = prepackBlocks(blocks, { type: 'q4_k', shape: [n, k] });
 * const y = linear(x, w); // [m, n]
 * ```
 */
export function prepackBlocks(data: Uint8Array, options: PrepackBlocksOptions): PackedWeight {
  const p = prepare(data, options, OPTIONS);
  const handle = addon.createWeight();
  try {
    addon.packBlocks(handle, p.data, p.format.code, p.rows, p.columns);
  } catch (error) {
    throw explained(error, p);
  }
  return weightOfHandle(handle);
}

/**
 * {@link prepackBlocks} off the event loop, with the same result. Blocks that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link prepackBlocks}, as a rejection; the signal's reason when it aborts.
 */
export async function prepackBlocksAsync(data: Uint8Array, options: PrepackBlocksAsyncOptions): Promise<PackedWeight> {
  const p = prepare(data, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const handle = addon.createWeight();
  const copied = detachedFromCaller.input(p.data);
  const start = (done: () => void) => addon.packBlocksAsync(handle, copied, p.format.code, p.rows, p.columns, done);
  return filled(
    handle,
    runJob(start, signal, (error) => explained(error, p)),
  );
}
