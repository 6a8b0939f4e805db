/**
 * Tensors in the memory of a GPU.
 *
 * @module
 */
/// <reference lib="esnext.disposable" preserve="true" />
import { inspect } from 'node:util';
import { addon, explain, type RawArray, type RawMemory, runJob } from '../addon.js';
import { type Float16ArrayLike, type FloatDtype, floatFormatOf, LARGE_FLOAT_DTYPES, packedRowBytes } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { CPU, type Device, deviceIndex, deviceName, type Placed } from './device.js';

/** What a {@link DeviceTensor} holds. `uint8` is also what codes and blocks are. */
export type DeviceDtype = FloatDtype | 'int8' | 'uint8' | 'int32';

/** The array that holds the elements of a {@link DeviceDtype} on the host. */
export type DeviceArrayOf<D extends DeviceDtype> = D extends 'float32'
  ? Float32Array
  : D extends 'float16' | 'bfloat16'
    ? Uint16Array
    : D extends 'int8'
      ? Int8Array
      : D extends 'int32'
        ? Int32Array
        : Uint8Array;

/** What {@link DeviceTensor.upload} takes for a dtype. */
export type DeviceInputOf<D extends DeviceDtype> = DeviceArrayOf<D> | (D extends 'float16' ? Float16ArrayLike : never);

/** What an array holds unless something else is said; a Uint16Array can hold two things. */
export type DtypeOfArray<A> = A extends Float32Array
  ? 'float32'
  : A extends Int8Array
    ? 'int8'
    : A extends Int32Array
      ? 'int32'
      : A extends Uint8Array
        ? 'uint8'
        : A extends Float16ArrayLike
          ? 'float16'
          : never;

/** Options of {@link DeviceTensor.upload}. */
export interface UploadOptions<D extends DeviceDtype = DeviceDtype> {
  /** Which GPU. Default `'cuda'`, the first. */
  device?: Exclude<Device, 'cpu'>;
  /** What the array holds; it must be said of a Uint16Array, and of small floats in a Uint8Array. Default: its own elements. */
  dtype?: D;
  /** Row-major. Default `[array.length]`; it must be said of packed elements, of 6 and 4 bits. */
  shape?: readonly number[];
}

/** Options of {@link DeviceTensor.uploadAsync} and {@link DeviceTensor.downloadAsync}. */
export interface TransferAsyncOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

type ArrayType = new (length: number) => RawArray;

const INTEGERS: Readonly<Record<string, ArrayType>> = { int8: Int8Array, uint8: Uint8Array, int32: Int32Array };

/** @internal The bits of an element and the kind of array that holds it. */
function elementOf(argument: string, dtype: unknown): { bits: number; array: ArrayType } {
  const array = typeof dtype === 'string' && Object.hasOwn(INTEGERS, dtype) ? INTEGERS[dtype] : undefined;
  if (array !== undefined) return { bits: dtype === 'int32' ? 32 : 8, array };
  const { bits } = floatFormatOf(argument, dtype);
  return { bits, array: bits === 32 ? Float32Array : bits === 16 ? Uint16Array : Uint8Array };
}

/** The length of the array that holds so many elements. */
function arrayLength(bits: number, count: number): number {
  return bits > 8 ? count : packedRowBytes(count, bits);
}

/** @internal Memory of a device as a tensor. */
export let tensorOfMemory: <D extends DeviceDtype>(
  memory: RawMemory,
  dtype: D,
  shape: readonly number[],
) => DeviceTensor<D>;
/** @internal */
export let memoryOf: (tensor: DeviceTensor) => RawMemory;
/** @internal Whether it is a tensor of a device, disposed or not, that was made on this thread. */
export let isDeviceTensor: (value: unknown) => value is DeviceTensor;

/**
 * A tensor in the memory of a GPU: what {@link DeviceTensor.upload} makes of an array, and what calls return that are given
 * one, so that chains of them do not leave the device.
 *
 * The memory is freed by {@link DeviceTensor.dispose}, by the end of a `using` block, or by the garbage collector, which knows
 * its size, when nothing refers to the tensor any more and the event loop turns: a loop that makes many without a turn has to
 * dispose them. A call that has begun keeps its tensors until it ends.
 *
 * A tensor belongs to the thread that made it: what `structuredClone` and `postMessage` make of it is refused.
 *
 * @example
 * ```ts
 * using x = DeviceTensor.upload(activations, { shape: [m, k] });
 * using half = castTensor(x, { to: 'float16' }); // stays on the device
 * using y = linear(half, weight); // so does the result of a weight that was packed there
 * const out = y.download(); // Uint16Array of float16
 * ```
 */
