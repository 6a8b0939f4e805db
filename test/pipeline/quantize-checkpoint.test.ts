import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  CheckpointError,
  castTensor,
  compareTensors,
  dequantizeTensor,
  NonFiniteError,
  OutputError,
  type QuantizedTensor,
  quantizeCheckpoint,
  quantizeTensor,
  setNumThreads,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { readSafetensors, safetensors, temporaryFolder, withLength, writeFolder } from '../support/files.js';
import { normal } from '../support/random.js';

const root = temporaryFolder();
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
let count = 0;
const fresh = () => join(root, `out-${count++}`);

const bf16 = (shape: number[], seed: number) => ({
  dtype: 'BF16',
  shape,
  data: castTensor(
    normal(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    { from: 'float32', to: 'bfloat16' },
  ),
});

/** Codes of a compressed-tensors weight, by the description of the format. */
function unpack(bytes: Buffer, rows: number, columns: number, bits: number): number[] {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const perRow = Math.ceil((columns * bits) / 32);
  const codes: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const bit = column * bits;
      const word = words[row * perRow + Math.floor(bit / 32)] as number;
      codes.push(((word >>> (bit % 32)) & (2 ** bits - 1)) - 2 ** (bits - 1));
    }
  }
  return codes;
}

const floats = (bytes: Buffer) =>
  castTensor(new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)), {
    from: 'bfloat16',
    to: 'float32',
  });

