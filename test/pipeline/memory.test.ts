import { closeSync, ftruncateSync, openSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { inspectCheckpoint, quantizeCheckpoint } from '../../lib/index.js';
import { temporaryFolder, withLength } from '../support/files.js';
import { inProcess } from '../support/peak.js';

const root = temporaryFolder();
const DIST = JSON.stringify(join(__dirname, '..', '..', 'dist', 'index.js'));
const MIB = 2 ** 20;
let count = 0;
const fresh = (suffix = '') => join(root, `out-${count++}${suffix}`);

/** A file of zeros that takes no room, with a header. */
function sparse(path: string, header: Uint8Array, dataBytes: number): string {
  const file = openSync(path, 'w');
  writeSync(file, header);
  ftruncateSync(file, header.length + dataBytes);
  closeSync(file);
  return path;
}

function sparseSafetensors(name: string, tensors: number, rows: number, columns: number): string {
  const bytes = rows * columns * 2;
  const entries = Array.from(
    { length: tensors },
    (_, i) =>
      `"layers.${i}.weight":{"dtype":"BF16","shape":[${rows},${columns}],"data_offsets":[${i * bytes},${(i + 1) * bytes}]}`,
  );
  return sparse(join(root, name), withLength(`{${entries.join(',')}}`), tensors * bytes);
}

/** A GGUF file of float16 matrices. */
function sparseGguf(name: string, tensors: number, rows: number, columns: number): string {
  const parts: Buffer[] = [];
  const number = (value: number, bytes: 4 | 8) => {
    const data = Buffer.alloc(bytes);
    if (bytes === 4) data.writeUInt32LE(value);
    else data.writeBigUInt64LE(BigInt(value));
    parts.push(data);
  };
  const text = (value: string) => {
    number(value.length, 8);
    parts.push(Buffer.from(value));
  };
  parts.push(Buffer.from('GGUF'));
  number(3, 4);
  number(tensors, 8);
  number(1, 8);
  text('general.architecture');
  number(8, 4);
  text('llama');
  const bytes = rows * columns * 2;
  for (let i = 0; i < tensors; i++) {
    text(`blk.${i}.ffn_up.weight`);
    number(2, 4);
    number(columns, 8);
    number(rows, 8);
    number(1, 4);
    number(i * bytes, 8);
  }
  const header = Buffer.concat(parts);
  const padded = Buffer.alloc(Math.ceil(header.length / 32) * 32);
  header.copy(padded);
  return sparse(join(root, name), padded, tensors * bytes);
}

interface Peak {
  readonly announced: number;
  readonly peak: number;
}

/** What a call announces and takes. */
function run(call: string, ...args: string[]): Promise<Peak> {
  const script = `
    const lowbit = require(${DIST});
    let announced = null;
    const onStart = ({ peakBytes }) => { announced = peakBytes; };
    beginning();
    await ${call};
    return { announced, peak: peak() };`;
  return inProcess(script, ...args);
}

describe('of a checkpoint far larger than the ceiling', () => {
  it('safetensors: offsets past 4 GiB, and no more than was announced', { timeout: 300_000 }, async () => {
    const input = sparseSafetensors('large.safetensors', 68, 4096, 8192);
    expect(statSync(input).size).toBeGreaterThan(2 ** 32 + 10 * MIB);
    const output = fresh();
    const options = JSON.stringify({ dtype: 'int2', groupSize: null, hashInputs: false, output, maxMemory: 192 * MIB });
    const { announced, peak } = await run(
      `lowbit.quantizeCheckpoint(${JSON.stringify(input)}, { ...${options}, onStart })`,
    );
    expect(announced).toBeLessThanOrEqual(192 * MIB);
    expect(peak).toBeLessThanOrEqual(announced);
    const { weights } = await inspectCheckpoint(output);
    expect(weights).toHaveLength(68);
    for (const weight of weights) expect(weight).toMatchObject({ dtype: 'int2', shape: [4096, 8192] });
  });

  it('GGUF: the same', { timeout: 300_000 }, async () => {
    const input = sparseGguf('large.gguf', 16, 4096, 8192);
    const output = fresh('.gguf');
    const options = JSON.stringify({ format: 'gguf', dtype: 'tq1_0', hashInputs: false, output, maxMemory: 192 * MIB });
    const { announced, peak } = await run(
      `lowbit.quantizeCheckpoint(${JSON.stringify(input)}, { ...${options}, onStart })`,
    );
    expect(announced).toBeLessThanOrEqual(192 * MIB);
    expect(peak).toBeLessThanOrEqual(announced);
  });
});

describe('what is announced is kept', () => {
  const FORMATS = [
    ['compressed-tensors', {}],
    ['compressed-tensors', { dtype: 'int8', groupSize: null, scheme: 'asymmetric' }],
    ['compressed-tensors', { dtype: 'int3', groupSize: 32 }],
    ['compressed-tensors', { dtype: 'float8_e4m3fn' }],
    ['compressed-tensors', { dtype: 'nvfp4' }],
    ['compressed-tensors', { dtype: 'mxfp4' }],
    ['compressed-tensors', { dtype: 'int4', range: 'mse' }],
    ['gptq', { groupSize: 32 }],
    ['gptq_v2', { dtype: 'int3', scheme: 'asymmetric' }],
    ['awq', {}],
    ['bitsandbytes', {}],
    ['bitsandbytes', { nested: true }],
    ['fp8', {}],
    ['fp8', { granularity: 'per-tensor' }],
  ] as const;
  const CONVERSIONS = [
    ['gptq', { dtype: 'int4', to: 'compressed-tensors' }],
    ['awq', { dtype: 'int4', to: 'gptq_v2' }],
    ['compressed-tensors', { dtype: 'int4', to: 'float' }],
  ] as const;

  it('for every format of weights', { timeout: 300_000 }, async () => {
    const input = sparseSafetensors('all.safetensors', 2, 2048, 4096);
    for (const maxMemory of [undefined, 160 * MIB]) {
      const runs = FORMATS.map(([format, spec]) => ({ format, ...spec, output: fresh(), maxMemory }));
      const peaks = await inProcess<Peak[]>(`
        const lowbit = require(${DIST});
        const peaks = [];
        for (const options of ${JSON.stringify(runs)}) {
          let announced;
          beginning();
          await lowbit.quantizeCheckpoint(${JSON.stringify(input)}, {
            ...options, onStart: ({ peakBytes }) => { announced = peakBytes; },
          });
          peaks.push({ announced, peak: peak() });
        }
        return peaks;`);
      for (const [i, { announced, peak }] of peaks.entries()) {
        const what = JSON.stringify(FORMATS[i]);
        expect(peak, what).toBeLessThanOrEqual(announced);
        if (maxMemory !== undefined) expect(announced, what).toBeLessThanOrEqual(maxMemory);
      }
    }
  });

  it('for GGUF, conversions, and for reading alone', { timeout: 300_000 }, async () => {
    const gguf = sparseGguf('all.gguf', 2, 2048, 4096);
    for (const dtype of ['q8_0', 'q4_k_m', 'f16']) {
      const options = JSON.stringify({ format: 'gguf', dtype, output: fresh('.gguf'), maxMemory: 160 * MIB });
      const { announced, peak } = await run(
        `lowbit.quantizeCheckpoint(${JSON.stringify(gguf)}, { ...${options}, onStart })`,
      );
      expect(peak, dtype).toBeLessThanOrEqual(announced);
    }
    const input = sparseSafetensors('convert.safetensors', 2, 2048, 4096);
    for (const [format, { dtype, to }] of CONVERSIONS) {
      const source = fresh();
      await quantizeCheckpoint(input, { format, dtype, output: source });
      const options = JSON.stringify({ to, output: fresh(), maxMemory: 160 * MIB });
      const { announced, peak } = await run(
        `lowbit.convertCheckpoint(${JSON.stringify(source)}, { ...${options}, onStart })`,
      );
      expect(peak, `${format} to ${to}`).toBeLessThanOrEqual(announced);
      // Both have blocks of a fixed size.
      const [a, b] = [JSON.stringify(input), JSON.stringify(source)];
      expect((await run(`lowbit.verifyCheckpoint(${a}, ${b})`)).peak).toBeLessThan(192 * MIB);
      expect((await run(`lowbit.inspectCheckpoint(${b}, { statistics: true })`)).peak).toBeLessThan(192 * MIB);
    }
  });

  it('or is refused, with what would do', async () => {
    const input = sparseSafetensors('refused.safetensors', 1, 4, 8192);
    await expect(
      quantizeCheckpoint(input, { dtype: 'int4', output: fresh(), maxMemory: 100 * MIB }),
    ).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument: 'maxMemory',
      message: expect.stringMatching(/at least 1\d\d MB/),
    });
  });
});
