import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  collectStatistics,
  type DecoderModel,
  type InputName,
  mergeStatistics,
  openModel,
  StatisticsFile,
  setNumThreads,
} from '../../lib/index.js';
import { safetensors, temporaryFolder } from '../support/files.js';
import { statisticsOf } from '../support/statistics.js';
import { tinyModel, tinyWindows } from '../support/tiny-model.js';
import { VECTORS } from '../support/vectors.js';

const root = temporaryFolder();
let files = 0;
const fresh = () => join(root, `${files++}.safetensors`);

/** Everything that an input was given, window after window, by running the blocks plainly. */
async function inputsOf(
  model: DecoderModel,
  windows: ReturnType<typeof tinyWindows>,
): Promise<Map<string, Float32Array>> {
  const seen = new Map<string, number[]>();
  for (const tokens of windows.tokens) {
    let hidden = await model.embed(tokens);
    for (let index = 0; index < model.config.numLayers; index++) {
      const block = await model.openBlock(index);
      hidden = await block.forward(hidden, {
        windowLength: windows.windowLength,
        onInput: (input: InputName, x) => {
          const name = `layers.${index}.${input}`;
          seen.set(name, [...(seen.get(name) ?? []), ...x]);
        },
      });
      block.dispose();
    }
  }
  return new Map([...seen].map(([name, values]) => [name, Float32Array.from(values)]));
}

