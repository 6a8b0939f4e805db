import { spawnSync } from 'node:child_process';
import { closeSync, cpSync, existsSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Output } from '../../lib/checkpoint/output.js';
import { castTensor, type Progress, quantizeCheckpoint, verifyCheckpoint } from '../../lib/index.js';
import { readSafetensors, safetensors, temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';

const root = temporaryFolder();
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
const SPEC = { dtype: 'int4', groupSize: 32 } as const;
let count = 0;
const fresh = () => join(root, `out-${count++}`);

/** Calls back once, when everything has been written. */
function afterWriting(then: () => void): (progress: Progress) => void {
  let done = false;
  return ({ stage, tensors, totalTensors }) => {
    if (done || stage !== 'write' || tensors < totalTensors) return;
    done = true;
    then();
  };
}

/** Overwrites the data of a tensor of an output that is being written. */
function damage(output: string, tensor: string): void {
  const path = join(Output.workPathOf(output), 'result', 'model.safetensors');
  const { offset, tensors } = locate(readFileSync(path));
  const { begin, end } = tensors.get(tensor) as { begin: number; end: number };
  const noise = Uint8Array.from({ length: end - begin }, (_, i) => (i * 37 + 11) & 0x77);
  const file = openSync(path, 'r+');
  writeSync(file, noise, 0, noise.length, offset + begin);
  closeSync(file);
}

function locate(file: Buffer): { offset: number; tensors: Map<string, { begin: number; end: number }> } {
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + length).toString());
  delete header.__metadata__;
  const entries = Object.entries(header as Record<string, { data_offsets: [number, number] }>);
  const tensors = new Map(
    entries.map(
      ([
        name,
        {
          data_offsets: [begin, end],
        },
      ]) => [name, { begin, end }] as const,
    ),
  );
  return { offset: 8 + length, tensors };
}

describe('a result is read back before it gets its name', () => {
  it('and its errors are in the report and the manifest, worst rows included', async () => {
    const output = fresh();
    const stages: string[] = [];
    const report = await quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      onProgress: ({ stage, bytes, totalBytes }) => {
        if (stages.at(-1) !== stage) stages.push(stage);
        expect(bytes).toBeLessThanOrEqual(totalBytes);
      },
    });
    expect(stages).toEqual(['write', 'verify']);
    expect(report.verified).toBe(true);
    const { tensors, worst } = await verifyCheckpoint(LLAMA, output);
    expect(report.worstTensor).toBe(worst?.name);
    const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    for (const { name, sqnrDb, mse, worstRows } of report.tensors) {
      expect(byName.get(name)).toMatchObject({ sqnrDb, mse, worstRows });
      expect(worstRows).toHaveLength(3);
    }
    const manifest = JSON.parse(readFileSync(join(output, 'lowbit.json'), 'utf8'));
    expect(manifest.tensors[0].sqnrDb).toBeCloseTo(report.tensors[0]?.sqnrDb as number, 3);
  });

  it('unless that is turned off: then nothing is measured, and the weights are the same', async () => {
    const [output, verified] = [fresh(), fresh()];
    const report = await quantizeCheckpoint(LLAMA, { ...SPEC, output, verify: false });
    expect(report).toMatchObject({ verified: false, worstTensor: '' });
    expect(report.tensors[0]).toMatchObject({ sqnrDb: null, cosine: null, mse: null, maxAbs: null, worstRows: null });
    await quantizeCheckpoint(LLAMA, { ...SPEC, output: verified });
    for (const name of ['model.safetensors', 'config.json']) {
      expect(readFileSync(join(output, name)).equals(readFileSync(join(verified, name)))).toBe(true);
    }
    const { stdout, status } = spawnSync(process.execPath, [MAIN, 'quantize', LLAMA, '--no-verify', '-o', fresh()], {
      encoding: 'utf8',
    });
    expect(status).toBe(0);
    expect(stdout).toContain('not measured');
  });

  it.each([
    ['model.embed_tokens.weight', /embed_tokens\.weight was copied, but other values/],
    ['model.layers.2.mlp.up_proj.weight_packed', /layers\.2\.mlp\.up_proj\.weight lies further from the original/],
    ['model.layers.1.mlp.up_proj.weight_shape', /layers\.1\.mlp\.up_proj.*weight_shape/],
    ['model.layers.0.mlp.up_proj.weight_scale', /layers\.0\.mlp\.up_proj\.weight/],
  ])('%s is not what was written: nothing appears, and nothing is left', async (tensor, message) => {
    const output = fresh();
    const run = quantizeCheckpoint(LLAMA, { ...SPEC, output, onProgress: afterWriting(() => damage(output, tensor)) });
    await expect(run).rejects.toMatchObject({ code: 'VERIFICATION_FAILED', message: expect.stringMatching(message) });
    expect(existsSync(output)).toBe(false);
    expect(existsSync(Output.workPathOf(output))).toBe(false);
  });

  it('takes NaN and infinities that were copied for what they are', async () => {
    const input = join(root, 'mask.safetensors');
    const mask = Float32Array.of(0, Number.NEGATIVE_INFINITY, Number.NaN, 1);
    const weight = castTensor(normal(64 * 128, 1), { from: 'float32', to: 'bfloat16' });
    writeFileSync(
      input,
      safetensors({
        'a.weight': { dtype: 'BF16', shape: [64, 128], data: weight },
        'a.mask': { dtype: 'F32', shape: [2, 2], data: mask },
      }),
    );
    const output = fresh();
    const { copied } = await quantizeCheckpoint(input, { ...SPEC, output });
    expect(copied).toEqual(['a.mask']);
    const { tensors } = readSafetensors(readFileSync(join(output, 'model.safetensors')));
    expect(tensors.get('a.mask')?.bytes.equals(Buffer.from(mask.buffer))).toBe(true);
  });

  it('ended there, it is continued there', async () => {
    const [whole, output] = [fresh(), fresh()];
    await quantizeCheckpoint(LLAMA, { ...SPEC, output: whole });
    const controller = new AbortController();
    const run = quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      signal: controller.signal,
      onProgress: ({ stage }) => {
        if (stage === 'verify') controller.abort();
      },
    });
    await expect(run).rejects.toMatchObject({ name: 'AbortError' });
    expect(existsSync(output)).toBe(false);
    await quantizeCheckpoint(LLAMA, { ...SPEC, output });
    for (const name of readdirSync(whole)) {
      expect(readFileSync(join(output, name)).equals(readFileSync(join(whole, name)))).toBe(true);
    }
  });
});

