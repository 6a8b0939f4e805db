/**
 * Weight matrices in the order in which the kernels read them.
 *
 * @module
 */
/// <reference lib="esnext.disposable" preserve="true" />
import { inspect } from 'node:util';
import { addon, type RawWeight } from '../addon.js';
import { CPU, deviceName, type Placed } from '../device/device.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';

/**
 * What a packed weight holds: codes with scales or floats, for {@link linear}; or integers without scales, for
 * {@link matmulInteger}.
 */
export type WeightKind = 'quantized' | 'float' | 'integer';

/** In the order of WeightKind in native/ops/matmul/packed_weight.h. */
const KINDS: readonly WeightKind[] = ['quantized', 'float', 'integer'];

/** @internal The weight that the addon has filled a handle with. */
export let weightOfHandle: (handle: RawWeight) => PackedWeight;
/** @internal An argument that must be a packed weight of some kinds and not disposed. */
export let checkWeight: (argument: string, value: unknown, kinds: readonly WeightKind[]) => PackedWeight;
/** @internal The same, on whatever device. */
export let checkAnyWeight: typeof checkWeight;
/** @internal */
export let isPackedWeight: (value: unknown) => value is PackedWeight;
/** @internal Where the weight is. */
export let placeOfWeight: (argument: string, weight: PackedWeight) => Placed;
/** @internal */
export let handleOf: (weight: PackedWeight) => RawWeight;
/** @internal Whether the integers are signed. */
export let isSigned: (weight: PackedWeight) => boolean;
/** @internal Bytes of the file that `savePacked` writes. */
export let fileBytesOf: (weight: PackedWeight) => number;

/**
 * A weight matrix that {@link prepack}, {@link prepackInteger} or {@link loadPacked} has made: opaque, unchangeable, in
 * memory of its own outside of JavaScript (in pages of 2 MiB where the system has them), or in that of a GPU.
 *
 * The memory is freed by {@link PackedWeight.dispose}, by the end of a `using` block, or by the garbage collector, which knows
 * its size, when nothing refers to the weight any more and the event loop turns: a loop that makes many without a turn has to
 * dispose them. A call that has begun keeps its weights until it ends.
 *
 * A packed weight belongs to the thread that made it: what `structuredClone` and `postMessage` make of it is refused. Worker
 * threads that use the same weight load the same file with {@link loadPacked}; its memory is then shared by the system.
 */
export class PackedWeight {
  readonly #handle: RawWeight;
  readonly #kind: WeightKind;
  readonly #rows: number;
  readonly #cols: number;
  readonly #bytes: number;
  readonly #signed: boolean;
  readonly #fileBytes: number;
  readonly #index: number;
  #disposed = false;

  static {
    weightOfHandle = (handle) => new PackedWeight(handle);
    isPackedWeight = (value): value is PackedWeight => typeof value === 'object' && value !== null && #handle in value;
    placeOfWeight = (argument, weight) => ({ argument, index: weight.#index });
    checkWeight = (argument, value, kinds) => {
      const weight = checkAnyWeight(argument, value, kinds);
      if (weight.#index === CPU) return weight;
      throw new InvalidArgumentError(
        argument,
        `Expected a weight of the processor for ${argument} but it is on ${weight.device}. Pack it without device.`,
      );
    };
    checkAnyWeight = (argument, value, kinds) => {
      if (!isPackedWeight(value)) {
        const expected = 'a PackedWeight that prepack, prepackInteger or loadPacked made on this thread';
        throw invalidArgument(argument, expected, value);
      }
      const weight = value;
      if (weight.#disposed) {
        throw new InvalidArgumentError(argument, `Expected ${argument} to be in use but it has been disposed.`);
      }
      if (!kinds.includes(weight.#kind)) {
        throw new InvalidArgumentError(
          argument,
          `Expected a weight of the kind ${kinds.join(' or ')} for ${argument} but its kind is ${weight.#kind}.`,
        );
      }
      return weight;
    };
    handleOf = (weight) => weight.#handle;
    isSigned = (weight) => weight.#signed;
    fileBytesOf = (weight) => weight.#fileBytes;
  }

  private constructor(handle: RawWeight) {
    let numbers: Float64Array;
    try {
      numbers = addon.describeWeight(handle);
    } catch (cause) {
      const message = 'A PackedWeight is made by prepack, prepackInteger or loadPacked, not by new.';
      throw new InvalidArgumentError('PackedWeight', message, { cause });
    }
    const [kind = 0, rows = 0, cols = 0, bytes = 0, signed = 0, fileBytes = 0, index = CPU] = numbers;
    this.#handle = handle;
    this.#kind = KINDS[kind] as WeightKind;
    this.#rows = rows;
    this.#cols = cols;
    this.#bytes = bytes;
    this.#signed = signed !== 0;
    this.#fileBytes = fileBytes;
    this.#index = index;
  }

  /** Rows of the weight matrix, N: what a row of the result has elements. */
  get rows(): number {
    return this.#rows;
  }

  /** Columns of the weight matrix, K: what a row of the input has elements. */
  get cols(): number {
    return this.#cols;
  }

  /** Bytes of memory that it takes: codes, scales and zero points, padding included; 0 once it is disposed. */
  get nbytes(): number {
    return this.#disposed ? 0 : this.#bytes;
  }

  /** Where it is, and calls with it compute: `'cpu'`, or for example `'cuda:0'`. */
  get device(): 'cpu' | `cuda:${number}` {
    return deviceName(this.#index);
  }

  /** What it holds. */
  get kind(): WeightKind {
    return this.#kind;
  }

  /** Whether {@link PackedWeight.dispose} was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Frees the memory, or leaves that to the end of the last asynchronous call that uses it. The weight can't be used any
   * more: calls with it throw an {@link InvalidArgumentError}. Calling it again has no effect.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    addon.disposeWeight(this.#handle);
  }

  /** The same, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal What `console.log` shows. */
  [inspect.custom](): object {
    const { kind, rows, cols, nbytes, disposed } = this;
    const where = this.#index === CPU ? {} : { device: this.device };
    return { [inspect.custom]: () => `PackedWeight ${inspect({ kind, rows, cols, ...where, nbytes, disposed })}` };
  }
}

/** @internal What a job packs into a handle; if it fails, or is aborted at its end, the memory goes at once. */
export async function filled(handle: RawWeight, job: Promise<void>): Promise<PackedWeight> {
  try {
    await job;
    return weightOfHandle(handle);
  } catch (error) {
    addon.disposeWeight(handle);
    throw error;
  }
}