describe('collectStatistics', () => {
  it('holds what float64 arithmetic gives', async () => {
    const model = await tinyModel();
    const windows = tinyWindows(model);
    const output = fresh();
    const report = await collectStatistics(model, windows, { output });
    expect(report).toMatchObject({ windows: 6, windowLength: 16, tokens: 96, inputs: 8, gram: true });
    const file = await StatisticsFile.open(output);
    const inputs = await inputsOf(model, windows);
    expect([...file.names].sort()).toEqual([...inputs.keys()].sort());
    for (const [name, x] of inputs) {
      const got = await file.read(name);
      const expected = statisticsOf(x, got.columns);
      expect(got.rows).toBe(96);
      expect(got.absMax).toEqual(expected.absMax);
      expect(got.range()).toEqual(expected.range());
      for (let k = 0; k < got.columns; k++) {
        expect((got.sumOfSquares[k] as number) / (expected.sumOfSquares[k] as number)).toBeCloseTo(1, 9);
        expect((got.sumOfMagnitudes[k] as number) / (expected.sumOfMagnitudes[k] as number)).toBeCloseTo(1, 9);
      }
      const gram = got.gram as Float32Array;
      const size = (i: number) => Math.sqrt(expected.sumOfSquares[i] as number);
      for (let i = 0; i < gram.length; i++) {
        const [a, b] = [Math.floor(i / got.columns), i % got.columns];
        const error = Math.abs((gram[i] as number) - (expected.gram?.[i] as number));
        expect(error).toBeLessThan(1e-6 * size(a) * size(b));
      }
      // 96 rows are fewer than a sample has: it holds each of them once.
      const rowsOf = (values: Float32Array) =>
        Array.from({ length: 96 }, (_, r) => values.subarray(r * got.columns, (r + 1) * got.columns).join()).sort();
      expect(rowsOf(got.sample)).toEqual(rowsOf(x));
    }
    await file.close();
    await model.close();
  });

  it('any division, in any order, on any number of threads: the same bytes', async () => {
    const model = await tinyModel();
    const whole = fresh();
    await collectStatistics(model, tinyWindows(model, 7), { output: whole });
    for (const count of [2, 3, 8]) {
      setNumThreads(count);
      const parts: string[] = [];
      for (let index = 0; index < count; index++) {
        const output = fresh();
        await collectStatistics(model, tinyWindows(model, 7, { index, count }), { output });
        parts.push(output);
      }
      const merged = fresh();
      const mixed = count === 2 ? [...parts].reverse() : [...parts.slice(1), ...parts.slice(0, 1)];
      expect(await mergeStatistics(mixed, { output: merged })).toMatchObject({ files: count, windows: 7, tokens: 112 });
      expect(readFileSync(merged).equals(readFileSync(whole))).toBe(true);
      if (count === 3) {
        // Merged in steps.
        const [a, b, c] = parts as [string, string, string];
        const [step, last] = [fresh(), fresh()];
        await mergeStatistics([c, a], { output: step });
        await mergeStatistics([b, step], { output: last });
        expect(readFileSync(last).equals(readFileSync(whole))).toBe(true);
      }
    }
    await model.close();
  });

  it('goes on after an interruption, and gives the same bytes', async () => {
    const model = await tinyModel('llama-rope-linear');
    const windows = tinyWindows(model);
    const [whole, output] = [fresh(), fresh()];
    await collectStatistics(model, windows, { output: whole });
    const interrupt = new AbortController();
    const onProgress = (progress: { blocks: number; windows: number }) => {
      if (progress.blocks === 1 && progress.windows === 3) interrupt.abort(new Error('enough'));
    };
    const interrupted = collectStatistics(model, windows, { output, onProgress, signal: interrupt.signal });
    await expect(interrupted).rejects.toThrow('enough');
    expect(existsSync(output)).toBe(false);
    const others = collectStatistics(model, tinyWindows(model, 5), { output });
    await expect(others).rejects.toMatchObject({ code: 'UNFINISHED_WORK' });
    const blocks = new Set<number>();
    await collectStatistics(model, windows, { output, onProgress: (progress) => blocks.add(progress.blocks) });
    expect([...blocks]).toEqual([1]);
    expect(readFileSync(output).equals(readFileSync(whole))).toBe(true);
    await expect(collectStatistics(model, windows, { output })).rejects.toMatchObject({ code: 'OUTPUT_EXISTS' });
    await model.close();
  });

  it('without Gram matrices', async () => {
    const model = await tinyModel();
    const output = fresh();
    await collectStatistics(model, tinyWindows(model), { output, gram: false });
    const file = await StatisticsFile.open(output);
    const { gram, sumOfSquares } = await file.read('layers.1.mlp');
    expect(gram).toBeNull();
    expect(sumOfSquares.every((value) => value > 0)).toBe(true);
    await expect(file.read('layers.2.mlp')).rejects.toMatchObject({
      code: 'STATISTICS_MISSING',
      layer: 'layers.2.mlp',
    });
    await file.close();
    await model.close();
  });

  it('names the input with a number that is not finite', async () => {
    const folder = join(VECTORS, 'models', 'llama-rope-linear');
    const damaged = join(temporaryFolder());
    for (const name of readdirSync(folder)) copyFileSync(join(folder, name), join(damaged, name));
    const model = join(damaged, 'model.safetensors');
    const bytes = readFileSync(model);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
    const { dtype, data_offsets: offsets } = header['model.layers.1.post_attention_layernorm.weight'];
    expect(dtype).toBe('F32');
    bytes.writeFloatLE(Number.NaN, 8 + length + offsets[0] + 20);
    writeFileSync(model, bytes);
    const opened = await openModel(damaged);
    await expect(collectStatistics(opened, tinyWindows(opened), { output: fresh() })).rejects.toMatchObject({
      code: 'NON_FINITE',
      tensor: 'layers.1.mlp',
      message: expect.stringMatching(/channel 5/),
    });
    await opened.close();
  });

  it('refuses what does not fit', async () => {
    const model = await tinyModel();
    const windows = tinyWindows(model);
    const foreign = { ...windows, tokens: windows.tokens.map((tokens) => tokens.map(() => 259)) };
    await expect(collectStatistics(model, foreign, { output: fresh() })).rejects.toMatchObject({
      code: 'VOCABULARY_MISMATCH',
    });
    await expect(collectStatistics(model, windows, { output: fresh(), maxMemory: 1e6 })).rejects.toMatchObject({
      argument: 'maxMemory',
    });
    await expect(collectStatistics(model, windows, { output: '' })).rejects.toMatchObject({ argument: 'output' });
    const long = { ...windows, windowLength: 129 };
    await expect(collectStatistics(model, long, { output: fresh() })).rejects.toMatchObject({ argument: 'windows' });
    await model.close();
  });
});

