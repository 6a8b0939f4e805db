/**
 * What an evaluation finds.
 *
 * @module
 */
import type { EvaluatedActivations } from './activations.js';
import type { CheckpointSize } from './checkpoint-size.js';
import type { Estimate } from './estimate.js';

/** How well a text is predicted. */
export interface Quality {
  /** Mean of −ln p over the scored tokens, p the probability that the model gave to the token that came. */
  readonly natsPerToken: Estimate;
  /** `exp(natsPerToken)`. */
  readonly perplexity: Estimate;
  /** The same sum over the UTF-8 bytes of the scored text: comparable between models of different tokenizers. */
  readonly natsPerByte: Estimate;
  /** `natsPerByte / ln 2`. */
  readonly bitsPerByte: Estimate;
  /** natsPerToken of each window. */
  readonly windowNats: readonly number[];
  /** Tokens per second that the model was given. */
  readonly tokensPerSecond: number;
}

/** How far a model is from its original, on the same windows. */
export interface Distance {
  /** The path of the original. */
  readonly model: string;
  /** How well the original predicts the same windows. */
  readonly original: Quality;
  /** natsPerToken above the original's. Its standard error is that of differences between windows: much smaller than those of the two. */
  readonly natsChange: Estimate;
  /** Perplexity over the original's, minus 1: 0.02 is a loss of 2 %. */
  readonly perplexityChange: Estimate;
  /** Mean of the Kullback-Leibler divergence of the model's probabilities from the original's, in nats. */
  readonly klDivergence: Estimate;
  /** Of single positions: median and so on. */
  readonly klPercentiles: {
    readonly p50: number;
    readonly p90: number;
    readonly p95: number;
    readonly p99: number;
    readonly p99_9: number;
    readonly max: number;
  };
  /** Fraction of positions at which both give the same token the largest probability. */
  readonly topAgreement: Estimate;
  /** The largest difference of two logits. */
  readonly maxLogitDifference: number;
}

/** What {@link evaluateModel} found. */
export interface Evaluation extends Quality {
  /** The path of the model. */
  readonly model: string;
  /** Tokens of a window. */
  readonly windowLength: number;
  /** Windows that were evaluated, and those that the text has. */
  readonly windows: number;
  readonly totalWindows: number;
  /** Tokens that were scored, and the UTF-8 bytes of their text. */
  readonly tokens: number;
  readonly bytes: number;
  /** What linear layers made of their inputs. */
  readonly activations: EvaluatedActivations;
  /** What the checkpoint takes; null for a model that was given open. */
  readonly checkpoint: CheckpointSize | null;
  /** How far it is from the original; null where none was given. */
  readonly against: Distance | null;
  /** What the evaluation took, opening the models included. */
  readonly seconds: number;
}