describe('thresholds', () => {
  it('keep a result from appearing, and the work for other thresholds', async () => {
    const output = fresh();
    const strict = { ...SPEC, output, minSqnr: 19, minCosine: 0.9 };
    await expect(quantizeCheckpoint(LLAMA, strict)).rejects.toMatchObject({
      code: 'BELOW_THRESHOLD',
      message: expect.stringMatching(/down_proj\.weight: 1\d\.\d dB < 19\.0 dB[\s\S]*kept/),
    });
    expect(existsSync(output)).toBe(false);
    let continued = false;
    const report = await quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      minSqnr: 15,
      onStart: (start) => {
        continued = start.continued;
      },
    });
    expect(continued).toBe(true);
    expect(report.tensors.every(({ sqnrDb }) => (sqnrDb as number) >= 15)).toBe(true);
  });

  it('end the command with status 5', () => {
    const output = fresh();
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [MAIN, 'quantize', LLAMA, '-q', '-g', '32', ...args, '-o', output], {
        encoding: 'utf8',
      });
    const failed = run('--min-cosine', '0.999');
    expect(failed.status).toBe(5);
    expect(failed.stderr).toMatch(/cosine 0\.99\d+ < 0\.999[\s\S]*\[BELOW_THRESHOLD\]/);
    expect(existsSync(output)).toBe(false);
    expect(run('--min-cosine', '0.9', '--no-verify').status).toBe(2);
    expect(run('--min-cosine', '0.9')).toMatchObject({ status: 0, stderr: '' });
    expect(existsSync(output)).toBe(true);
  });

  it('are numbers, and need what they are compared with', async () => {
    for (const options of [{ minSqnr: Number.NaN }, { minCosine: '1' }, { minSqnr: 1, verify: false }, { verify: 1 }]) {
      await expect(quantizeCheckpoint(LLAMA, { ...SPEC, output: fresh(), ...options } as never)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    }
  });

  it('hold for converted checkpoints as well', async () => {
    const source = fresh();
    await quantizeCheckpoint(LLAMA, { ...SPEC, output: source });
    const copy = join(root, 'copy');
    cpSync(source, copy, { recursive: true });
    const output = fresh();
    const args = ['convert', copy, '--to', 'compressed-tensors', '-d', 'int2', '--requantize', '-q', '-o', output];
    expect(spawnSync(process.execPath, [MAIN, ...args, '--min-sqnr', '12']).status).toBe(5);
    expect(existsSync(output)).toBe(false);
  });
});
