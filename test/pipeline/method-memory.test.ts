/** What methods announce of their memory, on a model whose blocks are large beside the process. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeDecoder } from '../support/decoder.js';
import { temporaryFolder } from '../support/files.js';
import { inProcess } from '../support/peak.js';

const root = temporaryFolder();
const DIST = JSON.stringify(join(__dirname, '..', '..', 'dist', 'index.js'));
let count = 0;

describe('methods take no more memory than they announce, and no less than half of it', () => {
  const model = writeDecoder(join(root, 'model'), {
    hidden: 768,
    inner: 3072,
    heads: 8,
    kvHeads: 8,
    layers: 1,
    positions: 512,
    dtype: 'BF16',
  });
  const text = join(root, 'text.txt');
  writeFileSync(text, Array.from({ length: 300 }, (_, i) => ((i * 7919) % 9973).toString(36)).join(' '));
  const calibration = (mode: 'sequential' | 'parallel') => ({ text: [text], windows: 2, windowLength: 256, mode });
  const int4 = { dtype: 'int4', groupSize: 128 };

  it.each<[string, object]>([
    ['gptq, sequential', { method: 'gptq', ...int4, calibration: calibration('sequential') }],
    ['gptq, parallel', { method: 'gptq', ...int4, calibration: calibration('parallel') }],
    ['awq, sequential', { method: 'awq', ...int4, calibration: calibration('sequential'), awq: { grid: 1 } }],
    ['awq-gptq', { method: 'awq-gptq', ...int4, calibration: calibration('sequential'), awq: { grid: 1 } }],
    [
      'smoothquant',
      {
        method: 'smoothquant',
        dtype: 'int8',
        activations: 'int8',
        calibration: calibration('sequential'),
        smoothquant: { alpha: 0.5 },
      },
    ],
    ['hqq', { method: 'hqq', ...int4 }],
  ])('%s', { timeout: 120_000 }, async (_, options) => {
    const all = JSON.stringify({ ...options, output: join(root, `out-${count++}`), hashInputs: false });
    const { announced, peak } = await inProcess<{ announced: number; peak: number }>(`
      const lowbit = require(${DIST});
      let announced = null;
      const onStart = ({ peakBytes }) => { announced = peakBytes; };
      beginning();
      await lowbit.quantizeCheckpoint(${JSON.stringify(model)}, { ...${all}, onStart });
      return { announced, peak: peak() };`);
    expect(peak).toBeLessThanOrEqual(announced);
    expect(announced).toBeLessThanOrEqual(2 * peak);
  });
});
