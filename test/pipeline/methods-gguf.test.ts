/** Methods into GGUF: the same values as in other formats, blocks of scaled weights, and what is refused. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  collectStatistics,
  convertCheckpoint,
  cutIntoWindows,
  evaluateModel,
  type ImportanceMatrix,
  importanceMatrixOf,
  inspectCheckpoint,
  openModel,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
  StatisticsFile,
  setNumThreads,
  verifyCheckpoint,
} from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { bundledImportance } from '../support/imatrix.js';
import { BUNDLED, bundledLayers } from '../support/models.js';

const root = temporaryFolder();
const MODEL = bundledLayers(join(root, 'model'), 2);
const TEXTS = join(BUNDLED, '..', 'text');
const text = readFileSync(join(TEXTS, 'sampled-eval.txt'), 'utf8');
const calibration = { text: [join(TEXTS, 'sampled-calib.txt')], windows: 4, windowLength: 128 };
let count = 0;
const freshFile = () => join(root, `model-${count++}.gguf`);
type Options = Omit<QuantizeCheckpointOptions, 'output'>;

async function made(options: Options, input = MODEL): Promise<string> {
  const output = options.format === 'gguf' ? freshFile() : join(root, `folder-${count++}`);
  await quantizeCheckpoint(input, { ...options, output });
  return output;
}

const hashOf = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');
const window = { text, windowLength: 256, maxWindows: 3 };
/** Where it matters that AWQ scales, but not how well. */
const quick = { grid: 3, clip: false };

describe('integers in GGUF', () => {
  // Scales in other formats have the type of the model, those of blocks are float16.
  const half = join(root, 'half');
  beforeAll(async () => {
    await convertCheckpoint(MODEL, { to: 'float', floatDtype: 'float16', output: half });
  });
  const isEmbedding = /embed_tokens|lm_head/;

  it.each<['q4_0' | 'q8_0', Options]>([
    ['q4_0', { method: 'gptq', dtype: 'int4' }],
    ['q8_0', { method: 'gptq', dtype: 'int8' }],
    ['q4_0', { method: 'awq-gptq', dtype: 'int4', awq: quick }],
    ['q4_0', { method: 'gptq', dtype: 'int4', gptq: { descAct: false, convention: 'gptq' } }],
  ])(
    '%s has the very values of compressed-tensors: %o',
    async (type, options) => {
      const common = { ...options, calibration };
      const folder = await made({ ...common, groupSize: 32 }, half);
      const file = await made({ ...common, format: 'gguf', dtype: type, exclude: isEmbedding }, half);
      const { tensors, missing, extra } = await verifyCheckpoint(folder, file);
      expect([missing, extra]).toEqual([[], []]);
      const isNorm = ({ name }: { name: string }) => name.endsWith('norm.weight');
      // Norms into which scales were folded are float32 in GGUF, and have the model's type elsewhere.
      const others = tensors.filter((tensor) => options.method === 'gptq' || !isNorm(tensor));
      expect(others.length).toBeGreaterThanOrEqual(16);
      expect(others.filter(({ identical }) => !identical)).toEqual([]);
      const { weights } = await inspectCheckpoint(file);
      expect(weights.filter(({ dtype }) => dtype === type).length).toBe(14);
      if (options.method !== 'gptq') return;
      const [a, b] = [await evaluateModel(folder, window), await evaluateModel(file, window)];
      expect(Math.abs(Math.log(a.perplexity.value / b.perplexity.value))).toBeLessThan(1e-5);
    },
    120_000,
  );

  it('q5_0 has 31 codes to a group of 32, and is nearer to the model than rounding', async () => {
    const options = { format: 'gguf', dtype: 'q5_0', exclude: isEmbedding } as const;
    const more = { ...calibration, windows: 16, windowLength: 256 };
    const [rounded, file] = [await made(options), await made({ ...options, method: 'gptq', calibration: more })];
    const scratch = { ...window, against: MODEL };
    const [a, b] = [await evaluateModel(rounded, scratch), await evaluateModel(file, scratch)];
    expect(b.against?.klDivergence.value).toBeLessThan(a.against?.klDivergence.value as number);
    const model = await openModel(file);
    const block = await model.openBlock(0);
    const weight = await block.weight('mlp.up_proj');
    for (let group = 0; group < weight.length; group += 32) {
      const values = [...new Set(weight.subarray(group, group + 32).map(Math.abs))].filter((x) => x > 0).sort();
      const steps = values.map((x) => x / Math.min(...values));
      expect(Math.max(...steps)).toBeLessThanOrEqual(15);
    }
    block.dispose();
    await model.close();
  }, 120_000);

  it('embeddings and the output head stay what the recipe makes of them', async () => {
    const options = { format: 'gguf', dtype: 'q4_0' } as const;
    const typesOf = async (path: string) =>
      new Map((await inspectCheckpoint(path)).weights.map(({ name, dtype }) => [name, dtype]));
    const [rounded, file] = [await made(options), await made({ ...options, method: 'gptq', calibration })];
    expect(await typesOf(file)).toEqual(await typesOf(rounded));
    const { tensors } = await verifyCheckpoint(rounded, file);
    const same = tensors.filter(({ identical }) => identical).map(({ name }) => name);
    expect(same).toContain('model.embed_tokens.weight');
    expect(same).toContain('lm_head.weight');
    expect(tensors.length - same.length).toBe(14);
  }, 60_000);
});