describe('the bundled Llama', () => {
  const variants = [
    ['int4', 'symmetric', 32],
    ['int4', 'asymmetric', 64],
    ['int4', 'symmetric', null],
    ['int8', 'symmetric', null],
    ['int8', 'asymmetric', 128],
  ] as const;

  it.each(variants)(
    '%s, %s, group size %s: what is written is what quantizeTensor computes',
    async (dtype, scheme, groupSize) => {
      const output = fresh();
      const progress: number[] = [];
      const report = await quantizeCheckpoint(LLAMA, {
        dtype,
        scheme,
        groupSize,
        output,
        onProgress: ({ bytes }) => progress.push(bytes),
      });
      const before = readSafetensors(readFileSync(join(LLAMA, 'model.safetensors')));
      const after = readSafetensors(readFileSync(join(output, 'model.safetensors')));
      const bits = dtype === 'int4' ? 4 : 8;
      expect(report.tensors).toHaveLength(42);
      expect(report.copied).toHaveLength(15);
      expect(progress.at(-1)).toBe(report.inputBytes);
      for (const name of report.copied)
        expect(after.tensors.get(name)?.bytes.equals(before.tensors.get(name)?.bytes as Buffer)).toBe(true);
      let outputBytes = 0;
      for (const { bytes } of after.tensors.values()) outputBytes += bytes.length;
      expect(report.outputBytes).toBe(outputBytes);

      for (const { name, shape, sqnrDb, maxAbs, bitsPerWeight } of report.tensors) {
        const [rows = 0, columns = 0] = shape;
        const weight = before.tensors.get(name)?.bytes as Buffer;
        const reference = floats(weight);
        const common = { dtype, shape, scheme, scaleDtype: 'bfloat16' } as const;
        const q: QuantizedTensor =
          groupSize === null
            ? quantizeTensor(reference, { ...common, granularity: 'per-channel' })
            : quantizeTensor(reference, { ...common, granularity: 'per-group', groupSize });
        const layer = name.slice(0, -'.weight'.length);
        const packed = after.tensors.get(`${layer}.weight_packed`);
        expect(packed).toMatchObject({ dtype: 'I32', shape: [rows, Math.ceil((columns * bits) / 32)] });
        const codes = unpack(packed?.bytes as Buffer, rows, columns, bits);
        const scale = after.tensors.get(`${layer}.weight_scale`);
        const groups = groupSize === null ? 1 : columns / groupSize;
        expect(scale).toMatchObject({ dtype: 'BF16', shape: [rows, groups] });
        const scales = floats(scale?.bytes as Buffer);
        expect(sameBytes(scales, q.scales)).toBe(true);
        expect(
          new BigInt64Array(Uint8Array.from(after.tensors.get(`${layer}.weight_shape`)?.bytes ?? []).buffer),
        ).toEqual(new BigInt64Array([BigInt(rows), BigInt(columns)]));
        const stored = after.tensors.get(`${layer}.weight_zero_point`);
        const zeroPoints = stored === undefined ? null : unpackAlongRows(stored.bytes, rows, groups, bits);
        expect(zeroPoints === null).toBe(q.zeroPoints === null);
        if (zeroPoints !== null) expect(sameBytes(Int32Array.from(zeroPoints), q.zeroPoints as Int32Array)).toBe(true);
        // Decoded by hand from the file, it is what dequantizeTensor says, and the report is true.
        const decoded = Float32Array.from(codes, (code, i) => {
          const p = Math.floor(i / columns) * groups + Math.floor((i % columns) / (columns / groups));
          return (code - (zeroPoints?.[p] ?? 0)) * (scales[p] as number);
        });
        expect(sameBytes(decoded, dequantizeTensor(q))).toBe(true);
        const comparison = compareTensors(reference, decoded);
        expect(sqnrDb).toBeCloseTo(comparison.sqnrDb, 9);
        expect(maxAbs).toBe(comparison.maxAbs);
        const bitsStored = 8 * ((packed?.bytes.length ?? 0) + (scale?.bytes.length ?? 0) + (stored?.bytes.length ?? 0));
        expect(bitsPerWeight).toBeCloseTo(bitsStored / (rows * columns), 12);
      }
      expect(report.worstTensor).toBe(
        [...report.tensors].sort((a, b) => (a.sqnrDb as number) - (b.sqnrDb as number))[0]?.name,
      );

      const config = JSON.parse(readFileSync(join(output, 'config.json'), 'utf8'));
      const original = JSON.parse(readFileSync(join(LLAMA, 'config.json'), 'utf8'));
      expect(config).toMatchObject(original);
      expect(config.quantization_config).toMatchObject({
        quant_method: 'compressed-tensors',
        format: 'pack-quantized',
        ignore: ['lm_head'],
        config_groups: {
          group_0: {
            targets: ['Linear'],
            weights: {
              num_bits: bits,
              type: 'int',
              symmetric: scheme === 'symmetric',
              group_size: groupSize,
              strategy: groupSize === null ? 'channel' : 'group',
            },
          },
        },
      });
      expect(readdirSync(output).sort()).toEqual([...readdirSync(LLAMA), 'lowbit.json'].sort());
    },
  );

  it('gives the same bytes for any number of threads', async () => {
    const files: Buffer[] = [];
    for (const threads of [1, 2, 7]) {
      setNumThreads(threads);
      const output = fresh();
      await quantizeCheckpoint(LLAMA, { dtype: 'int4', groupSize: 32, range: 'mse', output });
      files.push(readFileSync(join(output, 'model.safetensors')));
    }
    setNumThreads(2);
    for (const file of files) expect(file.equals(files[0] as Buffer)).toBe(true);
  });

  it('keeps the layers that are excluded, and only takes those that are included', async () => {
    const output = fresh();
    const report = await quantizeCheckpoint(LLAMA, {
      dtype: 'int8',
      groupSize: null,
      include: /mlp/,
      exclude: /layers\.0\./,
      output,
    });
    expect(report.tensors.map(({ name }) => name)).toHaveLength(15);
    expect(report.tensors.every(({ name }) => name.includes('.mlp.') && !name.includes('layers.0.'))).toBe(true);
    const { quantization_config: config } = JSON.parse(readFileSync(join(output, 'config.json'), 'utf8'));
    expect(config.ignore).toContain('model.layers.0.mlp.up_proj');
    expect(config.ignore).toContain('model.layers.3.self_attn.q_proj');
    expect(config.ignore).toContain('lm_head');
    expect(config.ignore).not.toContain('model.layers.1.mlp.up_proj');
  });
});

function unpackAlongRows(bytes: Buffer, rows: number, groups: number, bits: number): number[] {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const perWord = 32 / bits;
  return Array.from({ length: rows * groups }, (_, i) => {
    const [row, group] = [Math.floor(i / groups), i % groups];
    const word = words[Math.floor(row / perWord) * groups + group] as number;
    return ((word >>> ((row % perWord) * bits)) & (2 ** bits - 1)) - 2 ** (bits - 1);
  });
}

