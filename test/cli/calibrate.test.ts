import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readImatrix, StatisticsFile } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { text } from '../support/tiny-model.js';
import { VECTORS } from '../support/vectors.js';

const root = temporaryFolder();
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const MODEL = join(VECTORS, 'models', 'llama-gqa');
const [first, second] = [join(root, 'first.txt'), join(root, 'second.txt')];
writeFileSync(first, text(300));
writeFileSync(second, text(100).toUpperCase());
let count = 0;
const fresh = () => join(root, `${count++}.safetensors`);

function run(...args: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [MAIN, 'calibrate', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data));
    child.stderr.on('data', (data: Buffer) => (stderr += data));
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

const small = ['--text', first, second, '--window-length', '16', '--windows', '5'];

describe('lowbit calibrate', () => {
  it('writes statistics and an importance matrix; parts merge to the same', async () => {
    const [whole, a, b, merged, imatrix] = [fresh(), fresh(), fresh(), fresh(), join(root, 'imatrix.gguf')];
    const done = await run(MODEL, ...small, '-o', whole, '--imatrix', imatrix);
    expect(done).toEqual({
      status: 0,
      stdout: expect.stringMatching(/^5 windows of 16 tokens, 80 in all, seen by 8 inputs in /),
      stderr: 'block 1 of 2 done\nblock 2 of 2 done\n',
    });
    expect(await run(MODEL, ...small, '--shard', '0/2', '-o', a, '-q')).toEqual({ status: 0, stdout: '', stderr: '' });
    expect((await run(MODEL, ...small, '--shard', '1/2', '-o', b, '-q')).status).toBe(0);
    const report = await run('merge', b, a, '-o', merged, '--json');
    expect(JSON.parse(report.stdout)).toMatchObject({ files: 2, windows: 5, tokens: 80 });
    expect(readFileSync(merged).equals(readFileSync(whole))).toBe(true);

    const file = await StatisticsFile.open(whole);
    const { entries, datasets, chunkCount, chunkSize } = await readImatrix(imatrix);
    expect([datasets, chunkCount, chunkSize, entries.size]).toEqual([['first.txt', 'second.txt'], 5, 16, 14]);
    const { sumOfSquares } = await file.read('layers.1.mlp');
    expect(entries.get('blk.1.ffn_up.weight')).toEqual({ sums: Float32Array.from(sumOfSquares), counts: [80] });
    await file.close();
  });

  it.each([
    [[MODEL, '--text', first], 2, '--output'],
    [[MODEL, '-o', 'x'], 2, '--text'],
    [[MODEL, '--text', first, '--shard', '2/2', '-o', 'x'], 2, 'Expected a part such as 0/4'],
    [[MODEL, '--text', first, '--seed', '-1', '-o', 'x'], 2, 'Expected an integer'],
    [[MODEL, '--text', join(root, 'none'), '-o', fresh()], 3, 'FILE_NOT_FOUND'],
    [
      [MODEL, '--text', first, '--window-length', '16', '--windows', '999', '-o', fresh()],
      3,
      'CALIBRATION_TEXT_TOO_SHORT',
    ],
    [[MODEL, ...small, '--max-memory', '1MB', '-o', fresh()], 2, 'maxMemory'],
    [['merge', first, '-o', fresh()], 3, 'SAFETENSORS'],
    [['merge', 'x'], 2, '--output'],
  ])('%j: exit code %i', async (args, status, what) => {
    const result = await run(...args);
    expect(result.status).toBe(status);
    expect(result.stderr).toContain(what);
    expect(existsSync(args.at(-1) as string)).toBe(args.at(-1) === first);
  });
});
