import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GgufFile } from '../../lib/checkpoint/gguf/gguf-file.js';
import { ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { type ImportanceMatrix, importanceOf, quantizeCheckpoint, readImatrix, writeImatrix } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { gguf, info, pair, type RawFile, TYPE, text, u32, u64 } from '../support/gguf.js';
import { hashOfTensors } from '../support/gguf-model.js';
import { bundledImportance } from '../support/imatrix.js';
import { readJson } from '../support/vectors.js';

const root = temporaryFolder();
let count = 0;
const fresh = (ending = '.gguf') => join(root, `${count++}${ending}`);
function written(bytes: Buffer): string {
  const path = fresh();
  writeFileSync(path, bytes);
  return path;
}

const floats = (...values: number[]) => Buffer.from(Float32Array.from(values).buffer);
const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc((32 - (bytes.length % 32)) % 32)]);
const strings = (...values: string[]) =>
  Buffer.concat([u32(TYPE.string), u64(values.length), ...values.map((value) => text(value))]);

/** The file that llama-imatrix writes of two tensors, one of two experts. */
const PAIRS = [
  pair('general.type', TYPE.string, text('imatrix')),
  pair('imatrix.datasets', TYPE.array, strings('a.txt', 'b.txt')),
  pair('imatrix.chunk_count', TYPE.u32, u32(7)),
  pair('imatrix.chunk_size', TYPE.u32, u32(512)),
];
const INFOS = [
  info({ name: 'blk.0.ffn_down_exps.weight.in_sum2', dims: [3, 2], offset: 0 }),
  info({ name: 'blk.0.ffn_down_exps.weight.counts', dims: [1, 2], offset: 32 }),
  info({ name: 'blk.0.ffn_up.weight.in_sum2', dims: [4], offset: 64 }),
  info({ name: 'blk.0.ffn_up.weight.counts', dims: [1], offset: 96 }),
];
const DATA = [floats(1, 2, 3, 4, 5, 6), floats(2, 0), floats(1, 0.5, 1e-8, 100), floats(3)];
const file = (more: RawFile = {}) =>
  gguf({ pairs: PAIRS, infos: INFOS, data: Buffer.concat(DATA.map(padded)), ...more });

const MATRIX: ImportanceMatrix = {
  entries: new Map([
    ['blk.0.ffn_up.weight', { sums: Float32Array.of(1, 0.5, 1e-8, 100), counts: [3] }],
    ['blk.0.ffn_down_exps.weight', { sums: Float32Array.of(1, 2, 3, 4, 5, 6), counts: [2, 0] }],
  ]),
  datasets: ['a.txt', 'b.txt'],
  chunkCount: 7,
  chunkSize: 512,
};

const i32 = (value: number) => u32(value);
const datEntry = (name: string, calls: number, ...values: number[]) =>
  Buffer.concat([i32(Buffer.byteLength(name)), Buffer.from(name), i32(calls), i32(values.length), floats(...values)]);
const dat = (entries: Buffer[], end: Buffer = Buffer.alloc(0), claimed = entries.length) =>
  Buffer.concat([i32(claimed), ...entries, end]);

