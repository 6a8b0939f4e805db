import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
let count = 0;
const fresh = () => join(root, `out-${count++}`);

interface Result {
  status: number | null;
  stdout: string;
  stderr: string;
}

function run(...args: string[]): Promise<Result> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data));
    child.stderr.on('data', (data: Buffer) => (stderr += data));
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

async function quantized(...args: string[]): Promise<string> {
  const output = args.includes('gguf:q4_0') ? `${fresh()}.gguf` : fresh();
  expect(await run('quantize', LLAMA, '-q', ...args, '-o', output)).toEqual({ status: 0, stdout: '', stderr: '' });
  return output;
}

describe('lowbit inspect', () => {
  it('says plainly what a checkpoint is', async () => {
    for (const [args, description] of [
      [['-f', 'gptq', '-g', '32'], 'gptq int4, groups of 32, v1, symmetric'],
      [['-f', 'gptq_v2', '--scheme', 'asymmetric'], 'gptq int4, groups of 128, v2, asymmetric'],
      [['-f', 'awq'], 'awq int4, groups of 128, gemm, asymmetric'],
      [['-f', 'ct', '-d', 'nvfp4'], 'nvfp4-pack-quantized'],
      [['-f', 'gguf:q4_0'], 'gguf q4_0, groups of 32'],
      [
        ['-f', 'ct', '-d', 'int8', '--activations', 'int8'],
        'int8, int-quantized, per-channel, input int8 token dynamic',
      ],
      [['-f', 'compressed-tensors:naive-quantized', '-g', '64'], 'int8, groups of 64, int-quantized'],
      [['-f', 'bnb', '-g', '64'], 'bitsandbytes nf4, groups of 64'],
    ] as const) {
      const { status, stdout, stderr } = await run('inspect', await quantized(...args));
      expect(stderr).toBe('');
      expect(status).toBe(0);
      expect(stdout).toContain(description);
      expect(stdout).toContain('4.85 million');
    }
  });

  it('measures weights when asked to', async () => {
    const { stdout } = await run('inspect', LLAMA, '--statistics', '--json');
    const { weights, bitsPerWeight } = JSON.parse(stdout);
    expect(bitsPerWeight).toBe(16);
    expect(weights).toHaveLength(57);
    const { statistics } = weights.find(({ name }: { name: string }) => name === 'model.norm.weight');
    expect(statistics).toMatchObject({ nonFinite: 0, scales: null });
    expect(statistics.maxAbs).toBeGreaterThanOrEqual(statistics.rms);
    const table = await run('inspect', LLAMA, '-s');
    expect(table.stdout).toContain('past 6 rms');
  });

  it('ends with status 3 for what is no checkpoint', async () => {
    const { status, stderr } = await run('inspect', join(root, 'absent'));
    expect(status).toBe(3);
    expect(stderr).toContain('[FILE_NOT_FOUND]');
  });
});

describe('lowbit verify', () => {
  it('compares any two formats, lists the worst, and fails below a threshold', async () => {
    const [gptq, gguf] = [await quantized('-f', 'gptq', '-g', '32'), await quantized('-f', 'gguf:q4_0')];
    const { status, stdout } = await run('verify', LLAMA, gguf);
    expect(status).toBe(0);
    expect(stdout).toMatch(/model\.layers\.0\.mlp\.down_proj\.weight {2}\(worst\)/);
    expect(stdout).toMatch(/\d+ changed, \d+ identical/);
    const json = JSON.parse((await run('verify', gptq, gguf, '--json')).stdout);
    expect(json.missing).toEqual([]);
    expect(json.tensors[0].worstRows.length).toBeLessThanOrEqual(3);
    expect((await run('verify', LLAMA, gptq, '-q', '--min-sqnr', '15')).status).toBe(0);
    const failed = await run('verify', LLAMA, gptq, '-q', '--min-sqnr', '19', '--min-cosine', '0.9');
    expect(failed.status).toBe(5);
    expect(failed.stderr).toMatch(/down_proj\.weight: 17\.\d dB < 19\.0 dB/);
  });
});

