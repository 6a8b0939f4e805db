/**
 * Watching the values of a tensor over many batches, to choose its scale and zero point.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { type CodeType, codeTypeOf, type IntDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import { type Channels, channelsFrom, shapeFrom } from '../tensor/channels.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { chosenRange } from './chosen-range.js';
import { parametersOf, type QuantizationParameters, schemeFrom } from './parameters.js';
import { Seen } from './seen.js';
import {
  type Contents,
  checkOptions,
  checkState,
  type ObserverMethod,
  type ObserverOptions,
  type ObserverState,
  type Settings,
} from './state.js';

/** Options of {@link Observer.observe}. */
export interface ObserveOptions {
  /** Row-major; needed for channels. Default `[tensor.length]`. */
  shape?: readonly number[];
}

/** The same, with a signal that ends the work early. */
export interface ObserveAsyncOptions extends ObserveOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Options of {@link Observer.parameters}. */
export interface ParametersOptions {
  /** Default symmetric for signed and asymmetric for unsigned dtypes. */
  scheme?: Scheme;
}

/** Counts of equally wide bins, and the edges between them. */
export interface ObservedHistogram {
  readonly counts: Float64Array;
  readonly edges: Float64Array;
}

const OBSERVE_OPTIONS: ReadonlySet<string> = new Set(['shape']);
const OBSERVE_ASYNC_OPTIONS: ReadonlySet<string> = new Set(['shape', 'signal']);
const NO_OPTIONS = {};

/** The search for ranges gives way to the event loop after so many milliseconds. */
const PATIENCE = 5;

/** The numbers of the addon's calls; it reads them before it returns, so one array serves every call. */
const record = new Float64Array(3);

function recordOf({ blocks, count, inner }: Channels): Float64Array {
  record[0] = blocks;
  record[1] = count;
  record[2] = inner;
  return record;
}

function explained(error: unknown, tensor: Float32Array): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'tensor');
  const value = tensor[index] as number;
  const message = `Expected finite numbers but received ${value} at index ${index} of the tensor. Nothing of it was counted.`;
  return new NonFiniteError(message, index, value);
}

/**
 * Watches the values of a tensor, batch by batch, in a fixed amount of memory, and chooses a range for them ("calibration").
 *
 * | method | range |
 * | --- | --- |
 * | `minmax` | all of the values |
 * | `moving-average` | that of the first batch, then `range += averagingConstant · (the batch's − range)`, in float32 as in PyTorch |
 * | `percentile` | symmetric: the magnitude up to which `percentile` of all magnitudes lie; asymmetric: the same for either end |
 * | `mse` | the one of 80 shrunk ranges that costs the least squared error, see {@link mseRange} |
 * | `entropy` | the magnitude that changes the distribution the least, see {@link entropyRange}; asymmetric: the values up to it |
 *
 * The last three count values in a histogram for each tensor or channel, 8 bytes for each of `bins`. Its bins divide
 * [−2^e, 2^e), where e is no larger than the values make necessary, so that all results but those of the moving average are the
 * same however the values are divided into batches, in which order they come, and in which order observers that watched parts are
 * merged. Ranges are exact to one bin, at most a 512th of the largest magnitude with 2048 bins, and never end beyond the values.
 *
 * Sources: PyTorch, `torch/ao/quantization/observer.py`; NVIDIA TensorRT Model Optimizer,
 * `modelopt/torch/quantization/calib/histogram.py`.
 *
 * @example
 * ```ts
 * const observer = new Observer({ method: 'entropy' });
 * for (const batch of batches) observer.observe(batch);
 * quantizeTensor(x, { dtype: 'int8', ...observer.parameters('int8') });
 * ```
 */
export class Observer {
  #seen: Seen;
  /** Ends when no asynchronous call is left. */
  #pending: Promise<void> | undefined;