describe('mergeStatistics', () => {
  it('refuses windows that would count twice, other models and other windows', async () => {
    const [model, other] = [await tinyModel(), await tinyModel('llama-rope-linear')];
    const [a, b, c, d] = [fresh(), fresh(), fresh(), fresh()];
    await collectStatistics(model, tinyWindows(model, 4), { output: a });
    await collectStatistics(other, tinyWindows(other, 4), { output: b });
    await collectStatistics(model, { ...tinyWindows(model, 4), prefix: [] }, { output: c });
    await collectStatistics(model, tinyWindows(model, 4), { output: d, gram: false });
    await expect(mergeStatistics([a, a], { output: fresh() })).rejects.toMatchObject({ code: 'STATISTICS_OVERLAP' });
    for (const [file, what] of [
      [b, 'another model'],
      [c, 'windows of another kind'],
      [d, 'without Gram'],
    ] as const) {
      await expect(mergeStatistics([a, file], { output: fresh() })).rejects.toMatchObject({
        code: 'STATISTICS_MISMATCH',
        message: expect.stringContaining(what),
      });
    }
    await expect(mergeStatistics([], { output: fresh() })).rejects.toMatchObject({ argument: 'paths' });
    await model.close();
    await other.close();
  });
});

describe('StatisticsFile', () => {
  it('refuses what is no such file, or damaged', async () => {
    const model = await tinyModel('llama-rope-linear');
    const good = fresh();
    await collectStatistics(model, tinyWindows(model), { output: good, gram: false });
    await model.close();
    const bytes = readFileSync(good);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
    const data = bytes.subarray(8 + length);
    const openWith = async (change: (header: Record<string, Record<string, unknown>>, data: Buffer) => void) => {
      const path = fresh();
      const [changed, copy] = [structuredClone(header), Buffer.from(data)];
      change(changed, copy);
      const json = Buffer.from(JSON.stringify(changed));
      const prefix = Buffer.alloc(8);
      prefix.writeBigUInt64LE(BigInt(json.length));
      writeFileSync(path, Buffer.concat([prefix, json, copy]));
      const file = await StatisticsFile.open(path);
      try {
        return await file.read('layers.0.mlp');
      } finally {
        await file.close();
      }
    };
    await expect(openWith(() => undefined)).resolves.toMatchObject({ rows: 96 });
    const metadata = (name: string, value: string) => (h: typeof header) => (h.__metadata__[name] = value);
    const [begin] = header['layers.0.mlp.absmax'].data_offsets;
    const [histogram] = header['layers.0.mlp.histogram'].data_offsets;
    for (const change of [
      metadata('format', 'pt'),
      metadata('version', '2'),
      metadata('model', 'abc'),
      metadata('inputs', '[["layers.0.mlp",32],["layers.0.mlp",32]]'),
      metadata('inputs', '[["layers.0.mlp",0]]'),
      metadata('windowLength', '"16"'),
      metadata('prefix', '{'),
      metadata('texts', '[{}]'),
      metadata('windows', '[[0,0]]'),
      metadata('sample', '[[0,0,99]]'),
      metadata('gram', 'maybe'),
      (h: typeof header) => (h['layers.0.mlp.range'].dtype = 'I32'),
      (_: typeof header, d: Buffer) => d.writeFloatLE(Number.NaN, begin),
      (_: typeof header, d: Buffer) => d.writeDoubleLE(-1, histogram),
    ]) {
      await expect(openWith(change as never)).rejects.toMatchObject({ code: 'STATISTICS_INVALID' });
    }
    const foreign = fresh();
    writeFileSync(foreign, safetensors({ a: { dtype: 'F32', shape: [1], data: new Float32Array(1) } }));
    await expect(StatisticsFile.open(foreign)).rejects.toMatchObject({ code: 'STATISTICS_INVALID' });
    await expect(StatisticsFile.open(join(root, 'none'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});
