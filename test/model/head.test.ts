/** The output layer in parts. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { readConfig } from '../../lib/model/config.js';
import { DecoderWeights } from '../../lib/model/decoder-weights.js';
import { Head } from '../../lib/model/head.js';
import { Loader } from '../../lib/model/loader.js';
import { openModel } from '../../lib/model/model.js';
import { RotaryTables } from '../../lib/model/rope.js';
import { largestDifference } from '../support/models.js';
import { VECTORS } from '../support/vectors.js';

describe('the output layer', () => {
  it.each(['llama-gqa', 'qwen2-tied'])(
    'has the same bits in parts, kept or not, for one row and for many: %s',
    async (name) => {
      const path = join(VECTORS, 'models', name);
      const model = await openModel(path);
      const checkpoint = await openCheckpoint(path);
      const config = readConfig(checkpoint.config ?? {}, path);
      const weights = new DecoderWeights(config, await weightsOf(checkpoint), path);
      const tables = new RotaryTables(config);
      const context = {
        config,
        weights,
        tables,
        computeDtype: 'float32',
        quantizesInputs: true,
        loader: new Loader(),
      } as const;
      for (const rows of [1, 5]) {
        const hidden = Float32Array.from({ length: rows * config.hiddenSize }, (_, i) => Math.sin(i * 1.3));
        const expected = await model.head(hidden);
        expect(expected.length).toBe(rows * config.vocabSize);
        for (const keeps of [true, false]) {
          // 32 rows at a time, of 259 or 304
          const head = new Head(context, keeps, 32 * 4 * config.hiddenSize);
          for (let again = 0; again < 2; again++) {
            const got = await head.forward(hidden.slice(), new Float32Array(expected.length));
            expect(largestDifference(got, expected)).toBe(0);
          }
          await head.close();
        }
      }
      await checkpoint.close();
      await model.close();
    },
  );
});
