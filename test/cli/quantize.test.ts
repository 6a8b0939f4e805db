import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { writeImatrix } from '../../lib/index.js';
import { safetensors, temporaryFolder } from '../support/files.js';
import { bundledImportance } from '../support/imatrix.js';
import { normal } from '../support/random.js';

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

function start(args: string[], env: Record<string, string> = {}): { child: ChildProcess; result: Promise<Result> } {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (data: Buffer) => (stdout += data));
  child.stderr.on('data', (data: Buffer) => (stderr += data));
  return {
    child,
    result: new Promise((resolve) => child.on('close', (status) => resolve({ status, stdout, stderr }))),
  };
}

const run = (...args: string[]) => start(args).result;

/** A checkpoint that takes long enough to be interrupted. */
function slowInput(): string {
  const path = join(root, 'slow.safetensors');
  if (!existsSync(path)) {
    writeFileSync(
      path,
      safetensors({ 'w.weight': { dtype: 'F32', shape: [4096, 1024], data: normal(4096 * 1024, 1) } }),
    );
  }
  return path;
}

describe('lowbit', () => {
  it('shows its version and its commands', async () => {
    const { version } = JSON.parse(readFileSync(join(__dirname, '..', '..', 'package.json'), 'utf8'));
    expect(await run('--version')).toEqual({ status: 0, stdout: `${version}\n`, stderr: '' });
    const help = await run('--help');
    expect(help.status).toBe(0);
    for (const command of ['quantize', 'convert', 'inspect', 'verify']) {
      expect(help.stdout).toContain(command);
      expect((await run(command, '--help')).stdout).toContain('Exit codes');
    }
  });

  it('explains a wrong command and wrong options with status 2', async () => {
    for (const [args, message] of [
      [[], 'Usage'],
      [['quantise'], "unknown command 'quantise'"],
      [['quantize', '-d', 'int4'], "missing required argument 'input'"],
      [['quantize', LLAMA, '-f', 'gptq:q4_k'], 'Expected gptq with one of int4, int2, int3, int8'],
      [['quantize', LLAMA, '-f', 'exl2'], 'Expected one of compressed-tensors, gptq'],
      [['quantize', LLAMA, '-f', 'gguf:q8_0', '-d', 'q4_0'], '--dtype q4_0 contradicts --format gguf:q8_0'],
      [['quantize', LLAMA, '--layer', 'mlp', '-o', 'x'], 'Expected <regex>=<spec>'],
      [['quantize', LLAMA, '--layer', 'mlp=int5', '-o', 'x'], 'Expected float or a dtype after ='],
      [['quantize', LLAMA, '--layer', 'mlp=int8:act-int5', '-o', 'x'], 'Expected act- with one of float, int8'],
      [['quantize', LLAMA, '--layer', 'mlp=int8:rows', '-o', 'x'], 'Expected g<n>, channel, tensor, block'],
      [['quantize', LLAMA, '--max-memory', 'much', '-o', 'x'], 'Expected a size such as 2GB'],
      [['convert', LLAMA, '-o', 'x'], "required option '-t, --to <format>' not specified"],
      [['quantize', LLAMA, '-d', 'int5', '-o', 'x'], 'Allowed choices are int4, int2, int3, int8'],
      [['quantize', LLAMA, '-d', 'int4'], "required option '-o, --output <path>' not specified"],
      [['quantize', LLAMA, '-d', 'int4', '-o', 'x', '--group-size', '1.5'], 'Expected a positive integer'],
      [['quantize', LLAMA, '-d', 'int4', '-o', 'x', '--range', 'percentile:40'], 'percentile:<number above 50'],
      [['quantize', LLAMA, '-d', 'int4', '-o', 'x', '--include', '('], 'Expected a regular expression'],
      [
        ['quantize', LLAMA, '-d', 'int4', '-o', 'x', '--granularity', 'per-channel', '-g', '32'],
        '--group-size goes with',
      ],
      [['quantize', LLAMA, '-d', 'int4', '-o', 'x', '--group-sise', '32'], "unknown option '--group-sise'"],
    ] as const) {
      const { status, stderr } = await run(...args);
      expect(stderr).toContain(message);
      expect(status).toBe(2);
    }
  });
});

