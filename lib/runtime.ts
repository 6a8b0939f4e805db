/**
 * What this machine offers, and how much of it to use.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { addon, configuration, packageRoot } from './addon.js';
import * as validate from './validate.js';

/** The result of {@link capabilities}. */
export interface Capabilities {
  /** Version of this package. */
  readonly version: string;
  /** The instruction set in use: the best one supported, or what the environment variable LOWBIT_ISA names. */
  readonly isa: string;
  /** Those that this build and this processor support, best first; the last is `'scalar'`. */
  readonly isas: readonly string[];
  /** How many threads work on one call. */
  readonly threads: number;
  /** GPUs. Looked for when this is first read, which opens the CUDA module. */
  readonly cuda: CudaCapabilities;
}

/** The GPUs that `device: 'cuda'` can mean. */
export interface CudaCapabilities {
  /** Whether there is one. */
  readonly available: boolean;
  /** Why there is none, or what is wrong with one of them, and what to do about it. */
  readonly reason?: string;
  /** In the order of their numbers; empty where there is none. */
  readonly devices: readonly CudaDevice[];
}

/** A GPU. */
export interface CudaDevice {
  /** The number n of `device: 'cuda:<n>'`. */
  readonly index: number;
  /** What the vendor calls it. */
  readonly name: string;
  /** Such as `'9.0'`. */
  readonly computeCapability: string;
  /** All of its memory, in bytes. */
  readonly memoryBytes: number;
  /** What of that is free, as CUDA counts: up to 256 MiB that lowbit has freed may stay with its pool. */
  readonly freeBytes: number;
  /** Its streaming multiprocessors: how many blocks of threads it works on at once is a multiple of this. */
  readonly multiprocessors: number;
}

const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string };

/**
 * What this build can do on this machine.
 *
 * @returns A snapshot; `cuda` is looked for when it is first read. That throws nothing: `cuda.reason` says what is wrong.
 *
 * @example
 * ```ts
 * capabilities(); // { version: '0.1.0', isa: 'avx2', isas: ['avx2', 'scalar'], threads: 8, cuda: { available: false, … } }
 * ```
 */
export function capabilities(): Capabilities {
  let cuda: CudaCapabilities | undefined;
  return {
    version,
    isa: configuration.isa,
    isas: [...configuration.isas],
    threads: addon.threads(),
    get cuda() {
      cuda ??= cudaCapabilities();
      return cuda;
    },
  };
}

function cudaCapabilities(): CudaCapabilities {
  const { devices, reason } = addon.cudaDevices();
  return { available: devices.length > 0, ...(reason === undefined ? {} : { reason }), devices };
}

/**
 * Sets how many threads work on one call, the calling one included. The default is the number of processors that the
 * process may use (its affinity mask and its control group's CPU quota), or the environment variable LOWBIT_NUM_THREADS.
 * It holds for the whole process, worker threads included. Results do not depend on it.
 *
 * @param n - An integer from 1 to 1024.
 * @throws {@link InvalidArgumentError} for anything else.
 */
export function setNumThreads(n: number): void {
  addon.setThreads(validate.integer('n', n, 1, 1024));
}
