/**
 * Sums over the positions of a text, window by window.
 *
 * @module
 */
import { exponentialOf, meanOf, percentileOf, ratioOf, relativeChangeOf, scaled } from './estimate.js';
import type { Distance, Quality } from './evaluation.js';
import type { LogitStatistics } from './logit-statistics.js';
import type { TextWindows } from './windows.js';

export class Tally {
  private readonly nats: Float64Array;
  private readonly originalNats: Float64Array;
  private readonly divergences: Float64Array;
  private readonly agreements: Float64Array;
  /** The divergence at every scored position. */
  private readonly positions: Float64Array;
  private maxDifference = 0;

  constructor(private readonly windows: TextWindows) {
    const count = windows.indices.length;
    this.nats = new Float64Array(count);
    this.originalNats = new Float64Array(count);
    this.divergences = new Float64Array(count);
    this.agreements = new Float64Array(count);
    this.positions = new Float64Array(count * windows.scored);
  }

  /** Adds some positions, of which the first is the row-th of all inputs. Positions before the scored ones do not count. */
  add(row: number, statistics: LogitStatistics): void {
    const { inputLength, scored } = this.windows;
    for (let i = 0; i < statistics.nats.length; i++) {
      const window = Math.floor((row + i) / inputLength);
      const position = ((row + i) % inputLength) - (inputLength - scored);
      if (position < 0) continue;
      const divergence = statistics.klDivergence[i] as number;
      (this.nats[window] as number) += statistics.nats[i] as number;
      (this.originalNats[window] as number) += statistics.referenceNats[i] as number;
      (this.divergences[window] as number) += divergence;
      this.positions[window * scored + position] = divergence;
      if (statistics.top[i] === statistics.referenceTop[i]) (this.agreements[window] as number)++;
      this.maxDifference = Math.max(this.maxDifference, statistics.maxDifference[i] as number);
    }
  }

  /** Of the first windows. */
  perplexity(windows: number): number {
    let sum = 0;
    for (let i = 0; i < windows; i++) sum += this.nats[i] as number;
    return Math.exp(sum / (windows * this.windows.scored));
  }

  quality(seconds: number): Quality {
    return this.qualityOf(this.nats, seconds);
  }

  distance(path: string, seconds: number): Distance {
    const { scored } = this.windows;
    const perToken = (sums: Float64Array) => sums.map((sum) => sum / scored);
    const change = meanOf(perToken(this.nats.map((sum, i) => sum - (this.originalNats[i] as number))));
    const sorted = this.positions.slice().sort();
    const percentile = (percent: number) => percentileOf(sorted, percent);
    return {
      model: path,
      original: this.qualityOf(this.originalNats, seconds),
      natsChange: change,
      perplexityChange: relativeChangeOf(change),
      klDivergence: meanOf(perToken(this.divergences)),
      klPercentiles: {
        p50: percentile(50),
        p90: percentile(90),
        p95: percentile(95),
        p99: percentile(99),
        p99_9: percentile(99.9),
        max: percentile(100),
      },
      topAgreement: meanOf(perToken(this.agreements)),
      maxLogitDifference: this.maxDifference,
    };
  }

  private qualityOf(sums: Float64Array, seconds: number): Quality {
    const { scored, bytes, inputLength } = this.windows;
    const windowNats = Array.from(sums, (sum) => sum / scored);
    const natsPerToken = meanOf(windowNats);
    const natsPerByte = ratioOf(sums, bytes);
    return {
      natsPerToken,
      perplexity: exponentialOf(natsPerToken),
      natsPerByte,
      bitsPerByte: scaled(natsPerByte, 1 / Math.LN2),
      windowNats,
      tokensPerSecond: (sums.length * inputLength) / seconds,
    };
  }
}
