/** Static activations from a text into files and back: what the files say is what quantizeModel found, and what runs from them. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  castTensor,
  collectStatistics,
  convertCheckpoint,
  cutIntoWindows,
  type DecoderModel,
  evaluateModel,
  inspectCheckpoint,
  type LayerActivations,
  type LinearName,
  layerOfPart,
  type ModelPart,
  type NormName,
  openModel,
  type QuantizeCheckpointOptions,
  type QuantizeModelOptions,
  quantizeCheckpoint,
  quantizeModel,
} from '../../lib/index.js';
import { readSafetensors, temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const EXAMPLES = join(__dirname, '..', '..', 'examples');
const LLAMA = join(EXAMPLES, 'shakespeare-llama');
const CALIBRATION = join(EXAMPLES, 'text', 'sampled-calib.txt');
const TEXT = readFileSync(join(EXAMPLES, 'text', 'sampled-eval.txt'), 'utf8');
let count = 0;
const fresh = () => join(root, `out-${count++}`);

/** Enough to find scales; how good they are is the business of test/calibration/accuracy.test.ts. */
const calibration = { text: [CALIBRATION], windows: 3, windowLength: 64 };
const INT8 = { dtype: 'int8', granularity: 'per-channel', axis: 0, scaleDtype: 'bfloat16' } as const;
const FLOAT8 = { dtype: 'float8_e4m3fn', granularity: 'per-tensor', scaleDtype: 'bfloat16' } as const;

let model: DecoderModel;
beforeAll(async () => {
  model = await openModel(LLAMA, { residentBlocks: 'one' });
});
afterAll(() => model.close());

async function made(options: Omit<QuantizeCheckpointOptions, 'output'>): Promise<string> {
  const output = fresh();
  await quantizeCheckpoint(LLAMA, { calibration, ...options, output });
  return output;
}

async function partsOf(options: Omit<QuantizeModelOptions, 'windows'>): Promise<ModelPart[]> {
  const text = readFileSync(CALIBRATION, 'utf8');
  const windows = cutIntoWindows(model.tokenizer, [text], { windowLength: 64, count: 3 });
  const parts: ModelPart[] = [];
  for await (const part of quantizeModel(model, { ...options, windows })) parts.push(part);
  return parts;
}

/** Logits of a text from the parts, without a file; float parts as bfloat16 holds them. */
async function logitsOf(parts: readonly ModelPart[], tokens: Int32Array, activations: LayerActivations) {
  let hidden = await model.embed(tokens);
  for (let index = 0; index < model.config.numLayers; index++) {
    const block = await model.openBlock(index);
    for (const part of parts.filter((each) => each.block === index)) {
      const name = part.name.slice(`model.layers.${index}.`.length, -'.weight'.length);
      if (part.kind === 'quantized') block.replace(name as LinearName, await layerOfPart(part, null, activations));
      else {
        const stored = castTensor(part.data, { from: 'float32', to: 'bfloat16' });
        block.setNorm(name as NormName, castTensor(stored, { from: 'bfloat16', to: 'float32' }));
      }
    }
    hidden = await block.forward(hidden, { windowLength: tokens.length });
    block.dispose();
  }
  return model.head(hidden);
}

const tensorsOf = (folder: string) => readSafetensors(readFileSync(join(folder, 'model.safetensors'))).tensors;
const configOf = (folder: string) => JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
const bfloat16 = (values: Float32Array) =>
  Buffer.from(castTensor(values, { from: 'float32', to: 'bfloat16' }).buffer as ArrayBuffer);

function hashOf(folder: string, without: readonly string[] = []): string {
  const hash = createHash('sha256');
  for (const name of readdirSync(folder).sort()) {
    if (!without.includes(name)) hash.update(name).update(readFileSync(join(folder, name)));
  }
  return hash.digest('hex');
}

