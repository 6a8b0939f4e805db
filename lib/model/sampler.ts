/**
 * Choosing the next token.
 *
 * @module
 */
import { invalidArgument, NonFiniteError } from '../errors.js';
import { randomFractions } from '../random.js';
import * as validate from '../validate.js';

/** How the next token is chosen. */
export interface SamplingOptions {
  /**
   * What logits are divided by before probabilities are made of them. Default 0: always the most likely token; the options
   * below then have no effect.
   */
  temperature?: number;
  /** Only so many of the most likely tokens; default all. */
  topK?: number;
  /** Only the most likely tokens that together have this probability, a number in (0, 1]; default 1: all. */
  topP?: number;
  /** The same seed chooses the same tokens. Default: another one each time. */
  seed?: number;
}

function mostLikely(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if ((logits[i] as number) > (logits[best] as number)) best = i;
  return best;
}

/** Chooses tokens by their logits. */
export class Sampler {
  private readonly temperature: number;
  private readonly topK: number;
  private readonly topP: number;
  private readonly random: () => number;

  /** @throws {@link InvalidArgumentError} */
  constructor(
    { temperature = 0, topK, topP = 1, seed }: SamplingOptions,
    /** Tokens that are never chosen; there must be others. */
    private readonly excluded: readonly number[] = [],
  ) {
    if (typeof temperature !== 'number' || !(temperature >= 0) || temperature === Number.POSITIVE_INFINITY) {
      throw invalidArgument('temperature', 'a finite number of at least 0', temperature);
    }
    if (typeof topP !== 'number' || !(topP > 0 && topP <= 1)) {
      throw invalidArgument('topP', 'a number in (0, 1]', topP);
    }
    this.temperature = temperature;
    this.topK = topK === undefined ? Number.POSITIVE_INFINITY : validate.integer('topK', topK, 1);
    this.topP = topP;
    this.random = randomFractions(
      seed === undefined ? Math.floor(Math.random() * 2 ** 32) : validate.integer('seed', seed, 0, 2 ** 32 - 1),
    );
  }

  /**
   * @param logits - Those of excluded tokens are overwritten.
   * @throws {@link NonFiniteError} for logits that are not finite.
   */
  choose(logits: Float32Array): number {
    for (let i = 0; i < logits.length; i++) {
      const logit = logits[i] as number;
      if (Number.isFinite(logit)) continue;
      throw new NonFiniteError(
        `Logit ${i} is ${logit}: the numbers of the model leave the range of float32.`,
        i,
        logit,
      );
    }
    for (const token of this.excluded) logits[token] = Number.NEGATIVE_INFINITY;
    const best = mostLikely(logits);
    if (this.temperature === 0 || this.topK === 1) return best;
    const greatest = logits[best] as number;
    const power = (token: number) => Math.exp(((logits[token] as number) - greatest) / this.temperature);
    let tokens = Array.from(logits.keys());
    if (this.topK < tokens.length || this.topP < 1) {
      tokens.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
      tokens = tokens.slice(0, this.topK);
    }
    let powers = tokens.map(power);
    if (this.topP < 1) {
      const wanted = this.topP * powers.reduce((a, b) => a + b, 0);
      let sum = 0;
      const count = powers.findIndex((value) => {
        sum += value;
        return sum >= wanted;
      });
      if (count >= 0) powers = powers.slice(0, count + 1);
    }
    const point = this.random() * powers.reduce((a, b) => a + b, 0);
    let sum = 0;
    const chosen = powers.findIndex((value) => {
      sum += value;
      return point < sum;
    });
    return chosen < 0 ? best : (tokens[chosen] as number);
  }
}