describe('folders and files', () => {
  it('keeps shards apart, writes an index, and copies what else belongs to the model', async () => {
    const input = writeFolder(join(root, 'sharded'), {
      'model-00001-of-00002.safetensors': safetensors(
        { 'a.weight': bf16([64, 128], 1), 'a.bias': bf16([64], 2) },
        { format: 'pt' },
      ),
      'model-00002-of-00002.safetensors': safetensors({
        'b.weight': { dtype: 'F32', shape: [48, 256], data: normal(48 * 256, 3) },
      }),
      'model.safetensors.index.json': {
        weight_map: {
          'a.weight': 'model-00001-of-00002.safetensors',
          'a.bias': 'model-00001-of-00002.safetensors',
          'b.weight': 'model-00002-of-00002.safetensors',
        },
      },
      'config.json': { model_type: 'llama' },
      'tokenizer.json': { tokens: [] },
      'pytorch_model.bin': 'weights in another format',
    });
    mkdirSync(join(input, 'assets'));
    writeFileSync(join(input, 'assets', 'note.txt'), 'hello');
    const output = fresh();
    const report = await quantizeCheckpoint(input, { dtype: 'int4', output });
    expect(report.leftOut).toEqual(['pytorch_model.bin']);
    expect(readdirSync(output).sort()).toEqual([
      'assets',
      'config.json',
      'lowbit.json',
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
      'tokenizer.json',
    ]);
    expect(readFileSync(join(output, 'assets', 'note.txt'), 'utf8')).toBe('hello');
    const { weight_map: map, metadata } = JSON.parse(
      readFileSync(join(output, 'model.safetensors.index.json'), 'utf8'),
    );
    expect(map).toMatchObject({
      'a.weight_packed': 'model-00001-of-00002.safetensors',
      'b.weight_scale': 'model-00002-of-00002.safetensors',
    });
    expect(metadata.total_size).toBe(report.outputBytes);
    const second = readSafetensors(readFileSync(join(output, 'model-00002-of-00002.safetensors')));
    expect(second.tensors.get('b.weight_scale')?.dtype).toBe('F32');
  });

  it('takes a single file, in float16 too, and tensors without elements', async () => {
    const input = join(root, 'single.safetensors');
    const half = castTensor(normal(64 * 32, 5), { from: 'float32', to: 'float16' });
    writeFileSync(
      input,
      safetensors({
        'x.weight': { dtype: 'F16', shape: [64, 32], data: half },
        'empty.weight': { dtype: 'F16', shape: [0, 32], data: new Uint16Array(0) },
        'model.embed_tokens.weight': bf16([32, 32], 6),
        'model.norm.weight': bf16([32], 7),
      }),
    );
    const output = fresh();
    const report = await quantizeCheckpoint(input, { dtype: 'int8', groupSize: 16, output });
    expect(report.tensors.map(({ name }) => name)).toEqual(['x.weight']);
    expect([...report.copied].sort()).toEqual(['empty.weight', 'model.embed_tokens.weight', 'model.norm.weight']);
    const { tensors } = readSafetensors(readFileSync(join(output, 'model.safetensors')));
    expect(tensors.get('x.weight_scale')).toMatchObject({ dtype: 'F16', shape: [64, 2] });
    expect(tensors.get('empty.weight')).toMatchObject({ shape: [0, 32] });
    expect(existsSync(join(output, 'config.json'))).toBe(true);
  });

  it('replaces an output folder only when asked', async () => {
    const output = writeFolder(fresh(), { 'old.txt': 'old' });
    const options = { dtype: 'int8', groupSize: null, output } as const;
    await expect(quantizeCheckpoint(LLAMA, options)).rejects.toMatchObject({ code: 'OUTPUT_EXISTS' });
    expect(readdirSync(output)).toEqual(['old.txt']);
    await quantizeCheckpoint(LLAMA, { ...options, overwrite: true });
    expect(readdirSync(output)).not.toContain('old.txt');
    expect(readdirSync(root).filter((name) => name.includes('partial'))).toEqual([]);
  });
});

