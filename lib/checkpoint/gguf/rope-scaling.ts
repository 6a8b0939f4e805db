/**
 * Which scaling of the rotary embedding a GGUF file has, as config.json spells it.
 *
 * Sources: llama.cpp, `conversion/llama.py` (how `rope_freqs.weight` is made, in float32) and `src/llama-model.cpp` (what
 * absent keys mean); Hugging Face transformers, `modeling_rope_utils.py`.
 *
 * @module
 */
import type { Json } from '../checkpoint.js';
import type { GgufMetadata } from './metadata.js';

/** float32 numbers as people write them: 1e-5 rather than 0.000009999999747378752. */
export function short(value: number): number {
  for (let digits = 1; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === Math.fround(value)) return candidate;
  }
  return value;
}

/** The four numbers of llama3 scaling. */
export interface Llama3Scaling {
  readonly factor: number;
  readonly low: number;
  readonly high: number;
  /** Tokens of the texts that the model was trained with before its frequencies were scaled. */
  readonly original: number;
}

/**
 * What each rotary frequency is divided by under llama3 scaling: 1 for short wavelengths, `factor` for long ones, and in
 * between by degrees.
 *
 * @param count - Half the head dimension.
 */
export function llama3Factors(
  { factor, low, high, original }: Llama3Scaling,
  theta: number,
  count: number,
): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    const wavelength = wavelengthOf(i, theta, count);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

const wavelengthOf = (i: number, theta: number, count: number) => 2 * Math.PI * theta ** (i / count);

/**
 * Whether factors are those of a scaling: to the bit where they are 1 or the factor itself, and in between as exactly as
 * float32 arithmetic computes them, four roundings in every step.
 */
function isScaledBy(factors: Float32Array, scaling: Llama3Scaling, theta: number): boolean {
  const { factor, low, high, original } = scaling;
  if (!(Number.isInteger(original) && original > 0 && low > 0 && high > low)) return false;
  const rounding = 4 * 2 ** -23;
  return llama3Factors(scaling, theta, factors.length).every((expected, i) => {
    const got = factors[i] as number;
    if (got === expected) return true;
    if (expected === 1 || expected === Math.fround(factor)) return false;
    const ratio = original / wavelengthOf(i, theta, factors.length) / (high - low);
    return Math.abs(got - expected) <= expected * rounding * (1 + expected * ratio);
  });
}

/** What published models have. */
const PUBLISHED = { low: 1, high: 4, original: 8192 } as const;

/** Numbers near `value`, those that take the fewest digits first. */
function near(value: number): number[] {
  return [1, 2, 3, 4, 5, 6, 7, 8, 9].map((digits) => Number(value.toPrecision(digits)));
}

/**
 * The llama3 scaling that factors come from, or null if they come from none.
 *
 * Factors stay the same where all but `factor` are multiplied by one number, so that `low` is taken to be 1, as in every
 * published model.
 *
 * @param factors - `rope_freqs.weight`, [headDim / 2].
 */
export function llama3ScalingOf(factors: Float32Array, theta: number): Llama3Scaling | null {
  const count = factors.length;
  const last = factors[count - 1];
  if (last === undefined || !factors.every((value) => Number.isFinite(value) && value > 0)) return null;
  const factor = short(last);
  const accept = (rest: Omit<Llama3Scaling, 'factor'>): Llama3Scaling | null =>
    isScaledBy(factors, { factor, ...rest }, theta) ? { factor, ...rest } : null;
  const published = accept(PUBLISHED);
  if (published !== null) return published;
  // In between, how much of a frequency is kept grows with it, on a line: slope · frequency − offset.
  const points: { x: number; y: number }[] = [];
  for (const [i, value] of factors.entries()) {
    if (value === 1 || value === Math.fround(factor)) continue;
    points.push({ x: 1 / wavelengthOf(i, theta, count), y: (1 / value - 1 / factor) / (1 - 1 / factor) });
  }
  const [first, end] = [points[0], points.at(-1)];
  if (first === undefined || end === undefined) {
    // None in between: the limits lie anywhere between the last that is kept and the first that is divided.
    const kept = factors.lastIndexOf(1);
    const from = kept < 0 ? 1 : Math.ceil(4 * wavelengthOf(kept, theta, count) + 1);
    return (
      accept({ low: 1, high: 4, original: from }) ?? accept({ low: 1, high: 1.0001, original: Math.ceil(from / 4) })
    );
  }
  if (first === end) {
    for (const original of near((3 * first.y + 1) / first.x)) {
      const found = accept({ low: 1, high: 4, original });
      if (found !== null) return found;
    }
    return null;
  }
  const slope = (first.y - end.y) / (first.x - end.x);
  const offset = slope * first.x - first.y;
  if (!(offset > 0)) return null;
  for (const original of near(slope / offset)) {
    for (const high of near(1 / offset + 1)) {
      const found = accept({ low: 1, high, original });
      if (found !== null) return found;
    }
  }
  return null;
}

/** `rope_scaling` of config.json; null for none, or what can't be told. */
export function ropeScalingOf(
  metadata: GgufMetadata,
  prefix: string,
  factors: Float32Array | null,
  theta: number,
): Json | null | { unknown: string } {
  const value = (key: string) => metadata.get(`${prefix}.rope.${key}`)?.value;
  const number = (key: string) => {
    const given = value(key);
    return typeof given === 'number' ? short(given) : undefined;
  };
  const factor = number('scaling.factor') ?? number('scale_linear') ?? 0;
  const type = value('scaling.type') ?? (factor === 0 || factor === 1 ? 'none' : 'linear');
  if (factors?.some((one) => one !== 1)) {
    const found = llama3ScalingOf(factors, theta);
    if (found === null) return { unknown: 'its rotary frequencies have factors that no llama3 scaling gives' };
    if (type !== 'none')
      return { unknown: `its rotary frequencies have factors, and are scaled (${String(type)}) as well` };
    return {
      rope_type: 'llama3',
      factor: found.factor,
      low_freq_factor: found.low,
      high_freq_factor: found.high,
      original_max_position_embeddings: found.original,
    };
  }
  if (type === 'none') return null;
  if (type === 'linear') return { rope_type: 'linear', factor };
  if (type !== 'yarn') return { unknown: `its rotary embedding is scaled by ${JSON.stringify(type)}` };
  const usual: Readonly<Record<string, readonly number[]>> = {
    'scaling.attn_factor': [1],
    'scaling.yarn_attn_factor': [1],
    'scaling.yarn_ext_factor': [1, -1],
    'scaling.yarn_log_multiplier': [0],
  };
  for (const [key, values] of Object.entries(usual)) {
    const given = number(key);
    if (given !== undefined && !values.includes(given)) {
      return { unknown: `its YaRN scaling has ${key.slice('scaling.'.length)} ${given}` };
    }
  }
  const original = number('scaling.original_context_length');
  const [fast, slow] = [number('scaling.yarn_beta_fast'), number('scaling.yarn_beta_slow')];
  return {
    rope_type: 'yarn',
    factor: factor === 0 ? 1 : factor,
    ...(original === undefined ? {} : { original_max_position_embeddings: original }),
    ...(fast === undefined ? {} : { beta_fast: fast }),
    ...(slow === undefined ? {} : { beta_slow: slow }),
  };
}
