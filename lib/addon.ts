/**
 * The only file that loads the native addon, and the one typed description of its raw surface. Everything else in lib/
 * calls {@link addon} and knows nothing of a binary.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import bindings from 'bindings';
import nodeGypBuild from 'node-gyp-build';
import { AddonError } from './errors.js';

/** A float array as the addon takes it: float16 and bfloat16 as bit patterns. */
export type RawFloats = Float32Array | Uint16Array;

type CastArguments = [input: RawFloats, from: number, out: RawFloats, to: number];
/** The numbers of `record` are listed in native/node/tensor_calls.cc. */
type QuantizeArguments = [
  record: Float64Array,
  input: RawFloats,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  out: Uint8Array,
];
type DequantizeArguments = [
  record: Float64Array,
  data: Uint8Array,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  out: RawFloats,
];
type UnpackArguments = [
  data: Uint8Array,
  bits: number,
  signed: boolean,
  rows: number,
  columns: number,
  out: Int8Array | Uint8Array,
];
type CompareArguments = [reference: Float32Array, other: Float32Array, sums: Float64Array];

/** Called when a job has ended: with an error that carries `code` and `index`, or with nothing. */
type Done = (error?: RawError) => void;

/** What the addon throws: see error_of() in native/node/arguments.cc. */
export interface RawError extends Error {
  code: 'INVALID_ARGUMENT' | 'NON_FINITE' | 'SCALE_OVERFLOW' | 'CANCELLED' | 'INTERNAL';
  index?: number;
}

/** The result of parseSafetensorsHeader: a fault, or the tensors in the order of their data. */
export type RawSafetensorsHeader =
  | {
      fault: 0;
      names: string[];
      dtypes: Uint8Array;
      ranks: Uint32Array;
      dims: Float64Array;
      offsets: Float64Array;
      metadata: string[];
    }
  | { fault: number; tensor: string; position: number };

/** The functions that native/node exports. An `…Async` twin returns the number of its job. */
export interface RawAddon {
  configuration(): { isa: string; isas: string[]; error?: string };
  threads(): number;
  setThreads(n: number): void;
  cancel(job: number): void;
  cast(...args: CastArguments): void;
  castAsync(...args: [...CastArguments, Done]): number;
  quantizeAffine(...args: QuantizeArguments): void;
  quantizeAffineAsync(...args: [...QuantizeArguments, Done]): number;
  dequantizeAffine(...args: DequantizeArguments): void;
  dequantizeAffineAsync(...args: [...DequantizeArguments, Done]): number;
  unpackCodes(...args: UnpackArguments): void;
  unpackCodesAsync(...args: [...UnpackArguments, Done]): number;
  compare(...args: CompareArguments): void;
  compareAsync(...args: [...CompareArguments, Done]): number;
  parseSafetensorsHeader(header: Uint8Array, dataBytes: number): RawSafetensorsHeader;
}

/** The package's root: the nearest folder above this file that holds CMakeLists.txt, in a checkout as in node_modules. */
export const packageRoot: string = (() => {
  const start = dirname(bindings.getFileName());
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'CMakeLists.txt'))) return folder;
    if (folder === dirname(folder)) {
      throw new AddonError('ADDON_NOT_FOUND', `lowbit is damaged: no CMakeLists.txt above ${start}. Install it again.`);
    }
  }
})();

function load(): RawAddon {
  const attempts: [string, () => unknown][] = [
    // build/Release, build/Debug, then prebuilds/<platform>-<arch>
    ['node-gyp-build', () => nodeGypBuild(packageRoot)],
    // build/lowbit.node: what a bare `cmake -B build` leaves, for example with sanitizers
    ['bindings', () => bindings({ bindings: 'lowbit', module_root: packageRoot })],
  ];
  const failures: string[] = [];
  const causes: unknown[] = [];
  for (const [name, attempt] of attempts) {
    try {
      return attempt() as RawAddon;
    } catch (error) {
      causes.push(error);
      failures.push(`${name}: ${String((error as Error).message).split('\n')[0]}`);
    }
  }
  throw new AddonError(
    'ADDON_NOT_FOUND',
    `No native addon for ${process.platform}-${process.arch} could be loaded (${failures.join('; ')}). ` +
      'Build it with `npm rebuild lowbit --build-from-source`; that needs CMake 3.18 or newer and a C++17 compiler.',
    { cause: new AggregateError(causes) },
  );
}

/** The native addon. */
export const addon: RawAddon = load();

/** What the addon was built with and chose on this machine. */
export const configuration: { readonly isa: string; readonly isas: readonly string[] } = (() => {
  const { isa, isas, error } = addon.configuration();
  if (error !== undefined) throw new AddonError('INVALID_ENVIRONMENT', error);
  return { isa, isas };
})();

/** Runs an `…Async` call of the addon as a promise that an AbortSignal can end. */
export function runJob(start: (done: Done) => number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const cancel = () => addon.cancel(job);
    const job = start((error) => {
      signal?.removeEventListener('abort', cancel);
      if (error === undefined) resolve();
      else if (error.code === 'CANCELLED') reject(signal?.reason);
      else reject(error);
    });
    signal?.addEventListener('abort', cancel);
  });
}