describe('lowbit quantize', () => {
  it('shows its options', async () => {
    const { status, stdout } = await run('quantize', '--help');
    expect(status).toBe(0);
    for (const option of ['--dtype', '--output', '--group-size', '--dry-run', '--json', '--exclude', 'Exit codes']) {
      expect(stdout).toContain(option);
    }
  });

  it('writes a folder and prints a table, with plain progress lines where there is no terminal', async () => {
    const output = fresh();
    const { status, stdout, stderr } = await run(
      'quantize',
      LLAMA,
      '--dtype',
      'int4',
      '--group-size',
      '32',
      '-o',
      output,
    );
    expect(status).toBe(0);
    expect(readdirSync(output)).toContain('model.safetensors');
    expect(stdout).toMatch(/layers\.0\.mlp\.down_proj\s+\(worst\)/);
    expect(stdout).toMatch(/bits per weight\s+│ 4\.500/);
    expect(stdout).toMatch(/42 quantized, 15 copied/);
    expect(stdout).toMatch(/GB\/s/);
    expect(stderr).toMatch(/^written: 100 %, 57 of 57 tensors/m);
    expect(stderr).not.toContain('\u001b');
  });

  it('prints a report as JSON', async () => {
    const output = fresh();
    const { status, stdout, stderr } = await run(
      'quantize',
      LLAMA,
      '-d',
      'int8',
      '--granularity',
      'per-channel',
      '-o',
      output,
      '--json',
    );
    expect(status).toBe(0);
    expect(stderr).toBe('');
    const report = JSON.parse(stdout);
    expect(report.tensors).toHaveLength(42);
    expect(report.tensors[0]).toMatchObject({
      name: expect.any(String),
      sqnrDb: expect.any(Number),
      bitsPerWeight: expect.any(Number),
    });
    expect(report.output).toBe(output);
  });

  it('says nothing when asked to be quiet', async () => {
    expect(await run('quantize', LLAMA, '-d', 'int8', '-q', '-o', fresh())).toEqual({
      status: 0,
      stdout: '',
      stderr: '',
    });
  });

  it('takes an importance matrix, which some mixtures need', async () => {
    const imatrix = join(root, 'imatrix.gguf');
    await writeImatrix(imatrix, bundledImportance());
    const with_ = await run('quantize', LLAMA, '-f', 'gguf:q2_k_s', '--imatrix', imatrix, '--dry-run');
    expect(with_).toMatchObject({ status: 0, stderr: '' });
    expect(with_.stdout).toContain('q2_k');
    const without = await run('quantize', LLAMA, '-f', 'gguf:q2_k_s', '--dry-run');
    expect(without.status).toBe(3);
    expect(without.stderr).toContain('--imatrix');
    const wrong = await run('quantize', LLAMA, '-f', 'gguf:q4_0', '--imatrix', join(LLAMA, 'config.json'), '--dry-run');
    expect(wrong.status).toBe(3);
    expect(wrong.stderr).toContain('not a valid importance matrix');
  });

  it('shows what it would do without doing it', async () => {
    const before = readdirSync(root);
    const { status, stdout } = await run('quantize', LLAMA, '-d', 'int4', '--dry-run', '--exclude', 'self_attn');
    expect(status).toBe(0);
    expect(stdout).toContain('18 tensors would be quantized, 39 copied');
    const json = await run('quantize', LLAMA, '-d', 'int4', '--dry-run', '--json');
    expect(JSON.parse(json.stdout).tensors).toHaveLength(42);
    expect(readdirSync(root)).toEqual(before);
    const wrong = await run('quantize', LLAMA, '-f', 'gguf:q4_k_m', '--method', 'hqq', '--dry-run');
    expect(wrong.status).toBe(2);
    expect(wrong.stderr).toContain('but received hqq');
  });

  it('makes GGUF files by methods, and LLM.int8()', async () => {
    const text = join(LLAMA, '..', 'text', 'sampled-calib.txt');
    const options = ['--method', 'gptq', '--text', text, '--windows', '2', '--window-length', '64', '--json'];
    const gguf = await run('quantize', LLAMA, '-f', 'gguf:q5_0', ...options, '-o', join(root, 'gptq.gguf'));
    expect(gguf.status).toBe(0);
    const layer = JSON.parse(gguf.stdout).tensors.find(({ name }: { name: string }) =>
      name.endsWith('0.mlp.up_proj.weight'),
    );
    expect(layer).toMatchObject({ to: 'q5_0', relativeError: expect.any(Number) });
    const int8 = await run('quantize', LLAMA, '-f', 'bnb:int8', '--json', '-o', fresh());
    expect(int8.status).toBe(0);
    expect(JSON.parse(int8.stdout).tensors[0]).toMatchObject({ kind: 'quantized', to: 'int8' });
  });

  it('chooses ranges by search', async () => {
    const sqnr = async (...range: string[]) => {
      const { stdout } = await run('quantize', LLAMA, '-d', 'int4', '-g', '64', '--json', '-o', fresh(), ...range);
      const { tensors } = JSON.parse(stdout) as { tensors: { sqnrDb: number }[] };
      return tensors.reduce((sum, tensor) => sum + tensor.sqnrDb, 0) / tensors.length;
    };
    const minmax = await sqnr();
    expect(await sqnr('--range', 'mse')).toBeGreaterThan(minmax);
    expect(await sqnr('--range', 'percentile:99')).not.toBe(minmax);
  });

  it('uses the threads it is given, with the same result', async () => {
    const [a, b] = [fresh(), fresh()];
    await run('quantize', LLAMA, '-d', 'int4', '--threads', '1', '-o', a);
    await run('quantize', LLAMA, '-d', 'int4', '--threads', '3', '-o', b);
    const file = (folder: string) => readFileSync(join(folder, 'model.safetensors'));
    expect(file(a).equals(file(b))).toBe(true);
  });

  it('draws a bar on a terminal', ({ skip }) => {
    // `script` gives the process a terminal.
    if (spawnSync('script', ['--version']).status !== 0) skip('needs `script` of util-linux');
    const command = `${process.execPath} ${MAIN} quantize ${LLAMA} -d int4 -o ${fresh()}`;
    const output = execFileSync('script', ['-qec', command, '/dev/null'], {
      encoding: 'utf8',
      env: { ...process.env, TERM: 'xterm' },
    });
    expect(output).toContain('█');
    expect(output).toMatch(/\d+ % \| \d+ of 57 tensors/);
  });
});

