/**
 * What an observer has seen, as plain data.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import * as validate from '../validate.js';
import { LOWEST_EXPONENT } from './grid.js';
import { checkPercentile } from './histogram.js';

/** How an observer finds a range; see {@link Observer}. */
export type ObserverMethod = 'minmax' | 'moving-average' | 'percentile' | 'mse' | 'entropy';

/** Options of an {@link Observer}. */
export interface ObserverOptions {
  /** How the range is found. */
  method: ObserverMethod;
  /** What shares a range: all elements (default), or those of one channel. */
  granularity?: 'per-tensor' | 'per-channel';
  /** The axis of the channels, per-channel only; default 0. Negative ones count from the last. */
  axis?: number;
  /** Bins of each histogram (percentile, mse, entropy): a power of two from 512 to 65536, default 2048. */
  bins?: number;
  /** How many percent of the magnitudes a symmetric range holds (percentile); greater than 50, default 99.99. */
  percentile?: number;
  /** The weight of a new batch (moving-average); greater than 0 and at most 1, default 0.01. */
  averagingConstant?: number;
}

/**
 * The state of an {@link Observer}: plain data that survives `structuredClone`, JSON and a database.
 */
export interface ObserverState {
  readonly method: ObserverMethod;
  readonly granularity: 'per-tensor' | 'per-channel';
  readonly axis: number;
  readonly bins: number;
  readonly percentile: number;
  readonly averagingConstant: number;
  /** How many elements have been observed. */
  readonly observed: number;
  /** One per tensor or channel; empty before anything has been observed. */
  readonly min: readonly number[];
  /** As many. */
  readonly max: readonly number[];
  /** As many, of the histograms' grids; empty without histograms. */
  readonly exponents: readonly number[];
  /** `bins` for each exponent. */
  readonly counts: readonly number[];
}

const OPTIONS: ReadonlySet<string> = new Set([
  'method',
  'granularity',
  'axis',
  'bins',
  'percentile',
  'averagingConstant',
]);
const FIELDS: ReadonlySet<string> = new Set([...OPTIONS, 'observed', 'min', 'max', 'exponents', 'counts']);
const METHODS = ['minmax', 'moving-average', 'percentile', 'mse', 'entropy'] as const;

/** @internal */
export function hasHistogram(method: ObserverMethod): boolean {
  return method === 'percentile' || method === 'mse' || method === 'entropy';
}

/** @internal Every option with a value. */
export type Settings = Required<ObserverOptions>;

function settingsFrom(given: Partial<Record<string, unknown>>, prefix: string, strict: boolean): Settings {
  const method = validate.oneOf(`${prefix}method`, given['method'], METHODS);
  const granularity =
    given['granularity'] === undefined
      ? 'per-tensor'
      : validate.oneOf(`${prefix}granularity`, given['granularity'], ['per-tensor', 'per-channel']);
  const unused: [string, boolean][] = [
    ['axis', granularity === 'per-channel'],
    ['bins', hasHistogram(method)],
    ['percentile', method === 'percentile'],
    ['averagingConstant', method === 'moving-average'],
  ];
  for (const [name, used] of unused) {
    if (strict && !used && given[name] !== undefined) {
      const other = name === 'axis' ? `granularity ${granularity}` : `method ${method}`;
      throw new InvalidArgumentError(name, `Expected no ${name} together with ${other}.`);
    }
  }
  const { axis = 0, bins = 2048, percentile = 99.99, averagingConstant = 0.01 } = given;
  const checkedBins = validate.integer(`${prefix}bins`, bins, 512, 65536);
  if (!Number.isInteger(Math.log2(checkedBins))) throw invalidArgument(`${prefix}bins`, 'a power of two', bins);
  if (typeof averagingConstant !== 'number' || !(averagingConstant > 0 && averagingConstant <= 1)) {
    throw invalidArgument(`${prefix}averagingConstant`, 'a number greater than 0 and at most 1', averagingConstant);
  }
  return {
    method,
    granularity,
    axis: validate.integer(`${prefix}axis`, axis, Number.MIN_SAFE_INTEGER),
    bins: checkedBins,
    percentile: checkPercentile(`${prefix}percentile`, percentile),
    averagingConstant,
  };
}

/** @internal */
export function checkOptions(value: unknown): Settings {
  return settingsFrom(validate.options<Record<string, unknown>>('options', value, OPTIONS), '', true);
}

/** @internal What an observer holds. */
export interface Contents {
  observed: number;
  min: Float32Array;
  max: Float32Array;
  exponents: Int32Array;
  counts: Float64Array;
}

function numbersOf(name: string, value: unknown, length: number, good: (x: number) => boolean, expected: string) {
  if (!Array.isArray(value) || value.length !== length) {
    throw invalidArgument(`state.${name}`, `an array of length ${length}`, value);
  }
  return value.map((x: unknown, i) => {
    if (typeof x !== 'number' || !good(x)) throw invalidArgument(`state.${name}[${i}]`, expected, x);
    return x;
  });
}

/** @internal */
export function checkState(value: unknown): { settings: Settings; contents: Contents } {
  const given = validate.options<Record<string, unknown>>('state', value, FIELDS);
  const settings = settingsFrom(given, 'state.', false);
  const observed = validate.integer('state.observed', given['observed'], 0);
  const { min } = given;
  if (!Array.isArray(min)) throw invalidArgument('state.min', 'an array of numbers', min);
  const channels = min.length;
  if (channels !== 0 && settings.granularity === 'per-tensor' && channels !== 1) {
    throw invalidArgument('state.min', 'one number, as the granularity is per-tensor,', min);
  }
  if (observed === 0 ? channels !== 0 : channels === 0) {
    throw invalidArgument('state.observed', channels === 0 ? '0, as there are no ranges,' : 'more than 0', observed);
  }
  const isFloat = (x: number) => Number.isFinite(x) && Math.fround(x) === x;
  const lows = numbersOf('min', min, channels, isFloat, 'a float32');
  const highs = numbersOf('max', given['max'], channels, isFloat, 'a float32');
  lows.forEach((low, i) => {
    if (low > (highs[i] as number)) throw invalidArgument(`state.max[${i}]`, `at least ${low}`, highs[i]);
  });
  const tables = hasHistogram(settings.method) ? channels : 0;
  const isExponent = (x: number) => Number.isInteger(x) && x >= LOWEST_EXPONENT && x <= 128;
  const isCount = (x: number) => Number.isSafeInteger(x) && x >= 0;
  const exponents = numbersOf('exponents', given['exponents'], tables, isExponent, 'an exponent of a grid');
  const counts = numbersOf('counts', given['counts'], tables * settings.bins, isCount, 'a count');
  return {
    settings,
    contents: {
      observed,
      min: Float32Array.from(lows),
      max: Float32Array.from(highs),
      exponents: Int32Array.from(exponents),
      counts: Float64Array.from(counts),
    },
  };
}
