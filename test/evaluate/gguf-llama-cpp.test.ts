/** Nats of GGUF files, against those that follow from the logits of llama.cpp. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { evaluateModel, quantizeCheckpoint } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';

const repository = join(__dirname, '..', '..');
const LLAMA = join(repository, 'examples', 'shakespeare-llama');
const text = readFileSync(join(repository, 'examples', 'text', 'sampled-eval.txt'), 'utf8');
const peers = join(repository, 'bench', 'peers', 'node_modules');
const isThere =
  process.platform === 'linux' &&
  process.arch === 'x64' &&
  ['koffi', '@node-llama-cpp/linux-x64'].every((name) => existsSync(join(peers, name)));
if (!isThere) {
  console.warn(
    'SKIPPED: llama.cpp does not check the nats of GGUF files: npm ci --prefix bench/peers --ignore-scripts',
  );
}
const root = temporaryFolder();
const LENGTH = 64;

async function natsOfLlamaCpp(model: string, windows: number): Promise<number[]> {
  const bytes = Buffer.from(text);
  const sequences = Array.from({ length: windows }, (_, i) => [
    1,
    ...[...bytes.subarray(i * (LENGTH - 1), (i + 1) * (LENGTH - 1))].map((byte) => byte + 3),
  ]);
  const script = join(repository, 'test', 'support', 'llama-cpp.mjs');
  const task = JSON.stringify({ task: 'run', model, sequences: sequences.map((ids) => ids.slice(0, -1)) });
  const { stdout } = await promisify(execFile)(process.execPath, [script, task], { maxBuffer: 2 ** 28 });
  const { size, logits } = JSON.parse(stdout) as { size: number; logits: string[] };
  return sequences.map((ids, i) => {
    const raw = Buffer.from(logits[i] as string, 'base64');
    const all = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
    let sum = 0;
    for (let position = 0; position < LENGTH - 1; position++) {
      const row = all.subarray(position * size, (position + 1) * size);
      const target = row[ids[position + 1] as number] as number;
      sum += Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0)) - target;
    }
    return sum / (LENGTH - 1);
  });
}

describe.skipIf(!isThere)('a GGUF file', () => {
  // llama.cpp rounds activations to eight bits where weights are quantized, lowbit leaves them in float32.
  it.each([
    ['f16', 5e-4],
    ['q8_0', 5e-3],
    ['q4_0', 5e-3],
  ] as const)('in %s has the nats of llama.cpp', async (dtype, bound) => {
    const path = join(root, `${dtype}.gguf`);
    await quantizeCheckpoint(LLAMA, { format: 'gguf', dtype, output: path });
    const expected = await natsOfLlamaCpp(path, 4);
    const { windowNats, tokens } = await evaluateModel(path, {
      text: text.slice(0, 4 * (LENGTH - 1)),
      tokenizer: LLAMA,
      windowLength: LENGTH,
    });
    expect(tokens).toBe(4 * (LENGTH - 1));
    for (const [i, nats] of windowNats.entries()) expect(Math.abs(nats - (expected[i] as number))).toBeLessThan(bound);
    const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    expect(Math.abs(mean(windowNats) - mean(expected))).toBeLessThan(bound / 2);
  });
});
