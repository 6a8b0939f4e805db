/** Scripts in processes of their own: for what must not crash, and for other environments. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

/** The built package, as a string in a script. */
export const DIST = JSON.stringify(join(__dirname, '..', '..', 'dist', 'index.js'));

export interface Ended {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** Runs a script in a process of its own. */
export function run(script: string, env: Record<string, string> = {}, flags: string[] = []): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [...flags, '-e', script], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data));
    child.stderr.on('data', (data: Buffer) => (stderr += data));
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }));
  });
}

/** A script that ended well and printed this. */
export const success = (stdout = ''): Ended => ({ status: 0, signal: null, stdout, stderr: '' });
