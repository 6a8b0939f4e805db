/**
 * A tensor as a file stores it.
 *
 * @module
 */
import type { SafetensorsDtype } from './safetensors.js';

/** Element or block type, by the name that its container gives it: `BF16` of safetensors, `q4_k` of GGUF. */
export type StoredDtype = SafetensorsDtype | GgufDtype;

/** Types of a GGUF file, in lower case: blocks, floats and integers. */
export type GgufDtype = string & { readonly gguf?: never };

/** A tensor in a file: what it is, where it lies, and how to read it. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredDtype;
  /** Row-major, the outermost axis first (a GGUF file has it the other way round). */
  readonly shape: readonly number[];
  readonly bytes: number;
  /** The file, and where its first byte lies there. */
  readonly path: string;
  readonly position: number;
  /**
   * Reads its bytes from `begin` on into the whole of `into`.
   *
   * @throws CheckpointError `FILE_TRUNCATED` if the file became shorter, `READ_FAILED`.
   */
  read(begin: number, into: Uint8Array): Promise<void>;
  /**
   * Reads columns of a matrix, where that can be done faster than row by row: of `rows` rows, which are `stride` bytes
   * apart and the first of which begins at `begin`, as many bytes as fill `into`, which must be in shared memory.
   *
   * @throws CheckpointError as {@link StoredTensor.read}.
   */
  readRows?(begin: number, stride: number, rows: number, into: Uint8Array<SharedArrayBuffer>): Promise<void>;
}