type Spec = Omit<QuantizeCheckpointOptions, 'output'>;
const kinds: [string, Spec, Omit<QuantizeModelOptions, 'windows'> & { activations: LayerActivations }][] = [
  ['int8', { activations: 'int8-static' }, { method: 'rtn', weights: INT8, activations: 'static' }],
  [
    'int8, asymmetric, by percentile',
    { activations: 'int8-static-asymmetric', activationRange: { percentile: 99.9 } },
    { method: 'rtn', weights: INT8, activations: 'static-asymmetric', range: { percentile: 99.9 } },
  ],
  [
    'int8 with GPTQ, by MSE',
    { activations: 'int8-static', method: 'gptq', activationRange: 'mse' },
    { method: 'gptq', weights: INT8, activations: 'static', range: 'mse' },
  ],
  [
    'int8 with SmoothQuant',
    { activations: 'int8-static', method: 'smoothquant', smoothquant: { alpha: 0.5 } },
    { method: 'smoothquant', weights: INT8, activations: 'static', smoothquant: { alpha: 0.5 } },
  ],
  [
    'float8',
    { activations: 'float8_e4m3fn-static', granularity: 'per-tensor' },
    { method: 'rtn', weights: FLOAT8, activations: 'static' },
  ],
];

describe('static activations in files', () => {
  it.each(kinds)(
    '%s: the file holds what quantizeModel found, and computes the same',
    async (_, spec, options) => {
      const [folder, parts] = [await made(spec), await partsOf(options)];
      const tensors = tensorsOf(folder);
      for (const part of parts) {
        if (part.kind === 'float') continue;
        const layer = part.name.slice(0, -'.weight'.length);
        expect(tensors.get(part.name)?.bytes.equals(part.tensor.data)).toBe(true);
        expect(tensors.get(`${layer}.weight_scale`)?.bytes.equals(bfloat16(part.tensor.scales))).toBe(true);
        const scale = tensors.get(`${layer}.input_scale`);
        expect(scale).toMatchObject({ dtype: 'BF16', shape: [1] });
        expect(scale?.bytes.equals(bfloat16(Float32Array.of(part.inputScale as number)))).toBe(true);
        const zeroPoint = tensors.get(`${layer}.input_zero_point`);
        if (part.inputZeroPoint === null) expect(zeroPoint).toBeUndefined();
        else
          expect([zeroPoint?.dtype, zeroPoint?.shape, zeroPoint?.bytes.readInt8()]).toEqual([
            'I8',
            [1],
            part.inputZeroPoint,
          ]);
      }
      const tokens = model.tokenizer.encode(TEXT.slice(0, 96));
      const stored = await openModel(folder);
      expect(stored.activations).toBe(spec.activations);
      const got = await stored.logits(tokens);
      expect(got).toEqual(await logitsOf(parts, tokens, options.activations));
      // The scales count.
      const weightsOnly = await openModel(folder, { activations: 'float32' });
      expect(weightsOnly.activations).toBe('float32');
      expect(await weightsOnly.logits(tokens)).not.toEqual(got);
      const { text } = await stored.generate(TEXT.slice(0, 96), { maxTokens: 8 });
      expect(text).not.toBe('');
      await stored.close();
      await weightsOnly.close();
    },
    120_000,
  );

  it('says so in config.json and to inspect', async () => {
    const folder = await made({ activations: 'int8-static-asymmetric' });
    const [group, ...rest] = Object.values(configOf(folder).quantization_config.config_groups) as Record<
      string,
      object
    >[];
    expect(rest).toEqual([]);
    expect(group?.['input_activations']).toMatchObject({
      ...{ num_bits: 8, type: 'int', symmetric: false, strategy: 'tensor', dynamic: false },
    });
    expect(group?.['weights']).toMatchObject({ num_bits: 8, strategy: 'channel', symmetric: true });
    const { encodings } = await inspectCheckpoint(folder);
    expect(encodings[0]?.description).toContain('input int8 tensor static asymmetric');
    const manifest = JSON.parse(readFileSync(join(folder, 'lowbit.json'), 'utf8'));
    expect(manifest.decisions.method).toMatchObject({ method: 'rtn', calibration: { windows: 3, windowLength: 64 } });
  }, 120_000);

  it('is evaluated as it is stored, or otherwise', async () => {
    const folder = await made({ activations: 'int8-static' });
    const options = { text: TEXT, against: LLAMA, windowLength: 64, maxWindows: 2 };
    const stored = await evaluateModel(folder, options);
    const float = await evaluateModel(folder, { ...options, activations: 'float32' });
    const dynamic = await evaluateModel(folder, { ...options, activations: 'int8-dynamic' });
    expect([stored, float, dynamic].map(({ activations }) => activations)).toEqual([
      ...['int8-static', 'float32', 'int8-dynamic'],
    ]);
    const [a = 0, b = 0, c = 0] = [float, dynamic, stored].map(({ against }) => against?.klDivergence.value);
    expect(0 < a && a < b && b < c).toBe(true);
    const open = await openModel(folder);
    expect((await evaluateModel(open, options)).windowNats).toEqual(stored.windowNats);
    for (const activations of ['float32', 'int8-dynamic'] as const) {
      const message = expect.stringContaining('opened with int8-static activations');
      await expect(evaluateModel(open, { ...options, activations })).rejects.toMatchObject({
        argument: 'activations',
        message,
      });
    }
    await open.close();
  }, 120_000);

  it('from statistics, and only for some layers', async () => {
    const statistics = fresh();
    const text = readFileSync(CALIBRATION, 'utf8');
    const windows = cutIntoWindows(model.tokenizer, [text], { windowLength: 64, count: 3 });
    await collectStatistics(model, windows, { output: statistics, gram: false });
    const folder = await made({
      activations: 'int8-static',
      method: 'smoothquant',
      smoothquant: { alpha: 0.5 },
      activationRange: 'mse',
      calibration: { statistics },
      layers: [
        { match: /down_proj/, spec: { dtype: 'int8', activations: 'int8' } },
        { match: /layers\.0\./, spec: 'float' },
      ],
    });
    const scales = [...tensorsOf(folder).keys()].filter((name) => name.endsWith('.input_scale'));
    expect(scales).toHaveLength(5 * 6);
    expect(scales.some((name) => name.includes('down_proj') || name.includes('layers.0.'))).toBe(false);
    const groups = Object.values(configOf(folder).quantization_config.config_groups) as {
      input_activations: { dynamic: boolean };
    }[];
    expect(groups.map(({ input_activations }) => input_activations.dynamic).sort()).toEqual([false, true]);
    const found = await evaluateModel(folder, { text: TEXT, against: LLAMA, windowLength: 64, maxWindows: 2 });
    expect(found.activations).toBe('int8-static');
    expect(found.against?.klDivergence.value).toBeLessThan(0.01);
  }, 120_000);

  it('goes on where it was ended, within its memory', async () => {
    const smoothquant = { alpha: 0.5 };
    const options = {
      activations: 'int8-static',
      method: 'smoothquant',
      smoothquant,
      calibration,
      maxMemory: 500e6,
    } as const;
    const whole = fresh();
    await quantizeCheckpoint(LLAMA, { ...options, output: whole });
    const output = fresh();
    for (const [stage, after] of [
      ['calibrate', 2],
      ['calibrate', 5],
      ['write', 20],
    ] as const) {
      const controller = new AbortController();
      const run = quantizeCheckpoint(LLAMA, {
        ...options,
        output,
        signal: controller.signal,
        onProgress: (progress) => {
          if (progress.stage === stage && progress.tensors >= after) controller.abort();
        },
      });
      await expect(run).rejects.toMatchObject({ name: 'AbortError' });
      expect(existsSync(output)).toBe(false);
    }
    await quantizeCheckpoint(LLAMA, { ...options, output });
    expect(hashOf(output)).toBe(hashOf(whole));
    const little = quantizeCheckpoint(LLAMA, {
      activations: 'int8-static',
      calibration,
      maxMemory: 150e6,
      output: fresh(),
    });
    await expect(little).rejects.toMatchObject({
      argument: 'maxMemory',
      message: expect.stringContaining('static activations on this model'),
    });
  }, 120_000);
});

