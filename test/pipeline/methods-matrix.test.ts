/** Every method into every file: what docs/choose-a-method.md says of it. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import {
  type CheckpointFormat,
  collectStatistics,
  cutIntoWindows,
  inspectCheckpoint,
  LowbitError,
  openModel,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
} from '../../lib/index.js';
import { checkOptions, planOfSpec } from '../../lib/pipeline/quantize-checkpoint.js';
import { FORMATS } from '../../lib/pipeline/spec.js';
import { temporaryFolder } from '../support/files.js';
import { smallLlama } from '../support/small-llama.js';
import { text } from '../support/tiny-model.js';

const root = temporaryFolder();
const guide = readFileSync(join(__dirname, '..', '..', 'docs', 'choose-a-method.md'), 'utf8');

interface Row {
  readonly format: CheckpointFormat;
  readonly dtype: string;
  readonly words: string;
  /** Whether it is the first of its kind: others are planned only, which is where things are refused. */
  readonly isFirst: boolean;
  /** By method, whether the file takes it. */
  readonly takes: ReadonlyMap<string, boolean>;
}

/** The rows of the table, one for each dtype. */
function rowsOf(markdown: string): Row[] {
  const section = markdown.slice(markdown.indexOf('## Which file takes what'));
  const lines = section.slice(0, section.indexOf('\n- ')).split('\n');
  const [heads, , ...rows] = lines
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  const methods = heads?.slice(1).map((cell) => cell.replaceAll('`', '')) ?? [];
  return rows.flatMap(([file = '', ...cells]) => {
    const [format = '', ...dtypes] = Array.from(file.matchAll(/`([^`]+)`/g), ([, code]) => code as string);
    const takes = new Map(methods.map((method, i) => [method, cells[i] === 'yes']));
    const words = file.replace(/`[^`]+`/g, '');
    return dtypes.map((dtype, i) => ({
      format: format as CheckpointFormat,
      dtype,
      words,
      isFirst: i === 0,
      takes,
    }));
  });
}

const rows = rowsOf(guide);
const cells = rows.flatMap((row) => [...row.takes].map(([method, takes]) => ({ ...row, method, takes })));

describe('every method into every file', () => {
  const float = smallLlama(join(root, 'float'));
  const statistics = join(root, 'statistics.safetensors');
  beforeAll(async () => {
    writeFileSync(join(root, 'text.txt'), text(600));
    const model = await openModel(float);
    const windows = cutIntoWindows(model.tokenizer, [text(600)], { windowLength: 32, count: 12 });
    await collectStatistics(model, windows, { output: statistics });
    await model.close();
  });

  async function planned(options: QuantizeCheckpointOptions): Promise<void> {
    const checkpoint = await openCheckpoint(float);
    try {
      await planOfSpec(checkpoint, await weightsOf(checkpoint), checkOptions(options));
    } finally {
      await checkpoint.close();
    }
  }

  it('the guide speaks of all formats, dtypes and methods', () => {
    for (const [format, { dtypes }] of Object.entries(FORMATS)) {
      const told = rows.filter((row) => row.format === format).map(({ dtype }) => dtype);
      // Mixtures of the same blocks, and floats, have no rows of their own.
      const wanted = dtypes.filter((dtype) => !/^(f32|b?f16|q2_k_s|q[345]_k_[sl]|q4_k_s|q5_k_s)$/.test(dtype));
      expect([...new Set(told)].sort()).toEqual([...wanted].sort());
    }
    for (const { takes } of rows) {
      expect([...takes.keys()]).toEqual(['rtn', 'gptq', 'awq', 'awq-gptq', 'smoothquant', 'hqq']);
    }
  });

  it.each(cells.map((cell, i) => ({ ...cell, i })))(
    '$method into $format $dtype: $takes',
    async ({ format, dtype, words, method, takes, isFirst, i }) => {
      const output = join(root, `out-${i}${format === 'gguf' ? '.gguf' : ''}`);
      const needs = method !== 'rtn' && method !== 'hqq';
      const isInteger = /^int\d$/.test(dtype) && !words.includes('LLM.int8()');
      const options = {
        format,
        dtype,
        method,
        ...(isInteger ? { groupSize: words.includes('channels') ? null : 64 } : {}),
        ...(words.includes('nested') ? { nested: true } : {}),
        ...(needs ? { calibration: { statistics } } : {}),
        ...(method.startsWith('awq') ? { awq: { grid: 2, clip: dtype === 'int4' } } : {}),
        output,
      } as QuantizeCheckpointOptions;
      const run = takes && !isFirst ? planned(options) : quantizeCheckpoint(float, options);
      const error: unknown = await run.then(
        () => null,
        (reason: unknown) => reason,
      );
      expect(existsSync(output)).toBe(takes && isFirst);
      if (takes) {
        expect(error).toBe(null);
        if (!isFirst) return;
        const { weights } = await inspectCheckpoint(output);
        expect(weights.filter(({ format: stored }) => stored !== 'float').length).toBeGreaterThanOrEqual(7);
      } else {
        expect(error).toBeInstanceOf(LowbitError);
        expect((error as LowbitError).code).toMatch(/^(INVALID_ARGUMENT|UNSUPPORTED_PLAN)$/);
        expect((error as LowbitError).message).toContain(method);
      }
    },
  );
});