describe('lowbit convert', () => {
  it('converts, and says which tensors kept their values', async () => {
    const [source, target] = [await quantized('-f', 'awq'), fresh()];
    const { status, stdout } = await run('convert', source, '--to', 'gptq_v2', '-o', target, '--json');
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report.tensors.every(({ kind }: { kind: string }) => kind === 'repacked')).toBe(true);
    expect((await run('verify', source, target)).stdout).toContain('everything is identical');
    expect(existsSync(join(target, 'quantize_config.json'))).toBe(true);
    expect(existsSync(join(target, 'quant_config.json'))).toBe(false);
  });

  it('takes the layout of codes with the format', async () => {
    const source = await quantized('-f', 'gptq', '-d', 'int8', '--granularity', 'per-channel');
    const [target, wrong] = [fresh(), fresh()];
    const done = await run('convert', source, '-t', 'ct:int-quantized', '--activations', 'int8', '-q', '-o', target);
    expect(done).toEqual({ status: 0, stdout: '', stderr: '' });
    expect((await run('inspect', target)).stdout).toContain('int-quantized, per-channel, input int8 token dynamic');
    const refused = await run('convert', source, '-t', 'ct:float-quantized', '-q', '-o', wrong);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain('pack-quantized or int-quantized or naive-quantized for int8');
  });

  it('calibrates static activations, keeps how in a plan, and says where they get lost', async () => {
    const text = join(LLAMA, '..', 'text', 'sampled-calib.txt');
    const plan = join(root, 'static.json');
    const windows = ['--text', text, '--windows', '2', '--window-length', '64'];
    const range = ['--activation-range', 'percentile:99.9'];
    const source = await quantized('--activations', 'int8-static', ...range, ...windows, '--write-plan', plan);
    expect((await run('inspect', source)).stdout).toContain('int-quantized, per-channel, input int8 tensor static');
    expect(JSON.parse(readFileSync(plan, 'utf8'))).toMatchObject({
      dtype: 'int8',
      activations: 'int8-static',
      activationRange: { percentile: 99.9 },
      calibration: { text: [text], windows: 2, windowLength: 64 },
    });
    const again = await quantized('--plan', plan);
    const weightsOf = (folder: string) => readFileSync(join(folder, 'model.safetensors'));
    expect(weightsOf(again).equals(weightsOf(source))).toBe(true);
    const { status, stderr } = await run('convert', source, '-t', 'gptq', '-o', fresh());
    expect(status).toBe(0);
    expect(stderr).toContain('static activations of 42 layers are left out');
    const short = ['quantize', LLAMA, '-o', fresh()];
    for (const [args, words] of [
      [['--activations', 'int8-static'], 'for static activations: { text'],
      [['--activations', 'int8-static', ...windows, '--activation-range', 'max'], 'minmax, mse, entropy or percentile'],
      [[...windows, '--method', 'gptq', ...range], 'activationRange with static activations only'],
    ] as const) {
      const refused = await run(...short, ...args);
      expect(refused.status).toBe(2);
      expect(refused.stderr).toContain(words);
    }
  });

  it('refuses what the format can not hold, naming the tensors and the way out', async () => {
    const source = await quantized('-f', 'awq');
    const { status, stderr } = await run('convert', source, '--to', 'awq', '--scheme', 'symmetric', '-o', fresh());
    expect(status).toBe(3);
    expect(stderr).toMatch(/42 of 42 weights[\s\S]*zero points[\s\S]*--requantize/);
  });
});

describe('layers', () => {
  it('have activations and granularities of their own', async () => {
    const folder = await quantized(
      ...['-d', 'int8', '--granularity', 'per-channel', '--activations', 'int8'],
      ...['--layer', 'down_proj=int8:channel:act-float', '--layer', 'o_proj=float8_e4m3fn:tensor'],
    );
    const { quantization_config: config } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
    type Group = { weights: { type: string; strategy: string }; input_activations: { num_bits: number } | null };
    const groups = Object.values(config.config_groups as Record<string, Group>).map(
      ({ weights, input_activations }) => [weights.type, weights.strategy, input_activations?.num_bits ?? null],
    );
    expect(groups.sort()).toEqual([
      ['float', 'tensor', 8],
      ['int', 'channel', null],
      ['int', 'channel', 8],
    ]);
  });
});

describe('plans', () => {
  it('are written, and make the same checkpoint again', async () => {
    const plan = join(root, 'plan.json');
    const first = await quantized(
      ...['-f', 'ct', '-g', '64', '--range', 'mse', '--exclude', 'o_proj'],
      ...['--layer', 'down_proj=int8:channel', '--layer', 'layers\\.5=float', '--write-plan', plan],
    );
    expect(JSON.parse(readFileSync(plan, 'utf8'))).toEqual({
      format: 'compressed-tensors',
      dtype: 'int4',
      scheme: 'symmetric',
      granularity: 'per-group',
      groupSize: 64,
      range: 'mse',
      exclude: 'o_proj',
      layers: [
        { match: 'down_proj', spec: { dtype: 'int8', groupSize: null } },
        { match: 'layers\\.5', spec: 'float' },
      ],
    });
    const second = await quantized('--plan', plan);
    for (const name of ['model.safetensors', 'config.json', 'lowbit.json']) {
      expect(readFileSync(join(second, name)).equals(readFileSync(join(first, name)))).toBe(true);
    }
    const { status, stderr } = await run('quantize', LLAMA, '--plan', join(LLAMA, 'model.safetensors'), '-o', fresh());
    expect(status).toBe(3);
    expect(stderr).toContain('[PLAN_INVALID]');
  });
});
