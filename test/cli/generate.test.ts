import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUNDLED } from '../support/models.js';

const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');

function run(...args: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [MAIN, 'generate', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data));
    child.stderr.on('data', (data: Buffer) => (stderr += data));
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

describe('lowbit generate', () => {
  it('continues a prompt', async () => {
    const { status, stdout, stderr } = await run(BUNDLED, '-p', 'ROMEO\t', '-n', '20');
    expect([status, stdout]).toEqual([0, 'ROMEO\tI will not be a man \n']);
    expect(stderr).toMatch(/^prompt 7 tokens, [\d.]+ per second; then 20, [\d.]+ per second\n$/);
  });

  it('quietly, as JSON, with one block in memory, to a stop text', async () => {
    const quiet = await run(BUNDLED, '-p', 'ROMEO\t', '-n', '20', '-q', '--low-memory', '--stop', ' man');
    expect(quiet).toEqual({ status: 0, stdout: 'I will not be a\n', stderr: '' });
    const { stdout } = await run(BUNDLED, '-p', 'ROMEO\t', '-n', '3', '--json', '--compute-dtype', 'float32');
    expect(JSON.parse(stdout)).toMatchObject({ text: 'I w', tokens: [76, 35, 122], finishReason: 'length' });
    const sampled = () =>
      run(BUNDLED, '-p', 'A', '-n', '12', '-q', '--temperature', '1', '--seed', '3', '--top-k', '9', '--top-p', '0.9');
    expect((await sampled()).stdout).toBe((await sampled()).stdout);
  });

  it('refuses with the exit codes that it names', async () => {
    expect((await run(BUNDLED)).status).toBe(2);
    expect((await run(BUNDLED, '-p', 'a', '--seed', '-1')).status).toBe(2);
    expect((await run(BUNDLED, '-p', 'a', '--top-p', '7')).status).toBe(2);
    const { status, stderr } = await run(join(BUNDLED, 'nowhere'), '-p', 'a');
    expect(status).toBe(3);
    expect(stderr).toMatch(/does not exist\. \[FILE_NOT_FOUND\]/);
  });
});
