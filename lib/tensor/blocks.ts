/**
 * GGUF blocks: the formats of llama.cpp's files, with the bytes of ggml's own quantizers.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { CPU, type Device, isUnsupported, placeOf, unsupported } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  checkTensor,
  type DeviceTensor,
  downloadElement,
  elementCount,
  isDeviceTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError, ScaleOverflowError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';

/** The block types of GGUF files, by the names that ggml gives them, in lower case. */
export type GgufType =
  | 'q4_0'
  | 'q4_1'
  | 'q5_0'
  | 'q5_1'
  | 'q8_0'
  | 'q2_k'
  | 'q3_k'
  | 'q4_k'
  | 'q5_k'
  | 'q6_k'
  | 'q8_k'
  | 'iq4_nl'
  | 'iq4_xs'
  | 'tq1_0'
  | 'tq2_0'
  | 'mxfp4'
  | 'nvfp4';

/** @internal What one block is: `length` elements in `bytes` bytes. */
export interface BlockFormat {
  /** The addon's number: BlockType in native/ops/blocks/blocks_kernels.h. */
  readonly code: number;
  readonly length: number;
  readonly bytes: number;
}

const FORMATS: ReadonlyMap<unknown, BlockFormat> = new Map<GgufType, BlockFormat>(
  (
    [
      ['q4_0', 32, 18],
      ['q4_1', 32, 20],
      ['q5_0', 32, 22],
      ['q5_1', 32, 24],
      ['q8_0', 32, 34],
      ['q2_k', 256, 84],
      ['q3_k', 256, 110],
      ['q4_k', 256, 144],
      ['q5_k', 256, 176],
      ['q6_k', 256, 210],
      ['q8_k', 256, 292],
      ['iq4_nl', 32, 18],
      ['iq4_xs', 256, 136],
      ['tq1_0', 256, 54],
      ['tq2_0', 256, 66],
      ['mxfp4', 32, 17],
      ['nvfp4', 64, 36],
    ] as const
  ).map(([type, length, bytes], code) => [type, { code, length, bytes }]),
);

/** @internal The format of a block type, or an error that names the argument. */
export function blockFormatOf(argument: string, type: unknown): BlockFormat {
  const format = FORMATS.get(type);
  if (format === undefined) throw invalidArgument(argument, `one of ${[...FORMATS.keys()].join(', ')}`, type);
  return format;
}

/** Options of {@link quantizeBlocks}. */
export interface QuantizeBlocksOptions {
  /** The block type. */
  type: GgufType;
  /** Elements of a row: a multiple of the block length, which is 32 (nvfp4: 64), or 256 for q2_k … q8_k, iq4_xs, tq1_0, tq2_0. */
  rowLength: number;
  /**
   * One weight of at least 0 for each column, for example the mean square of the layer's inputs (llama.cpp's "imatrix"):
   * errors count by it. q8_0, q8_k, tq1_0, tq2_0, mxfp4 and nvfp4 need no search and ignore it, as ggml does. A group whose
   * columns all have importance 0 may become zeros.
   */
  importance?: Float32Array;
  /** The array to write to and return. */
  out?: Uint8Array;
  /**
   * Where to quantize. Default `'cpu'`. Devices have the types without a search, those that ignore `importance` and q4_0, q4_1,
   * q5_0, q5_1.
   */
  device?: Device;
}

/** Options of {@link quantizeBlocks} for what is on a device. */
export interface DeviceQuantizeBlocksOptions extends Omit<QuantizeBlocksOptions, 'importance' | 'out'> {
  /** As in {@link QuantizeBlocksOptions}; devices have no type that takes it. */
  importance?: Float32Array | DeviceTensor<'float32'>;
  /** The tensor to write to and return. */
  out?: DeviceTensor<'uint8'>;
}

/** The same, with a signal that ends the work early. */
export interface QuantizeBlocksAsyncOptions extends QuantizeBlocksOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Options of {@link dequantizeBlocks}. */
export interface DequantizeBlocksOptions {
  /** The block type. */
  type: GgufType;
  /** Elements of a row, as in {@link QuantizeBlocksOptions}. */
  rowLength: number;
  /** The array to write to and return. */
  out?: Float32Array;
  /** Where to dequantize. Default `'cpu'`. */
  device?: Device;
}

/** Options of {@link dequantizeBlocks} for what is on a device. */
export interface DeviceDequantizeBlocksOptions extends Omit<DequantizeBlocksOptions, 'out'> {
  /** The tensor to write to and return. */
  out?: DeviceTensor<'float32'>;
}

