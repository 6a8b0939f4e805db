import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type CheckpointError,
  castTensor,
  convertCheckpoint,
  type QuantizationSpec,
  quantizeCheckpoint,
  verifyCheckpoint,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { type RawTensor, readSafetensors, safetensors, temporaryFolder } from '../support/files.js';
import { checkpointFolder, floats, withWeights } from '../support/layouts.js';
import { gptqWords, gptqZeroWords, turned } from '../support/packed.js';
import { random } from '../support/random.js';
import { LINEAR, smallLlama } from '../support/small-llama.js';

const root = temporaryFolder();
let count = 0;
const fresh = (format = '') => join(root, `out-${count++}${format === 'gguf' ? '.gguf' : ''}`);
const FLOAT = smallLlama(join(root, 'float'));
const NAMES = Object.keys(LINEAR).map((layer) => `model.layers.0.${layer}.weight`);

const TARGETS = ['compressed-tensors', 'gptq', 'gptq_v2', 'awq', 'bitsandbytes', 'fp8', 'gguf'] as const;

/** LLM.int8(): codes, and the largest magnitude of every row. */
function llmInt8(): string {
  const next = random(3);
  const tensors: Record<string, RawTensor> = {};
  for (const [layer, [rows, columns]] of Object.entries(LINEAR)) {
    const data = Int8Array.from({ length: rows * columns }, () => Math.floor(255 * next()) - 127);
    const absmax = Float32Array.from({ length: rows }, () => next() + 0.5);
    tensors[`model.layers.0.${layer}.weight`] = { dtype: 'I8', shape: [rows, columns], data };
    tensors[`model.layers.0.${layer}.SCB`] = { dtype: 'F32', shape: [rows], data: absmax };
  }
  return smallLlama(fresh(), tensors, { quant_method: 'bitsandbytes', load_in_8bit: true });
}

/**
 * What becomes of each format in each of {@link TARGETS}: the dtype that holds its values exactly, or why nothing does. The
 * layers have 128 and 192 inputs.
 */
const MATRIX: [string, QuantizationSpec | null, string[]][] = [
  // compressed-tensors, GPTQ 1, GPTQ 2, AWQ, bitsandbytes, FP8, GGUF
  ['ct int4', { groupSize: 64 }, ['int4', 'uint4', 'uint4', 'uint4', '!no nf4', '!no float8', 'q4_0']],
  [
    'ct int4 asymmetric',
    { groupSize: 64, scheme: 'asymmetric' },
    ['int4', 'uint4', 'uint4', 'uint4', '!no nf4', '!no float8', 'q5_0'],
  ],
  ['ct int3', { dtype: 'int3', groupSize: 64 }, ['int3', 'uint3', 'uint3', 'uint4', '!no nf4', '!no float8', 'q4_0']],
  [
    'ct int8, W8A8',
    { dtype: 'int8', activations: 'int8' },
    ['int8', 'uint8', 'uint8', '!more codes', '!rule of its own', '!no float8', 'q8_0'],
  ],
  [
    'ct int4 in bytes',
    { layout: 'naive-quantized', dtype: 'int4', groupSize: 64 },
    ['int4', 'uint4', 'uint4', 'uint4', '!no nf4', '!no float8', 'q4_0'],
  ],
  [
    'ct float8, blocks',
    { dtype: 'float8_e4m3fn', granularity: 'per-block' },
    ['float8_e4m3fn', '!no int4', '!no int4', '!no int4', '!no nf4', 'float8_e4m3fn', '!no block type'],
  ],
  ['ct nvfp4', { dtype: 'nvfp4' }, ['nvfp4', '!no int4', '!no int4', '!no int4', '!no nf4', '!no float8', '!no block']],
  ['ct mxfp4', { dtype: 'mxfp4' }, ['mxfp4', '!no int4', '!no int4', '!no int4', '!no nf4', '!no float8', 'mxfp4']],
  [
    'ct mxfp8',
    { dtype: 'mxfp8_e4m3' },
    ['mxfp8_e4m3', '!no int4', '!no int4', '!no int4', '!no nf4', '!no float8', '!no block'],
  ],
  [
    'gptq, a shorter last group',
    { format: 'gptq', groupSize: 96 },
    ['!size of 64 or 32', 'uint4', 'uint4', '!size of 64 or 32', '!no nf4', '!no float8', 'q4_0'],
  ],
  [
    'gptq int8, channels',
    { format: 'gptq', dtype: 'int8', groupSize: null },
    ['int8', 'uint8', 'uint8', '!more codes', '!rule of its own', '!no float8', 'q8_0'],
  ],
  [
    'gptq_v2 int2 asymmetric',
    { format: 'gptq_v2', dtype: 'int2', groupSize: 32, scheme: 'asymmetric' },
    ['int2', 'uint2', 'uint2', 'uint4', '!no nf4', '!no float8', 'q4_0'],
  ],
  ['awq', { format: 'awq', groupSize: 64 }, ['int4', 'uint4', 'uint4', 'uint4', '!no nf4', '!no float8', 'q5_0']],
  [
    'bnb nf4',
    { format: 'bitsandbytes' },
    ['!no int4', '!no int4', '!no int4', '!no int4', 'nf4', '!no float8', '!no block'],
  ],
  [
    'bnb fp4 nested, blocks across rows',
    { format: 'bitsandbytes', dtype: 'fp4', groupSize: 512, nested: true },
    ['!no int4', '!no int4', '!no int4', '!no int4', 'fp4', '!no float8', '!no block'],
  ],
  [
    'bnb int8',
    null,
    ['!come apart', '!come apart', '!come apart', '!come apart', '!rule of its own', '!come apart', '!no block'],
  ],
  [
    'fp8 blocks',
    { format: 'fp8' },
    ['float8_e4m3fn', '!no int4', '!no int4', '!no int4', '!no nf4', 'float8_e4m3fn', '!no block'],
  ],
  [
    'fp8 tensors',
    { format: 'fp8', granularity: 'per-tensor' },
    ['float8_e4m3fn', '!no int4', '!no int4', '!no int4', '!no nf4', 'float8_e4m3fn', '!no block'],
  ],
  [
    'gguf q4_0',
    { format: 'gguf', dtype: 'q4_0' },
    ['int4', 'uint4', 'uint4', 'uint4', '!no nf4', '!no float8', 'q4_0'],
  ],
  [
    'gguf q8_0',
    { format: 'gguf', dtype: 'q8_0' },
    ['int8', 'uint8', 'uint8', '!more codes', '!rule of its own', '!no float8', 'q8_0'],
  ],
  [
    'gguf q5_0',
    { format: 'gguf', dtype: 'q5_0' },
    ['int8', 'uint8', 'uint8', '!more codes', '!rule of its own', '!no float8', 'q5_0'],
  ],
  ['gguf q4_1', { format: 'gguf', dtype: 'q4_1' }, ['!q4_1', '!q4_1', '!q4_1', '!q4_1', '!q4_1', '!q4_1', '!no block']],
];