export class DeviceTensor<D extends DeviceDtype = DeviceDtype> {
  readonly #memory: RawMemory;
  readonly #dtype: D;
  readonly #shape: readonly number[];
  readonly #index: number;
  readonly #bytes: number;
  #disposed = false;

  static {
    tensorOfMemory = (memory, dtype, shape) => new DeviceTensor(memory, dtype, shape);
    memoryOf = (tensor) => tensor.#memory;
    isDeviceTensor = (value): value is DeviceTensor =>
      typeof value === 'object' && value !== null && #memory in (value as DeviceTensor);
  }

  private constructor(memory: RawMemory, dtype: D, shape: readonly number[]) {
    let numbers: Float64Array;
    try {
      numbers = addon.describeMemory(memory);
    } catch (cause) {
      const message = 'A DeviceTensor is made by DeviceTensor.upload, or by calls on a device, not by new.';
      throw new InvalidArgumentError('DeviceTensor', message, { cause });
    }
    const [index = 0, bytes = 0] = numbers;
    this.#memory = memory;
    this.#dtype = dtype;
    this.#shape = Object.freeze([...shape]);
    this.#index = index;
    this.#bytes = bytes;
  }

  /**
   * Copies an array to a device.
   *
   * @param array - The elements in row-major order; those of fewer than 8 bits packed as {@link castTensor} packs them. It may be
   *   a view of a SharedArrayBuffer.
   * @param options - `device`, default `'cuda'`; `dtype`, default from the array (it must be said for a Uint16Array, and for
   *   floats in a Uint8Array); `shape`, default `[array.length]`, which must be said for elements of fewer than 8 bits.
   * @returns A tensor on that device. Free it with `dispose()` when it is not needed any more.
   * @throws {@link InvalidArgumentError} for a wrong type, dtype or shape; {@link DeviceError} where there is no such device;
   *   {@link OutOfMemoryError} of the device.
   */
  static upload<A extends DeviceInputOf<DeviceDtype>, D extends DeviceDtype = DtypeOfArray<A>>(
    array: A & DeviceInputOf<D>,
    options: UploadOptions<D> = {},
  ): DeviceTensor<D> {
    const { data, tensor } = prepareUpload(array, options, UPLOAD_OPTIONS);
    try {
      addon.upload(tensor.#memory, data);
    } catch (error) {
      tensor.dispose();
      throw explain(error, 'array');
    }
    return tensor as DeviceTensor<D>;
  }

  /**
   * {@link DeviceTensor.upload} off the event loop. An array that is not in a SharedArrayBuffer is copied first.
   *
   * @throws As {@link DeviceTensor.upload}, as a rejection; the signal's reason when it aborts.
   */
  static async uploadAsync<A extends DeviceInputOf<DeviceDtype>, D extends DeviceDtype = DtypeOfArray<A>>(
    array: A & DeviceInputOf<D>,
    options: UploadOptions<D> & TransferAsyncOptions = {},
  ): Promise<DeviceTensor<D>> {
    const { data, tensor } = prepareUpload(array, options, UPLOAD_ASYNC_OPTIONS);
    try {
      const signal = validate.abortSignal('signal', options.signal);
      signal?.throwIfAborted();
      const copied = detachedFromCaller.input(data);
      await runJob(
        (done) => addon.uploadAsync(tensor.#memory, copied, done),
        signal,
        (error) => explain(error, 'array'),
      );
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    return tensor as DeviceTensor<D>;
  }

  /**
   * Copies the elements to an array of the host.
   *
   * @param out - The array to write to and return, as long as the result. Default: a new one.
   * @returns The elements in row-major order: a Float32Array, an Int8Array, a Uint8Array, an Int32Array, or a Uint16Array of bit
   *   patterns for float16 and bfloat16, as {@link DeviceTensor.dtype} says; or `out`.
   * @throws {@link InvalidArgumentError} for a wrong `out`, or a tensor that was disposed; {@link DeviceError} `DEVICE_LOST` or
   *   `DEVICE_FAILED` if an earlier call brought the device down.
   */
  download(out?: DeviceInputOf<D>): DeviceArrayOf<D> {
    const { into, result } = this.#prepareDownload(out);
    try {
      addon.download(this.#memory, 0, into);
    } catch (error) {
      throw explain(error, 'out');
    }
    return result as DeviceArrayOf<D>;
  }

  /**
   * {@link DeviceTensor.download} off the event loop.
   *
   * @throws As {@link DeviceTensor.download}, as a rejection; the signal's reason when it aborts. What `out` then holds is
   *   unspecified.
   */
  async downloadAsync(out?: DeviceInputOf<D>, options: TransferAsyncOptions = {}): Promise<DeviceArrayOf<D>> {
    const { into, result } = this.#prepareDownload(out);
    const given = validate.options<TransferAsyncOptions>('options', options, SIGNAL);
    const signal = validate.abortSignal('signal', given.signal);
    signal?.throwIfAborted();
    const room = out === undefined ? into : detachedFromCaller.output(into);
    await runJob(
      (done) => addon.downloadAsync(this.#memory, 0, room, done),
      signal,
      (error) => explain(error, 'out'),
    );
    detachedFromCaller.copyBack('out', room, into);
    return result as DeviceArrayOf<D>;
  }

  #prepareDownload(out: unknown): { into: RawArray; result: unknown } {
    checkNotDisposed('tensor', this as DeviceTensor);
    const { bits, array } = elementOf('dtype', this.#dtype);
    const length = arrayLength(bits, validate.product(this.#shape));
    if (bits === 16 && out !== undefined) {
      return { into: validate.floatsOut('out', out, this.#dtype === 'float16' ? 1 : 2, length), result: out };
    }
    const into = validate.result(out, array, length);
    return { into, result: into };
  }

  /** What it holds. */
  get dtype(): D {
    return this.#dtype;
  }

  /** Row-major. */
  get shape(): readonly number[] {
    return this.#shape;
  }

  /** The device that it is on, such as `'cuda:0'`. */
  get device(): `cuda:${number}` {
    return deviceName(this.#index) as `cuda:${number}`;
  }

  /** Bytes of the device's memory that it takes; 0 once it is disposed. */
  get nbytes(): number {
    return this.#disposed ? 0 : this.#bytes;
  }

  /** Whether {@link DeviceTensor.dispose} was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Frees the memory, or leaves that to the end of the last asynchronous call that uses it. The tensor can't be used any more:
   * calls with it throw an {@link InvalidArgumentError}. Calling it again has no effect.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    addon.disposeMemory(this.#memory);
  }

  /** The same, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal What `console.log` shows. */
  [inspect.custom](): object {
    const { dtype, shape, device, nbytes, disposed } = this;
    return { [inspect.custom]: () => `DeviceTensor ${inspect({ dtype, shape, device, nbytes, disposed })}` };
  }
}

const SIGNAL: ReadonlySet<string> = new Set(['signal']);
const UPLOAD_OPTIONS: ReadonlySet<string> = new Set(['device', 'dtype', 'shape']);
const UPLOAD_ASYNC_OPTIONS: ReadonlySet<string> = new Set([...UPLOAD_OPTIONS, 'signal']);

function checkNotDisposed(argument: string, tensor: DeviceTensor): DeviceTensor {
  if (!tensor.disposed) return tensor;
  throw new InvalidArgumentError(argument, `Expected ${argument} to be in use but it has been disposed.`);
}

function prepareUpload(
  value: unknown,
  optionsValue: unknown,
  known: ReadonlySet<string>,
): { data: RawArray; tensor: DeviceTensor } {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const index = deviceIndex('device', given['device'] ?? 'cuda');
  if (index === CPU) throw invalidArgument('device', "'cuda' or 'cuda:<n>'", given['device']);
  const { data, dtype } = uploaded(value, given['dtype']);
  const { bits } = elementOf('dtype', dtype);
  if (given['shape'] === undefined && bits < 8) {
    throw new InvalidArgumentError('shape', `Expected a shape for elements of ${bits} bits.`);
  }
  const shape = given['shape'] === undefined ? [data.length] : validate.shape('shape', given['shape']);
  const length = arrayLength(bits, validate.product(shape));
  if (length !== data.length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to be that of the array, whose length is ${data.length}: it takes ${length}.`,
    );
  }
  return { data, tensor: newTensor(index, dtype, shape) };
}

function uploaded(value: unknown, dtype: unknown): { data: RawArray; dtype: DeviceDtype } {
  if (value instanceof Int8Array || value instanceof Int32Array || value instanceof Uint8Array) {
    const own = value instanceof Int8Array ? 'int8' : value instanceof Int32Array ? 'int32' : 'uint8';
    if (dtype === undefined) return { data: validate.attached('array', value), dtype: own };
    const { array } = elementOf('dtype', dtype);
    if (!(value instanceof array)) throw invalidArgument('dtype', `${own}, which the array holds,`, dtype);
    return { data: validate.attached('array', value), dtype: dtype as DeviceDtype };
  }
  const { data, type } = validate.floats('array', value, 'dtype', dtype);
  return { data, dtype: LARGE_FLOAT_DTYPES[type] as DeviceDtype };
}

/** @internal A tensor that a call is going to write. */
export function newTensor<D extends DeviceDtype>(index: number, dtype: D, shape: readonly number[]): DeviceTensor<D> {
  const { bits } = elementOf('dtype', dtype);
  const count = validate.product(shape);
  const bytes = bits > 8 ? count * (bits / 8) : packedRowBytes(count, bits);
  return tensorOfMemory(addon.createMemory(index, bytes), dtype, shape);
}

/** @internal Where a tensor is, or undefined for what is none. */
export function placeOfTensor(argument: string, value: unknown): Placed | undefined {
  return isDeviceTensor(value) ? { argument, index: deviceIndex('device', value.device) } : undefined;
}

/** @internal How many elements a tensor has. */
export function elementCount(tensor: DeviceTensor): number {
  return validate.product(tensor.shape);
}

/** @internal An argument that must be a tensor of a device, of some dtype and in use; of so many elements, if said. */
export function checkTensor<D extends DeviceDtype>(
  argument: string,
  value: unknown,
  dtypes: readonly D[],
  count?: number,
): DeviceTensor<D> {
  if (!isDeviceTensor(value)) {
    throw invalidArgument(argument, 'a DeviceTensor that was made on this thread, as other arguments are,', value);
  }
  checkNotDisposed(argument, value);
  if (!(dtypes as readonly DeviceDtype[]).includes(value.dtype)) {
    throw new InvalidArgumentError(
      argument,
      `Expected a DeviceTensor of ${dtypes.join(' or ')} for ${argument} but its dtype is ${value.dtype}.`,
    );
  }
  if (count !== undefined && elementCount(value) !== count) {
    throw new InvalidArgumentError(
      argument,
      `Expected ${count} elements for ${argument} but its shape is [${value.shape.join(', ')}].`,
    );
  }
  return value as DeviceTensor<D>;
}

/** @internal The same, or an array of the host: whatever `host` makes of it. */
export function checkEither<D extends DeviceDtype, T>(
  argument: string,
  value: unknown,
  dtypes: readonly D[],
  count: number | undefined,
  host: () => T,
): T | DeviceTensor<D> {
  return isDeviceTensor(value) ? checkTensor(argument, value, dtypes, count) : host();
}

/** @internal The tensor that a call on a device writes to: the caller's, or a new one. */
export function resultTensor<D extends DeviceDtype>(
  out: unknown,
  dtype: D,
  shape: readonly number[],
  index: number,
): DeviceTensor<D> {
  if (out === undefined) return newTensor(index, dtype, shape);
  return checkTensor('out', out, [dtype], validate.product(shape));
}

/** @internal One element of a tensor of floats, as the array that holds it. */
export function downloadElement(tensor: DeviceTensor, index: number): Float32Array | Uint16Array {
  const one = tensor.dtype === 'float32' ? new Float32Array(1) : new Uint16Array(1);
  addon.download(memoryOf(tensor), index * one.BYTES_PER_ELEMENT, one);
  return one;
}