/** The same, with a signal that ends the work early. */
export interface DequantizeBlocksAsyncOptions extends DequantizeBlocksOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const DEQUANTIZE_OPTIONS: ReadonlySet<string> = new Set(['type', 'rowLength', 'out', 'device']);
const DEQUANTIZE_ASYNC_OPTIONS: ReadonlySet<string> = new Set([...DEQUANTIZE_OPTIONS, 'signal']);
const QUANTIZE_OPTIONS: ReadonlySet<string> = new Set([...DEQUANTIZE_OPTIONS, 'importance']);
const QUANTIZE_ASYNC_OPTIONS: ReadonlySet<string> = new Set([...QUANTIZE_OPTIONS, 'signal']);

interface Rows {
  readonly type: GgufType;
  readonly format: BlockFormat;
  readonly rowLength: number;
  readonly rowBytes: number;
}

function rowsFrom(given: Partial<Record<string, unknown>>): Rows {
  const type = given['type'];
  const format = blockFormatOf('type', type);
  const rowLength = validate.integer('rowLength', given['rowLength'], 1);
  if (rowLength % format.length !== 0) {
    throw invalidArgument('rowLength', `a multiple of ${format.length}, the block length of ${type},`, rowLength);
  }
  return { type: type as GgufType, format, rowLength, rowBytes: (rowLength / format.length) * format.bytes };
}

function checkWholeRows(argument: string, length: number, row: number, unit: string): void {
  if (length % row === 0) return;
  throw new InvalidArgumentError(
    argument,
    `Expected ${argument} to have whole rows of ${row} ${unit} but its length is ${length}.`,
  );
}

interface Quantization extends Rows {
  /** A device's number, or {@link CPU}: then nothing is on a device. */
  readonly index: number;
  readonly input: Data<Float32Array>;
  readonly importance: Data<Float32Array> | null;
  readonly out: Data<Uint8Array>;
  readonly fresh: boolean;
}

