/**
 * The native addon, for the rest of lib/, which knows nothing of a binary: its calls, its jobs, its errors.
 *
 * @module
 */
export { explain } from './addon/explain.js';
export { runJob } from './addon/jobs.js';
export { addon, configuration, packageRoot } from './addon/load.js';
export type {
  RawAnyFloats,
  RawArray,
  RawDeviceCalls,
  RawError,
  RawFloats,
  RawMemory,
  RawWeight,
} from './addon/raw.js';
