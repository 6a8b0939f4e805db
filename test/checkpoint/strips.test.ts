import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readColumns } from '../../lib/checkpoint/layouts/strips.js';
import { SafetensorsFile } from '../../lib/checkpoint/safetensors.js';
import type { StoredTensor } from '../../lib/checkpoint/stored-tensor.js';
import { safetensors, temporaryFolder } from '../support/files.js';
import { random } from '../support/random.js';

const folder = temporaryFolder();

async function open(rows: number, rowBytes: number, name: string) {
  const next = random(rows * rowBytes);
  const data = Uint8Array.from({ length: rows * rowBytes }, () => Math.floor(256 * next()));
  const path = join(folder, name);
  writeFileSync(
    path,
    safetensors({
      x: { dtype: 'U8', shape: [7], data: new Uint8Array(7) },
      m: { dtype: 'U8', shape: [rows, rowBytes], data },
    }),
  );
  const file = await SafetensorsFile.open(path);
  return { file, path, data, tensor: file.tensors.get('m') as StoredTensor };
}

const shared = (bytes: number) => new Uint8Array(new SharedArrayBuffer(bytes));

describe('columns of a stored matrix', () => {
  // Gaps that are read through and gaps that are not; rows that one chunk holds, and that none does.
  it.each([
    [5, 64],
    [700, 1000],
    [90, 9000],
    [3, 200_000],
    [4, 600_000],
  ])('%i rows of %i bytes', async (rows, rowBytes) => {
    const { file, data, tensor } = await open(rows, rowBytes, `${rows}x${rowBytes}`);
    const { name, dtype, shape, bytes, path, position } = tensor;
    const read: StoredTensor['read'] = (from, into) => tensor.read(from, into);
    const slow: StoredTensor = { name, dtype, shape, bytes, path, position, read };
    for (const [begin, width] of [
      [0, 8],
      [0, rowBytes],
      [rowBytes - 4, 4],
      [12, 40],
      [4, rowBytes - 4],
    ] as const) {
      const expected = Buffer.concat(
        Array.from({ length: rows }, (_row, i) => data.subarray(i * rowBytes + begin, i * rowBytes + begin + width)),
      );
      for (const from of [tensor, slow]) {
        const into = shared(rows * width);
        await readColumns(from, rows, rowBytes, begin, width, into);
        expect(Buffer.from(into).equals(expected)).toBe(true);
      }
    }
    await readColumns(tensor, 0, rowBytes, 0, 8, shared(0));
    await readColumns(tensor, rows, rowBytes, 0, 0, shared(0));
    await file.close();
  });

  it('a file that became shorter', async () => {
    for (const rowBytes of [100, 20_000]) {
      const { file, path, tensor } = await open(50, rowBytes, `short${rowBytes}`);
      truncateSync(path, 40 * rowBytes);
      const read = readColumns(tensor, 50, rowBytes, 4, 8, shared(400));
      await expect(read).rejects.toMatchObject({ code: 'FILE_TRUNCATED', path, tensor: 'm' });
      await file.close();
    }
  });

  it('a file that is closed: reads that have begun end first, others are refused', async () => {
    const { file, data, tensor } = await open(300, 9000, 'closed');
    const into = shared(300 * 16);
    const read = readColumns(tensor, 300, 9000, 8, 16, into);
    await file.close();
    await read;
    expect(Array.from(into.subarray(299 * 16))).toEqual(Array.from(data.subarray(299 * 9000 + 8, 299 * 9000 + 24)));
    await expect(readColumns(tensor, 300, 9000, 8, 16, into)).rejects.toMatchObject({ code: 'READ_FAILED' });
  });
});