function prepareQuantize(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Quantization {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const rows = rowsFrom(given);
  const { importance: importanceValue, out: outValue } = given;
  const index = placeOf(given['device'], [
    placeOfTensor('input', inputValue),
    placeOfTensor('importance', importanceValue),
    placeOfTensor('out', outValue),
  ]);
  const importance =
    importanceValue === undefined
      ? null
      : checkEither('importance', importanceValue, ['float32'], rows.rowLength, () =>
          validate.float32Array('importance', importanceValue, rows.rowLength),
        );
  const fresh = outValue === undefined;
  if (isDeviceTensor(inputValue)) {
    const input = checkTensor('input', inputValue, ['float32']);
    const count = elementCount(input);
    checkWholeRows('input', count, rows.rowLength, 'elements');
    const out = resultTensor(outValue, 'uint8', [(count / rows.rowLength) * rows.rowBytes], index);
    return { ...rows, index, input, importance, out, fresh };
  }
  const input = validate.float32Array('input', inputValue);
  checkWholeRows('input', input.length, rows.rowLength, 'elements');
  const out = validate.result(outValue, Uint8Array, (input.length / rows.rowLength) * rows.rowBytes);
  return { ...rows, index, input, importance, out, fresh };
}

function quantizingOnDevice(p: Quantization): DeviceCall<'deviceQuantizeBlocks'> {
  const { index, input, format, rowLength, importance, out, fresh } = p;
  return new DeviceCall(index, 'deviceQuantizeBlocks', (on) => [
    on.reads(input),
    format.code,
    rowLength,
    importance === null ? null : on.reads(importance),
    on.writes(out, fresh),
  ]);
}

interface Dequantization extends Rows {
  /** A device's number, or {@link CPU}: then nothing is on a device. */
  readonly index: number;
  readonly data: Data<Uint8Array>;
  readonly out: Data<Float32Array>;
  readonly fresh: boolean;
}

function prepareDequantize(dataValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Dequantization {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const rows = rowsFrom(given);
  const outValue = given['out'];
  const fresh = outValue === undefined;
  const index = placeOf(given['device'], [placeOfTensor('data', dataValue), placeOfTensor('out', outValue)]);
  if (isDeviceTensor(dataValue)) {
    const data = checkTensor('data', dataValue, ['uint8']);
    const count = elementCount(data);
    checkWholeRows('data', count, rows.rowBytes, 'bytes');
    const out = resultTensor(outValue, 'float32', [count / rows.rowBytes, rows.rowLength], index);
    return { ...rows, index, data, out, fresh };
  }
  const data = validate.uint8Array('data', dataValue);
  checkWholeRows('data', data.length, rows.rowBytes, 'bytes');
  const out = validate.result(outValue, Float32Array, (data.length / rows.rowBytes) * rows.rowLength);
  return { ...rows, index, data, out, fresh };
}

function dequantizingOnDevice(p: Dequantization): DeviceCall<'deviceDequantizeBlocks'> {
  const { index, data, format, out, fresh } = p;
  return new DeviceCall(index, 'deviceDequantizeBlocks', (on) => [on.reads(data), format.code, on.writes(out, fresh)]);
}

function unsupportedOf(type: GgufType, index: number, error: unknown): unknown {
  return /^q[45]_[01]$/.test(type)
    ? unsupported('importance', 'no importance', index, error)
    : unsupported('type', `a type without a search, which ${type} has,`, index, error);
}

/** What the addon does for importance that it reads itself. */
function checkImportance({ importance }: Quantization): void {
  if (importance === null || isDeviceTensor(importance)) return;
  const index = importance.findIndex((value) => !(value >= 0 && value < Number.POSITIVE_INFINITY));
  if (index === -1) return;
  throw new InvalidArgumentError(
    'importance',
    `Expected importance to be finite and not negative but received ${importance[index]} at index ${index}.`,
  );
}

/** The addon's error in the words of the caller's arguments. */
function explained(error: unknown, { type, format, index: device }: Quantization, input: Data<Float32Array>): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (isUnsupported(error)) return unsupportedOf(type, device, error);
  switch (code) {
    case 'NON_FINITE': {
      const value = (isDeviceTensor(input) ? downloadElement(input, index)[0] : input[index]) as number;
      return new NonFiniteError(
        `Expected finite numbers but received ${value} at index ${index} of the input.`,
        index,
        value,
      );
    }
    case 'SCALE_OVERFLOW': {
      const first = index * format.length;
      return new ScaleOverflowError(
        `The elements ${first} to ${first + format.length - 1} of the input, block ${index}, are too large for the scales of ${type}.`,
        index,
      );
    }
    default:
      return explain(error, 'input');
  }
}

/**
 * Quantizes rows of floats to GGUF blocks, byte for byte as ggml's reference quantizers do (the ones that write the files,
 * built without fused multiply-add): rounding, search and summation order are theirs.
 *
 * | type | bits a weight | codes | scales |
 * | --- | --- | --- | --- |
 * | q4_0, q5_0, q8_0 | 4.5, 5.5, 8.5 | integers around 0 | float16 for 32 elements |
 * | q4_1, q5_1 | 5, 6 | integers from a minimum | float16 scale and minimum for 32 elements |
 * | q2_k, q4_k, q5_k | 2.625, 4.5, 5.5 | integers from a minimum | 4- or 6-bit scale and minimum for 16 or 32 elements, float16 for 256 |
 * | q3_k, q6_k | 3.4375, 6.5625 | integers around 0 | 6- or 8-bit scale for 16 elements, float16 for 256 |
 * | q8_k | 9.125 | int8 | float32 for 256 elements (activations) |
 * | iq4_nl, iq4_xs | 4.5, 4.25 | indices of 16 levels, denser near 0 | float16 for 32 elements; 6-bit for 32, float16 for 256 |
 * | tq1_0, tq2_0 | 1.6875, 2.0625 | −1, 0, 1 | float16 for 256 elements |
 * | mxfp4 | 4.25 | E2M1 | power of two for 32 elements |
 * | nvfp4 | 4.5 | E2M1 | UE4M3 for 16 elements; magnitudes past 2688 become that, 2^30 and more are refused |
 *
 * Blocks whose scale is too small for float16 decode to zeros. The result does not depend on the number of threads or the
 * instruction set.
 *
 * @param input - Rows of `rowLength` floats, one after the other. It may be a view of a SharedArrayBuffer. A
 *   {@link DeviceTensor} is quantized where it is.
 * @returns The blocks of all rows, one after the other: a new array, or `out`; on a device a {@link DeviceTensor} of bytes.
 * @throws {@link InvalidArgumentError} for a wrong type, value or length, or an `out` that overlaps the input;
 *   {@link NonFiniteError} for NaN or infinity; {@link ScaleOverflowError} if a block needs a scale past its type's, where ggml
 *   would write infinity or lose the values (its `index` is that of the block); {@link OutOfMemoryError}; {@link DeviceError} of
 *   a device, among others for a `type` that devices do not have.
 *
 * Sources: ggml (github.com/ggml-org/ggml), `quantize_row_*_ref` and `ggml_quantize_chunk`, August 2026.
 *
 * @example
 * ```ts
 * const blocks = quantizeBlocks(weights, { type: 'q4_k', rowLength: 4096 }); // 4.5 bits a weight
 * const floats = dequantizeBlocks(blocks, { type: 'q4_k', rowLength: 4096 });
 * ```
 */
export function quantizeBlocks(input: Float32Array, options: QuantizeBlocksOptions): Uint8Array;
/** The same of a tensor on a device, which the result does not leave. */
export function quantizeBlocks(input: DeviceTensor, options: DeviceQuantizeBlocksOptions): DeviceTensor<'uint8'>;
export function quantizeBlocks(input: unknown, options: unknown): unknown {
  const p = prepareQuantize(input, options, QUANTIZE_OPTIONS);
  if (p.index !== CPU) {
    checkImportance(p);
    quantizingOnDevice(p).now((error) => explained(error, p, p.input));
    return p.out;
  }
  const { importance, out } = p as HostQuantization;
  try {
    addon.quantizeBlocks(p.input as Float32Array, p.format.code, p.rowLength, importance, out);
  } catch (error) {
    throw explained(error, p, p.input);
  }
  return p.out;
}

type HostQuantization = Quantization & { importance: Float32Array | null; out: Uint8Array };

/**
 * {@link quantizeBlocks} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link quantizeBlocks}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export function quantizeBlocksAsync(input: Float32Array, options: QuantizeBlocksAsyncOptions): Promise<Uint8Array>;
/** The same of a tensor on a device, which the result does not leave. */
export function quantizeBlocksAsync(
  input: DeviceTensor,
  options: DeviceQuantizeBlocksOptions & { signal?: AbortSignal },
): Promise<DeviceTensor<'uint8'>>;
export async function quantizeBlocksAsync(input: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const p = prepareQuantize(input, options, QUANTIZE_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.index !== CPU) {
    checkImportance(p);
    await quantizingOnDevice(p).later(signal, (error, seen) => explained(error, p, seen(p.input)));
    return p.out;
  }
  const given = p as HostQuantization;
  const copied = detachedFromCaller.input(p.input as Float32Array);
  const importance = given.importance === null ? null : detachedFromCaller.input(given.importance);
  const out = p.fresh ? given.out : detachedFromCaller.output(given.out);
  await runJob(
    (done) => addon.quantizeBlocksAsync(copied, p.format.code, p.rowLength, importance, out, done),
    signal,
    (error) => explained(error, p, copied),
  );
  detachedFromCaller.copyBack('out', out, given.out);
  return p.out;
}

/**
 * The floats that GGUF blocks stand for, bit for bit as ggml's reference computes them. Any bytes can be decoded; what holds
 * a scale that is not finite gives NaN or infinity.
 *
 * @param data - Rows of blocks, one after the other, from {@link quantizeBlocks} or from a file. A {@link DeviceTensor} is
 *   dequantized where it is.
 * @returns Rows of `rowLength` floats: a new array, or `out`; on a device a {@link DeviceTensor}.
 * @throws {@link InvalidArgumentError} for a wrong type, value or length, or an `out` that overlaps `data`;
 *   {@link OutOfMemoryError}; {@link DeviceError} of a device.
 *
 * @example
 * ```ts
 * const out = new Float32Array(rows * 4096);
 * dequantizeBlocks(tensorBytes, { type: 'q6_k', rowLength: 4096, out }); // no allocation
 * ```
 */
export function dequantizeBlocks(data: Uint8Array, options: DequantizeBlocksOptions): Float32Array;
/** The same of a tensor on a device, which the result does not leave. */
export function dequantizeBlocks(data: DeviceTensor, options: DeviceDequantizeBlocksOptions): DeviceTensor<'float32'>;
export function dequantizeBlocks(data: unknown, options: unknown): unknown {
  const p = prepareDequantize(data, options, DEQUANTIZE_OPTIONS);
  if (p.index !== CPU) {
    dequantizingOnDevice(p).now((error) => explain(error, 'data'));
    return p.out;
  }
  try {
    addon.dequantizeBlocks(p.data as Uint8Array, p.format.code, p.out as Float32Array);
  } catch (error) {
    throw explain(error, 'data');
  }
  return p.out;
}

/**
 * {@link dequantizeBlocks} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link dequantizeBlocks}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export function dequantizeBlocksAsync(data: Uint8Array, options: DequantizeBlocksAsyncOptions): Promise<Float32Array>;
/** The same of a tensor on a device, which the result does not leave. */
export function dequantizeBlocksAsync(
  data: DeviceTensor,
  options: DeviceDequantizeBlocksOptions & { signal?: AbortSignal },
): Promise<DeviceTensor<'float32'>>;
export async function dequantizeBlocksAsync(data: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const p = prepareDequantize(data, options, DEQUANTIZE_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.index !== CPU) {
    await dequantizingOnDevice(p).later(signal, (error) => explain(error, 'data'));
    return p.out;
  }
  const given = p.out as Float32Array;
  const copied = detachedFromCaller.input(p.data as Uint8Array);
  const out = p.fresh ? given : detachedFromCaller.output(given);
  await runJob(
    (done) => addon.dequantizeBlocksAsync(copied, p.format.code, out, done),
    signal,
    (error) => explain(error, 'data'),
  );
  detachedFromCaller.copyBack('out', out, given);
  return p.out;
}
