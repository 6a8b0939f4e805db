import { closeSync, existsSync, fstatSync, ftruncateSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { GgufFile } from '../../lib/checkpoint/gguf/gguf-file.js';
import { GgufHeaderParser, LIMITS } from '../../lib/checkpoint/gguf/gguf-header.js';
import type { GgufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { tensorTypeNamed } from '../../lib/checkpoint/gguf/tensor-types.js';
import { Output } from '../../lib/checkpoint/output.js';
import { CheckpointError, inspectCheckpoint, quantizeCheckpoint } from '../../lib/index.js';
import { safetensors, temporaryFolder, writeFolder } from '../support/files.js';
import { gguf, info, pair, type RawFile, TYPE, text, u8, u16, u32, u64, writePieces } from '../support/gguf.js';
import { readJson, VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();
let count = 0;

function save(content: Buffer): string {
  const path = join(folder, `${count++}.gguf`);
  writeFileSync(path, content);
  return path;
}

interface Expected {
  kv: Record<string, { type: string[]; value: unknown }>;
  alignment: number;
  tensors: { name: string; type: string; shape: number[]; bytes: number; position: number }[];
}

/** A value as the reference dump has it. */
function plain(entry: GgufValue): { type: string[]; value: unknown } {
  const value = typeof entry.value === 'bigint' ? entry.value.toString() : entry.value;
  if (entry.type !== 'array') return { type: [entry.type], value };
  return { type: ['array', entry.elementType], value: Array.from(entry.value as ArrayLike<unknown>) };
}

describe('files of the reference writers', () => {
  const expected = readJson<Record<string, Expected>>('gguf-files', 'expect.json');

  it.each(Object.entries(expected))('%s reads as the reference reader reads it', async (name, { kv, ...rest }) => {
    const path = join(VECTORS, 'gguf-files', `${name}.gguf`);
    const bytes = readFileSync(path);
    const file = await GgufFile.open(path);
    expect(file.version).toBe(3);
    expect(file.alignment).toBe(rest.alignment);
    expect(Object.fromEntries([...file.metadata].map(([key, entry]) => [key, plain(entry)]))).toEqual(kv);
    expect([...file.metadata.keys()]).toEqual(Object.keys(kv));
    expect(
      [...file.tensors.values()].map((t) => ({
        name: t.name,
        type: t.dtype,
        shape: t.shape,
        bytes: t.bytes,
        position: t.position,
      })),
    ).toEqual(rest.tensors);
    for (const tensor of file.tensors.values()) {
      const data = new Uint8Array(tensor.bytes);
      await tensor.read(0, data);
      expect(bytes.subarray(tensor.position, tensor.position + tensor.bytes).equals(data)).toBe(true);
    }
    await file.close();
  });

  it('knows every type that the reference has', () => {
    const types = expected['python-all-types']?.tensors ?? [];
    expect(types.length).toBeGreaterThanOrEqual(32);
    for (const { type } of types) expect(tensorTypeNamed(type)).toBeDefined();
  });
});

describe('every lie has its own code', () => {
  const alignment = (...value: Buffer[]) => ({
    pairs: [pair('general.alignment', ...([TYPE.u32, ...value] as const))],
  });
  const lies: [string, string, Buffer | RawFile][] = [
    ['GGUF_TOO_SMALL', 'an empty file', Buffer.alloc(0)],
    ['GGUF_TOO_SMALL', 'a file of 23 bytes', gguf().subarray(0, 23)],
    ['GGUF_MAGIC', 'another format', { magic: 'GGML' }],
    ['GGUF_BIG_ENDIAN', 'a big-endian file', { version: 0x03000000 }],
    ['GGUF_VERSION', 'version 0', { version: 0 }],
    ['GGUF_VERSION', 'version 1', { version: 1 }],
    ['GGUF_VERSION', 'version 4', { version: 4 }],
    ['GGUF_COUNT', '2^63 tensors', { tensorCount: 2n ** 63n }],
    ['GGUF_COUNT', 'tensors that wrap when multiplied with their size', { tensorCount: 2n ** 64n / 368n + 1n }],
    ['GGUF_COUNT', 'keys that wrap when multiplied with their size', { pairCount: 2n ** 64n / 88n + 1n }],
    ['GGUF_COUNT', '-1 keys', { pairCount: -1n }],
    ['GGUF_COUNT', 'more tensors than bytes', { tensorCount: 1_000_000 }],
    ['GGUF_COUNT', 'more keys than bytes', { pairCount: 90_000 }],
    [
      'GGUF_HEADER_TRUNCATED',
      'a header cut off',
      gguf({ pairCount: 2, pairs: [pair('a', TYPE.u32, u32(1))] }).subarray(0, 45),
    ],
    ['GGUF_EMPTY_KEY', 'an empty key', { pairs: [pair('', TYPE.u8, u8(1))] }],
    ['GGUF_DUPLICATE_KEY', 'a key twice', { pairs: [pair('a', TYPE.u8, u8(1)), pair('a', TYPE.u8, u8(2))] }],
    ['GGUF_INVALID_UTF8', 'a key that is no text', { pairs: [pair(Buffer.from([0xff]), TYPE.u8, u8(1))] }],
    ['GGUF_VALUE_TYPE', 'an unknown type', { pairs: [pair('a', 13, u64(0))] }],
    ['GGUF_VALUE_TYPE', 'a type of 2^32 - 1', { pairs: [pair('a', 0xffffffff, u64(0))] }],
    ['GGUF_VALUE_TYPE', 'an array of an unknown type', { pairs: [pair('a', TYPE.array, u32(77), u64(0))] }],
    ['GGUF_NESTED_ARRAY', 'arrays in arrays', { pairs: [pair('a', TYPE.array, u32(9), u64(1), u32(0), u64(0))] }],
    ['GGUF_ARRAY_LENGTH', 'an array of 2^62', { pairs: [pair('a', TYPE.array, u32(0), u64(2n ** 62n))] }],
    ['GGUF_ARRAY_LENGTH', 'an array that wraps', { pairs: [pair('a', TYPE.array, u32(10), u64(2n ** 61n))] }],
    ['GGUF_ARRAY_LENGTH', 'an array longer than the file', { pairs: [pair('a', TYPE.array, u32(4), u64(1000))] }],
    ['GGUF_ARRAY_LENGTH', 'strings longer than the file', { pairs: [pair('a', TYPE.array, u32(8), u64(1000))] }],
    ['GGUF_STRING_LENGTH', 'a string of 1 TB', { pairs: [pair('a', TYPE.string, text('x', 2n ** 40n))] }],
    ['GGUF_STRING_LENGTH', 'a string of 2^64 - 1', { pairs: [pair('a', TYPE.string, text('x', -1n))] }],
    ['GGUF_STRING_LENGTH', 'a string longer than the file', { pairs: [pair('a', TYPE.string, text('x', 5000))] }],
    [
      'GGUF_STRING_LENGTH',
      'a key longer than the file',
      { pairs: [Buffer.concat([text('key', 5000), u32(0), u8(0)])] },
    ],
    ['GGUF_STRING_LENGTH', 'a tensor name of 64 bytes', { infos: [info({ name: 'x'.repeat(64) })], data: 32 }],
    ['GGUF_ALIGNMENT', 'alignment 0', alignment(u32(0))],
    ['GGUF_ALIGNMENT', 'alignment 24', alignment(u32(24))],
    ['GGUF_ALIGNMENT', 'alignment 2^31', alignment(u32(2 ** 31))],
    ['GGUF_ALIGNMENT', 'alignment 2^21', alignment(u32(2 ** 21))],
    ['GGUF_ALIGNMENT', 'alignment as uint64', { pairs: [pair('general.alignment', TYPE.u64, u64(32))] }],
    [
      'GGUF_ALIGNMENT',
      'alignment as an array',
      { pairs: [pair('general.alignment', TYPE.array, u32(4), u64(1), u32(32))] },
    ],
    ['GGUF_INVALID_UTF8', 'a tensor name that is no text', { infos: [info({ name: Buffer.from([0xc3]) })], data: 32 }],
    ['GGUF_DUPLICATE_TENSOR', 'a tensor twice', { infos: [info(), info({ offset: 32 })], data: 64 }],
    ['GGUF_DIMENSIONS', '5 dimensions', { infos: [info({ dims: [1, 1, 1, 1, 1] })], data: 32 }],
    ['GGUF_DIMENSIONS', '2^32 - 1 dimensions', { infos: [info({ axes: 0xffffffff })], data: 64 }],
    ['GGUF_SIZE_OVERFLOW', 'a negative dimension', { infos: [info({ dims: [-1] })], data: 32 }],
    ['GGUF_SIZE_OVERFLOW', 'a stride that wraps to 0', { infos: [info({ dims: [2n ** 62n, 4] })], data: 32 }],
    ['GGUF_SIZE_OVERFLOW', 'a product that wraps to 0', { infos: [info({ dims: [2 ** 32, 2 ** 32] })], data: 32 }],
    [
      'GGUF_SIZE_OVERFLOW',
      'a 0 behind a product that wraps',
      { infos: [info({ dims: [2 ** 40, 2 ** 40, 0] })], data: 32 },
    ],
    ['GGUF_SIZE_OVERFLOW', 'bytes past 2^53, elements below', { infos: [info({ dims: [2 ** 52] })], data: 32 }],
    [
      'GGUF_SIZE_OVERFLOW',
      'bytes of blocks past 2^53, elements below',
      { infos: [info({ type: 9, dims: [2 ** 53 - 32] })], data: 64 },
    ],
    ['GGUF_SIZE_OVERFLOW', 'padding that passes 2^53', { infos: [info({ dims: [2 ** 51 - 1] })], data: 32 }],
    ['GGUF_TENSOR_TYPE', 'a type outside the table', { infos: [info({ type: 43 })], data: 32 }],
    ['GGUF_TENSOR_TYPE', 'a type of 2^31', { infos: [info({ type: 2 ** 31 })], data: 32 }],
    ['GGUF_TENSOR_TYPE', 'a type that was removed', { infos: [info({ type: 4, dims: [32] })], data: 32 }],
    ['GGUF_ROW_LENGTH', 'rows of no whole blocks', { infos: [info({ type: 2, dims: [33] })], data: 64 }],
    ['GGUF_OFFSET', 'data that do not begin at 0', { infos: [info({ offset: 32 })], data: 64 }],
    ['GGUF_OFFSET', 'a hole', { infos: [info(), info({ name: 'u', offset: 64 })], data: 96 }],
    ['GGUF_OFFSET', 'an overlap', { infos: [info(), info({ name: 'u', offset: 0 })], data: 96 }],
    ['GGUF_OFFSET', 'an offset of 2^64 - 1', { infos: [info({ offset: -1n })], data: 64 }],
    [
      'GGUF_OFFSET',
      'an alignment that the layout does not have',
      {
        pairs: [pair('general.alignment', TYPE.u32, u32(64))],
        infos: [info(), info({ name: 'u', offset: 32 })],
        data: 256,
      },
    ],
    ['GGUF_TRUNCATED', 'a tensor larger than the file', { infos: [info({ dims: [2 ** 30] })], data: 64 }],
    [
      'GGUF_TRUNCATED',
      'tensors that together wrap',
      {
        infos: [
          info({ dims: [2 ** 50] }),
          ...Array.from({ length: 8 }, (_, i) => info({ name: `t${i}`, dims: [2 ** 50], offset: (i + 1) * 2 ** 52 })),
        ],
        data: 64,
      },
    ],
    ['GGUF_TRUNCATED', 'the last byte missing', { infos: [info()], data: 31 }],
  ];

  it.each(lies)('%s: %s', async (code, _, file) => {
    const path = save(Buffer.isBuffer(file) ? file : gguf(file));
    const error = await GgufFile.open(path).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error).toMatchObject({ code, path });
  });

  it('all codes of headers that there are', () => {
    const source = readFileSync(join(__dirname, '..', '..', 'lib', 'checkpoint', 'gguf', 'gguf-header.ts'), 'utf8');
    const codes = new Set([...source.matchAll(/refuse\(\s*'(GGUF_\w+)'/g)].map(([, code]) => code));
    expect(codes.size).toBeGreaterThan(20);
    expect(new Set([...lies.map(([code]) => code), 'GGUF_HEADER_TOO_LARGE'])).toEqual(codes);
  });

  it('GGUF_HEADER_TOO_LARGE: a header past the limit', () => {
    const limits = LIMITS as { headerBytes: number };
    const { headerBytes } = limits;
    limits.headerBytes = 60;
    try {
      const parser = new GgufHeaderParser('m.gguf', 2 ** 40);
      const header = gguf({ pairs: [pair('a', TYPE.string, text('x'.repeat(20)))] });
      expect(() => parser.push(header.subarray(0, 50))).toThrow(
        expect.objectContaining({ code: 'GGUF_HEADER_TOO_LARGE' }),
      );
    } finally {
      limits.headerBytes = headerBytes;
    }
  });

  it('a quantizer does not read past the end of a file, and leaves nothing', async () => {
    const path = save(gguf({ infos: [info({ name: 'blk.0.ffn_up.weight', dims: [256, 4096] })], data: 64 }));
    const output = join(folder, `${count++}.gguf`);
    await expect(quantizeCheckpoint(path, { format: 'gguf', output })).rejects.toMatchObject({
      code: 'GGUF_TRUNCATED',
    });
    expect(existsSync(output)).toBe(false);
    expect(existsSync(Output.workPathOf(output))).toBe(false);
  });

  it('names the tensor, what came and what was expected', async () => {
    const path = save(gguf({ infos: [info(), info({ name: 'bad', type: 12, dims: [100], offset: 32 })], data: 64 }));
    await expect(GgufFile.open(path)).rejects.toMatchObject({ tensor: 'bad' });
    await expect(GgufFile.open(path)).rejects.toThrow('100 elements, no multiple of the 256 in a block of q4_k');
  });

  it('refuses a missing file and a folder', async () => {
    await expect(GgufFile.open(join(folder, 'absent.gguf'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(GgufFile.open(folder)).rejects.toBeInstanceOf(CheckpointError);
  });

  it('claims of huge sizes cost nothing: the file is what counts', async () => {
    const before = process.memoryUsage().rss;
    const files: RawFile[] = [
      { tensorCount: 9_999_999 },
      { pairs: [pair('a', TYPE.array, u32(0), u64(9_999_999))] },
      { pairs: [pair('a', TYPE.string, text('', 9_999_999))] },
      { infos: [info({ dims: [2 ** 48] })] },
    ];
    for (const file of files) await expect(GgufFile.open(save(gguf(file)))).rejects.toBeInstanceOf(CheckpointError);
    expect(process.memoryUsage().rss - before).toBeLessThan(50e6);
  });
});

describe('what readers take', () => {
  it('reads version 2, scalars, empty tensors and bytes after the end', async () => {
    const infos = [
      info({ name: 'scalar', dims: [] }),
      info({ name: 'empty', dims: [4, 0], offset: 32 }),
      info({ name: '', dims: [4], offset: 32 }),
    ];
    const file = await GgufFile.open(save(gguf({ version: 2, infos, data: 100 })));
    expect(file.version).toBe(2);
    expect([...file.tensors.values()].map(({ name, shape, bytes }) => [name, shape, bytes])).toEqual([
      ['scalar', [], 4],
      ['empty', [0, 4], 0],
      ['', [4], 16],
    ]);
    await file.tensors.get('empty')?.read(0, new Uint8Array(0));
    await file.close();
  });

  it('takes blocks of no columns, and rows of no elements without going through them', async () => {
    const infos = [
      info({ name: 'blocks', type: 2, dims: [0, 3] }),
      info({ name: 'rows', type: 0, dims: [0, 2 ** 52] }),
      info({ name: 'columns', type: 0, dims: [5, 0] }),
    ];
    const { weights } = await inspectCheckpoint(save(gguf({ infos })), { statistics: true });
    expect(weights.map(({ name, shape, statistics }) => [name, shape, statistics?.maxAbs])).toEqual([
      ['blocks', [3, 0], 0],
      ['rows', [2 ** 52, 0], 0],
      ['columns', [0, 5], 0],
    ]);
  });

  it('needs no padding after the last tensor', async () => {
    const file = await GgufFile.open(save(gguf({ infos: [info({ dims: [3] })], data: 12 })));
    expect(file.tensors.get('t')?.bytes).toBe(12);
    await file.close();
  });

  it('keeps strings that are no UTF-8', async () => {
    const odd = Buffer.from([0x61, 0xe4]);
    const pairs = [
      pair('tokens', TYPE.array, u32(TYPE.string), u64(2), text('ä'), text(odd)),
      pair('b', TYPE.bool, u8(7)),
    ];
    const file = await GgufFile.open(save(gguf({ pairs })));
    expect(file.metadata.get('tokens')?.value).toEqual(['ä', Uint8Array.from(odd)]);
    expect(file.metadata.get('b')?.value).toBe(true);
    await file.close();
  });

  it('says so when the file becomes shorter', async () => {
    const path = save(gguf({ infos: [info({ dims: [1000] })], data: 4000 }));
    const file = await GgufFile.open(path);
    writeFileSync(path, gguf({ infos: [info({ dims: [1000] })], data: 100 }));
    await expect(file.tensors.get('t')?.read(0, new Uint8Array(4000))).rejects.toMatchObject({
      code: 'FILE_TRUNCATED',
      tensor: 't',
    });
    await file.close();
  });
});

describe('metadata of another type than readers take', () => {
  const inspected = (...pairs: Buffer[]) =>
    inspectCheckpoint(
      save(
        gguf({
          pairs: [pair('general.architecture', TYPE.string, text('llama')), ...pairs],
          infos: [info({ name: 'blk.0.attn_q.weight', dims: [8, 4] })],
          data: 128,
        }),
      ),
    );
  const layers = pair('llama.block_count', TYPE.u32, u32(1));
  const heads = (...value: [number, ...Buffer[]]) => pair('llama.attention.head_count', ...value);

  it('arrays are read with the width that they say', async () => {
    const { weights } = await inspected(layers, heads(TYPE.array, u32(TYPE.u8), u64(1), u8(2)));
    expect(weights.length).toBe(1);
  });

  it.each([
    ['an array of strings', [layers, heads(TYPE.array, u32(TYPE.string), u64(1), text('2'))]],
    ['an array of floats', [layers, heads(TYPE.array, u32(TYPE.f32), u64(1), Buffer.from([0, 0, 0x20, 0x40]))]],
    ['an array that is too short', [layers, heads(TYPE.array, u32(TYPE.u32), u64(0))]],
    ['a negative number', [layers, heads(TYPE.i32, u32(-1))]],
    ['a count of layers that is text', [pair('llama.block_count', TYPE.string, text('1'))]],
  ] as const)('%s is GGUF_METADATA_TYPE', async (_, pairs) => {
    await expect(inspected(...pairs)).rejects.toMatchObject({ code: 'GGUF_METADATA_TYPE' });
  });

  it('2^32 layers that a file claims cost nothing', async () => {
    const many = pair('llama.block_count', TYPE.u32, u32(2 ** 32 - 1));
    expect((await inspected(many, heads(TYPE.u32, u32(2)))).weights.length).toBe(1);
  });
});

describe('large files', () => {
  it('opens a vocabulary of half a million tokens', async () => {
    const tokens = Array.from({ length: 500_000 }, (_, i) => text(`▁token${i}`));
    const scores = Buffer.alloc(4 * tokens.length);
    scores.writeFloatLE(-7.5, 4 * 499_999);
    const file = await GgufFile.open(
      save(
        gguf({
          pairs: [
            pair('tokenizer.ggml.tokens', TYPE.array, u32(TYPE.string), u64(tokens.length), Buffer.concat(tokens)),
            pair('tokenizer.ggml.scores', TYPE.array, u32(TYPE.f32), u64(tokens.length), scores),
          ],
        }),
      ),
    );
    const last = (key: string) => (file.metadata.get(key)?.value as ArrayLike<unknown> | undefined)?.[499_999];
    expect(last('tokenizer.ggml.tokens')).toBe('▁token499999');
    expect(last('tokenizer.ggml.scores')).toBe(-7.5);
    await file.close();
  });

  it('opens a header of a million tensors', async () => {
    const tensors = 1_000_000;
    const path = join(folder, 'million.gguf');
    function* pieces() {
      yield Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors), u64(0)]);
      for (let i = 0; i < tensors; i++) yield info({ name: `blk.${i}.w`, dims: [8], offset: 32 * i });
    }
    const descriptor = writePieces(path, pieces());
    const data = Math.ceil(fstatSync(descriptor).size / 32) * 32;
    ftruncateSync(descriptor, data + 32 * tensors);
    closeSync(descriptor);
    const file = await GgufFile.open(path);
    expect(file.tensors.size).toBe(tensors);
    expect(file.tensors.get('blk.999999.w')?.position).toBe(data + 32 * (tensors - 1));
    await file.close();
  });

  it('reads past 4 GiB', async () => {
    const gap = 5 * 2 ** 30;
    const path = join(folder, 'sparse.gguf');
    const header = gguf({
      infos: [info({ name: 'gap', dims: [gap / 4] }), info({ name: 'end', dims: [1], offset: gap })],
    });
    const descriptor = writePieces(path, [header]);
    ftruncateSync(descriptor, header.length + gap + 32);
    writeSync(descriptor, Buffer.from([1, 2, 3, 4]), 0, 4, header.length + gap);
    closeSync(descriptor);
    const file = await GgufFile.open(path);
    const data = new Uint8Array(4);
    await file.tensors.get('end')?.read(0, data);
    expect(Array.from(data)).toEqual([1, 2, 3, 4]);
    await file.close();
  });
});

describe('openCheckpoint', () => {
  const part = (name: string, no: number, parts: number, total?: number) =>
    gguf({
      pairs: [
        ...(no === 0 ? [pair('general.architecture', TYPE.string, text('llama'))] : []),
        pair('split.no', TYPE.u16, u16(no)),
        pair('split.count', TYPE.u16, u16(parts)),
        ...(total === undefined ? [] : [pair('split.tensors.count', TYPE.i32, u32(total))]),
      ],
      infos: [info({ name })],
      data: 32,
    });
  const model = gguf({ pairs: [pair('general.architecture', TYPE.string, text('llama'))], infos: [info()], data: 32 });
  const saveFolder = (files: Record<string, string | Buffer | object>) =>
    writeFolder(join(folder, String(count++)), files);
  const split = (files: Record<string, Buffer>) => join(saveFolder(files), Object.keys(files)[0] as string);

  it('opens a file, a folder with one, and split files', async () => {
    const single = saveFolder({ 'model.gguf': model, 'config.json': { a: 1 }, 'README.md': 'x' });
    const parts = saveFolder({
      'm-00001-of-00003.gguf': part('a', 0, 3, 3),
      'm-00002-of-00003.gguf': part('b', 1, 3),
      'm-00003-of-00003.gguf': part('c', 2, 3),
    });
    for (const [path, names, files, config] of [
      [join(single, 'model.gguf'), ['t'], 1, null],
      [single, ['t'], 1, { a: 1 }],
      [join(parts, 'm-00001-of-00003.gguf'), ['a', 'b', 'c'], 3, null],
      [parts, ['a', 'b', 'c'], 3, null],
    ] as const) {
      const checkpoint = await openCheckpoint(path);
      expect(checkpoint).toMatchObject({ container: 'gguf', config });
      expect([...checkpoint.tensors.keys()]).toEqual(names);
      expect(checkpoint.files.length).toBe(files);
      expect(checkpoint.gguf?.get('general.architecture')).toEqual({ type: 'string', value: 'llama' });
      await checkpoint.close();
    }
  });

  it('knows a file by its first letters where its name says nothing', async () => {
    const checkpoint = await openCheckpoint(split({ 'sha256-0123': model }));
    expect(checkpoint).toMatchObject({ container: 'gguf', folder: null });
    await checkpoint.close();
  });

  it('prefers safetensors in a folder that has both', async () => {
    const data = safetensors({ a: { dtype: 'F32', shape: [1], data: new Float32Array(1) } });
    const checkpoint = await openCheckpoint(saveFolder({ 'model.safetensors': data, 'model.gguf': model }));
    expect(checkpoint).toMatchObject({ container: 'safetensors', gguf: null });
    await checkpoint.close();
  });

  const bad: [string, string, () => string][] = [
    ['NOT_A_CHECKPOINT', 'two models', () => saveFolder({ 'a.gguf': model, 'b.gguf': model })],
    ['NOT_A_CHECKPOINT', 'only a later part', () => saveFolder({ 'm-00002-of-00002.gguf': part('a', 1, 2) })],
    ['GGUF_SPLIT_MISSING', 'a part that is not there', () => split({ 'm-00001-of-00002.gguf': part('a', 0, 2) })],
    ['GGUF_SPLIT_NOT_FIRST', 'a later part', () => split({ 'm-00002-of-00002.gguf': part('a', 1, 2) })],
    ['GGUF_SPLIT_INVALID', 'a name that says nothing', () => split({ 'model.gguf': part('a', 0, 2) })],
    ['GGUF_SPLIT_INVALID', 'a name with another count', () => split({ 'm-00001-of-00003.gguf': part('a', 0, 2) })],
    [
      'GGUF_SPLIT_INVALID',
      'parts in another order',
      () => split({ 'm-00001-of-00002.gguf': part('a', 0, 2), 'm-00002-of-00002.gguf': part('b', 0, 2) }),
    ],
    ['GGUF_SPLIT_INVALID', 'part 3 of 2', () => split({ 'm-00001-of-00002.gguf': part('a', 2, 2) })],
    [
      'GGUF_SPLIT_INVALID',
      'another number of tensors',
      () => split({ 'm-00001-of-00002.gguf': part('a', 0, 2, 9), 'm-00002-of-00002.gguf': part('b', 1, 2) }),
    ],
    [
      'GGUF_DUPLICATE_TENSOR',
      'a tensor in two parts',
      () => split({ 'm-00001-of-00002.gguf': part('a', 0, 2), 'm-00002-of-00002.gguf': part('a', 1, 2) }),
    ],
    [
      'GGUF_METADATA_TYPE',
      'a count that is text',
      () => split({ 'm.gguf': gguf({ pairs: [pair('split.count', TYPE.string, text('2'))] }) }),
    ],
    ['GGUF_MAGIC', 'no GGUF', () => split({ 'm.gguf': Buffer.alloc(100) })],
  ];
  it.each(bad)('%s: %s', async (code, _, path) => {
    await expect(openCheckpoint(path())).rejects.toMatchObject({ code });
  });

  it('names the part that is missing', async () => {
    const path = split({ 'm-00001-of-00002.gguf': part('a', 0, 2) });
    await expect(openCheckpoint(path)).rejects.toThrow('m-00002-of-00002.gguf does not exist');
  });
});
