/**
 * What the process ends with, for scripts.
 *
 * @module
 */
import {
  CalibrationError,
  CheckpointError,
  DeviceError,
  InvalidArgumentError,
  LowbitError,
  NonFiniteError,
  OutputError,
  ScaleOverflowError,
} from '../errors.js';

export const EXIT = {
  success: 0,
  /** A fault of lowbit itself. */
  internal: 1,
  /** Wrong arguments. */
  usage: 2,
  /** The input can't be read, or can't be quantized as asked. */
  input: 3,
  /** The output can't be written. */
  output: 4,
  /** A quantized checkpoint is not what it should be, or falls below a threshold. */
  quality: 5,
  /** Ctrl-C. */
  interrupted: 130,
} as const;

export function exitCodeOf(error: unknown): number {
  if (error instanceof InvalidArgumentError) return EXIT.usage;
  if (error instanceof DeviceError && (error.code === 'NO_DEVICE' || error.code === 'DEVICE_UNSUPPORTED')) {
    return EXIT.usage;
  }
  const inputErrors = [CheckpointError, CalibrationError, NonFiniteError, ScaleOverflowError];
  if (inputErrors.some((type) => error instanceof type)) return EXIT.input;
  if (error instanceof OutputError) {
    return error.code === 'VERIFICATION_FAILED' || error.code === 'BELOW_THRESHOLD' ? EXIT.quality : EXIT.output;
  }
  return EXIT.internal;
}

/** What the person at the terminal reads: a sentence for errors of ours, everything for others. */
export function messageOf(error: unknown): string {
  if (error instanceof LowbitError) return `${error.message} [${error.code}]`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
