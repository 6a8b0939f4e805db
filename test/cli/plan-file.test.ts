import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { specOf } from '../../lib/cli/spec-options.js';
import { temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const plan = join(root, 'plan.json');

describe('a plan file', () => {
  it('is read with its patterns', async () => {
    writeFileSync(plan, '{"format":"gguf","dtype":"q4_k_m","include":"mlp","layers":[{"match":"x","spec":"float"}]}');
    const spec = await specOf({ plan }, new Command());
    expect(spec).toEqual({
      format: 'gguf',
      dtype: 'q4_k_m',
      include: /mlp/,
      layers: [{ match: /x/, spec: 'float' }],
    });
  });

  it.each([
    ['no object', 'null'],
    ['no JSON', '{'],
    ['an array', '[]'],
    ['an unknown option', '{"bits":4}'],
    ['an unknown format', '{"format":"onnx"}'],
    ['the name of a method of all objects', '{"format":"toString"}'],
    ['a dtype that the format has not', '{"format":"awq","dtype":"int8"}'],
    ['a pattern that is a number', '{"include":5}'],
    ['a pattern that is none', '{"exclude":"("}'],
    ['layers that are no array', '{"layers":{}}'],
    ['a layer that is null', '{"layers":[null]}'],
    ['a layer without a pattern', '{"layers":[{"spec":"float"}]}'],
    ['a layer with an unknown option', '{"layers":[{"match":"x","spec":{"bits":4}}]}'],
  ])('is refused for %s, before anything is written', async (_, text) => {
    writeFileSync(plan, text);
    const writePlan = join(root, 'again.json');
    await expect(specOf({ plan, writePlan }, new Command())).rejects.toMatchObject({
      code: 'PLAN_INVALID',
      path: plan,
    });
  });
});