  /**
   * @throws {@link InvalidArgumentError} for an unknown method or option, a wrong value, or an option that the method has no use
   *   for.
   */
  constructor(options: ObserverOptions) {
    this.#seen = new Seen(checkOptions(options));
  }

  /**
   * The observer that `toState()` described.
   *
   * @throws {@link InvalidArgumentError} for whatever is not such a state.
   */
  static fromState(state: ObserverState): Observer {
    const { settings, contents } = checkState(state);
    const observer = new Observer({ method: settings.method });
    observer.#seen = new Seen(settings, contents);
    return observer;
  }

  /** How the range is found. */
  get method(): ObserverMethod {
    return this.#seen.settings.method;
  }

  /** How many elements have been observed. */
  get observed(): number {
    return this.#seen.observed;
  }

  /** How many ranges there are: 1, or the channels; 0 before anything has been observed. */
  get channels(): number {
    return this.#seen.min.length;
  }

  /**
   * Takes in a batch. An empty one changes nothing, and neither does one that is refused.
   *
   * @param tensor - Floats in row-major order.
   * @throws {@link InvalidArgumentError} for a wrong type or shape, another number of channels than before, or a call of
   *   {@link observeAsync} that has not ended; {@link NonFiniteError} for NaN or infinity; {@link OutOfMemoryError}.
   */
  observe(tensor: Float32Array, options: ObserveOptions = NO_OPTIONS): void {
    this.#checkIdle();
    const channels = this.#check(tensor, options, OBSERVE_OPTIONS);
    if (channels.elementCount === 0) return;
    try {
      if (this.#seen.isWholeHistogram) {
        const batch = emptyHistogram(this.#seen.settings.bins);
        addon.observeHistogram(tensor, batch.range, batch.exponents, batch.counts);
        this.#seen.add(contentsOf(batch, tensor.length));
        return;
      }
      const [min, max] = [new Float32Array(channels.count), new Float32Array(channels.count)];
      addon.observeRanges(recordOf(channels), tensor, min, max);
      this.#seen.prepareTables(channels, min, max);
      const { exponents, counts } = this.#seen;
      if (this.#seen.hasTables) addon.observeCounts(recordOf(channels), tensor, exponents, counts);
      this.#seen.widen(min, max, tensor.length);
    } catch (error) {
      throw explained(error, tensor);
    }
  }

  /**
   * {@link observe} off the event loop, with the same result. A tensor that is not in a SharedArrayBuffer is copied first. Calls
   * that overlap run one after the other; until they have ended, the observer can't be used otherwise.
   *
   * @throws As {@link observe}, as a rejection; the signal's reason when it aborts, and then nothing was counted.
   */
  async observeAsync(tensor: Float32Array, options: ObserveAsyncOptions = NO_OPTIONS): Promise<void> {
    const channels = this.#check(tensor, options, OBSERVE_ASYNC_OPTIONS);
    const signal = validate.abortSignal('signal', options.signal);
    signal?.throwIfAborted();
    if (channels.elementCount === 0) return;
    const copied = detachedFromCaller.input(tensor);
    const before = this.#pending ?? Promise.resolve();
    const work = before.then(() => this.#observeLater(copied, channels, signal));
    const settled = work.catch(() => {});
    this.#pending = settled;
    settled.then(() => {
      if (this.#pending === settled) this.#pending = undefined;
    });
    await work;
  }

  async #observeLater(tensor: Float32Array, channels: Channels, signal: AbortSignal | undefined): Promise<void> {
    const explain = (error: unknown) => explained(error, tensor);
    if (this.#seen.isWholeHistogram) {
      const batch = emptyHistogram(this.#seen.settings.bins);
      await runJob(
        (done) => addon.observeHistogramAsync(tensor, batch.range, batch.exponents, batch.counts, done),
        signal,
        explain,
      );
      this.#seen.add(contentsOf(batch, tensor.length));
      return;
    }
    this.#checkChannels(channels);
    const [min, max] = [new Float32Array(channels.count), new Float32Array(channels.count)];
    await runJob((done) => addon.observeRangesAsync(recordOf(channels), tensor, min, max, done), signal, explain);
    this.#seen.prepareTables(channels, min, max);
    if (this.#seen.hasTables) {
      // From here on all is counted: half a batch must not stay.
      const { exponents, counts } = this.#seen;
      await runJob(
        (done) => addon.observeCountsAsync(recordOf(channels), tensor, exponents, counts, done),
        undefined,
        explain,
      );
    }
    this.#seen.widen(min, max, tensor.length);
  }

  /**
   * Takes in what another observer has seen, as if this one had seen it too. The other one stays as it is.
   *
   * @throws {@link InvalidArgumentError} if the other has other options or another number of channels, or if both are moving
   *   averages, which depend on the order of the batches.
   */
  merge(other: Observer): void {
    if (!(other instanceof Observer)) throw invalidArgument('other', 'an Observer', other);
    this.#checkIdle();
    other.#checkIdle();
    for (const [name, value] of Object.entries(this.#seen.settings)) {
      const theirs = other.#seen.settings[name as keyof Settings];
      if (theirs !== value) {
        throw new InvalidArgumentError('other', `Expected other to have the ${name} ${value} but it has ${theirs}.`);
      }
    }
    if (this.method === 'moving-average') {
      const message = 'A moving average depends on the order of its batches: two of them have no common one.';
      throw new InvalidArgumentError('other', `Expected observers of a method that can be merged. ${message}`);
    }
    if (other.observed === 0) return;
    if (this.observed !== 0 && this.channels !== other.channels) {
      throw new InvalidArgumentError(
        'other',
        `Expected other to have as many channels, ${this.channels}, but it has ${other.channels}.`,
      );
    }
    const { min, max, exponents, counts, observed } = other.#seen;
    this.#seen.add({ observed, min, max, exponents, counts: counts.slice() });
  }

  /**
   * The least and the greatest value of each tensor or channel; of a moving average, the averaged ones. Empty before anything has
   * been observed.
   */
  range(): { min: Float32Array; max: Float32Array } {
    this.#checkIdle();
    return { min: this.#seen.min.slice(), max: this.#seen.max.slice() };
  }

  /**
   * What has been counted (percentile, mse, entropy), for {@link histogramRange} and others.
   *
   * @param options - `channel`, default 0; `magnitudes`, default false: whether values are counted without their sign.
   * @returns Counts, and as many edges and one more, ascending.
   * @throws {@link InvalidArgumentError} for a wrong value, a method without histograms, or before anything has been observed.
   */
  histogram(options: { channel?: number; magnitudes?: boolean } = NO_OPTIONS): ObservedHistogram {
    this.#checkIdle();
    const given = validate.options<Record<string, unknown>>('options', options, new Set(['channel', 'magnitudes']));
    if (!this.#seen.hasTables) {
      throw new InvalidArgumentError('channel', `Expected a method with histograms but it is ${this.method}.`);
    }
    if (this.channels === 0) throw new InvalidArgumentError('channel', 'Expected something to have been observed.');
    const channel = validate.integer('channel', given['channel'] ?? 0, 0, this.channels - 1);
    const magnitudes = validate.boolean('magnitudes', given['magnitudes'], false);
    const counts = magnitudes ? this.#seen.magnitudes(channel) : this.#seen.table(channel).slice();
    const width = this.#seen.width(channel);
    const first = magnitudes ? 0 : -this.#seen.settings.bins / 2;
    return { counts, edges: Float64Array.from({ length: counts.length + 1 }, (_, i) => (first + i) * width) };
  }

  /**
   * Scales and zero points for a dtype, by the rules of `quantizeTensor`, to be passed to it.
   *
   * @returns One of each for a tensor, or as many as channels.
   * @throws {@link InvalidArgumentError} for a wrong value, or before anything has been observed.
   */
  parameters(dtype: IntDtype, options: ParametersOptions = NO_OPTIONS): QuantizationParameters {
    const p = this.#prepareParameters(dtype, options);
    for (let c = 0; c < this.channels; c++) choose(this.#seen, c, p);
    return p.result;
  }

  /**
   * {@link parameters}, giving way to the event loop between channels: to search a histogram takes a millisecond or two.
   *
   * @throws As {@link parameters}, as a rejection.
   */
  async parametersAsync(dtype: IntDtype, options: ParametersOptions = NO_OPTIONS): Promise<QuantizationParameters> {
    const p = this.#prepareParameters(dtype, options);
    const snapshot = this.#seen.copy();
    let since = performance.now();
    for (let c = 0; c < snapshot.min.length; c++) {
      choose(snapshot, c, p);
      if (performance.now() - since < PATIENCE) continue;
      await new Promise((resolve) => setImmediate(resolve));
      since = performance.now();
    }
    return p.result;
  }

  /** The observer as plain data, from which {@link Observer.fromState} makes an equal one. */
  toState(): ObserverState {
    this.#checkIdle();
    const { observed, min, max, exponents, counts } = this.#seen;
    return {
      ...this.#seen.settings,
      observed,
      min: Array.from(min),
      max: Array.from(max),
      exponents: Array.from(exponents),
      counts: Array.from(counts),
    };
  }

  #checkIdle(): void {
    if (this.#pending === undefined) return;
    throw new InvalidArgumentError('observer', 'Expected calls of observeAsync to have ended: await them first.');
  }

  #check(tensor: unknown, optionsValue: unknown, known: ReadonlySet<string>): Channels {
    const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
    const { length } = validate.float32Array('tensor', tensor);
    const { granularity, axis } = this.#seen.settings;
    const shape = shapeFrom(given, length);
    const channels = channelsFrom(granularity === 'per-tensor' ? {} : { granularity, axis }, shape);
    this.#checkChannels(channels);
    return channels;
  }

  #checkChannels({ count, elementCount }: Channels): void {
    if (elementCount === 0 || this.observed === 0 || count === this.channels) return;
    throw new InvalidArgumentError(
      'shape',
      `Expected as many channels as before, ${this.channels}, but received ${count}.`,
    );
  }

  #prepareParameters(dtype: unknown, optionsValue: unknown): PreparedParameters {
    this.#checkIdle();
    const given = validate.options<Record<string, unknown>>('options', optionsValue, new Set(['scheme']));
    const code = codeTypeOf('dtype', dtype);
    const scheme = schemeFrom(given['scheme'], code.signed);
    if (this.observed === 0) {
      throw new InvalidArgumentError('observer', 'Expected something to have been observed before parameters.');
    }
    const result = { scheme, scales: new Float32Array(this.channels), zeroPoints: new Int32Array(this.channels) };
    return { dtype: dtype as IntDtype, code, result };
  }
}

interface PreparedParameters {
  readonly dtype: IntDtype;
  readonly code: CodeType;
  readonly result: QuantizationParameters;
}

interface BatchHistogram {
  readonly range: Float32Array;
  readonly exponents: Int32Array;
  readonly counts: Float64Array;
}

/** Finds the parameters of one channel. */
function choose(seen: Seen, channel: number, { dtype, code, result }: PreparedParameters): void {
  const { min, max } = chosenRange(seen, channel, dtype, code, result.scheme);
  const { scale, zeroPoint } = parametersOf(min, max, code, result.scheme);
  result.scales[channel] = scale;
  result.zeroPoints[channel] = zeroPoint;
}

function emptyHistogram(bins: number): BatchHistogram {
  return { range: new Float32Array(2), exponents: new Int32Array(1), counts: validate.allocated(Float64Array, bins) };
}

function contentsOf({ range, exponents, counts }: BatchHistogram, observed: number): Contents {
  return { observed, min: range.subarray(0, 1), max: range.subarray(1, 2), exponents, counts };
}