describe('every format into every other', () => {
  it.each(MATRIX)('%s', async (_, spec, outcomes) => {
    const source = spec === null ? llmInt8() : fresh(spec.format);
    if (spec !== null) await quantizeCheckpoint(FLOAT, { ...spec, output: source });
    for (const [i, to] of TARGETS.entries()) {
      const expected = outcomes[i] as string;
      const output = fresh(to);
      if (expected.startsWith('!')) {
        const error = (await convertCheckpoint(source, { to, output }).catch((e: unknown) => e)) as CheckpointError;
        expect(error.code, to).toBe('UNSUPPORTED_PLAN');
        expect(error.message, to).toContain(expected.slice(1));
        expect(error.message, to).toContain('requantize');
        const refused = NAMES.filter((name) => error.message.includes(name));
        const shorter = expected.includes('size of') ? ['model.layers.0.mlp.down_proj.weight'] : [];
        expect([...refused, ...shorter].sort(), to).toEqual([...NAMES].sort());
        continue;
      }
      const report = await convertCheckpoint(source, { to, output });
      const kinds = report.tensors.filter(({ name }) => NAMES.includes(name)).map(({ kind, to }) => `${kind} ${to}`);
      expect(kinds, to).toEqual(NAMES.map(() => `repacked ${expected}`));
      const { worst, missing, extra, reshaped } = await verifyCheckpoint(source, output);
      expect([worst, missing, extra, reshaped], to).toEqual([null, [], [], []]);
    }
    const output = fresh();
    await convertCheckpoint(source, { to: 'float', floatDtype: 'float32', output });
    expect((await verifyCheckpoint(source, output)).worst).toBeNull();
  });

  it('embeddings and the output head of GGUF become floats with the same values', async () => {
    const [gguf, gptq] = [fresh('gguf'), fresh()];
    await quantizeCheckpoint(FLOAT, { format: 'gguf', dtype: 'q4_0', output: gguf });
    const { tensors } = await convertCheckpoint(gguf, { to: 'gptq', output: gptq });
    const kindOf = (name: string) => tensors.find((tensor) => tensor.name === name)?.kind;
    expect([kindOf('model.embed_tokens.weight'), kindOf('lm_head.weight')]).toEqual(['cast', 'cast']);
    expect((await verifyCheckpoint(gguf, gptq)).worst).toBeNull();
  });
});

