import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type CalibrationWindows,
  capabilities,
  collectStatistics,
  type DecoderModel,
  gram,
  type ModelPart,
  type QuantizeCheckpointOptions,
  type QuantizeModelOptions,
  quantizeCheckpoint,
  quantizeModel,
  StatisticsFile,
} from '../../lib/index.js';
import { freeBytes, hasDevice, hasEmulatedModule, otherDevice } from '../support/cuda.js';
import { temporaryFolder } from '../support/files.js';
import { tinyModel, tinyWindows } from '../support/tiny-model.js';
import { VECTORS } from '../support/vectors.js';

const root = temporaryFolder();
let count = 0;
const fresh = () => join(root, String(count++));
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const MODEL = join(VECTORS, 'models', 'llama-gqa');
const TEXT = join(__dirname, '..', '..', 'examples', 'text', 'sampled-calib.txt');
const int4 = { dtype: 'int4', granularity: 'per-group', groupSize: 16, range: 'minmax' } as const;

let model: DecoderModel;
let windows: CalibrationWindows;
beforeAll(async () => {
  model = await tinyModel();
  windows = tinyWindows(model, 2);
});
afterAll(() => model.close());

async function partsOf(options: QuantizeModelOptions): Promise<ModelPart[]> {
  const parts: ModelPart[] = [];
  for await (const part of quantizeModel(model, options)) parts.push(part);
  return parts;
}

/** Every file of a result, but for how long it took. */
function filesOf(folder: string): Map<string, Buffer> {
  return new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
}