describe('exit codes', () => {
  it('3 for input that can not be read or quantized', async () => {
    const bad = join(root, 'bad.safetensors');
    writeFileSync(bad, 'not a safetensors file');
    for (const [input, code] of [
      [join(root, 'absent'), 'FILE_NOT_FOUND'],
      [bad, 'SAFETENSORS_HEADER_TOO_LARGE'],
      [join(LLAMA, '..', 'text'), 'NOT_A_CHECKPOINT'],
    ] as const) {
      const { status, stderr } = await run('quantize', input, '-d', 'int4', '-o', fresh());
      expect(stderr).toContain(`[${code}]`);
      expect(stderr).not.toContain('    at ');
      expect(status).toBe(3);
    }
  });

  it('4 for output that exists', async () => {
    const output = fresh();
    mkdirSync(output);
    const { status, stderr } = await run('quantize', LLAMA, '-d', 'int4', '-o', output);
    expect(stderr).toContain('[OUTPUT_EXISTS]');
    expect(status).toBe(4);
    expect((await run('quantize', LLAMA, '-d', 'int4', '-o', output, '--overwrite')).status).toBe(0);
  });

  it('1 for an environment that can not be obeyed, with a sentence', async () => {
    const { status, stderr } = await start(['--version'], { LOWBIT_ISA: 'mmx' }).result;
    expect(status).toBe(1);
    expect(stderr).toContain('Expected LOWBIT_ISA to be one of');
    const threads = await start(['--version'], { LOWBIT_NUM_THREADS: 'many' }).result;
    expect(threads.stderr).toContain(
      'Expected LOWBIT_NUM_THREADS to be an integer from 1 to 1024 but received "many".',
    );
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('130 for %s, and nothing is left behind', async (signal) => {
    const output = fresh();
    const { child, result } = start(['quantize', slowInput(), '-d', 'int4', '--range', 'mse', '-o', output]);
    const partial = () => readdirSync(root).filter((name) => name.includes('lowbit-partial'));
    while (partial().length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill(signal);
    const { status, stderr } = await result;
    expect(stderr).toContain('Interrupted.');
    expect(status).toBe(130);
    expect(existsSync(output)).toBe(false);
    expect(partial()).toEqual([]);
  });
});

describe('disks', () => {
  const mounted: string[] = [];
  afterAll(() => {
    for (const path of mounted) execFileSync('umount', [path]);
  });

  /** A file system of its own; needs root on Linux. */
  function mount(options: string): string | null {
    const path = join(root, `mount-${count++}`);
    mkdirSync(path);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], { stdio: 'ignore' });
    } catch {
      return null;
    }
    mounted.push(path);
    return path;
  }

  it('a full one: refused beforehand, or cleaned up when another process fills it', async ({ skip }) => {
    const disk = mount('size=4m') ?? skip('mounting needs root on Linux');
    const tooLarge = await run('quantize', slowInput(), '-d', 'int8', '-o', join(disk, 'out'));
    expect(tooLarge.status).toBe(4);
    expect(tooLarge.stderr).toMatch(/needs \d+ bytes but its disk has only \d+ left\. \[DISK_FULL\]/);
    const { child, result } = start(['quantize', slowInput(), '-d', 'int4', '--range', 'mse', '-o', join(disk, 'out')]);
    while (readdirSync(disk).length === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    try {
      writeFileSync(join(disk, 'filler'), Buffer.alloc(4 << 20));
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' }); // it is full: what was meant
    }
    const { status, stderr } = await result;
    child.kill();
    expect(stderr).toContain('[DISK_FULL]');
    expect(status).toBe(4);
    expect(readdirSync(disk)).toEqual(['filler']);
  });

  it('a read-only one', async ({ skip }) => {
    const disk = mount('ro') ?? skip('mounting needs root on Linux');
    const { status, stderr } = await run('quantize', LLAMA, '-d', 'int4', '-o', join(disk, 'out'));
    expect(stderr).toContain('[PERMISSION_DENIED]');
    expect(status).toBe(4);
  });
});