describe('converting them', () => {
  const folders: Partial<Record<'symmetric' | 'asymmetric' | 'float8', string>> = {};
  beforeAll(async () => {
    folders.symmetric = await made({ activations: 'int8-static' });
    folders.asymmetric = await made({ activations: 'int8-static-asymmetric' });
    folders.float8 = await made({ activations: 'float8_e4m3fn-static' });
  }, 120_000);

  it.each(['symmetric', 'asymmetric', 'float8'] as const)('%s: keeps scales where they have a place', async (kind) => {
    const [from, output] = [folders[kind] as string, fresh()];
    const { warnings } = await convertCheckpoint(from, { to: 'compressed-tensors', output });
    expect(warnings).toEqual([]);
    expect(hashOf(output, ['lowbit.json', 'config.json'])).toBe(hashOf(from, ['lowbit.json', 'config.json']));
    expect(configOf(output)).toEqual(configOf(from));
  });

  it('says where they have none', async () => {
    const from = folders.symmetric as string;
    for (const to of ['gptq', 'float', 'gguf'] as const) {
      const output = `${fresh()}${to === 'gguf' ? '.gguf' : ''}`;
      const { warnings } = await convertCheckpoint(from, { to, output });
      expect(warnings.join('\n')).toContain(
        `static activations of 42 layers are left out: ${to} has no place for them`,
      );
      if (to === 'gguf') continue;
      expect([...tensorsOf(output).keys()].filter((name) => name.includes('input_scale'))).toEqual([]);
    }
    const dynamic = fresh();
    const { warnings } = await convertCheckpoint(from, {
      to: 'compressed-tensors',
      activations: 'int8',
      output: dynamic,
    });
    expect(warnings).toEqual([]); // it was asked for
    const { input_activations } = configOf(dynamic).quantization_config.config_groups.group_0;
    expect(input_activations).toMatchObject({ strategy: 'token', dynamic: true });
    expect([...tensorsOf(dynamic).keys()].filter((name) => name.includes('input_scale'))).toEqual([]);
  });

  it('finds none, and makes no other ones', async () => {
    const dynamic = fresh();
    await quantizeCheckpoint(LLAMA, { dtype: 'int8', activations: 'int8', output: dynamic });
    const from = folders.symmetric as string;
    for (const [input, activations, words] of [
      [dynamic, 'int8-static', 'no scale for int8-static activations'],
      [from, 'int8-static-asymmetric', 'its activations are int8-static, not int8-static-asymmetric'],
    ] as const) {
      for (const requantize of [false, true]) {
        const run = convertCheckpoint(input, { to: 'compressed-tensors', activations, requantize, output: fresh() });
        await expect(run).rejects.toMatchObject({ code: 'UNSUPPORTED_PLAN', message: expect.stringContaining(words) });
      }
    }
  });
});

