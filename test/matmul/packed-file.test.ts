import { copyFileSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  castTensor,
  linear,
  loadPacked,
  loadPackedAsync,
  matmulInteger,
  OutputError,
  PackedFileError,
  type PackedWeight,
  prepack,
  prepackBlocks,
  prepackInteger,
  quantizeBlocks,
  quantizeTensor,
  savePacked,
  savePackedAsync,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { temporaryFolder } from '../support/files.js';
import { DIST, run, success } from '../support/processes.js';
import { quantizedMatrix } from '../support/products.js';
import { normal } from '../support/random.js';

const folder = temporaryFolder();
const PAGE = 4096;
const path = (name: string) => join(folder, name);

const [n, k] = [45, 96];
const x = normal(3 * k, 1);
const WEIGHTS: [string, () => PackedWeight][] = [
  ['int8', () => prepack(quantizedMatrix(n, k, { dtype: 'int8', granularity: 'per-channel' }))],
  ['uint4 groups', () => prepack(quantizedMatrix(n, k, { dtype: 'uint4', granularity: 'per-group', groupSize: 32 }))],
  ['int3', () => prepack(quantizedMatrix(n, k, { dtype: 'int3', granularity: 'per-group', groupSize: 48 }))],
  ['uint2 float16', () => prepack(quantizedMatrix(n, k, { dtype: 'uint2', scaleDtype: 'float16' }))],
  ['float32', () => prepack(normal(n * k, 2), { shape: [n, k] })],
  [
    'bfloat16',
    () =>
      prepack(castTensor(normal(n * k, 2), { from: 'float32', to: 'bfloat16' }), { shape: [n, k], dtype: 'bfloat16' }),
  ],
  ['large', () => prepack(quantizedMatrix(1030, k, { dtype: 'int8', granularity: 'per-group', groupSize: 16 }))],
];

/** That of native/ops/matmul/packed_file.cc. */
function checksum(data: Buffer): bigint {
  const mixed = (sum: bigint, word: bigint) => {
    const product = BigInt.asUintN(64, (sum ^ word) * 0x9e3779b97f4a7c15n);
    return product ^ (product >> 29n);
  };
  const lanes = [1n, 2n, 3n, 4n];
  const whole = data.length - (data.length % 32);
  for (let at = 0; at < whole; at += 8) {
    lanes[(at / 8) % 4] = mixed(lanes[(at / 8) % 4] as bigint, data.readBigUInt64LE(at));
  }
  let sum = BigInt(data.length);
  for (const byte of data.subarray(whole)) sum = mixed(sum, BigInt(byte));
  return lanes.reduce(mixed, sum);
}

function thrownBy(call: () => unknown): PackedFileError {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(PackedFileError);
    return error as PackedFileError;
  }
  return expect.fail('nothing was thrown');
}

describe('there and back', () => {
  it.each(WEIGHTS)('%s', async (name, pack) => {
    const w = pack();
    const expected = linear(x, w);
    savePacked(w, path(name));
    await savePackedAsync(w, path(`${name} later`));
    const bytes = readFileSync(path(name));
    expect(bytes.equals(readFileSync(path(`${name} later`)))).toBe(true);
    expect(bytes).toHaveLength(PAGE + w.nbytes);
    for (const loaded of [
      loadPacked(path(name)),
      loadPacked(path(name), { verify: false }),
      await loadPackedAsync(path(name)),
    ]) {
      const { rows, cols, kind, nbytes } = w;
      expect(loaded).toMatchObject({ rows, cols, kind, nbytes, disposed: false });
      expect(sameBytes(linear(x, loaded), expected)).toBe(true);
      savePacked(loaded, path('again'));
      expect(readFileSync(path('again')).equals(bytes)).toBe(true);
      loaded.dispose();
      expect(() => linear(x, loaded)).toThrow(/disposed/);
    }
  });

  it.each([
    ['signed', new Int8Array(7 * 20)],
    ['unsigned', new Uint8Array(7 * 20)],
  ])('integers, %s', (_, b) => {
    b.forEach((_, i) => {
      b[i] = i * 37;
    });
    const a = Uint8Array.from({ length: 14 }, (_, i) => i * 91);
    savePacked(prepackInteger(b, { k: 7, n: 20 }), path('integers'));
    const size = { m: 2, n: 20, k: 7, aZeroPoint: 3, bZeroPoint: 5 };
    expect(matmulInteger(a, loadPacked(path('integers')), size)).toEqual(matmulInteger(a, b, size));
  });

  it('empty matrices', () => {
    for (const shape of [
      [0, 5],
      [5, 0],
    ] as const) {
      savePacked(prepack(new Float32Array(0), { shape }), path('empty'));
      expect(loadPacked(path('empty'))).toMatchObject({ rows: shape[0], cols: shape[1], kind: 'float' });
    }
  });

  it('in another process, with another instruction set', async () => {
    const w = prepack(quantizedMatrix(n, k, { dtype: 'uint4', granularity: 'per-group', groupSize: 16 }));
    savePacked(w, path('other'));
    const script = `const lowbit = require(${DIST});
      const y = lowbit.linear(new Float32Array(${k}).fill(1), lowbit.loadPacked(${JSON.stringify(path('other'))}));
      console.log(Buffer.from(y.buffer).toString('hex'));`;
    const y = linear(new Float32Array(k).fill(1), w);
    expect(await run(script, { LOWBIT_ISA: 'scalar' })).toEqual(success(`${Buffer.from(y.buffer).toString('hex')}\n`));
  });

  it('a file may be replaced or removed while it is loaded', () => {
    const [first, second] = [0, 1].map((seed) => prepack(quantizedMatrix(n, k, { dtype: 'int8' }, seed))) as [
      PackedWeight,
      PackedWeight,
    ];
    savePacked(first, path('replaced'));
    const loaded = loadPacked(path('replaced'));
    savePacked(second, path('replaced'));
    expect(sameBytes(linear(x, loaded), linear(x, first))).toBe(true);
    expect(sameBytes(linear(x, loadPacked(path('replaced'))), linear(x, second))).toBe(true);
  });

  it('the weight may be disposed while it is written', async () => {
    const w = prepack(quantizedMatrix(n, k, { dtype: 'int8' }));
    const expected = linear(x, w);
    const written = savePackedAsync(w, path('disposed'));
    w.dispose();
    await written;
    expect(sameBytes(linear(x, loadPacked(path('disposed'))), expected)).toBe(true);
  });

  it('more than one chunk', async () => {
    const w = prepack(normal(1100 * 1000, 1), { shape: [1100, 1000] });
    savePacked(w, path('chunks'));
    await savePackedAsync(w, path('chunks later'));
    expect(readFileSync(path('chunks')).equals(readFileSync(path('chunks later')))).toBe(true);
    const one = normal(1000, 2);
    expect(sameBytes(linear(one, loadPacked(path('chunks'))), linear(one, w))).toBe(true);
  });
});

