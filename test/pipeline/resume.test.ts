import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Output } from '../../lib/checkpoint/output.js';
import { quantizeCheckpoint, type TensorReport } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { random } from '../support/random.js';

const root = temporaryFolder();
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
const SPEC = { dtype: 'int4', groupSize: 32 } as const;
let count = 0;
const fresh = () => join(root, `out-${count++}`);

/** SHA-256 of all files of a folder, with their names. */
function hashOf(folder: string): string {
  const hash = createHash('sha256');
  for (const name of readdirSync(folder).sort()) hash.update(name).update(readFileSync(join(folder, name)));
  return hash.digest('hex');
}

/** A run that is ended after so many weights. */
async function unfinished(input: string, output: string, weights: number, options: object = SPEC): Promise<void> {
  const controller = new AbortController();
  const run = quantizeCheckpoint(input, {
    ...(options as typeof SPEC),
    output,
    signal: controller.signal,
    onProgress: ({ tensors }) => {
      if (tensors >= weights) controller.abort();
    },
  });
  await expect(run).rejects.toMatchObject({ name: 'AbortError' });
}

const journalOf = (output: string) => join(Output.workPathOf(output), 'journal.jsonl');

describe('a run that was ended', () => {
  it('is continued: what is done is not done again, and the result is the same', async () => {
    const [whole, output] = [fresh(), fresh()];
    const reference = await quantizeCheckpoint(LLAMA, { ...SPEC, output: whole });
    await unfinished(LLAMA, output, 30);
    expect(existsSync(output)).toBe(false);
    const before = readFileSync(journalOf(output), 'utf8').trim().split('\n').length - 1;
    expect(before).toBeGreaterThanOrEqual(30);
    const first: number[] = [];
    let continued = false;
    const report = await quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      onStart: (start) => {
        continued = start.continued;
      },
      onProgress: ({ tensors }) => first.push(tensors),
    });
    expect(continued).toBe(true);
    expect(hashOf(output)).toBe(hashOf(whole));
    const comparable = (tensors: readonly TensorReport[]) => tensors.map((tensor) => ({ ...tensor }));
    expect(comparable(report.tensors)).toEqual(comparable(reference.tensors));
    expect(existsSync(Output.workPathOf(output))).toBe(false);
  });

  it('does again what the journal has but the disk has not', async () => {
    const [whole, output] = [fresh(), fresh()];
    await quantizeCheckpoint(LLAMA, { ...SPEC, output: whole });
    await unfinished(LLAMA, output, 20);
    const file = join(Output.workPathOf(output), 'result', 'model.safetensors');
    const data = readFileSync(file);
    data.fill(0xa5, data.length / 2); // as if those pages had been lost
    writeFileSync(file, data);
    await quantizeCheckpoint(LLAMA, { ...SPEC, output });
    expect(hashOf(output)).toBe(hashOf(whole));
  });

  it('survives a journal that was cut off or never reached the disk', async () => {
    const whole = fresh();
    await quantizeCheckpoint(LLAMA, { ...SPEC, output: whole });
    for (const damage of [
      (path: string) => writeFileSync(path, readFileSync(path).subarray(0, -7)),
      (path: string) => appendFileSync(path, '\0'.repeat(100)),
      (path: string) => writeFileSync(path, ''),
      (path: string) => rmSync(path),
      (path: string) => writeFileSync(path, '{"plan":1}\nnull\n{"unit":7}\n'),
      (path: string) => writeFileSync(path, '{"plan":"x","inputs":[null]}\n'),
      (path: string) => writeFileSync(path, readFileSync(path, 'utf8').replace(/"report":\{.*\}/g, '"report":[]}')),
    ]) {
      const output = fresh();
      await unfinished(LLAMA, output, 10);
      damage(journalOf(output));
      await quantizeCheckpoint(LLAMA, { ...SPEC, output });
      expect(hashOf(output)).toBe(hashOf(whole));
    }
  });

  it('is not continued with other options, or when the input changed', async () => {
    const input = join(root, 'input');
    cpSync(LLAMA, input, { recursive: true });
    const output = fresh();
    await unfinished(input, output, 10);
    await expect(quantizeCheckpoint(input, { ...SPEC, groupSize: 64, output })).rejects.toMatchObject({
      code: 'UNFINISHED_WORK',
      message: expect.stringContaining('--restart'),
    });
    const file = join(input, 'model.safetensors');
    utimesSync(file, new Date(), new Date(statSync(file).mtimeMs + 5000));
    await expect(quantizeCheckpoint(input, { ...SPEC, output })).rejects.toMatchObject({
      code: 'INPUT_CHANGED',
      path: 'model.safetensors',
    });
    expect(existsSync(journalOf(output))).toBe(true);
    await quantizeCheckpoint(input, { ...SPEC, groupSize: 64, output, restart: true });
    expect(existsSync(join(output, 'model.safetensors'))).toBe(true);
  });

  it('is left alone while another process works on it', async () => {
    const output = fresh();
    let second: Promise<unknown> | undefined;
    await quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      onStart: () => {
        second = quantizeCheckpoint(LLAMA, { ...SPEC, output }).catch((error: unknown) => error);
      },
    });
    expect(await second).toMatchObject({ code: 'OUTPUT_BUSY', message: expect.stringContaining(String(process.pid)) });
  });
});

describe('kill -9', () => {
  /** Runs the command line and kills it after a while; whether it ended by itself, and well. */
  function attempt(output: string, milliseconds: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const args = ['quantize', LLAMA, '-d', 'int4', '-g', '32', '-q', '-o', output];
      const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
      let stderr = '';
      child.stderr.on('data', (data: Buffer) => (stderr += data));
      const timer = setTimeout(() => child.kill('SIGKILL'), milliseconds);
      child.on('close', (status, signal) => {
        clearTimeout(timer);
        if (signal === null && status !== 0) reject(new Error(`status ${status}: ${stderr}`));
        else resolve(signal === null);
      });
    });
  }

  it('at 200 random moments: the next run ends with the same bytes', { timeout: 900_000 }, async () => {
    const whole = fresh();
    let began = performance.now();
    expect(await attempt(whole, 60_000)).toBe(true);
    const expected = hashOf(whole);
    let longest = performance.now() - began;
    const next = random(20261122);
    let kills = 0;
    for (let runs = 0; kills < 200 && runs < 1000; runs++) {
      const output = join(root, 'killed');
      began = performance.now();
      // From before the program has begun to after it has ended.
      if (await attempt(output, 1.1 * longest * next())) {
        longest = Math.max(longest, performance.now() - began);
        expect(hashOf(output)).toBe(expected);
        rmSync(output, { recursive: true });
      } else {
        kills++;
        // It is there completely, or not at all.
        if (existsSync(output)) {
          expect(hashOf(output)).toBe(expected);
          rmSync(output, { recursive: true });
        }
      }
    }
    expect(kills).toBe(200);
  });
});