describe('what can not work', () => {
  it.each([
    [{ activations: 'int8-static', calibration: undefined }, 'calibration', 'for static activations'],
    [{ activations: 'int8-static', dtype: 'int4' }, 'activations', 'for int4'],
    [{ activations: 'int8-static', layout: 'pack-quantized' }, 'layout', 'codes in bytes'],
    [{ activations: 'int8-static', scheme: 'asymmetric' }, 'scheme', "'symmetric' with int8-static"],
    [{ activations: 'int8-static', groupSize: 64 }, 'granularity', "'per-channel' with int8-static"],
    [{ activations: 'float8_e4m3fn-static', granularity: 'per-block' }, 'granularity', 'float8_e4m3fn-static'],
    [{ format: 'gptq', activations: 'int8-static' }, 'activations', 'compressed-tensors'],
    [{ activations: 'int8-static', activationRange: 'moving-average' }, 'activationRange', 'entropy'],
    [
      { activations: 'int8-static', activationRange: { percentile: 40 } },
      'activationRange.percentile',
      'above 50|greater',
    ],
    [{ activations: 'int8-static', method: 'hqq' }, 'activations', 'hqq'],
    [{ method: 'gptq', activationRange: 'mse' }, 'activationRange', 'static activations only'],
  ] as [Spec, string, string][])('%j', async (spec, argument, words) => {
    const run = quantizeCheckpoint(LLAMA, { calibration, ...spec, output: fresh() } as QuantizeCheckpointOptions);
    await expect(run).rejects.toMatchObject({ argument, message: expect.stringMatching(words) });
  });

  it('layers outside of blocks', async () => {
    const run = quantizeCheckpoint(LLAMA, {
      activations: 'int8-static',
      calibration,
      include: /up_proj|lm_head/,
      output: fresh(),
    });
    await expect(run).rejects.toMatchObject({
      code: 'UNSUPPORTED_PLAN',
      message: expect.stringMatching(/calibration sees no inputs but those of the layers of blocks:\n {2}lm_head/),
    });
  });
});