it("a quantized output head is named in GPTQ's config", async () => {
  const data = new Uint16Array(256 * 128).map((_, i) => 0x2c00 + (i % 512));
  const source = smallLlama(fresh(), { 'lm_head.weight': { dtype: 'F16', shape: [256, 128], data } });
  const [first, second] = [fresh(), fresh()];
  await quantizeCheckpoint(source, { format: 'gptq', include: /lm_head/, groupSize: 32, output: first });
  await convertCheckpoint(first, { to: 'gptq_v2', output: second });
  for (const path of [first, second]) expect(quantizationOf(path)).toMatchObject({ lm_head: true });
  expect((await verifyCheckpoint(first, second)).worst).toBeNull();
});

const LAYER = 'model.layers.0.mlp.up_proj';

const mixed = fc.record({
  seed: fc.integer(),
  bits: fc.constantFrom(2 as const, 3 as const, 4 as const, 8 as const),
  rows: fc.constantFrom(32, 64),
  groupSize: fc.constantFrom(32, 64),
  groups: fc.integer({ min: 2, max: 4 }),
  symmetric: fc.boolean(),
  version: fc.constantFrom(1 as const, 2 as const),
  /** Whether the last group, which has the last inputs, is shorter. */
  short: fc.boolean(),
});

/** GPTQ tensors whose inputs belong to groups in no order, and the values that they stand for. */
function actOrderLayer(w: typeof mixed extends fc.Arbitrary<infer T> ? T : never, name = LAYER, lowestZero = 1) {
  const { bits, rows, groupSize, groups, version } = w;
  const next = random(w.seed);
  const below = (n: number) => Math.floor(n * next());
  const columns = groupSize * groups - (w.short && groupSize === 64 ? 32 : 0);
  const places = Int32Array.from({ length: columns }, (_, i) => i);
  for (let i = columns - 1; i > 0; i--) {
    const j = below(i + 1);
    [places[i], places[j]] = [places[j] as number, places[i] as number];
  }
  const index = places.map((place) => Math.floor(place / groupSize));
  const codes = Array.from({ length: rows * columns }, () => below(2 ** bits));
  const zeros = Int32Array.from({ length: rows * groups }, () =>
    w.symmetric ? 2 ** (bits - 1) : lowestZero + below(2 ** bits - lowestZero),
  );
  const halves = castTensor(
    Float32Array.from({ length: rows * groups }, () => (next() + 0.01) / 16),
    { from: 'float32', to: 'float16' },
  ) as Uint16Array;
  const scales = castTensor(halves, { from: 'float16', to: 'float32' }) as Float32Array;
  const values = Float32Array.from(codes, (code, i) => {
    const at = Math.floor(i / columns) * groups + (index[i % columns] as number);
    return (scales[at] as number) * (code - (zeros[at] as number));
  });
  const stored = zeros.map((zero) => zero - (version === 1 ? 1 : 0));
  const tensors: Record<string, RawTensor> = {
    [`${name}.qweight`]: {
      dtype: 'I32',
      shape: [(columns * bits) / 32, rows],
      data: gptqWords(codes, rows, columns, bits),
    },
    [`${name}.qzeros`]: {
      dtype: 'I32',
      shape: [groups, (rows * bits) / 32],
      data: gptqZeroWords(stored, rows, groups, bits),
    },
    [`${name}.scales`]: { dtype: 'F16', shape: [groups, rows], data: turned(halves, rows, groups) },
    [`${name}.g_idx`]: { dtype: 'I32', shape: [columns], data: index },
  };
  const config = {
    quant_method: 'gptq',
    bits,
    group_size: groupSize,
    desc_act: true,
    sym: w.symmetric,
    checkpoint_format: version === 1 ? 'gptq' : 'gptq_v2',
  };
  return { tensors, values, columns, index, config };
}

const tensorsOf = (path: string) => readSafetensors(readFileSync(join(path, 'model.safetensors'))).tensors;
const quantizationOf = (path: string) =>
  JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')).quantization_config as Record<string, unknown>;

async function valuesOf(path: string, strip: number): Promise<Float32Array> {
  return withWeights(path, async (weights) => {
    const weight = weights.get(`${LAYER}.weight`);
    if (weight === undefined) throw new Error('no weight');
    return floats(weight, strip);
  });
}

