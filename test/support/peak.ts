/**
 * Peaks of memory of a process.
 *
 * @module
 */
import { spawn } from 'node:child_process';

/** What a script in a process of its own prints last, as JSON; `script` is the body of an async function. */
export function inProcess<T>(script: string, ...args: string[]): Promise<T> {
  const whole = `(async () => { ${PEAK} ${script} })().then((value) => console.log(JSON.stringify(value)))`;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['-e', whole, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data));
    child.stderr.on('data', (data: Buffer) => (stderr += data));
    child.on('close', (status) => {
      if (status === 0) resolve(JSON.parse(stdout));
      else reject(new Error(`exit status ${status}: ${stderr}`));
    });
  });
}

/** peak(): the most resident memory since the last beginning() in bytes; where Linux does not tell, since the process began. */
const PEAK = `
  const { readFileSync, writeFileSync } = require('node:fs');
  const peak = () => {
    if (process.platform !== 'linux') return 1024 * process.resourceUsage().maxRSS;
    return 1024 * Number(/VmHWM:\\s+(\\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
  };
  const beginning = () => {
    if (process.platform === 'linux') writeFileSync('/proc/self/clear_refs', '5');
  };
`;