describe('the GGUF form', () => {
  it('is read', async () => {
    const { entries, ...rest } = await readImatrix(written(file()));
    expect(rest).toEqual({ datasets: ['a.txt', 'b.txt'], chunkCount: 7, chunkSize: 512 });
    expect(new Map(entries)).toEqual(MATRIX.entries);
  });

  it('is written as llama-imatrix does, byte for byte, whatever the order of the entries', async () => {
    const path = fresh();
    await writeImatrix(path, MATRIX);
    expect(readFileSync(path).equals(file())).toBe(true);
    await writeImatrix(path, { ...MATRIX, entries: new Map([...MATRIX.entries].reverse()) });
    expect(readFileSync(path).equals(file())).toBe(true);
  });

  it('means: sums by counts, in float32; 1 for an expert that nothing came to', () => {
    const [up, down] = [...MATRIX.entries.values()].map(importanceOf);
    expect(up).toEqual(Float32Array.of(1 / 3, 0.5 / 3, Math.fround(1e-8) / 3, 100 / 3));
    expect(down).toEqual(Float32Array.of(0.5, 1, 1.5, 1, 1, 1));
  });

  it('sums of inputs and tensors of other names do not matter', async () => {
    const more = [
      info({ name: 'blk.0.ffn_up.weight.in_sum', dims: [4], offset: 128 }),
      info({ name: 'else', dims: [4], offset: 160 }),
    ];
    const bytes = file({
      infos: [...INFOS, ...more],
      data: Buffer.concat([...DATA, floats(1, 2, 3, -4), floats(9, 9, 9, 9)].map(padded)),
    });
    expect(new Map((await readImatrix(written(bytes))).entries)).toEqual(MATRIX.entries);
  });

  const bad: [string, string, RawFile][] = [
    ['IMATRIX_INVALID', 'a model', { pairs: [pair('general.type', TYPE.string, text('model')), ...PAIRS.slice(1)] }],
    ['IMATRIX_INVALID', 'no type', { pairs: PAIRS.slice(1) }],
    ['IMATRIX_INVALID', 'no datasets', { pairs: PAIRS.filter((_, i) => i !== 1) }],
    ['IMATRIX_INVALID', 'no chunks', { pairs: PAIRS.filter((_, i) => i !== 2) }],
    ['IMATRIX_INVALID', 'no chunk size', { pairs: PAIRS.slice(0, 3) }],
    [
      'IMATRIX_INVALID',
      'datasets that are a number',
      { pairs: [...PAIRS.filter((_, i) => i !== 1), pair('imatrix.datasets', TYPE.u32, u32(1))] },
    ],
    [
      'GGUF_METADATA_TYPE',
      'a chunk count that is text',
      { pairs: [...PAIRS.filter((_, i) => i !== 2), pair('imatrix.chunk_count', TYPE.string, text('7'))] },
    ],
    ['IMATRIX_INVALID', 'no entries', { infos: [], data: 0 }],
    ['IMATRIX_INVALID', 'sums without counts', { infos: INFOS.slice(0, 3) }],
    [
      'IMATRIX_INVALID',
      'counts without sums',
      { infos: [INFOS[0] as Buffer, INFOS[1] as Buffer, info({ name: 'x.counts', dims: [1], offset: 64 })] },
    ],
    [
      'IMATRIX_INVALID',
      'sums that are no multiple of the counts',
      { infos: [INFOS[0] as Buffer, info({ name: 'blk.0.ffn_down_exps.weight.counts', dims: [1, 4], offset: 32 })] },
    ],
    [
      'IMATRIX_INVALID',
      'halves',
      { infos: [info({ name: 'x.in_sum2', dims: [6], type: 1 }), info({ name: 'x.counts', dims: [1], offset: 32 })] },
    ],
    [
      'IMATRIX_INVALID',
      'a negative sum',
      { data: Buffer.concat([floats(1, 2, -3, 4, 5, 6), ...DATA.slice(1)].map(padded)) },
    ],
    [
      'IMATRIX_INVALID',
      'a sum that is no number',
      { data: Buffer.concat([floats(1, 2, Number.NaN, 4, 5, 6), ...DATA.slice(1)].map(padded)) },
    ],
    [
      'IMATRIX_INVALID',
      'an infinite sum',
      { data: Buffer.concat([floats(1, 2, Number.POSITIVE_INFINITY, 4, 5, 6), ...DATA.slice(1)].map(padded)) },
    ],
    [
      'IMATRIX_INVALID',
      'a negative count',
      { data: Buffer.concat([DATA[0] as Buffer, floats(-1, 1), ...DATA.slice(2)].map(padded)) },
    ],
    ['GGUF_TRUNCATED', 'an end too early', { data: 96 }],
  ];
  it.each(bad)('%s: %s', async (code, _, more) => {
    await expect(readImatrix(written(file(more)))).rejects.toMatchObject({ code });
  });

  it('has no values without end', async () => {
    // A sparse file of 3 GiB that claims to be one entry.
    const { truncateSync } = await import('node:fs');
    const infos = [
      info({ name: 'x.counts', dims: [1], offset: 0 }),
      info({ name: 'x.in_sum2', dims: [3 * 2 ** 28], offset: 32 }),
    ];
    const path = written(file({ infos, data: 32 }));
    truncateSync(path, 3 * 2 ** 30 + 4096);
    await expect(readImatrix(path)).rejects.toMatchObject({ code: 'IMATRIX_INVALID' });
  });
});

