/**
 * Options that several commands share, and how their values are read.
 *
 * @module
 */
import { type Command, InvalidArgumentError as InvalidOption } from 'commander';
import { type Device, deviceIndex, deviceName } from '../device/device.js';
import { setNumThreads } from '../runtime.js';

/** What every command has. */
export interface CommonFlags {
  threads?: number;
  gptqVersion?: 1 | 2;
  json?: boolean;
  quiet?: boolean;
}

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidOption('Expected a positive integer.');
  return value;
}

export function nonNegativeInteger(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0)
    throw new InvalidOption('Expected an integer, at least 0.');
  return value;
}

export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidOption('Expected a number.');
  return value;
}

export function regularExpression(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch (error) {
    throw new InvalidOption(`Expected a regular expression: ${(error as Error).message}.`);
  }
}

/** One of some words. */
export function oneOf<T extends string>(...words: readonly T[]): (text: string) => T {
  return (text) => {
    const found = words.find((word) => word === text);
    if (found === undefined) throw new InvalidOption(`Expected ${words.join(' or ')}.`);
    return found;
  };
}

/** `cpu`, `cuda`, `cuda:1`. */
export function device(text: string): Device {
  try {
    return deviceName(deviceIndex('device', text));
  } catch {
    throw new InvalidOption('Expected cpu, cuda or cuda:<n>.');
  }
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** `2GB`, `512 MiB`, `1e9`. */
export function byteCount(text: string): number {
  const [, digits, unit = ''] = /^\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmgt]?i?b?)\s*$/i.exec(text) ?? [];
  const factor = UNITS[unit.toUpperCase()] ?? UNITS[`${unit.toUpperCase()}B`];
  const bytes = Math.floor(Number(digits) * (factor ?? Number.NaN));
  if (!Number.isSafeInteger(bytes) || bytes < 1) throw new InvalidOption('Expected a size such as 2GB or 512MiB.');
  return bytes;
}

function gptqVersion(text: string): 1 | 2 {
  if (text !== '1' && text !== '2') throw new InvalidOption('Expected 1 or 2.');
  return text === '1' ? 1 : 2;
}

/** What the options say about reading checkpoints. */
export function readingOf({ gptqVersion }: CommonFlags): { gptqVersion?: 1 | 2 } {
  return gptqVersion === undefined ? {} : { gptqVersion };
}

/** Adds what every command has. */
export function withCommonOptions(command: Command): Command {
  return command
    .option('--threads <n>', 'threads to use (default: all processors)', positiveInteger)
    .option('--gptq-version <1|2>', 'version of a GPTQ checkpoint whose config and data leave it open', gptqVersion)
    .option('--json', 'print the result as JSON, and no progress')
    .option('-q, --quiet', 'print nothing but errors');
}

export function applyCommonOptions({ threads }: CommonFlags): void {
  if (threads !== undefined) setNumThreads(threads);
}

/** JSON has no Infinity: a layer without error has no SQNR. */
export function toJson(value: object): string {
  return JSON.stringify(value, (_, v: unknown) => (typeof v === 'number' && !Number.isFinite(v) ? null : v), 2);
}

/** Runs something that Ctrl-C and SIGTERM end early. */
export async function interruptible<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort();
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    return await body(interrupt.signal);
  } finally {
    process.removeListener('SIGINT', onSignal);
    process.removeListener('SIGTERM', onSignal);
  }
}
