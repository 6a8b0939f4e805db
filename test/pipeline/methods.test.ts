import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  evaluateModel,
  inspectCheckpoint,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
  setNumThreads,
  verifyCheckpoint,
} from '../../lib/index.js';
import { safetensors, temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const EXAMPLES = join(__dirname, '..', '..', 'examples');
const LLAMA = join(EXAMPLES, 'shakespeare-llama');
const CALIBRATION = join(EXAMPLES, 'text', 'sampled-calib.txt');
const TEXT = readFileSync(join(EXAMPLES, 'text', 'sampled-eval.txt'), 'utf8');
let count = 0;
const fresh = () => join(root, `out-${count++}`);

/** Few windows: enough for a method to be clearly better than rounding at three bits and fewer. */
const calibration = { text: [CALIBRATION], windows: 8, windowLength: 256 };

/** KL divergence from the float model, in nats per token. */
async function divergence(folder: string): Promise<number> {
  const result = await evaluateModel(folder, { text: TEXT, against: LLAMA, windowLength: 256, maxWindows: 6 });
  return result.against?.klDivergence.value as number;
}

async function made(options: Omit<QuantizeCheckpointOptions, 'output'>): Promise<string> {
  const output = fresh();
  await quantizeCheckpoint(LLAMA, { ...options, output });
  return output;
}

function hashOf(folder: string): string {
  const hash = createHash('sha256');
  for (const name of readdirSync(folder).sort()) hash.update(name).update(readFileSync(join(folder, name)));
  return hash.digest('hex');
}

describe('quantizeCheckpoint by a method', () => {
  const layouts: [string, Omit<QuantizeCheckpointOptions, 'output'>, Omit<QuantizeCheckpointOptions, 'output'>][] = [
    [
      'gptq into compressed-tensors',
      { dtype: 'int3', groupSize: 32, scheme: 'asymmetric' },
      { method: 'gptq', calibration },
    ],
    [
      'gptq with act-order into compressed-tensors',
      { dtype: 'int3', groupSize: 32 },
      { method: 'gptq', gptq: { descAct: true, staticGroups: false }, calibration },
    ],
    ['gptq into gptq', { format: 'gptq', dtype: 'int2', groupSize: 32 }, { method: 'gptq', calibration }],
    [
      'gptq with act-order into gptq_v2',
      { format: 'gptq_v2', dtype: 'int2', groupSize: 32, scheme: 'asymmetric' },
      { method: 'gptq', gptq: { descAct: true, staticGroups: false }, calibration },
    ],
    ['awq into awq', { format: 'awq', groupSize: 64 }, { method: 'awq', calibration }],
    ['awq into bitsandbytes', { format: 'bitsandbytes', groupSize: 64 }, { method: 'awq', calibration }],
    ['awq and gptq into compressed-tensors', { dtype: 'int3', groupSize: 64 }, { method: 'awq-gptq', calibration }],
  ];

  it.each(layouts)(
    '%s is nearer to the model than rounding',
    async (_, layout, method) => {
      const [rounded, better] = [await made(layout), await made({ ...layout, ...method })];
      expect(await divergence(better)).toBeLessThan(await divergence(rounded));
    },
    120_000,
  );

  // The first minimizes another error; the scales of the second are powers of two, which leave little to choose.
  it.each<[string, Omit<QuantizeCheckpointOptions, 'output'>, Omit<QuantizeCheckpointOptions, 'output'>]>([
    ['hqq into int3', { dtype: 'int3', groupSize: 64, scheme: 'asymmetric' }, { method: 'hqq' }],
    ['awq into mxfp4', { dtype: 'mxfp4' }, { method: 'awq', calibration }],
  ])(
    '%s gives other weights, about as near',
    async (_, layout, method) => {
      const [rounded, searched] = [await made(layout), await made({ ...layout, ...method })];
      const weightsOf = (folder: string) => readFileSync(join(folder, 'model.safetensors'));
      expect(weightsOf(searched).equals(weightsOf(rounded))).toBe(false);
      expect(await divergence(searched)).toBeLessThan(1.15 * (await divergence(rounded)));
    },
    120_000,
  );

  it('smoothquant gives int8 weights and wishes int8 activations', async () => {
    const output = await made({ dtype: 'int8', activations: 'int8', method: 'smoothquant', calibration });
    const { quantization_config: config } = JSON.parse(readFileSync(join(output, 'config.json'), 'utf8'));
    expect(config.config_groups.group_0.input_activations).toMatchObject({ num_bits: 8, dynamic: true });
    expect(await divergence(output)).toBeLessThan(1e-3);
  }, 120_000);

  it('reports what it measured, on the layer and on its outputs', async () => {
    const output = fresh();
    const report = await quantizeCheckpoint(LLAMA, {
      dtype: 'int4',
      groupSize: 32,
      method: 'awq',
      calibration,
      output,
    });
    const layer = report.tensors.find(({ name }) => name === 'model.layers.3.mlp.up_proj.weight');
    expect(layer?.kind).toBe('quantized');
    // Scales are folded in: the weight is compared with what it was then.
    expect(layer?.sqnrDb).toBeGreaterThan(15);
    expect(layer?.relativeError).toBeGreaterThan(0);
    expect(layer?.relativeError).toBeLessThan(0.05);
    const norm = report.tensors.find(({ name }) => name === 'model.layers.3.input_layernorm.weight');
    expect(norm?.kind).toBe('cast');
    const manifest = JSON.parse(readFileSync(join(output, 'lowbit.json'), 'utf8'));
    const sha256 = createHash('sha256').update(readFileSync(CALIBRATION)).digest('hex');
    expect(manifest.decisions.method).toMatchObject({ method: 'awq', calibration: { texts: [sha256], windows: 8 } });
    // The norms' new values are in the file, and not the old ones.
    const { tensors } = await verifyCheckpoint(LLAMA, output);
    expect(tensors.find(({ name }) => name === norm?.name)?.identical).toBe(false);
  }, 120_000);

  it('leaves layers in float that are excluded, with scales folded in', async () => {
    const output = await made({ dtype: 'int4', groupSize: 32, method: 'awq', exclude: /v_proj/, calibration });
    const { weights } = await inspectCheckpoint(output);
    const kinds = new Set(weights.filter(({ name }) => name.includes('v_proj')).map(({ dtype }) => dtype));
    expect([...kinds]).toEqual(['bfloat16']);
    expect(await divergence(output)).toBeLessThan(0.01);
  }, 120_000);

  it('gives the same bytes for any number of threads', async () => {
    const hashes: string[] = [];
    for (const threads of [1, 2]) {
      setNumThreads(threads);
      hashes.push(
        hashOf(
          await made({ dtype: 'int4', groupSize: 64, method: 'awq-gptq', calibration: { ...calibration, windows: 2 } }),
        ),
      );
    }
    expect(hashes[0]).toBe(hashes[1]);
  }, 120_000);

  it('is continued where it was ended, in the model and in the writing', async () => {
    const options = {
      dtype: 'int4',
      groupSize: 64,
      method: 'gptq',
      calibration: { ...calibration, windows: 2 },
    } as const;
    const reference = hashOf(await made(options));
    const output = fresh();
    for (const [stage, after] of [
      ['calibrate', 2],
      ['calibrate', 0], // before anything new is done: what is there stays
      ['calibrate', 4],
      ['write', 20],
    ] as const) {
      const controller = new AbortController();
      let first: number | null = null;
      const run = quantizeCheckpoint(LLAMA, {
        ...options,
        output,
        signal: controller.signal,
        onProgress: (progress) => {
          if (progress.stage === 'calibrate') first ??= progress.tensors;
          if (progress.stage === stage && progress.tensors >= after) controller.abort();
        },
      });
      await expect(run).rejects.toMatchObject({ name: 'AbortError' });
      expect(existsSync(output)).toBe(false);
      if (stage === 'calibrate' && after === 4) expect(first).toBe(2); // the first two blocks are not done again
    }
    await quantizeCheckpoint(LLAMA, { ...options, output });
    expect(hashOf(output)).toBe(reference);
  }, 120_000);

  const plain = join(root, 'plain');
  mkdirSync(plain);
  writeFileSync(
    join(plain, 'model.safetensors'),
    safetensors({ 'fc.weight': { dtype: 'F32', shape: [64, 128], data: new Float32Array(64 * 128).fill(0.5) } }),
  );
  const short = join(root, 'short.txt');
  writeFileSync(short, 'To be, or not to be');
  const bad: [string, string, QuantizeCheckpointOptions | object, string][] = [
    ['no calibration', LLAMA, { method: 'gptq' }, 'INVALID_ARGUMENT'],
    ['calibration for nothing', LLAMA, { method: 'rtn', calibration }, 'INVALID_ARGUMENT'],
    [
      'text and statistics',
      LLAMA,
      { method: 'awq', calibration: { text: [short], statistics: short } },
      'INVALID_ARGUMENT',
    ],
    ['an unknown method', LLAMA, { method: 'magic' }, 'INVALID_ARGUMENT'],
    ['options of another method', LLAMA, { method: 'hqq', gptq: { descAct: true } }, 'INVALID_ARGUMENT'],
    [
      'blocks that do not hold the integers of GPTQ',
      LLAMA,
      { format: 'gguf', dtype: 'q4_k_m', method: 'gptq', calibration, output: join(root, 'x.gguf') },
      'INVALID_ARGUMENT',
    ],
    [
      'a text that is not there',
      LLAMA,
      { method: 'gptq', calibration: { text: [join(root, 'absent')] } },
      'FILE_NOT_FOUND',
    ],
    ['too little text', LLAMA, { method: 'gptq', calibration: { text: [short] } }, 'CALIBRATION_TEXT_TOO_SHORT'],
    ['no statistics', LLAMA, { method: 'gptq', calibration: { statistics: short } }, 'SAFETENSORS_HEADER_TOO_LARGE'],
    ['no room', LLAMA, { method: 'gptq', calibration, maxMemory: 200e6 }, 'INVALID_ARGUMENT'],
    ['int4 weights for int8 activations', LLAMA, { method: 'smoothquant', calibration }, 'UNSUPPORTED_PLAN'],
    ['a range for hqq', LLAMA, { method: 'hqq', range: 'mse' }, 'INVALID_ARGUMENT'],
    ['a percentile for gptq', LLAMA, { method: 'gptq', range: { percentile: 99 }, calibration }, 'INVALID_ARGUMENT'],
    [
      'act-order in AWQ',
      LLAMA,
      { format: 'awq', groupSize: 64, method: 'gptq', gptq: { descAct: true, staticGroups: false }, calibration },
      'UNSUPPORTED_PLAN',
    ],
    [
      'scales that are quantized again',
      LLAMA,
      { format: 'bitsandbytes', nested: true, method: 'awq', calibration },
      'UNSUPPORTED_PLAN',
    ],
    ['codes that GPTQ does not make', LLAMA, { dtype: 'nvfp4', method: 'gptq', calibration }, 'UNSUPPORTED_PLAN'],
  ];
  it.each(bad)('refuses %s', async (_, input, options, code) => {
    const output = fresh();
    await expect(quantizeCheckpoint(input, { output, ...options } as QuantizeCheckpointOptions)).rejects.toMatchObject({
      code,
    });
    expect(existsSync(output)).toBe(false);
  });

  it('says which architecture it can not run', async () => {
    const run = quantizeCheckpoint(plain, { method: 'gptq', groupSize: 32, calibration, output: fresh() });
    await expect(run).rejects.toMatchObject({ code: expect.stringMatching(/^(MODEL_UNSUPPORTED|CONFIG_INVALID)$/) });
  });
});
