import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GgufFile } from '../../lib/checkpoint/gguf/gguf-file.js';
import {
  type GgufTensorSpec,
  ggufFileBytes,
  ggufTensorBytes,
  writeGguf,
} from '../../lib/checkpoint/gguf/gguf-writer.js';
import { type GgufMetadata, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { OutputError } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { random } from '../support/random.js';
import { VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();
let count = 0;
const fresh = () => join(folder, `${count++}.gguf`);
const f32 = (name: string, ...shape: number[]): GgufTensorSpec => ({ name, dtype: 'f32', shape });

describe('the bytes of the reference writers', () => {
  it.each(['sample', 'python-all-types', 'python-plain'])('%s is rebuilt from its contents', async (name) => {
    const path = join(VECTORS, 'gguf-files', `${name}.gguf`);
    const expected = readFileSync(path);
    const file = await GgufFile.open(path);
    const tensors = [...file.tensors.values()];
    expect(ggufFileBytes(tensors, file.metadata)).toBe(expected.length);
    const copy = fresh();
    const writer = await writeGguf(copy, tensors, file.metadata);
    // Backwards and in small pieces: the order of writing must not matter.
    for (const tensor of tensors.reverse()) {
      expect(ggufTensorBytes(tensor)).toBe(tensor.bytes);
      for (let begin = 0; begin < tensor.bytes; begin += 50) {
        const piece = new Uint8Array(Math.min(50, tensor.bytes - begin));
        await tensor.read(begin, piece);
        await writer.write(tensor.name, begin, piece);
      }
    }
    await writer.close();
    expect(readFileSync(copy).equals(expected)).toBe(true);
    await file.close();
  });
});

describe('what is written is read again', () => {
  it('every type of value, strings that are no UTF-8 among them', async () => {
    const metadata: GgufMetadata = new Map([
      ['general.alignment', ggufValue.uint32(8)],
      ['bytes', { type: 'array', elementType: 'string', value: ['ä', Uint8Array.of(0xe4), ''] }],
      ['big', { type: 'int64', value: -(2n ** 63n) }],
      ['bools', { type: 'array', elementType: 'bool', value: [true, false, true] }],
      ['ids', ggufValue.int32s(Int32Array.of(-1, 5))],
      ['scores', ggufValue.float32s(Float32Array.of(0.1, -0))],
      ['text', ggufValue.string('▁漢字')],
      ['large', ggufValue.strings(Array.from({ length: 30_000 }, (_, i) => `token ${i}`))],
    ]);
    const next = random(3);
    const tensors = Array.from({ length: 20 }, (_, i) => f32(`t${i}`, 1 + Math.floor(9 * next()), 3));
    const path = fresh();
    const writer = await writeGguf(path, tensors, metadata);
    for (const tensor of tensors) {
      await writer.write(tensor.name, 0, new Uint8Array(ggufTensorBytes(tensor)).fill(Number(tensor.name.slice(1))));
    }
    await writer.close();
    const file = await GgufFile.open(path);
    expect(file.alignment).toBe(8);
    expect([...file.metadata]).toEqual([...metadata]);
    for (const tensor of tensors) {
      const stored = file.tensors.get(tensor.name);
      expect(stored?.shape).toEqual(tensor.shape);
      const data = new Uint8Array(stored?.bytes ?? 0);
      await stored?.read(0, data);
      expect(data.every((byte) => byte === Number(tensor.name.slice(1)))).toBe(true);
    }
    await file.close();
  });

  it('a file without tensors', async () => {
    const path = fresh();
    await (await writeGguf(path, [], new Map([['a', ggufValue.bool(true)]]))).close();
    const file = await GgufFile.open(path);
    expect(file.metadata.get('a')).toEqual({ type: 'bool', value: true });
    await file.close();
  });
});

describe('what the format can not hold', () => {
  const cases: [string, GgufTensorSpec[]][] = [
    ['GGUF_TENSOR_NAME', [f32('ä'.repeat(32), 1)]],
    ['GGUF_DUPLICATE_TENSOR', [f32('a', 1), f32('a', 2)]],
    ['GGUF_DIMENSIONS', [f32('a', 1, 1, 1, 1, 1)]],
  ];
  it.each(cases)('%s', async (code, tensors) => {
    await expect(writeGguf(fresh(), tensors, new Map())).rejects.toMatchObject({ code });
  });

  it('refuses blocks that are not whole, unknown types and wrong alignments', async () => {
    const create = (tensors: GgufTensorSpec[], metadata: GgufMetadata = new Map()) =>
      writeGguf(fresh(), tensors, metadata);
    await expect(create([{ name: 'a', dtype: 'q4_k', shape: [128] }])).rejects.toThrow('no whole blocks of q4_k');
    await expect(create([{ name: 'a', dtype: 'q9', shape: [128] }])).rejects.toThrow('q9');
    await expect(create([], new Map([['general.alignment', ggufValue.uint32(24)]]))).rejects.toThrow('power of two');
  });

  it('refuses bytes outside a tensor, and places that can not be written', async () => {
    const writer = await writeGguf(fresh(), [f32('a', 2)], new Map());
    await expect(writeGguf(join(folder, 'absent', 'a.gguf'), [], new Map())).rejects.toBeInstanceOf(OutputError);
    await expect(writer.write('b', 0, new Uint8Array(1))).rejects.toThrow('not announced');
    await expect(writer.write('a', 4, new Uint8Array(5))).rejects.toThrow('has 8 bytes');
    await writer.close();
  });
});
