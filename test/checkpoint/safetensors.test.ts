import { closeSync, ftruncateSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SafetensorsFile } from '../../lib/checkpoint/safetensors.js';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-writer.js';
import type { StoredTensor } from '../../lib/checkpoint/stored-tensor.js';
import { CheckpointError } from '../../lib/index.js';
import { readSafetensors, safetensors, temporaryFolder, withLength } from '../support/files.js';
import { readJson, VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();

async function open(content: Buffer | string): Promise<SafetensorsFile> {
  const path = join(folder, 'file.safetensors');
  writeFileSync(path, content);
  return SafetensorsFile.open(path);
}

const u8 = (name: string, begin: number, end: number, rest = '') =>
  `"${name}":{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]${rest}}`;

describe('the reference reader accepts and refuses the same files', () => {
  const CODES: Record<string, string[]> = {
    MisalignedSlice: ['SAFETENSORS_MISALIGNED'],
    HeaderTooSmall: ['SAFETENSORS_TOO_SMALL'],
    InvalidHeaderLength: ['SAFETENSORS_HEADER_LENGTH'],
    HeaderTooLarge: ['SAFETENSORS_HEADER_TOO_LARGE'],
    InvalidHeader: ['SAFETENSORS_INVALID_UTF8'],
    InvalidHeaderDeserialization: [
      'SAFETENSORS_INVALID_JSON',
      'SAFETENSORS_UNKNOWN_DTYPE',
      'SAFETENSORS_INVALID_METADATA',
      'SAFETENSORS_INVALID_SHAPE',
    ],
    InvalidOffset: ['SAFETENSORS_HOLE', 'SAFETENSORS_OVERLAP', 'SAFETENSORS_REVERSED_OFFSETS'],
    TensorInvalidInfo: ['SAFETENSORS_SIZE_MISMATCH'],
    MetadataIncompleteBuffer: ['SAFETENSORS_TRAILING_DATA', 'SAFETENSORS_TRUNCATED'],
    ValidationOverflow: ['SAFETENSORS_SIZE_OVERFLOW'],
  };

  const files = readJson<{ file: string; expect: string }[]>('safetensors', 'expect.json');
  it.each(files.map(({ file, expect }) => [file, expect] as const))('%s: %s', async (file, expected) => {
    const path = join(VECTORS, 'safetensors', file);
    if (expected.startsWith('ok')) {
      const opened = await SafetensorsFile.open(path);
      const plain = readSafetensors(readFileSync(path));
      expect([...opened.tensors.keys()].sort()).toEqual([...plain.tensors.keys()].sort());
      for (const [name, { dtype, shape, bytes }] of plain.tensors) {
        const tensor = opened.tensors.get(name);
        expect(tensor).toMatchObject({ dtype, shape, bytes: bytes.length });
        const data = new Uint8Array(bytes.length);
        if (tensor !== undefined) await tensor.read(0, data);
        expect(Buffer.from(data).equals(bytes)).toBe(true);
      }
      expect(Object.fromEntries(opened.metadata)).toEqual(plain.metadata);
      await opened.close();
    } else {
      const codes = CODES[expected.replace(/\(.*/, '')] ?? [];
      const error = await SafetensorsFile.open(path).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(CheckpointError);
      expect(codes).toContain((error as CheckpointError).code);
    }
  });
});

describe('every lie has its own code', () => {
  const lies: [string, string, Buffer][] = [
    ['SAFETENSORS_TOO_SMALL', 'an empty file', Buffer.alloc(0)],
    ['SAFETENSORS_TOO_SMALL', 'seven bytes', Buffer.alloc(7)],
    ['SAFETENSORS_HEADER_TOO_LARGE', 'a byte more than the limit', Buffer.from([1, 0xe1, 0xf5, 5, 0, 0, 0, 0, 123])],
    ['SAFETENSORS_HEADER_LENGTH', 'the limit, in a short file', Buffer.from([0, 0xe1, 0xf5, 5, 0, 0, 0, 0, 123])],
    ['SAFETENSORS_HEADER_START', 'no header', withLength('')],
    ['SAFETENSORS_HEADER_TOO_LARGE', 'a header of 2^63 bytes', Buffer.from([0, 0, 0, 0, 0, 0, 0, 0x80, 1])],
    ['SAFETENSORS_HEADER_LENGTH', 'a header longer than the file', Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 123, 125])],
    ['SAFETENSORS_HEADER_START', 'white space first', withLength(' {}')],
    ['SAFETENSORS_INVALID_UTF8', 'bytes that are no text', withLength(Buffer.from('{"\xff":1}', 'latin1'))],
    ['SAFETENSORS_INVALID_JSON', 'a comma too many', withLength(`{${u8('a', 0, 1)},}`, new Uint8Array(1))],
    ['SAFETENSORS_INVALID_JSON', 'brackets without end', withLength(`{"a":${'['.repeat(100_000)}`)],
    ['SAFETENSORS_DUPLICATE_KEY', 'a name twice', withLength(`{${u8('a', 0, 1)},${u8('a', 1, 2)}}`, new Uint8Array(2))],
    [
      'SAFETENSORS_DUPLICATE_KEY',
      'a name twice, once escaped',
      withLength(`{${u8('a', 0, 1)},${u8('\\u0061', 1, 2)}}`, new Uint8Array(2)),
    ],
    [
      'SAFETENSORS_DUPLICATE_KEY',
      'a field twice',
      withLength(`{${u8('a', 0, 1, ',"dtype":"I8"')}}`, new Uint8Array(1)),
    ],
    ['SAFETENSORS_MISSING_FIELD', 'no shape', withLength('{"a":{"dtype":"U8","data_offsets":[0,0]}}')],
    [
      'SAFETENSORS_UNKNOWN_DTYPE',
      'an unknown dtype',
      withLength('{"a":{"dtype":"Q4","shape":[0],"data_offsets":[0,0]}}'),
    ],
    ['SAFETENSORS_INVALID_SHAPE', 'a fraction', withLength('{"a":{"dtype":"U8","shape":[0.5],"data_offsets":[0,0]}}')],
    [
      'SAFETENSORS_INVALID_SHAPE',
      'a negative number',
      withLength('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}'),
    ],
    [
      'SAFETENSORS_INVALID_OFFSETS',
      'a negative offset',
      withLength('{"a":{"dtype":"U8","shape":[0],"data_offsets":[-1,-1]}}'),
    ],
    ['SAFETENSORS_DUPLICATE_KEY', 'metadata twice', withLength('{"__metadata__":{},"__metadata__":{}}')],
    ['SAFETENSORS_INVALID_METADATA', 'an array as metadata', withLength('{"__metadata__":[]}')],
    ['SAFETENSORS_MISSING_FIELD', 'a tensor that is a number', withLength('{"a":1}')],
    ['SAFETENSORS_HOLE', 'data that do not begin at 0', withLength(`{${u8('a', 1, 2)}}`, new Uint8Array(2))],
    ['SAFETENSORS_INVALID_OFFSETS', 'one offset', withLength('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}')],
    ['SAFETENSORS_INVALID_METADATA', 'a number as metadata', withLength('{"__metadata__":{"a":1}}')],
    [
      'SAFETENSORS_REVERSED_OFFSETS',
      'end before begin',
      withLength('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', new Uint8Array(1)),
    ],
    ['SAFETENSORS_HOLE', 'a hole', withLength(`{${u8('a', 0, 1)},${u8('b', 2, 3)}}`, new Uint8Array(3))],
    ['SAFETENSORS_OVERLAP', 'an overlap', withLength(`{${u8('a', 0, 2)},${u8('b', 1, 3)}}`, new Uint8Array(3))],
    [
      'SAFETENSORS_SIZE_OVERFLOW',
      'a shape past 2^64',
      withLength('{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    ],
    [
      'SAFETENSORS_SIZE_OVERFLOW',
      'a product that wraps to the right size',
      withLength('{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    ],
    [
      'SAFETENSORS_MISALIGNED',
      'three nibbles',
      withLength('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', new Uint8Array(2)),
    ],
    [
      'SAFETENSORS_SIZE_MISMATCH',
      'too few bytes for the shape',
      withLength('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', new Uint8Array(4)),
    ],
    ['SAFETENSORS_TRUNCATED', 'a file cut short', withLength(`{${u8('a', 0, 9)}}`, new Uint8Array(8))],
    ['SAFETENSORS_TRAILING_DATA', 'bytes after the end', withLength(`{${u8('a', 0, 9)}}`, new Uint8Array(10))],
  ];

  it.each(lies)('%s: %s', async (code, _, content) => {
    const error = await open(content).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error).toMatchObject({ code, path: join(folder, 'file.safetensors') });
  });

  it('all codes that there are', () => {
    const source = readFileSync(join(__dirname, '..', '..', 'lib', 'errors.ts'), 'utf8');
    const codes = new Set(source.match(/SAFETENSORS_\w+/g));
    expect(new Set(lies.map(([code]) => code))).toEqual(codes);
  });

  it('names the tensor', async () => {
    await expect(open(withLength(`{${u8('good', 0, 1)},${u8('bad', 2, 3)}}`, new Uint8Array(3)))).rejects.toMatchObject(
      { tensor: 'bad' },
    );
  });

  it('refuses a missing file and a folder', async () => {
    await expect(SafetensorsFile.open(join(folder, 'absent'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(SafetensorsFile.open(folder)).rejects.toBeInstanceOf(CheckpointError);
  });

  it('claims of huge sizes cost nothing: the file is what counts', async () => {
    const before = process.memoryUsage().rss;
    const text = '{"a":{"dtype":"F32","shape":[200000000000],"data_offsets":[0,800000000000]}}';
    await expect(open(withLength(text))).rejects.toMatchObject({ code: 'SAFETENSORS_TRUNCATED' });
    expect(process.memoryUsage().rss - before).toBeLessThan(50e6);
  });

  it('survives any bytes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.boolean(), async (bytes, asHeader) => {
        const content = asHeader ? withLength(Buffer.concat([Buffer.from('{'), bytes])) : Buffer.from(bytes);
        const result = await open(content).then(
          (file) => file.close(),
          (error: unknown) => error,
        );
        if (result !== undefined) expect(result).toBeInstanceOf(CheckpointError);
      }),
      { numRuns: 500 },
    );
  });
});

describe('large files', () => {
  it('opens a header of a million tensors', async () => {
    const count = 1_000_000;
    const entries = Array.from({ length: count }, (_, i) => u8(`model.layers.${i}.w`, i, i + 1));
    const path = join(folder, 'million.safetensors');
    writeFileSync(path, withLength(`{${entries.join(',')}}`));
    truncateSync(path, readFileSync(path).length + count);
    const file = await SafetensorsFile.open(path);
    expect(file.tensors.size).toBe(count);
    expect(file.tensors.get('model.layers.999999.w')?.position).toBe(readFileSync(path).length - 1);
    await file.close();
  });

  it('reads past 4 GiB', async () => {
    const path = join(folder, 'sparse.safetensors');
    const gap = 5 * 2 ** 30;
    const header = withLength(`{${u8('gap', 0, gap)},${u8('end', gap, gap + 4)}}`);
    const descriptor = openSync(path, 'w');
    writeSync(descriptor, header);
    ftruncateSync(descriptor, header.length + gap + 4);
    writeSync(descriptor, Buffer.from([1, 2, 3, 4]), 0, 4, header.length + gap);
    closeSync(descriptor);
    const file = await SafetensorsFile.open(path);
    const data = new Uint8Array(2);
    await file.tensors.get('end')?.read(1, data);
    expect(Array.from(data)).toEqual([2, 3]);
    await file.close();
  });

  it('says so when a file shrinks under our feet', async () => {
    const file = await open(safetensors({ a: { dtype: 'U8', shape: [100], data: new Uint8Array(100) } }));
    truncateSync(file.path, 120);
    const tensor = file.tensors.get('a') as StoredTensor;
    await expect(tensor.read(0, new Uint8Array(100))).rejects.toMatchObject({
      code: 'FILE_TRUNCATED',
      tensor: 'a',
    });
    await file.close();
  });
});

describe('writing', () => {
  it('lays tensors out as the reference writer does, in any order of writing', async () => {
    const path = join(folder, 'written.safetensors');
    const specs = [
      { name: 'b', dtype: 'F16', shape: [3] },
      { name: 'z', dtype: 'I64', shape: [2] },
      { name: 'a', dtype: 'F16', shape: [1, 2] },
      { name: 'empty', dtype: 'F32', shape: [0, 4] },
      { name: 'scalar', dtype: 'I32', shape: [] },
    ] as const;
    const writer = await writeSafetensors(path, specs, new Map([['format', 'pt']]));
    await writer.write('a', 0, new Uint8Array([1, 2, 3, 4]));
    await writer.write('scalar', 0, new Uint8Array([5, 0, 0, 0]));
    await writer.write('b', 4, new Uint8Array([9, 10]));
    await writer.write('z', 0, new Uint8Array(16).fill(7));
    await writer.write('b', 0, new Uint8Array([6, 6, 8, 8]));
    await writer.sync();
    await writer.close();
    const file = readFileSync(path);
    expect(Number(file.readBigUInt64LE()) % 8).toBe(0);
    const { tensors, metadata } = readSafetensors(file);
    expect([...tensors.keys()]).toEqual(['z', 'empty', 'scalar', 'a', 'b']);
    expect(metadata).toEqual({ format: 'pt' });
    expect(Array.from(tensors.get('b')?.bytes ?? [])).toEqual([6, 6, 8, 8, 9, 10]);
    const opened = await SafetensorsFile.open(path);
    expect(opened.tensors.get('scalar')).toMatchObject({ shape: [], bytes: 4 });
    await opened.close();
  });

  it('takes up a file that another process began, and keeps its data', async () => {
    const path = join(folder, 'partial.safetensors');
    const specs = [
      { name: 'a', dtype: 'U8', shape: [4] },
      { name: 'b', dtype: 'U8', shape: [4] },
    ] as const;
    const first = await writeSafetensors(path, specs, new Map());
    await first.write('a', 0, new Uint8Array([1, 2, 3, 4]));
    await expect(first.write('c', 0, new Uint8Array(1))).rejects.toThrow(RangeError);
    await first.close();
    const second = await writeSafetensors(path, specs, new Map());
    await second.write('b', 2, new Uint8Array([7, 8]));
    const a = new Uint8Array(4);
    await second.read('a', 0, a);
    expect(Array.from(a)).toEqual([1, 2, 3, 4]);
    await second.close();
    const { tensors } = readSafetensors(readFileSync(path));
    expect(Array.from(tensors.get('b')?.bytes ?? [])).toEqual([0, 0, 7, 8]);
  });
});