function lowbit(args: readonly string[], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

describe.skipIf(!hasDevice)('GPTQ of a model on a device', () => {
  it.each<Omit<QuantizeModelOptions, 'windows'>>([
    { method: 'gptq', weights: int4 },
    { method: 'gptq', weights: int4, mode: 'parallel', gptq: { descAct: true, staticGroups: false } },
    { method: 'awq-gptq', weights: { ...int4, dtype: 'uint4' } },
  ])('quantizeModel gives the same parts: %o', async (options) => {
    const expected = await partsOf({ ...options, windows });
    gram(new Float32Array(4), { k: 2, device: 'cuda' }); // from then on there is a stream
    const before = freeBytes(capabilities);
    expect(await partsOf({ ...options, windows, device: 'cuda' })).toEqual(expected);
    expect(freeBytes(capabilities)).toBe(before);
  });

  it('a run that was begun on the processor goes on on a device', async () => {
    const options = { method: 'gptq', weights: int4, windows } as const;
    const expected = await partsOf(options);
    const scratch = fresh();
    mkdirSync(scratch);
    const parts: ModelPart[] = [];
    for await (const part of quantizeModel(model, { ...options, scratch })) {
      if (part.block === 1) break;
      parts.push(part);
    }
    expect(parts.length).toBeGreaterThan(0);
    parts.push(...(await partsOf({ ...options, scratch, device: 'cuda' })));
    expect(parts).toEqual(expected);
  });

  it('statistics are the same bytes', async () => {
    const [plain, onDevice] = [`${fresh()}.safetensors`, `${fresh()}.safetensors`];
    await collectStatistics(model, windows, { output: plain });
    await collectStatistics(model, windows, { output: onDevice, device: 'cuda' });
    expect(readFileSync(onDevice).equals(readFileSync(plain))).toBe(true);
    const statistics = await StatisticsFile.open(plain);
    const options = { method: 'gptq', weights: int4, statistics } as const;
    expect(await partsOf({ ...options, device: 'cuda' })).toEqual(await partsOf(options));
    await statistics.close();
  });

  it('quantizeCheckpoint and lowbit write the same files', async () => {
    const calibration = { text: [TEXT], windows: 2, windowLength: 16 };
    const options = { method: 'gptq', groupSize: 16, include: /self_attn/, range: 'minmax', calibration } as const;
    const [plain, onDevice, byCommand] = [fresh(), fresh(), fresh()];
    await quantizeCheckpoint(MODEL, { ...options, output: plain });
    await quantizeCheckpoint(MODEL, { ...options, output: onDevice, device: 'cuda' });
    expect(filesOf(onDevice)).toEqual(filesOf(plain));
    const flags = [
      '--method',
      'gptq',
      '--group-size',
      '16',
      '--include',
      'self_attn',
      '--range',
      'minmax',
      '--windows',
      '2',
      '--window-length',
      '16',
    ];
    const run = lowbit(['quantize', MODEL, ...flags, '--text', TEXT, '--device', otherDevice, '-q', '-o', byCommand]);
    expect(run).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(filesOf(byCommand)).toEqual(filesOf(plain));

    const [statistics, ofDevice] = [`${fresh()}.safetensors`, `${fresh()}.safetensors`];
    const calibrate = ['calibrate', MODEL, '--text', TEXT, '--windows', '2', '--window-length', '16', '-q'];
    expect(lowbit([...calibrate, '-o', statistics]).status).toBe(0);
    expect(lowbit([...calibrate, '-o', ofDevice, '--device', 'cuda']).status).toBe(0);
    expect(readFileSync(ofDevice).equals(readFileSync(statistics))).toBe(true);
  }, 120_000);

  it.skipIf(!hasEmulatedModule)(
    'too little memory of the device is an error, after which the same call goes on',
    async () => {
      const calibration = { text: [TEXT], windows: 2, windowLength: 16 };
      const options = {
        method: 'gptq',
        groupSize: 16,
        include: /self_attn/,
        range: 'minmax',
        calibration,
        device: 'cuda',
        output: fresh(),
      } as const;
      const used = 4 * 2 ** 30 - freeBytes(capabilities);
      process.env['LOWBIT_EMULATED_BYTES'] = String(used + 20_000);
      await expect(quantizeCheckpoint(MODEL, options)).rejects.toMatchObject({
        code: 'OUT_OF_MEMORY',
        device: 'cuda:0',
      });
      delete process.env['LOWBIT_EMULATED_BYTES'];
      expect(existsSync(options.output)).toBe(false);
      await quantizeCheckpoint(MODEL, options);
      expect(existsSync(options.output)).toBe(true);
    },
  );

  it('other methods have no device, and say so', async () => {
    const unsupported = { name: 'DeviceError', code: 'DEVICE_UNSUPPORTED', argument: 'method', device: 'cuda:0' };
    await expect(partsOf({ method: 'rtn', weights: int4, device: 'cuda' })).rejects.toMatchObject(unsupported);
    const options: QuantizeCheckpointOptions = { output: fresh(), device: 'cuda' };
    await expect(quantizeCheckpoint(MODEL, options)).rejects.toMatchObject(unsupported);
    const { status, stderr } = lowbit(['quantize', MODEL, '--device', 'cuda', '--method', 'hqq', '-o', fresh()]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/Expected method gptq or awq-gptq rather than hqq on cuda:0\..* \[DEVICE_UNSUPPORTED\]/);
    expect(lowbit(['quantize', MODEL, '--device', 'cuda', '--dry-run']).status).toBe(2);
    await quantizeCheckpoint(MODEL, { ...options, groupSize: 8, device: 'cpu' });
  });
});

describe('a model without a device', () => {
  it('is refused before anything is read', async () => {
    const output = fresh();
    const missing = { name: 'DeviceError', code: 'NO_DEVICE', device: 'cuda:7' };
    const options = { method: 'gptq', calibration: { text: ['/nowhere'] }, device: 'cuda:7', output } as const;
    await expect(quantizeCheckpoint('/nowhere', options)).rejects.toMatchObject(missing);
    await expect(partsOf({ method: 'gptq', weights: int4, windows, device: 'cuda:7' })).rejects.toMatchObject(missing);
    const statistics = `${fresh()}.safetensors`;
    const collecting = collectStatistics(model, windows, { output: statistics, device: 'cuda:7' });
    await expect(collecting).rejects.toMatchObject(missing);
    expect([output, statistics].map((path) => existsSync(path))).toEqual([false, false]);
    const inside = { ...options, device: 'cpu', gptq: { device: 'cuda' } as never } as const;
    await expect(quantizeCheckpoint(MODEL, inside)).rejects.toMatchObject({ argument: 'gptq.device' });
    const within = partsOf({ method: 'gptq', weights: int4, windows, gptq: { device: 'cuda' } as never });
    await expect(within).rejects.toMatchObject({ argument: 'gptq.device' });
    for (const device of ['gpu', 'cuda:x', 3]) {
      const wrong = quantizeCheckpoint(MODEL, { ...options, device: device as never });
      await expect(wrong).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'device' });
    }
  });

  it('so is it by lowbit, in the words of capabilities()', () => {
    const env = { LOWBIT_CUDA_MODULE: '/nowhere/lowbit_cuda.so' };
    const args = ['quantize', MODEL, '--method', 'gptq', '--text', TEXT, '--device', 'cuda', '-o', fresh()];
    const { status, stderr } = lowbit(args, env);
    expect(status).toBe(2);
    expect(stderr).toMatch(/The device cuda:0 can't be used\. This build has no CUDA module .* \[NO_DEVICE\]/);
    const calibrate = lowbit(['calibrate', MODEL, '--text', TEXT, '--device', 'cuda', '-o', fresh()], env);
    expect(calibrate).toMatchObject({ status: 2, stderr: expect.stringContaining('[NO_DEVICE]') });
    expect(lowbit(['quantize', MODEL, '--device', 'gpu']).stderr).toContain('Expected cpu, cuda or cuda:<n>.');
  });
});