describe('the older form', () => {
  const entries = [datEntry('blk.0.ffn_up.weight', 5, 1, 2, 3, 4), datEntry('é', 0, 7)];
  const end = Buffer.concat([i32(12), i32(5), Buffer.from('a.txt')]);

  it('is read', async () => {
    const matrix = await readImatrix(written(dat(entries, end)));
    expect(new Map(matrix.entries)).toEqual(
      new Map([
        ['blk.0.ffn_up.weight', { sums: Float32Array.of(1, 2, 3, 4), counts: [5] }],
        ['é', { sums: Float32Array.of(7), counts: [1] }],
      ]),
    );
    expect(matrix).toMatchObject({ datasets: ['a.txt'], chunkCount: 12, chunkSize: 0 });
    // And can be written in the newer one.
    const path = fresh();
    await writeImatrix(path, matrix);
    expect(await readImatrix(path)).toEqual(matrix);
  });

  it('the oldest files end after their entries', async () => {
    const matrix = await readImatrix(written(dat(entries)));
    expect(matrix).toMatchObject({ datasets: [], chunkCount: 0 });
    expect((await readImatrix(written(dat(entries, i32(3))))).chunkCount).toBe(3);
    expect((await readImatrix(written(dat(entries, Buffer.concat([i32(3), i32(99)]))))).datasets).toEqual([]);
  });

  const bad: [string, string, Buffer][] = [
    ['IMATRIX_TRUNCATED', 'nothing', Buffer.alloc(0)],
    ['IMATRIX_TRUNCATED', 'three bytes', Buffer.alloc(3)],
    ['IMATRIX_INVALID', 'no entries', dat([])],
    ['IMATRIX_INVALID', 'something else', Buffer.from('PK\u0003\u0004 some archive of another kind')],
    ['IMATRIX_INVALID', 'a negative number of entries', dat(entries, end, -1)],
    ['IMATRIX_INVALID', 'more entries than fit', dat(entries, end, 100)],
    ['IMATRIX_TRUNCATED', 'an entry too many', dat(entries, Buffer.concat([i32(20), Buffer.alloc(16, 97)]), 3)],
    ['IMATRIX_INVALID', 'a name without length', dat([datEntry('', 1, 1), Buffer.alloc(32)], end)],
    ['IMATRIX_INVALID', 'a name of a negative length', dat([Buffer.concat([i32(-5), Buffer.alloc(32)])], end)],
    ['IMATRIX_INVALID', 'a name of a gigabyte', dat([Buffer.concat([i32(2 ** 30), Buffer.alloc(32)])], end)],
    ['IMATRIX_INVALID', 'no values', dat([datEntry('a', 1), Buffer.alloc(32)], end)],
    ['IMATRIX_INVALID', 'an entry twice', dat([datEntry('a', 1, 1), datEntry('a', 1, 1)], end)],
    ['IMATRIX_INVALID', 'a value that is no number', dat([datEntry('a', 1, Number.NaN), datEntry('b', 1, 1)], end)],
    [
      'IMATRIX_TRUNCATED',
      'values that are not there',
      dat([Buffer.concat([i32(1), Buffer.from('a'), i32(1), i32(2 ** 31 - 1), floats(1)])], end),
    ],
  ];
  it.each(bad)('%s: %s', async (code, _, bytes) => {
    await expect(readImatrix(written(bytes))).rejects.toMatchObject({ code });
  });

  it('any cut, any byte changed: an error of ours or a matrix without faults', async () => {
    const whole = dat(entries, end);
    for (let at = 0; at < whole.length; at++) {
      const changed = Buffer.from(whole);
      changed[at] = (changed[at] as number) ^ (1 << (at % 8));
      for (const bytes of [whole.subarray(0, at), changed]) {
        const result = await readImatrix(written(bytes)).catch((error: unknown) => error as { code: string });
        if ('code' in result) expect(result.code).toMatch(/^IMATRIX_/);
        else for (const { sums } of result.entries.values()) expect(sums.every((sum) => sum >= 0)).toBe(true);
      }
    }
  });
});

