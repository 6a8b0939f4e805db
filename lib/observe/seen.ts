/**
 * What an observer has seen: ranges and histograms, which grow batch by batch.
 *
 * @module
 */
import type { Channels } from '../tensor/channels.js';
import * as validate from '../validate.js';
import { binWidth, fold, gridExponent } from './grid.js';
import { type Contents, hasHistogram, type Settings } from './state.js';

function absmaxOf(min: Float32Array, max: Float32Array, channel: number): number {
  return Math.max(-(min[channel] as number), max[channel] as number);
}

/** @internal Ranges of each tensor or channel and, with a method that counts, a histogram of each. */
export class Seen implements Contents {
  observed = 0;
  min = new Float32Array(0);
  max = new Float32Array(0);
  exponents = new Int32Array(0);
  counts = new Float64Array(0);

  constructor(
    readonly settings: Settings,
    contents?: Contents,
  ) {
    if (contents !== undefined) Object.assign(this, contents);
  }

  /** All of it in arrays of its own. */
  copy(): Seen {
    const { settings, observed, min, max, exponents, counts } = this;
    return new Seen(settings, {
      observed,
      min: min.slice(),
      max: max.slice(),
      exponents: exponents.slice(),
      counts: counts.slice(),
    });
  }

  get hasTables(): boolean {
    return hasHistogram(this.settings.method);
  }

  /** One histogram, which is counted apart and then merged. */
  get isWholeHistogram(): boolean {
    return this.hasTables && this.settings.granularity === 'per-tensor';
  }

  /** Room for the histograms of channels, on grids that a batch fits. */
  prepareTables({ count }: Channels, min: Float32Array, max: Float32Array): void {
    if (!this.hasTables) return;
    if (this.exponents.length === 0) {
      this.counts = validate.allocated(Float64Array, count * this.settings.bins);
      this.exponents = Int32Array.from(min, (_, c) => gridExponent(absmaxOf(min, max, c)));
      return;
    }
    for (let c = 0; c < count; c++) this.grow(c, gridExponent(absmaxOf(min, max, c)));
  }

  private grow(channel: number, exponent: number): void {
    const own = this.exponents[channel] as number;
    if (exponent <= own) return;
    fold(this.table(channel), exponent - own);
    this.exponents[channel] = exponent;
  }

  /** The counts of a channel, as they are. */
  table(channel: number): Float64Array {
    const { bins } = this.settings;
    return this.counts.subarray(channel * bins, (channel + 1) * bins);
  }

  /** The same without signs. */
  magnitudes(channel: number): Float64Array {
    const table = this.table(channel);
    const half = table.length / 2;
    return Float64Array.from({ length: half }, (_, m) => (table[half + m] as number) + (table[half - 1 - m] as number));
  }

  /** The width of its bins. */
  width(channel: number): number {
    return binWidth(this.settings.bins, this.exponents[channel] as number);
  }

  /** Takes in the ranges of a batch of so many elements. */
  widen(min: Float32Array, max: Float32Array, observed: number): void {
    if (this.observed === 0) {
      this.min = min.slice();
      this.max = max.slice();
    } else {
      this.follow(this.min, min, -1);
      this.follow(this.max, max, 1);
    }
    this.observed += observed;
  }

  /** One end of the ranges: the further one (`side` 1: upwards), or the average. */
  private follow(ends: Float32Array, batch: Float32Array, side: 1 | -1): void {
    const averages = this.settings.method === 'moving-average';
    const c = Math.fround(this.settings.averagingConstant);
    for (let i = 0; i < ends.length; i++) {
      const [end, now] = [ends[i] as number, batch[i] as number];
      if (averages) ends[i] = end + Math.fround(c * Math.fround(now - end));
      else if ((now - end) * side > 0) ends[i] = now;
    }
  }

  /** Adds other contents, whose counts may be changed. */
  add(other: Contents): void {
    if (this.hasTables && this.exponents.length === 0) {
      this.exponents = other.exponents.slice();
      this.counts = other.counts as Float64Array<ArrayBuffer>;
    } else {
      const { bins } = this.settings;
      other.exponents.forEach((exponent, c) => {
        this.grow(c, exponent);
        const theirs = other.counts.subarray(c * bins, (c + 1) * bins);
        fold(theirs, (this.exponents[c] as number) - exponent);
        const own = this.table(c);
        for (let b = 0; b < bins; b++) (own[b] as number) += theirs[b] as number;
      });
    }
    this.widen(other.min, other.max, other.observed);
  }
}