describe("GPTQ's act-order", () => {
  it('survives between versions of GPTQ and in compressed-tensors, with the very values', async () => {
    await fc.assert(
      fc.asyncProperty(mixed, async (w) => {
        const { tensors, values, columns, index, config } = actOrderLayer(w);
        const source = checkpointFolder(root, tensors, { torch_dtype: 'float16', quantization_config: config });
        const back = w.version === 1 ? 'gptq' : 'gptq_v2';
        const ways = [
          [back === 'gptq' ? 'gptq_v2' : 'gptq', back],
          ['compressed-tensors', back],
        ] as const;
        for (const [there, again] of ways) {
          const [first, second] = [fresh(), fresh()];
          const work = convertCheckpoint(source, { to: there, output: first });
          if (there === 'compressed-tensors' && columns % w.groupSize !== 0) {
            await expect(work).rejects.toMatchObject({ code: 'UNSUPPORTED_PLAN' });
            continue;
          }
          expect((await work).tensors[0]?.kind).toBe('repacked');
          expect(sameBytes(await valuesOf(first, 32), values)).toBe(true);
          const isGptq = there !== 'compressed-tensors';
          const stored = tensorsOf(first).get(`${LAYER}.${isGptq ? 'g_idx' : 'weight_g_idx'}`);
          expect(sameBytes(stored?.bytes as Uint8Array, index)).toBe(true);
          if (isGptq) expect(quantizationOf(first)).toMatchObject({ desc_act: true, group_size: w.groupSize });
          else {
            expect(quantizationOf(first)).toMatchObject({
              config_groups: {
                group_0: { weights: { actorder: 'group', strategy: 'group', group_size: w.groupSize } },
              },
            });
          }
          await convertCheckpoint(first, { to: again, output: second });
          for (const [name, { data }] of Object.entries(tensors)) {
            expect(sameBytes(tensorsOf(second).get(name)?.bytes as Uint8Array, data), name).toBe(true);
          }
        }
      }),
      { numRuns: 8 },
    );
  });

  const all = (lowestZero = 1, version: 1 | 2 = 1) => {
    const tensors: Record<string, RawTensor> = {};
    let config: object = {};
    for (const [i, [layer, [rows, columns]]] of Object.entries(LINEAR).entries()) {
      const w = {
        seed: i,
        bits: 4,
        rows,
        groupSize: 64,
        groups: columns / 64,
        symmetric: false,
        version,
        short: false,
      };
      const made = actOrderLayer(w as never, `model.layers.0.${layer}`, lowestZero);
      Object.assign(tensors, made.tensors);
      config = made.config;
    }
    return smallLlama(fresh(), tensors, config);
  };

  it('is refused by formats without room for it, unless they may quantize again', async () => {
    const source = all();
    for (const [to, reason] of [
      ['awq', 'its groups are those of act-order (g_idx), for which awq has no room'],
      ['gguf', 'its groups are those of act-order (g_idx), for which GGUF has no room'],
      ['bitsandbytes', 'int4 is no nf4'],
    ] as const) {
      const error = (await convertCheckpoint(source, { to, output: fresh(to) }).catch((e: unknown) => e)) as Error;
      expect(error.message).toContain(reason);
      for (const name of NAMES) expect(error.message).toContain(name);
    }
    const output = fresh();
    const { tensors } = await convertCheckpoint(source, { to: 'awq', requantize: true, output });
    expect(tensors.map(({ kind }) => kind)).toEqual(NAMES.map(() => 'quantized'));
    const { worst } = await verifyCheckpoint(source, output);
    expect(worst?.sqnrDb).toBeGreaterThan(15);
  });

  it('of one layer makes all of a checkpoint say so, whose other layers are in order', async () => {
    const source = fresh();
    await quantizeCheckpoint(FLOAT, { format: 'gptq', groupSize: 64, output: source });
    const { tensors } = readSafetensors(readFileSync(join(source, 'model.safetensors')));
    const w = { seed: 1, bits: 4, rows: 192, groupSize: 64, groups: 2, symmetric: true, version: 1, short: false };
    const raw = Object.fromEntries(
      [...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data: bytes }]),
    );
    writeFileSync(join(source, 'model.safetensors'), safetensors({ ...raw, ...actOrderLayer(w as never).tensors }));
    const output = fresh();
    await convertCheckpoint(source, { to: 'compressed-tensors', output });
    expect((await verifyCheckpoint(source, output)).worst).toBeNull();
    expect(Object.keys(quantizationOf(output)['config_groups'] as object)).toEqual(['group_0']);
    const written = tensorsOf(output);
    expect(NAMES.every((name) => written.has(name.replace(/weight$/, 'weight_g_idx')))).toBe(true);
  });

  it('with a zero point of 0 has no version 1', async () => {
    const source = all(0, 2);
    const error = (await convertCheckpoint(source, { to: 'gptq', output: fresh() }).catch((e: unknown) => e)) as Error;
    expect(error.message).toContain('zero point of 0, for which version 1 of GPTQ has no room (gptq_v2 has)');
    for (const name of NAMES) expect(error.message).toContain(name);
    const output = fresh();
    await convertCheckpoint(source, { to: 'gptq_v2', output });
    expect((await verifyCheckpoint(source, output)).worst).toBeNull();
  });
});