describe('what is no packed weight is refused', () => {
  const w = prepack(quantizedMatrix(n, k, { dtype: 'uint4', granularity: 'per-group', groupSize: 32 }));
  savePacked(w, path('good'));
  const good = readFileSync(path('good'));
  const damaged = (change: (bytes: Buffer) => Buffer | undefined) => {
    const bytes = Buffer.from(good);
    writeFileSync(path('bad'), change(bytes) ?? bytes);
    return path('bad');
  };

  it.each([0, 1, 7, 8, 15, 16, 17, 64, 100, 127, 4095, 4096, 4097, 6000, good.length - 1])(
    'one bit of byte %i is wrong',
    (at) => {
      for (const bit of [0, 7]) {
        const file = damaged((bytes) => {
          bytes[at] = (bytes[at] as number) ^ (1 << bit);
          return bytes;
        });
        const error = thrownBy(() => loadPacked(file));
        expect(error.path).toBe(file);
        const code = at < 8 ? 'PACKED_NOT_A_PACKED_WEIGHT' : at < 16 ? 'PACKED_VERSION' : 'PACKED_DAMAGED';
        expect(error.code).toBe(code);
      }
    },
  );

  it('one bit anywhere is wrong', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 8 * good.length - 1 }), async (bit) => {
        const file = damaged((bytes) => {
          bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
          return bytes;
        });
        expect(() => loadPacked(file)).toThrow(PackedFileError);
        await expect(loadPackedAsync(file)).rejects.toThrow(PackedFileError);
      }),
      { numRuns: 300 },
    );
  });

  it('damaged weights are let through when nobody asks, and give some result', () => {
    fc.assert(
      fc.property(fc.integer({ min: PAGE, max: good.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const file = damaged((bytes) => {
          bytes[at] = (bytes[at] as number) ^ flip;
          return bytes;
        });
        const loaded = loadPacked(file, { verify: false });
        for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
          expect(linear(x, loaded, { computeDtype })).toHaveLength(3 * n);
        }
        loaded.dispose();
      }),
    );
  });

  it('the end is missing, or too late', () => {
    for (const length of [good.length - 1, good.length - 64, PAGE + 1, PAGE, PAGE - 1, 200, 8]) {
      const error = thrownBy(() => loadPacked(damaged((bytes) => bytes.subarray(0, length))));
      expect(error.code).toBe('PACKED_TRUNCATED');
      expect(error.message).toMatch(/should have \d+ bytes but has \d+/);
      expect(thrownBy(() => loadPacked(path('bad'), { verify: false })).code).toBe('PACKED_TRUNCATED');
    }
    const longer = damaged((bytes) => Buffer.concat([bytes, Buffer.alloc(1)]));
    expect(thrownBy(() => loadPacked(longer)).code).toBe('PACKED_DAMAGED');
  });

  it('headers that lie, with a checksum that is right', () => {
    const integers = prepackInteger(new Int8Array(n * k), { k, n });
    const floats = prepack(normal(n * k, 3), { shape: [n, k] });
    savePacked(integers, path('integers'));
    savePacked(floats, path('floats'));
    const blocks = quantizeBlocks(normal(n * 256, 4), { type: 'q4_k', rowLength: 256 });
    savePacked(prepackBlocks(blocks, { type: 'q4_k', shape: [n, 256] }), path('blocks'));
    savePacked(prepack(quantizeTensor(normal(n * k, 5), { dtype: 'mxfp4', shape: [n, k] })), path('levels'));
    const files = ['good', 'integers', 'floats', 'blocks', 'levels'].map((name) => readFileSync(path(name)));
    const value = fc.oneof(
      fc.constantFrom(0, 1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 45, 64, 96, 127, 128, 255, 256, 257, 512, 4096),
      fc.constantFrom(...[20, 30, 31, 32, 33, 39, 40, 41, 52, 53, 60, 62, 63].map((bits) => 2 ** bits)),
    );
    const fields = fc.array(fc.tuple(fc.integer({ min: 2, max: 13 }), value), { minLength: 1, maxLength: 4 });
    let loadedOnes = 0;
    fc.assert(
      fc.property(fc.constantFrom(...files), fields, (file, lies) => {
        const bytes = Buffer.from(file);
        for (const [field, number] of lies) bytes.writeBigUInt64LE(BigInt(number), 8 * field);
        const claimed = bytes.readBigUInt64LE(8 * 13);
        bytes.writeBigUInt64LE(checksum(bytes.subarray(0, 8 * 15)), 8 * 15);
        const length = claimed < 1 << 20 ? PAGE + Number(claimed) : bytes.length;
        writeFileSync(path('lie'), Buffer.concat([bytes, Buffer.alloc(Math.max(0, length - bytes.length))], length));
        let loaded: PackedWeight;
        try {
          loaded = loadPacked(path('lie'), { verify: false });
        } catch (error) {
          expect(['PACKED_DAMAGED', 'PACKED_TRUNCATED']).toContain((error as PackedFileError).code);
          return;
        }
        loadedOnes++;
        const { rows, cols, kind } = loaded;
        if (rows > 1e5 || cols > 1e5) return;
        if (kind === 'integer') {
          matmulInteger(new Uint8Array(2 * cols), loaded, { m: 2, n: rows, k: cols });
        } else {
          for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
            linear(normal(2 * cols, 1), loaded, { computeDtype });
          }
        }
        loaded.dispose();
      }),
      { numRuns: 3000 },
    );
    expect(loadedOnes).toBeGreaterThan(0);
  });

  it('something else', () => {
    for (const content of ['', 'lowbit', 'x', '{}', '\0'.repeat(10_000), 'lowbitp\0'.repeat(1000)]) {
      writeFileSync(path('else'), content);
      const error = thrownBy(() => loadPacked(path('else')));
      expect(error.code).toBe('PACKED_NOT_A_PACKED_WEIGHT');
      expect(error.message).toBe(`${path('else')} is not a file that savePacked wrote.`);
    }
  });

  it('another version', () => {
    const file = damaged((bytes) => {
      bytes.writeBigUInt64LE(77n, 8);
      return bytes;
    });
    expect(thrownBy(() => loadPacked(file)).message).toMatch(/has version 77, of another lowbit/);
  });

  it('no file', async () => {
    for (const name of ['missing', 'good/inside']) {
      expect(thrownBy(() => loadPacked(path(name))).code).toBe('FILE_NOT_FOUND');
      await expect(loadPackedAsync(path(name))).rejects.toThrow(expect.objectContaining({ code: 'FILE_NOT_FOUND' }));
    }
    for (const name of [folder, '/dev/null']) {
      expect(thrownBy(() => loadPacked(name)).code).toBe('READ_FAILED');
    }
  });

  it('a file that shrinks afterwards is refused the next time', () => {
    copyFileSync(path('good'), path('shrunk'));
    loadPacked(path('shrunk')).dispose();
    truncateSync(path('shrunk'), PAGE + 10);
    expect(thrownBy(() => loadPacked(path('shrunk'))).code).toBe('PACKED_TRUNCATED');
  });
});

describe('what can not be written', () => {
  const w = prepack(quantizeTensor(normal(64, 1), { dtype: 'int8', shape: [8, 8] }));

  it('is an OutputError, and nothing is left', async () => {
    mkdirSync(path('taken'));
    for (const target of [path('taken'), path('no/such/folder')]) {
      expect(() => savePacked(w, target)).toThrow(OutputError);
      await expect(savePackedAsync(w, target)).rejects.toThrow(
        expect.objectContaining({ code: 'WRITE_FAILED', path: target }),
      );
    }
    expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
  });

  it('an aborted one leaves nothing', async () => {
    const large = prepack(normal(5_000_000, 1), { shape: [5000, 1000] });
    const controller = new AbortController();
    const result = savePackedAsync(large, path('aborted'), { signal: controller.signal });
    setTimeout(() => controller.abort(new Error('enough')), 2);
    await expect(result).rejects.toThrow('enough');
    expect(readdirSync(folder).filter((name) => /aborted/.test(name))).toEqual([]);
    large.dispose();
  });
});
