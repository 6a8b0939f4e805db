import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const run = promisify(execFile);
const node = (...args: string[]) => run(process.execPath, [join(__dirname, 'run.mjs'), ...args]);

// A process for all: it replaces what the package reads files with.
describe('whatever a file holds, it is read or refused with a code', () => {
  it('in recorded cases and random ones of every target', async () => {
    const { stdout: list } = await node('--list');
    const { stdout, stderr } = await node('all', '--replay', '--executions', '1500', '--seed', '2026');
    expect(stderr).toBe('');
    for (const name of list.trim().split('\n')) {
      const result = new RegExp(`^${name}: 1500 executions, seed 2026, (\\d+) recorded cases, no finding`, 'm').exec(
        stdout,
      );
      expect(Number(result?.[1]), name).toBeGreaterThan(0);
    }
  }, 300_000);

  it.each([
    ['throws what is no error of ours', 'it throws TypeError'],
    ['has an unknown code', 'it throws the code'],
    ['allocates what its input does not explain', 'it allocates'],
    ['breaks what must hold', 'it is wrong'],
  ])('and a case that %s is a finding', async (_, message) => {
    const error = await node('--self-test', message).catch((e: { stderr: string; code: number }) => e);
    expect(error).toMatchObject({ code: 1, stderr: expect.stringContaining(message) });
    expect(error.stderr).toMatch(/seed 1, case 3/);
  });
});
