import { describe, expect, it } from 'vitest';
import { type GgufMetadata, type GgufValue, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { llama3Factors, llama3ScalingOf, ropeScalingOf, short } from '../../lib/checkpoint/gguf/rope-scaling.js';
import { type EncodedArray, float32, readJson } from '../support/vectors.js';

interface Case {
  name: string;
  theta: number;
  factor: number;
  low: number;
  high: number;
  original: number;
  factors: EncodedArray;
}

describe('llama3 scaling from its factors', () => {
  const cases = readJson<Case[]>('gguf-files', 'rope-freqs.json').map((one) => [one.name, one] as const);
  it.each(cases)(
    'computed in float32, as llama.cpp converts: %s',
    (_, { theta, factor, low, high, original, factors }) => {
      const given = float32(factors);
      // All but the factor may be multiplied by one number: the lowest is taken to be 1.
      const expected = { factor, low: 1, high: high / low, original: original / low };
      expect(llama3ScalingOf(given, theta)).toEqual(expected);
      // The scaling gives these factors again, to float32 rounding.
      const again = llama3Factors(expected, theta, given.length);
      for (const [i, value] of given.entries()) expect(Math.abs((again[i] as number) / value - 1)).toBeLessThan(1e-5);
    },
  );

  it.each([
    [8, 1, 4, 8192, 5e5, 64],
    [32, 1, 4, 8192, 5e5, 32],
    [2.5, 1, 3, 4096, 1e4, 64],
    [8, 1, 4, 32, 500, 8],
    [4, 1, 16, 2048, 1e6, 48],
  ])('computed in float64, to the bit: %j, %j, %j, %j', (factor, low, high, original, theta, count) => {
    const factors = llama3Factors({ factor, low, high, original }, theta, count);
    const found = llama3ScalingOf(factors, theta);
    expect(found).toEqual({ factor, low, high, original });
  });

  it('none in between, or all divided: limits that give the same', () => {
    // Wavelengths 2π and 628: 1 and 8; all 8.
    for (const factors of [Float32Array.of(1, 8), Float32Array.of(8, 8), Float32Array.of(1, 1, 8, 8)]) {
      const theta = 1e4;
      const found = llama3ScalingOf(factors, theta);
      expect(found).not.toBeNull();
      expect(llama3Factors(found as NonNullable<typeof found>, theta, factors.length)).toEqual(factors);
    }
  });

  it('factors that no scaling gives', () => {
    const factors = llama3Factors({ factor: 8, low: 1, high: 4, original: 8192 }, 5e5, 64);
    const changed = (i: number, by: number) => factors.map((value, at) => (at === i ? value * by : value));
    const between = factors.findIndex((value) => value !== 1);
    for (const wrong of [
      changed(between, 1.001),
      changed(between, Number.NaN),
      changed(0, 1.0000002),
      changed(62, 1.0000002),
      changed(63, -1),
      factors.toReversed(),
      Float32Array.from(factors, (_, i) => 1 + i),
      new Float32Array(0),
    ]) {
      expect(llama3ScalingOf(wrong, 5e5)).toBeNull();
    }
    expect(llama3ScalingOf(factors, 1e4)).toBeNull();
  });
});

describe('rope_scaling', () => {
  const { string, float32: f32, uint32 } = ggufValue;
  const read = (entries: Record<string, GgufValue>, factors: Float32Array | null = null) => {
    const metadata: GgufMetadata = new Map(Object.entries(entries).map(([key, value]) => [`llama.rope.${key}`, value]));
    return ropeScalingOf(metadata, 'llama', factors, 1e4);
  };

  it('every kind', () => {
    expect(read({})).toBeNull();
    expect(read({ 'scaling.type': string('none'), 'scaling.factor': f32(4) })).toBeNull();
    expect(read({ 'scaling.factor': f32(1) })).toBeNull();
    expect(read({}, Float32Array.of(1, 1))).toBeNull();
    // llama.cpp takes it to be linear where nothing else is said; the older key has no other name.
    expect(read({ 'scaling.factor': f32(2.5) })).toEqual({ rope_type: 'linear', factor: 2.5 });
    expect(read({ scale_linear: f32(2) })).toEqual({ rope_type: 'linear', factor: 2 });
    expect(read({ 'scaling.type': string('linear'), 'scaling.factor': f32(0.1) })).toEqual({
      rope_type: 'linear',
      factor: 0.1,
    });
    expect(
      read({
        'scaling.type': string('yarn'),
        'scaling.factor': f32(4),
        'scaling.original_context_length': uint32(32768),
        'scaling.yarn_beta_fast': f32(32),
        'scaling.yarn_beta_slow': f32(1.5),
        'scaling.attn_factor': f32(1),
      }),
    ).toEqual({
      rope_type: 'yarn',
      factor: 4,
      original_max_position_embeddings: 32768,
      beta_fast: 32,
      beta_slow: 1.5,
    });
    const small = { factor: 8, low: 1, high: 4, original: 32 };
    expect(read({}, llama3Factors(small, 1e4, 16))).toEqual({
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 32,
    });
  });

  it('what can not be told is named', () => {
    const yarn = { 'scaling.type': string('yarn'), 'scaling.factor': f32(4) };
    expect(read({ 'scaling.type': string('longrope') })).toEqual({ unknown: expect.stringContaining('longrope') });
    expect(read({ ...yarn, 'scaling.attn_factor': f32(2) })).toEqual({
      unknown: expect.stringContaining('attn_factor 2'),
    });
    expect(read({ ...yarn, 'scaling.yarn_log_multiplier': f32(0.1) })).toEqual({
      unknown: expect.stringContaining('yarn_log_multiplier'),
    });
    expect(read({}, Float32Array.of(1, 2, 3))).toEqual({ unknown: expect.stringContaining('no llama3 scaling') });
    expect(read(yarn, Float32Array.of(1, 8))).toEqual({ unknown: expect.stringContaining('as well') });
  });

  it('float32 numbers as people write them', () => {
    expect([1e-5, 0.1, 5e5, 1 / 3].map((value) => short(Math.fround(value)))).toEqual([1e-5, 0.1, 5e5, 0.33333334]);
  });
});