/** The importance matrix of a text. */
async function importance(): Promise<ImportanceMatrix> {
  const path = join(root, `statistics-${count++}`);
  const model = await openModel(MODEL);
  const sample = readFileSync(calibration.text[0] as string, 'utf8');
  await collectStatistics(model, cutIntoWindows(model.tokenizer, [sample], { windowLength: 128, count: 8 }), {
    output: path,
  });
  await model.close();
  const statistics = await StatisticsFile.open(path);
  const matrix = await importanceMatrixOf(statistics);
  await statistics.close();
  return matrix;
}

describe('AWQ in GGUF', () => {
  it.each([
    ['q4_k_m', false],
    ['q3_k_s', true],
  ] as const)(
    '%s is nearer to the model than without, importance matrix: %s',
    async (dtype, weighs) => {
      const options: Options = { format: 'gguf', dtype, ...(weighs ? { imatrix: await importance() } : {}) };
      const awq = { grid: 6, scaling: 'activations' } as const;
      const [plain, scaled] = [await made(options), await made({ ...options, method: 'awq', awq, calibration })];
      const divergence = async (path: string) =>
        (await evaluateModel(path, { ...window, against: MODEL })).against?.klDivergence.value as number;
      expect(await divergence(scaled)).toBeLessThan(await divergence(plain));
      const typesOf = async (path: string) => (await inspectCheckpoint(path)).weights.map(({ dtype: type }) => type);
      expect(await typesOf(scaled)).toEqual(await typesOf(plain));
    },
    120_000,
  );

  it('reports what it measured, layers left in float have the scales folded in', async () => {
    const output = freshFile();
    const report = await quantizeCheckpoint(MODEL, {
      format: 'gguf',
      dtype: 'q4_k_m',
      method: 'awq',
      awq: { grid: 2 },
      exclude: /v_proj/,
      calibration,
      output,
    });
    const layer = report.tensors.find(({ name }) => name === 'model.layers.1.mlp.up_proj.weight');
    expect(layer).toMatchObject({ kind: 'quantized', to: 'q4_k' });
    expect(layer?.sqnrDb).toBeGreaterThan(15);
    expect(layer?.relativeError).toBeGreaterThan(0);
    expect(layer?.relativeError).toBeLessThan(0.05);
    expect(report.tensors.find(({ name }) => name.endsWith('0.self_attn.v_proj.weight'))?.to).toBe('bf16');
    expect(JSON.parse(readFileSync(`${output}.lowbit.json`, 'utf8')).decisions.method).toMatchObject({ method: 'awq' });
    const { against } = await evaluateModel(output, { ...window, against: MODEL });
    expect(against?.klDivergence.value).toBeLessThan(0.01);
  }, 60_000);

  it('starts from a GGUF file as from a folder', async () => {
    const options = { format: 'gguf', dtype: 'q4_0', method: 'gptq', calibration } as const;
    const float = await made({ format: 'gguf', dtype: 'bf16' });
    const [a, b] = [await made(options, float), await made(options)];
    const { tensors } = await verifyCheckpoint(a, b);
    expect(tensors.filter(({ identical }) => !identical)).toEqual([]);
  }, 60_000);
});

