/**
 * A call on a device: what is on the host goes there first, and what belongs there comes back afterwards.
 *
 * @module
 */
import { addon, type RawArray, type RawDeviceCalls, type RawMemory, type RawWeight, runJob } from '../addon.js';
import { detachedFromCaller } from '../off-thread.js';
import { type DeviceTensor, isDeviceTensor, memoryOf } from './device-tensor.js';

type Name = keyof RawDeviceCalls;
type Sync = (...args: unknown[]) => void;
type Later = (...args: unknown[]) => number;

/** @internal An array of the host, or a tensor that is on the device already. */
export type Data<T extends RawArray = RawArray> = T | DeviceTensor;

interface Transfer {
  readonly memory: RawMemory;
  readonly array: RawArray;
  /** Of a download: whether the array is not the caller's. */
  readonly fresh: boolean;
}

/** What was read where the caller's array was copied, so that errors can look at it. */
export type Seen = <T>(value: T) => T;

/** @internal The operands of a call: memory for what is on the host, and what has to be moved. */
export class Operands {
  readonly temporary: RawMemory[] = [];
  readonly uploads: Transfer[] = [];
  readonly copies: [RawMemory, RawMemory][] = [];
  readonly downloads: Transfer[] = [];
  /** New tensors, which nobody gets if the call fails. */
  readonly fresh: DeviceTensor[] = [];
  /** What is the caller's. */
  readonly memories: RawMemory[] = [];
  readonly weights: RawWeight[] = [];
  readonly #index: number;

  constructor(index: number) {
    this.#index = index;
  }

  #memoryOf(tensor: DeviceTensor): RawMemory {
    const memory = memoryOf(tensor);
    this.memories.push(memory);
    return memory;
  }

  #memoryFor(array: RawArray): RawMemory {
    const memory = addon.createMemory(this.#index, array.byteLength);
    this.temporary.push(memory);
    return memory;
  }

  /** What the operation reads. */
  reads(data: Data): RawMemory {
    if (isDeviceTensor(data)) return this.#memoryOf(data);
    const memory = this.#memoryFor(data);
    this.uploads.push({ memory, array: data, fresh: false });
    return memory;
  }

  /** A packed weight that it reads. */
  uses(weight: RawWeight): RawWeight {
    this.weights.push(weight);
    return weight;
  }

  /** What it writes; `fresh`: that is not the caller's. `first` is what is there before, if that matters. */
  writes(data: Data, fresh: boolean, first?: Data | null): RawMemory {
    let memory: RawMemory;
    if (isDeviceTensor(data)) {
      memory = this.#memoryOf(data);
      if (fresh) this.fresh.push(data);
    } else {
      memory = this.#memoryFor(data);
      this.downloads.push({ memory, array: data, fresh });
    }
    if (first == null) return memory;
    if (!isDeviceTensor(first)) this.uploads.push({ memory, array: first, fresh: false });
    else if (first !== data) this.copies.push([this.#memoryOf(first), memory]);
    return memory;
  }
}

/**
 * @internal One operation. Memory for what is on the host exists while it runs, and is given back however it ends; so are new
 * tensors if it fails.
 *
 * @example
 * ```ts
 * new DeviceCall(index, 'deviceCast', (on) => [on.reads(input), from, on.writes(out, fresh), to, count, saturate]).now(explained);
 * ```
 */
export class DeviceCall<N extends Name> {
  readonly #name: N;
  readonly #operands: Operands;
  readonly #args: RawDeviceCalls[N];

  constructor(index: number, name: N, args: (on: Operands) => RawDeviceCalls[N]) {
    this.#name = name;
    this.#operands = new Operands(index);
    this.#args = args(this.#operands);
  }

  /** Runs it; `explained` makes an error of ours out of what the addon reports. */
  now(explained: (error: unknown, seen: Seen) => unknown): void {
    const { uploads, copies, downloads } = this.#operands;
    let failed = true;
    try {
      for (const { memory, array } of uploads) addon.upload(memory, array);
      for (const [from, to] of copies) addon.copyMemory(from, to);
      (addon[this.#name] as Sync)(...this.#args);
      for (const { memory, array } of downloads) addon.download(memory, 0, array);
      failed = false;
    } catch (error) {
      throw explained(error, (value) => value);
    } finally {
      this.#giveBack(failed);
    }
  }

  /** The same off the event loop, step by step. Arrays of the caller that are not shared are copied first. */
  async later(signal: AbortSignal | undefined, explained: (error: unknown, seen: Seen) => unknown): Promise<void> {
    const { uploads, copies, downloads, memories, weights } = this.#operands;
    // The caller may dispose of tensors and weights between two steps: until the last, they are ours as well.
    const shares = new Map<unknown, RawMemory | RawWeight>();
    const own = <T>(value: T): T => (shares.get(value) as T | undefined) ?? value;
    const copied = new Map<unknown, unknown>();
    const seen: Seen = (value) => (copied.get(value) as typeof value | undefined) ?? value;
    const job = (operation: Name, ...operands: unknown[]) =>
      runJob(
        (done) => (addon[`${operation}Async`] as Later)(...operands, done),
        signal,
        (error) => explained(error, seen),
      );
    let failed = true;
    try {
      for (const memory of memories) if (!shares.has(memory)) shares.set(memory, addon.shareMemory(memory));
      for (const weight of weights) if (!shares.has(weight)) shares.set(weight, addon.shareWeight(weight));
      signal?.throwIfAborted();
      for (const { array } of uploads) {
        if (!copied.has(array)) copied.set(array, detachedFromCaller.input(array));
      }
      const rooms = downloads.map(({ array, fresh }) => (fresh ? array : detachedFromCaller.output(array)));
      // The numbers of a record, which comes first, are read when the operation begins: until then other calls may write theirs.
      const args = this.#args.map((value, i) =>
        i === 0 && value instanceof Float64Array ? value.slice() : own(value),
      );
      for (const { memory, array } of uploads) await job('upload', own(memory), seen(array));
      for (const [from, to] of copies) await job('copyMemory', own(from), own(to));
      await job(this.#name, ...args);
      for (const [i, { memory }] of downloads.entries()) await job('download', memory, 0, rooms[i]);
      for (const [i, { array }] of downloads.entries()) {
        detachedFromCaller.copyBack('out', rooms[i] as RawArray, array);
      }
      failed = false;
    } finally {
      this.#giveBack(failed);
      for (const memory of new Set(memories)) if (shares.has(memory)) addon.disposeMemory(own(memory));
      for (const weight of new Set(weights)) if (shares.has(weight)) addon.disposeWeight(own(weight));
    }
  }

  #giveBack(failed: boolean): void {
    for (const memory of this.#operands.temporary) addon.disposeMemory(memory);
    if (failed) for (const tensor of this.#operands.fresh) tensor.dispose();
  }
}