describe('what is refused, and leaves nothing behind', () => {
  const nothingLeft = () => expect(readdirSync(root).filter((name) => name.includes('partial'))).toEqual([]);

  it('a weight that is NaN, naming tensor, row and column', async () => {
    const weight = normal(2000 * 1024, 1);
    weight[1500 * 1024 + 7] = Number.NaN;
    const input = join(root, 'nan.safetensors');
    writeFileSync(input, safetensors({ 'w.weight': { dtype: 'F32', shape: [2000, 1024], data: weight } }));
    const output = fresh();
    const error = await quantizeCheckpoint(input, { dtype: 'int4', output }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(error).toMatchObject({
      tensor: 'w.weight',
      index: 1500 * 1024 + 7,
      message: expect.stringContaining('row 1500, column 7'),
    });
    expect(existsSync(output)).toBe(false);
    nothingLeft();
  });

  it('rows that do not divide into groups, all of them in one error before any work', async () => {
    const input = join(root, 'ragged.safetensors');
    writeFileSync(
      input,
      safetensors({ 'a.weight': bf16([8, 100], 1), 'b.weight': bf16([8, 128], 2), 'c.weight': bf16([8, 130], 3) }),
    );
    const error = (await quantizeCheckpoint(input, { dtype: 'int4', output: fresh() }).catch(
      (e: unknown) => e,
    )) as CheckpointError;
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.code).toBe('UNSUPPORTED_PLAN');
    expect(error.message).toMatch(/a\.weight \[8, 100\][\s\S]*c\.weight \[8, 130\]/);
    expect(error.message).not.toContain('b.weight');
    nothingLeft();
  });

  it('checkpoints that are quantized already, or have nothing to quantize', async () => {
    const quantized = fresh();
    await quantizeCheckpoint(LLAMA, { dtype: 'int8', groupSize: null, output: quantized });
    await expect(quantizeCheckpoint(quantized, { dtype: 'int4', output: fresh() })).rejects.toMatchObject({
      code: 'ALREADY_QUANTIZED',
    });
    await expect(
      quantizeCheckpoint(LLAMA, { dtype: 'int4', include: /nothing/, output: fresh() }),
    ).rejects.toMatchObject({ code: 'NOTHING_TO_QUANTIZE' });
  });

  it('a tensor that already has a name that quantizing needs', async () => {
    const input = join(root, 'taken.safetensors');
    writeFileSync(input, safetensors({ 'a.weight': bf16([8, 128], 1), 'a.weight_scale': bf16([8, 1], 2) }));
    await expect(quantizeCheckpoint(input, { dtype: 'int4', output: fresh() })).rejects.toMatchObject({
      code: 'UNSUPPORTED_PLAN',
      tensor: 'a.weight_scale',
    });
  });

  it('an output that can not be written', async () => {
    for (const [output, code] of [
      [join(LLAMA, 'inside'), 'OUTPUT_EXISTS'],
      ['/proc/lowbit', 'WRITE_FAILED'],
    ] as const) {
      const error = await quantizeCheckpoint(LLAMA, { dtype: 'int8', groupSize: null, output }).catch(
        (e: unknown) => e,
      );
      expect(error).toBeInstanceOf(OutputError);
      expect(error).toMatchObject({ code });
    }
  });

  it('a disk that is too small, before anything is written', async ({ skip }) => {
    const input = join(root, 'huge.safetensors');
    const bytes = 2 ** 43;
    const header = withLength(
      `{"a.weight":{"dtype":"BF16","shape":[${2 ** 22},${2 ** 20}],"data_offsets":[0,${bytes}]}}`,
    );
    const descriptor = openSync(input, 'w');
    writeSync(descriptor, header);
    try {
      ftruncateSync(descriptor, header.length + bytes);
    } catch (error) {
      skip(`this file system has no sparse files of 8 TiB: ${(error as Error).message}`);
    } finally {
      closeSync(descriptor);
    }
    await expect(quantizeCheckpoint(input, { dtype: 'int8', output: fresh() })).rejects.toMatchObject({
      code: 'DISK_FULL',
    });
    nothingLeft();
  });

  it('an input that shrinks while it is read', async () => {
    const input = join(root, 'shrinking.safetensors');
    writeFileSync(input, safetensors({ 'w.weight': bf16([8192, 1024], 1) }));
    const output = fresh();
    const run = quantizeCheckpoint(input, { dtype: 'int4', output, onProgress: () => truncateSync(input, 1000) });
    await expect(run).rejects.toMatchObject({ code: 'FILE_TRUNCATED', tensor: 'w.weight' });
    expect(existsSync(output)).toBe(false);
    nothingLeft();
  });

  it('an aborted run', async () => {
    const input = join(root, 'abort.safetensors');
    writeFileSync(input, safetensors({ 'w.weight': bf16([8192, 1024], 1) }));
    const controller = new AbortController();
    const output = fresh();
    const run = quantizeCheckpoint(input, {
      dtype: 'int4',
      output,
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await expect(run).rejects.toMatchObject({ name: 'AbortError' });
    expect(existsSync(output)).toBe(false);
    nothingLeft();
  });

  it('options that make no sense', async () => {
    for (const options of [
      { dtype: 'int4' },
      { dtype: 'int5', output: 'x' },
      { dtype: 'int4', output: 'x', groupSize: 0 },
      { dtype: 'int4', output: 'x', include: 'mlp' },
      { dtype: 'int4', output: 'x', exclude: /a/g },
      { dtype: 'int4', output: 'x', onProgress: 1 },
      { dtype: 'int4', output: 'x', group_size: 32 },
    ]) {
      await expect(quantizeCheckpoint(LLAMA, options as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });
});
