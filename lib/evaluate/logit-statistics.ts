/**
 * What logits say about a text, and how far they are from those of another model.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { NonFiniteError } from '../errors.js';

/** Statistics of some positions, one after the other. */
export interface LogitStatistics {
  /** Nats of the token that follows: `log Σ exp(logits) − logits[target]`, in float64. */
  readonly nats: Float64Array;
  /** The same of the reference; zeros without one, as what follows. */
  readonly referenceNats: Float64Array;
  /** `Σ p · log(p / q)`, p the probabilities of the reference, q those of the model. */
  readonly klDivergence: Float64Array;
  /** `max |reference − logits|`. */
  readonly maxDifference: Float64Array;
  /** The token with the largest logit, the first of equal ones. */
  readonly top: Int32Array;
  readonly referenceTop: Int32Array;
}

/** The number of members of LogitStatistics in native/ops/logits/logits.h. */
const MEMBERS = 4;

/** Which of two arrays of logits has the element that is not finite, and where. */
export class NonFiniteLogits extends NonFiniteError {
  constructor(
    readonly ofReference: boolean,
    /** The position, counted from the first row. */
    readonly row: number,
    index: number,
    value: number,
  ) {
    super(`Expected finite logits but received ${value} at position ${row}.`, index, value);
  }
}

function explained(error: unknown, logits: Float32Array, reference: Float32Array | null, vocabulary: number): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, 'logits');
  const ofReference = Number.isFinite(logits[index]);
  const value = (ofReference ? reference : logits)?.[index] ?? Number.NaN;
  return new NonFiniteLogits(ofReference, Math.floor(index / vocabulary), index, value);
}

/**
 * Statistics of `targets.length` positions, off the event loop, which must leave the arrays alone until then.
 *
 * @param logits - `[positions, vocabulary]`.
 * @param reference - Those of another model, or null.
 * @param targets - The token that follows each position.
 * @throws {@link NonFiniteLogits}; the signal's reason when it aborts.
 */
export async function logitStatistics(
  logits: Float32Array,
  reference: Float32Array | null,
  targets: Int32Array,
  vocabulary: number,
  signal: AbortSignal | undefined,
): Promise<LogitStatistics> {
  const count = targets.length;
  const raw = new Float64Array(MEMBERS * count);
  const largest = new Int32Array(2 * count);
  await runJob(
    (done) => addon.logitStatisticsAsync(logits, reference, targets, vocabulary, raw, largest, done),
    signal,
    (error) => explained(error, logits, reference, vocabulary),
  );
  const member = (i: number) => Float64Array.from({ length: count }, (_, row) => raw[MEMBERS * row + i] as number);
  const tops = (i: number) => Int32Array.from({ length: count }, (_, row) => largest[2 * row + i] as number);
  return {
    nats: member(0),
    referenceNats: member(1),
    klDivergence: member(2),
    maxDifference: member(3),
    top: tops(0),
    referenceTop: tops(1),
  };
}
