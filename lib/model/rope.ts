/**
 * Rotary position embedding: the angles by which queries and keys are turned.
 *
 * Sources: Su et al., "RoFormer" (arXiv:2104.09864); Peng et al., "YaRN" (arXiv:2309.00071); Hugging Face transformers,
 * `modeling_rope_utils.py`.
 *
 * @module
 */

/** How the frequencies are changed for texts longer than those of the training. */
export type RopeScaling =
  | { readonly type: 'none' }
  /** All positions are divided by `factor`. */
  | { readonly type: 'linear'; readonly factor: number }
  /** The base grows with the length past `originalPositions`. */
  | { readonly type: 'dynamic'; readonly factor: number; readonly originalPositions: number }
  /** Long wavelengths are divided by `factor`, short ones kept, those between by degrees. */
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalPositions: number;
    }
  /** The same, by how often a wave turns over the original positions; and the attention is made sharper. */
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalPositions: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Whether the bounds between kept and divided frequencies are whole numbers. */
      readonly truncate: boolean;
      /** Queries and keys are multiplied by it. */
      readonly attentionFactor: number;
    }
  /** Each frequency is divided by a factor of its own, as GGUF files store them (`rope_freqs.weight`). */
  | { readonly type: 'factors'; readonly factors: Float32Array };

interface Rope {
  readonly headDim: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
}

/** θ^(−2i/d) for i < d/2. */
function plainFrequencies(theta: number, dim: number): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
}

/**
 * Radians per position of each pair of elements.
 *
 * @param length - Positions of the whole sequence, on which dynamic scaling depends.
 */
function frequenciesOf({ headDim, ropeTheta, ropeScaling: scaling }: Rope, length: number): Float64Array {
  const plain = plainFrequencies(ropeTheta, headDim);
  switch (scaling.type) {
    case 'none':
      return plain;
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor);
    case 'dynamic': {
      const ratio = Math.max(length, scaling.originalPositions) / scaling.originalPositions;
      const grown = scaling.factor * ratio - (scaling.factor - 1);
      return plainFrequencies(ropeTheta * grown ** (headDim / (headDim - 2)), headDim);
    }
    case 'llama3': {
      const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalPositions } = scaling;
      return plain.map((frequency) => {
        const turns = (originalPositions * frequency) / (2 * Math.PI);
        if (turns > high) return frequency;
        if (turns < low) return frequency / factor;
        const kept = (turns - low) / (high - low);
        return frequency * ((1 - kept) / factor + kept);
      });
    }
    case 'yarn': {
      // The pair whose wave turns so many times over the original positions.
      const pairOf = (turns: number) =>
        (headDim * Math.log(scaling.originalPositions / (turns * 2 * Math.PI))) / (2 * Math.log(ropeTheta));
      let [first, last] = [pairOf(scaling.betaFast), pairOf(scaling.betaSlow)];
      if (scaling.truncate) [first, last] = [Math.floor(first), Math.ceil(last)];
      [first, last] = [Math.max(first, 0), Math.min(last, headDim - 1)];
      if (first === last) last += 0.001;
      return plain.map((frequency, i) => {
        const divided = Math.min(Math.max((i - first) / (last - first), 0), 1);
        return (frequency / scaling.factor) * divided + frequency * (1 - divided);
      });
    }
    case 'factors':
      return plain.map((frequency, i) => frequency / (scaling.factors[i] as number));
  }
}

/**
 * Cosines and sines of some positions: `[count, headDim]`, in each row headDim / 2 cosines, then as many sines.
 *
 * @param length - Positions of the whole sequence.
 */
function rotaryRows(rope: Rope, first: number, count: number, length: number): Float32Array {
  const { headDim, ropeScaling } = rope;
  const factor = ropeScaling.type === 'yarn' ? ropeScaling.attentionFactor : 1;
  const frequencies = frequenciesOf(rope, length);
  const half = headDim / 2;
  const rows = new Float32Array(count * headDim);
  for (let row = 0; row < count; row++) {
    for (let i = 0; i < half; i++) {
      const angle = (first + row) * (frequencies[i] as number);
      rows[row * headDim + i] = Math.cos(angle) * factor;
      rows[row * headDim + half + i] = Math.sin(angle) * factor;
    }
  }
  return rows;
}

/** The angles of a model, in a table that grows as sequences do. */
export class RotaryTables {
  private table: Float32Array = new Float32Array(0);
  private length = 0;

  constructor(private readonly rope: Rope) {}

  /**
   * Rows for `count` tokens that come to `past` others.
   *
   * @param length - Positions of the whole sequence, on which dynamic scaling depends; default past + count.
   */
  rows(past: number, count: number, length: number = past + count): Float32Array {
    const { ropeScaling: scaling, headDim } = this.rope;
    if (scaling.type === 'dynamic' && length > scaling.originalPositions) {
      return rotaryRows(this.rope, past, count, length);
    }
    if (this.length < past + count) {
      // By doubling, so that token after token costs little.
      this.length = Math.max(past + count, 2 * this.length, 64);
      this.table = rotaryRows(this.rope, 0, this.length, 1);
    }
    return this.table.subarray(past * headDim, (past + count) * headDim);
  }
}
