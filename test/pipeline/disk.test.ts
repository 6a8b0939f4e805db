import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Output } from '../../lib/checkpoint/output.js';
import { castTensor, quantizeCheckpoint, verifyCheckpoint } from '../../lib/index.js';
import { safetensors, temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';

const root = temporaryFolder();
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
const SPEC = { dtype: 'int4', groupSize: 32 } as const;
const isLinux = process.platform === 'linux';
const mounts: string[] = [];
let count = 0;
const fresh = () => join(root, `out-${count++}`);

afterEach(() => {
  vi.restoreAllMocks();
  for (const mount of mounts.splice(0)) spawnSync('umount', [mount]);
});

/** A disk of so many bytes, or null where that is not permitted. */
function smallDisk(bytes: number): string | null {
  const folder = fresh();
  mkdirSync(folder);
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', folder]);
  if (status !== 0) return null;
  mounts.push(folder);
  return folder;
}

describe('a full disk', () => {
  it.runIf(isLinux)('ends the run with an error, and nothing appears', async () => {
    const output = fresh();
    const run = quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      // A file that can be opened, and never takes anything.
      onStart: () => symlinkSync('/dev/full', join(Output.workPathOf(output), 'result', 'model.safetensors')),
    });
    await expect(run).rejects.toMatchObject({ code: 'DISK_FULL' });
    expect(existsSync(output)).toBe(false);
  });

  it.runIf(isLinux)('in the middle of the work keeps what is done for when there is room', async ({ skip }) => {
    const disk = smallDisk(8_000_000);
    if (disk === null) return skip('mounting a small disk is not permitted here');
    const output = join(disk, 'out');
    const filler = join(disk, 'filler');
    let isFilled = false;
    const run = quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      onProgress: ({ tensors }) => {
        if (tensors < 20 || isFilled) return;
        isFilled = true;
        try {
          for (;;) writeFileSync(filler, Buffer.alloc(65_536), { flag: 'a' });
        } catch {
          // it is full
        }
      },
    });
    await expect(run).rejects.toMatchObject({ code: 'DISK_FULL' });
    expect(existsSync(output)).toBe(false);
    rmSync(filler);
    let continued = false;
    await quantizeCheckpoint(LLAMA, {
      ...SPEC,
      output,
      onStart: (start) => {
        continued = start.continued;
      },
    });
    expect(continued).toBe(true);
    const reference = fresh();
    await quantizeCheckpoint(LLAMA, { ...SPEC, output: reference });
    for (const name of readdirSync(reference)) {
      expect(readFileSync(join(output, name)).equals(readFileSync(join(reference, name)))).toBe(true);
    }
  });
});

describe('a folder that can not be written', () => {
  it.runIf(isLinux)('is named, and stays as it is', async ({ skip }) => {
    const folder = process.getuid?.() === 0 ? smallDisk(1_000_000) : fresh();
    if (folder === null) return skip('root may write everywhere, and mounting is not permitted here');
    mkdirSync(folder, { recursive: true });
    if (process.getuid?.() === 0) spawnSync('mount', ['-o', 'remount,ro', folder]);
    else chmodSync(folder, 0o555);
    const run = quantizeCheckpoint(LLAMA, { ...SPEC, output: join(folder, 'out') });
    await expect(run).rejects.toMatchObject({ code: 'PERMISSION_DENIED', message: expect.stringContaining(folder) });
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('files that become shorter', () => {
  const weight = castTensor(normal(4096 * 1024, 1), { from: 'float32', to: 'bfloat16' });
  const file = () => {
    const path = join(root, `in-${count++}.safetensors`);
    writeFileSync(path, safetensors({ 'w.weight': { dtype: 'BF16', shape: [4096, 1024], data: weight } }));
    return path;
  };

  it('while a result is verified', async () => {
    const input = file();
    const output = fresh();
    let isCut = false;
    const run = quantizeCheckpoint(input, {
      dtype: 'int4',
      output,
      onProgress: ({ stage, bytes, totalBytes }) => {
        if (stage !== 'write' || bytes < totalBytes || isCut) return;
        isCut = true;
        truncateSync(input, 100_000);
      },
    });
    await expect(run).rejects.toMatchObject({ code: 'FILE_TRUNCATED', tensor: 'w.weight' });
    expect(existsSync(output)).toBe(false);
  });

  it('while two checkpoints are compared', async () => {
    const [a, b] = [file(), file()];
    const run = verifyCheckpoint(a, b, { onProgress: () => truncateSync(b, 100_000) });
    await expect(run).rejects.toMatchObject({ code: 'FILE_TRUNCATED', path: b, tensor: 'w.weight' });
  });
});

describe('what is published', () => {
  it.runIf(isLinux)('is on disk before it has its name, and so is the name', async () => {
    const probe = await open(join(LLAMA, 'config.json'));
    const prototype = Object.getPrototypeOf(probe) as FileHandle;
    await probe.close();
    const output = fresh();
    const before = new Set<string>();
    const after = new Set<string>();
    for (const method of ['sync', 'datasync'] as const) {
      const original = prototype[method];
      vi.spyOn(prototype, method).mockImplementation(async function (this: FileHandle) {
        const path = readlinkSync(`/proc/self/fd/${this.fd}`);
        await original.call(this);
        (existsSync(output) ? after : before).add(path);
      });
    }
    await quantizeCheckpoint(LLAMA, { ...SPEC, output });
    const work = Output.workPathOf(output);
    const result = join(work, 'result');
    for (const name of readdirSync(output)) expect(before).toContain(join(result, name));
    expect(before).toContain(result);
    expect(before).toContain(join(work, 'journal.jsonl'));
    expect([...after]).toEqual([root]);
    expect(basename(output)).toBe(readdirSync(root).find((name) => name === basename(output)));
  });
});