describe('the work', () => {
  const options = { format: 'gguf', dtype: 'q4_0', calibration: { ...calibration, windows: 2 } } as const;

  it.each([{ method: 'gptq' }, { method: 'awq', awq: quick }] as const)(
    '$method: the same bytes for any number of threads and any memory, continued where it was ended',
    async (how) => {
      setNumThreads(1);
      const reference = hashOf(await made({ ...options, ...how }));
      setNumThreads(2);
      expect(hashOf(await made({ ...options, ...how, maxMemory: 350_000_000 }))).toBe(reference);
      const output = freshFile();
      for (const [stage, after] of [
        ['calibrate', 1],
        ['write', 8],
      ] as const) {
        const controller = new AbortController();
        const run = quantizeCheckpoint(MODEL, {
          ...options,
          ...how,
          output,
          signal: controller.signal,
          onProgress: ({ stage: now, tensors }) => {
            if (now === stage && tensors >= after) controller.abort();
          },
        });
        await expect(run).rejects.toMatchObject({ name: 'AbortError' });
        expect(existsSync(output)).toBe(false);
      }
      let first: number | null = null;
      await quantizeCheckpoint(MODEL, {
        ...options,
        ...how,
        output,
        onProgress: ({ stage, tensors }) => {
          if (stage === 'calibrate') first ??= tensors;
        },
      });
      expect(first).toBe(null); // all blocks were done
      expect(hashOf(output)).toBe(reference);
    },
    120_000,
  );

  it.each<[string, object, string, RegExp]>([
    [
      'gptq for the usual type',
      { method: 'gptq', dtype: undefined },
      'INVALID_ARGUMENT',
      /q4_0, q5_0, q8_0 .*q4_k_m.*imatrix/,
    ],
    ['gptq for iq4_xs', { method: 'gptq', dtype: 'iq4_xs' }, 'INVALID_ARGUMENT', /q4_0, q5_0, q8_0 .*iq4_xs/],
    ['awq-gptq for q4_1', { method: 'awq-gptq', dtype: 'q4_1' }, 'INVALID_ARGUMENT', /q4_0, q5_0, q8_0 .*q4_1/],
    ['hqq', { method: 'hqq', calibration: undefined }, 'INVALID_ARGUMENT', /zero points/],
    ['smoothquant', { method: 'smoothquant' }, 'INVALID_ARGUMENT', /int8 weights per channel/],
    ['gptq with an imatrix', { method: 'gptq', imatrix: bundledImportance(2) }, 'INVALID_ARGUMENT', /imatrix/],
    ['act-order', { method: 'gptq', gptq: { descAct: true, staticGroups: false } }, 'UNSUPPORTED_PLAN', /act-order/],
    [
      'gptq for layers of another type',
      { method: 'gptq', layers: [{ match: /down_proj/, spec: { dtype: 'q6_k' } }] },
      'UNSUPPORTED_PLAN',
      /q6_k does not hold the integers of gptq/,
    ],
    ['nothing to round', { method: 'awq', dtype: 'f16' }, 'NOTHING_TO_QUANTIZE', /stay in float/],
    ['no room', { method: 'awq', maxMemory: 200_000_000 }, 'INVALID_ARGUMENT', /maxMemory/],
  ])('refuses %s', async (_, given, code, message) => {
    const output = freshFile();
    const run = quantizeCheckpoint(MODEL, { ...options, ...given, output } as QuantizeCheckpointOptions);
    await expect(run).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    expect(existsSync(output)).toBe(false);
  });
});
