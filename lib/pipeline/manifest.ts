/**
 * `lowbit.json`: where a result comes from and what it cost. It holds nothing that differs between two runs of the same work.
 *
 * @module
 */
import type { Json } from '../checkpoint/checkpoint.js';
import type { TensorReport } from './carry-out.js';

/** An input file of a result. */
export interface ManifestInput {
  /** Its name without folders. */
  readonly file: string;
  readonly bytes: number;
  /** Of the whole file; null if hashing was turned off. */
  readonly sha256: string | null;
}

/** What is written next to a result. */
export interface Manifest {
  readonly version: string;
  readonly inputs: readonly ManifestInput[];
  readonly decisions: Json;
  readonly tensors: readonly TensorReport[];
}

/** The name of the manifest in a result's folder. */
export const MANIFEST_NAME = 'lowbit.json';

/** The last digits of a sum depend on how the work was divided; six are the same however that was. */
function rounded(_: string, value: unknown): unknown {
  if (typeof value !== 'number' || Number.isInteger(value)) return value;
  return Number.isFinite(value) ? Number(value.toPrecision(6)) : null;
}

export function manifestText(manifest: Manifest): string {
  return `${JSON.stringify(manifest, rounded, 2)}\n`;
}