it('arguments', async () => {
  await expect(readImatrix(join(root, 'missing'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(readImatrix(5 as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(readImatrix(root)).rejects.toMatchObject({ code: 'READ_FAILED' });
  for (const wrong of [
    null,
    {},
    { ...MATRIX, entries: {} },
    { ...MATRIX, datasets: 'a' },
    { ...MATRIX, chunkCount: -1 },
    { ...MATRIX, chunkSize: 0.5 },
    { ...MATRIX, entries: new Map([['a', { sums: [1], counts: [1] }]]) },
    { ...MATRIX, entries: new Map([['a', { sums: Float32Array.of(-1), counts: [1] }]]) },
    { ...MATRIX, entries: new Map([['a', { sums: Float32Array.of(1), counts: [] }]]) },
  ]) {
    await expect(writeImatrix(fresh(), wrong as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  }
  const long = new Map([['x'.repeat(60), { sums: Float32Array.of(1), counts: [1] }]]);
  await expect(writeImatrix(fresh(), { ...MATRIX, entries: long })).rejects.toMatchObject({ code: 'GGUF_TENSOR_NAME' });
  await expect(writeImatrix(join(root, 'missing', 'x'), MATRIX)).rejects.toMatchObject({ name: 'OutputError' });
});

describe('a checkpoint quantized with an importance matrix', () => {
  const bundled = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
  const golden = readJson<Record<string, string>>('gguf-files', 'imatrix-hashes.json');

  it.each(Object.entries(golden))('the bytes are those of llama-quantize: %s', async (recipe, expected) => {
    const path = fresh();
    await quantizeCheckpoint(bundled, {
      format: 'gguf',
      dtype: recipe as 'q4_0',
      imatrix: bundledImportance(),
      output: path,
    });
    expect(await hashOfTensors(path)).toBe(expected);
  });

  it('the file says so, with the keys of llama-quantize', async () => {
    const [imatrix, path] = [fresh(), fresh()];
    await writeImatrix(imatrix, bundledImportance());
    const output = { format: 'gguf', dtype: 'q4_0' } as const;
    await quantizeCheckpoint(bundled, { ...output, imatrix, output: path });
    const file = await GgufFile.open(path);
    const own = [...file.metadata].filter(([key]) => key.startsWith('quantize.'));
    await file.close();
    expect(own).toEqual([
      ['quantize.imatrix.file', ggufValue.string(imatrix.slice(0, 127))],
      ['quantize.imatrix.dataset', ggufValue.string('some/text.txt')],
      ['quantize.imatrix.entries_count', ggufValue.uint32(42)],
      ['quantize.imatrix.chunks_count', ggufValue.uint32(3)],
    ]);
    const manifest = JSON.parse(readFileSync(`${path}.lowbit.json`, 'utf8')) as { decisions: { imatrix: string } };
    expect(manifest.decisions.imatrix).toMatch(/^[0-9a-f]{64}$/);
    // Another matrix is another result: what one run left is not continued by the other.
    const { entries, ...rest } = bundledImportance();
    const other = new Map([...entries].map(([name, { sums }]) => [name, { sums, counts: [38] }]));
    const second = fresh();
    await quantizeCheckpoint(bundled, { ...output, imatrix: { ...rest, entries: other }, output: second });
    const again = JSON.parse(readFileSync(`${second}.lowbit.json`, 'utf8')) as typeof manifest;
    expect(again.decisions.imatrix).not.toBe(manifest.decisions.imatrix);
  });

  it('a matrix of another model is refused, with every tensor', async () => {
    const quantize = (imatrix: ImportanceMatrix) =>
      quantizeCheckpoint(bundled, { format: 'gguf', dtype: 'q4_k_m', imatrix, output: fresh() });
    const fewer = bundledImportance(5);
    const error = (await quantize(fewer).catch((cause: unknown) => cause)) as Error;
    expect(error).toMatchObject({ code: 'IMATRIX_MISMATCH' });
    for (const kind of ['attn_q', 'ffn_down']) expect(error.message).toContain(`blk.5.${kind}.weight: it is missing`);
    await expect(quantize(bundledImportance(6, 256, 512))).rejects.toMatchObject({
      code: 'IMATRIX_MISMATCH',
      tensor: 'blk.0.ffn_down.weight',
      message: expect.stringContaining('512 values for 768 columns') as string,
    });
  });

  it('q2_k_s needs one', async () => {
    await expect(
      quantizeCheckpoint(bundled, { format: 'gguf', dtype: 'q2_k_s', output: fresh() }),
    ).rejects.toMatchObject({ code: 'IMATRIX_REQUIRED', tensor: expect.stringMatching(/^blk\./) as string });
  });

  it('no other format takes one', async () => {
    for (const imatrix of ['file', bundledImportance()]) {
      await expect(quantizeCheckpoint(bundled, { imatrix, output: fresh('') })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        argument: 'imatrix',
      });
    }
    await expect(
      quantizeCheckpoint(bundled, { format: 'gguf', imatrix: {} as never, output: fresh() }),
    ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'imatrix' });
  });
});
