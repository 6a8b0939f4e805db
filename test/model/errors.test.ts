/** Models that can't be run, and what is said of them. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../lib/model/model.js';
import { readSafetensors, safetensors, temporaryFolder } from '../support/files.js';
import { copyModel } from '../support/models.js';

const folder = temporaryFolder();
let count = 0;

type Json = Record<string, unknown>;
type Tensors = ReturnType<typeof readSafetensors>['tensors'];

/** A model of test/vectors with changes. */
function changed(name: string, config: (json: Json) => void, tensors?: (tensors: Tensors) => void): string {
  const target = copyModel(name, join(folder, String(count++)));
  const path = join(target, 'config.json');
  const json = JSON.parse(readFileSync(path, 'utf8')) as Json;
  config(json);
  writeFileSync(path, JSON.stringify(json));
  if (tensors === undefined) return target;
  const weights = join(target, 'model.safetensors');
  const file = readSafetensors(readFileSync(weights));
  tensors(file.tensors);
  const entries = [...file.tensors].map(([key, { dtype, shape, bytes }]) => [key, { dtype, shape, data: bytes }]);
  writeFileSync(weights, safetensors(Object.fromEntries(entries)));
  return target;
}

const refused = (path: string, code: string, message: RegExp) =>
  expect(openModel(path)).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string });

describe('a model that can not be run', () => {
  it.each<[string, (json: Json) => void, RegExp]>([
    [
      'another architecture',
      (json) => (json['architectures'] = ['GemmaForCausalLM']),
      /GemmaForCausalLM.*LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM/,
    ],
    [
      'no architecture',
      (json) => {
        delete json['architectures'];
        json['model_type'] = 'phi';
      },
      /phi/,
    ],
    ['another activation', (json) => (json['hidden_act'] = 'gelu'), /activation is "gelu"/],
    [
      'another rope scaling',
      (json) => (json['rope_parameters'] = { rope_type: 'longrope' }),
      /rope scaling is "longrope"/,
    ],
    ['rope of a part of the head', (json) => (json['partial_rotary_factor'] = 0.5), /partial_rotary_factor/],
    [
      'rope for each kind of layer',
      (json) => (json['rope_parameters'] = { full_attention: {} }),
      /differ between layers/,
    ],
  ])('%s', async (_, change, message) => {
    await refused(changed('llama-bias', change), 'MODEL_UNSUPPORTED', message);
  });

  it.each<[string, (json: Json) => void, RegExp]>([
    ['a size that is missing', (json) => delete json['hidden_size'], /positive integer for "hidden_size"/],
    ['layers without number', (json) => (json['num_hidden_layers'] = 2 ** 30), /at most 10000/],
    ['heads that do not divide', (json) => (json['num_key_value_heads'] = 3), /Expected whole numbers/],
    ['a head of an odd size', (json) => (json['head_dim'] = 7), /even one of elements/],
    [
      'a scaling without factor',
      (json) => (json['rope_parameters'] = { rope_type: 'linear' }),
      /"rope_parameters.factor"/,
    ],
  ])('%s', async (_, change, message) => {
    await refused(changed('llama-bias', change), 'CONFIG_INVALID', message);
  });

  it('weights that are missing, by name, layer and shape', async () => {
    const none = () => undefined;
    const name = 'model.layers.1.mlp.up_proj.weight';
    await refused(
      changed('llama-bias', none, (tensors) => tensors.delete(name)),
      'MODEL_WEIGHT_MISSING',
      /no weight model\.layers\.1\.mlp\.up_proj\.weight, of shape \[\d+, 32\]/,
    );
    await refused(
      changed('llama-bias', none, (tensors) => tensors.delete('model.layers.0.self_attn.o_proj.bias')),
      'MODEL_WEIGHT_MISSING',
      /self_attn\.o_proj\.bias/,
    );
    await refused(
      changed('qwen2-tied', none, (tensors) => tensors.delete('model.layers.0.self_attn.q_proj.bias')),
      'MODEL_WEIGHT_MISSING',
      /self_attn\.q_proj\.bias/,
    );
    await refused(
      changed('qwen2-tied', (json) => (json['tie_word_embeddings'] = false)),
      'MODEL_WEIGHT_MISSING',
      /lm_head\.weight/,
    );
    await refused(
      changed('llama-bias', (json) => (json['num_hidden_layers'] = 3)),
      'MODEL_WEIGHT_MISSING',
      /layers\.2\./,
    );
  });

  it('weights of other shapes, with both shapes', async () => {
    await refused(
      changed('llama-bias', (json) => (json['intermediate_size'] = 40)),
      'MODEL_WEIGHT_SHAPE',
      /mlp\.gate_proj\.weight.*\[40, 32\].*\[64, 32\]/,
    );
    await refused(
      changed('llama-bias', (json) => (json['vocab_size'] = 100)),
      'MODEL_WEIGHT_SHAPE',
      /embed_tokens/,
    );
  });

  it('no config, no folder, wrong options', async () => {
    const path = changed('llama-bias', () => undefined);
    await refused(join(path, 'model.safetensors'), 'CONFIG_INVALID', /file of weights alone/);
    rmSync(join(path, 'config.json'));
    await refused(path, 'CONFIG_INVALID', /no config\.json/);
    await refused(join(folder, 'nowhere'), 'FILE_NOT_FOUND', /does not exist/);
    const invalid = { code: 'INVALID_ARGUMENT' };
    await expect(openModel(3 as never)).rejects.toMatchObject(invalid);
    await expect(openModel(path, { computeDtype: 'int4' as never })).rejects.toMatchObject(invalid);
    await expect(openModel(path, { residentBlocks: 'two' as never })).rejects.toMatchObject(invalid);
    await expect(openModel(path, { dtype: 'int8' } as never)).rejects.toMatchObject(invalid);
  });

  it('a text without a tokenizer', async () => {
    const path = changed('llama-bias', () => undefined);
    rmSync(join(path, 'tokenizer.json'));
    const model = await openModel(path);
    await expect(model.generate('a')).rejects.toMatchObject({ code: 'TOKENIZER_MISSING' });
    await expect(model.generate(Int32Array.of(5), { stop: 'a' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect((await model.generate(Int32Array.of(5), { maxTokens: 3 })).text).toBe('');
    await model.close();
  });

  it('numbers past the range of float32, by the layer', async () => {
    const path = changed(
      'llama-bias',
      () => undefined,
      (tensors) => {
        const { bytes } = tensors.get('model.layers.1.mlp.up_proj.weight') as { bytes: Buffer };
        for (let i = 0; i < bytes.length; i += 4) bytes.writeFloatLE(3e38, i);
      },
    );
    const model = await openModel(path);
    await expect(model.logits(Int32Array.of(5, 6))).rejects.toMatchObject({
      code: 'NON_FINITE',
      tensor: 'model.layers.1.mlp.down_proj.weight',
    });
    await model.close();
  });
});
