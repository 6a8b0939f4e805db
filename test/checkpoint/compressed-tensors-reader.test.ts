import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../support/files.js';
import { checkpointFolder, floatBytes, rawTensor, type Tensors, withWeights } from '../support/layouts.js';
import { type EncodedArray, readJson } from '../support/vectors.js';

interface Case {
  name: string;
  format: string;
  version: string;
  weights: Record<string, unknown>;
  tensors: Record<string, EncodedArray>;
  dequant: EncodedArray;
}
const { cases } = readJson<{ cases: Case[] }>('compressed-tensors', 'checkpoints.json');
const root = temporaryFolder();
const NAMES: Record<string, string> = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' };

const configOf = (format: string, weights: unknown, more: object = {}, version?: string) => ({
  quantization_config: {
    quant_method: 'compressed-tensors',
    format,
    ...(version === undefined ? {} : { version }),
    config_groups: { group_0: { targets: ['Linear'], weights, input_activations: null, output_activations: null } },
    ignore: ['lm_head'],
    ...more,
  },
});

const layer = (name: string, tensors: Record<string, EncodedArray>): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([part, tensor]) => [`${name}.${part}`, rawTensor(tensor)]));

describe('weights equal what compressed-tensors decompresses', () => {
  it.each(cases.map((c) => [c.version, c.name, c] as const))('%s: %s', async (_, __, c) => {
    const path = checkpointFolder(root, layer('model.up', c.tensors), configOf(c.format, c.weights, {}, c.version));
    await withWeights(path, async (weights) => {
      expect([...weights.keys()]).toEqual(['model.up.weight']);
      const weight = weights.get('model.up.weight');
      if (weight === undefined) throw new Error('no weight');
      expect(weight.shape).toEqual(c.dequant.shape);
      expect(weight.dtype).toBe(NAMES[c.dequant.dtype]);
      expect(weight.parts.length).toBe(Object.keys(c.tensors).length);
      const expected = Buffer.from(c.dequant.b64, 'base64');
      for (const strip of [weight.rows, 1, 3, 8]) {
        expect((await floatBytes(weight, strip)).equals(expected), `strips of ${strip} rows`).toBe(true);
      }
    });
  });
});

const named = (name: string, version = '0.18.0') => {
  const found = cases.find((c) => c.name === name && c.version === version);
  if (found === undefined) throw new Error(name);
  return found;
};
const configFor = (c: Case, more: object = {}) => configOf(c.format, c.weights, more, c.version);
const expectedOf = (c: Case) => Buffer.from(c.dequant.b64, 'base64');

async function expectWeights(path: string, expected: Record<string, Case>): Promise<void> {
  await withWeights(path, async (weights) => {
    expect([...weights.keys()].sort()).toEqual(Object.keys(expected).sort());
    for (const [name, c] of Object.entries(expected)) {
      const weight = weights.get(name);
      if (weight === undefined) throw new Error(name);
      expect((await floatBytes(weight)).equals(expectedOf(c)), name).toBe(true);
    }
  });
}

describe('config groups', () => {
  const [four, eight, nvfp4] = [named('pack 4 bits group sym'), named('pack 8 bits group sym'), named('nvfp4')];
  const groups = (config_groups: object, format = 'mixed-precision') => ({
    quantization_config: { quant_method: 'compressed-tensors', format, config_groups },
  });

  it('by name before expression before class, each with its format', async () => {
    const tensors = {
      ...layer('model.layers.0.up', four.tensors),
      ...layer('model.layers.0.down', eight.tensors),
      ...layer('model.layers.1.down', nvfp4.tensors),
    };
    const config = groups({
      group_0: { targets: ['Linear'], weights: four.weights, format: four.format },
      group_1: { targets: ['re:.*\\.down$'], weights: eight.weights, format: eight.format },
      group_2: { targets: ['model.layers.1.down'], weights: nvfp4.weights, format: nvfp4.format },
    });
    await expectWeights(checkpointFolder(root, tensors, config, 4), {
      'model.layers.0.up.weight': four,
      'model.layers.0.down.weight': eight,
      'model.layers.1.down.weight': nvfp4,
    });
  });

  it('of several classes, the one that fits', async () => {
    const tensors = { ...layer('a', four.tensors), ...layer('b', eight.tensors) };
    const config = groups({
      group_0: { targets: ['Linear'], weights: four.weights },
      group_1: { targets: ['Embedding'], weights: eight.weights },
    });
    await expectWeights(checkpointFolder(root, tensors, config), { 'a.weight': four, 'b.weight': eight });
  });

  it('expressions of Python: named groups, (?i), anchors', async () => {
    for (const target of ['re:(?P<all>model)\\.up', 're:(?i)MODEL', 're:\\Amodel.up\\Z', 're:mod']) {
      const config = groups({ g: { targets: [target], weights: four.weights } });
      await expectWeights(checkpointFolder(root, layer('model.up', four.tensors), config), { 'model.up.weight': four });
    }
  });

  it('an expression made to run for ever is stopped', async () => {
    const config = groups({ g: { targets: Array(50).fill('re:(a+)+$'), weights: four.weights } });
    const path = checkpointFolder(root, layer(`${'a'.repeat(50)}!`, four.tensors), config);
    await expect(withWeights(path, async () => 0)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('older spellings: compression_config, block_structure in words, a missing strategy', async () => {
    const block = named('float block');
    const spelled = { ...block.weights, block_structure: '4x32' };
    const older = {
      compression_config: { config_groups: { g: { targets: ['Linear'], weights: spelled } }, format: block.format },
    };
    await expectWeights(checkpointFolder(root, layer('a', block.tensors), older), { 'a.weight': block });
    const { strategy: _, ...grouped } = four.weights;
    await expectWeights(checkpointFolder(root, layer('a', four.tensors), configOf(four.format, grouped)), {
      'a.weight': four,
    });
    const channel = named('pack 4 bits channel asym');
    const { strategy: __, ...implied }: Record<string, unknown> = { ...channel.weights, group_size: -1 };
    await expectWeights(checkpointFolder(root, layer('a', channel.tensors), configOf(channel.format, implied)), {
      'a.weight': channel,
    });
  });

  it('activations and kv-cache are told, and their scales belong to the weight', async () => {
    const scale = { dtype: 'F32', shape: [1], data: Float32Array.of(2) };
    const config = {
      quantization_config: {
        ...configFor(four).quantization_config,
        kv_cache_scheme: { num_bits: 8, type: 'float', strategy: 'tensor', dynamic: false },
        config_groups: {
          g: {
            targets: ['Linear'],
            weights: four.weights,
            input_activations: { num_bits: 8, type: 'int', strategy: 'token', dynamic: true },
          },
        },
      },
    };
    await withWeights(
      checkpointFolder(root, { ...layer('a', four.tensors), 'a.input_scale': scale }, config),
      async (weights) => {
        const weight = weights.get('a.weight');
        expect([...weights.keys()]).toEqual(['a.weight']);
        expect(weight?.encoding).toMatchObject({ format: 'compressed-tensors', dtype: 'int4', groupSize: 32 });
        expect(weight?.encoding.traits).toEqual([
          'pack-quantized',
          'input int8 token dynamic',
          'kv-cache float8 tensor static',
        ]);
        expect(weight?.parts.map(({ name }) => name)).toContain('a.input_scale');
      },
    );
  });
});

describe('without config.json', () => {
  // Blocks need a config; 4-bit codes in bytes look like 8-bit ones; without a version words of 3 bits can be undecided.
  const alone = cases.filter(({ name, format, weights }) => {
    if (name === 'float block' || name === 'float channel') return false;
    return format !== 'pack-quantized' || [1, 2, 4, 8].includes(weights['num_bits'] as number);
  });
  it.each(alone.map((c) => [c.version, c.name, c] as const))('%s: %s', async (_, __, c) => {
    const path = checkpointFolder(root, layer('a', c.tensors));
    await expectWeights(path, { 'a.weight': c });
  });

  it('a single file', async () => {
    const c = named('pack 4 bits group asym f32');
    const file = join(checkpointFolder(root, layer('a', c.tensors), { unread: true }), 'model.safetensors');
    await expectWeights(file, { 'a.weight': c });
  });

  it('a group size that the shape does not tell is asked for', async () => {
    const c = named('pack 4 bits group sym');
    const tensors = layer('a', c.tensors);
    tensors['a.weight_scale'] = { dtype: 'BF16', shape: [6, 5], data: new Uint16Array(30) };
    const path = checkpointFolder(root, tensors);
    await expect(withWeights(path, async () => 0)).rejects.toMatchObject({ code: 'LAYOUT_AMBIGUOUS' });
  });
});

describe('words of 3, 5, 6 and 7 bits', () => {
  const dense = named('pack 3 bits channel asym');
  const padded = named('pack 3 bits channel asym', '0.12.2');

  it('have one number of words in both packings, and unused bits tell which', async () => {
    for (const c of [dense, padded]) {
      for (const version of [undefined, '0.18.0', '0.12.2', 'unknown']) {
        const path = checkpointFolder(root, layer('a', c.tensors), configOf(c.format, c.weights, {}, version));
        await expectWeights(path, { 'a.weight': c });
      }
    }
  });

  const zeros = (words: number) => ({ dtype: 'I32', shape: [37, words], data: new Int32Array(37 * words) });
  const undecided = (version?: string) => {
    const tensors = { ...layer('a', dense.tensors), 'a.weight_packed': zeros(5) };
    return checkpointFolder(root, tensors, configOf(dense.format, dense.weights, {}, version));
  };

  it('are refused where neither tells', async () => {
    for (const version of [undefined, 'unknown', '0.17.2a20260622']) {
      await expect(withWeights(undecided(version), async () => 0)).rejects.toMatchObject({
        code: 'LAYOUT_AMBIGUOUS',
        tensor: 'a.weight_packed',
        message: expect.stringContaining('3 bits, dense; 3 bits, padded'),
      });
    }
  });

  it('follow the version where all unused bits are zero', async () => {
    for (const [version, trait] of [
      ['0.18.0', false],
      ['1.2.0', false],
      ['0.17.2a20260801', false],
      ['0.17.1', true],
      ['0.9.4', true],
      ['0.17.2a20260601', true],
    ] as const) {
      await withWeights(undecided(version), async (weights) => {
        expect(weights.get('a.weight')?.encoding.traits.includes('padded words'), version).toBe(trait);
      });
    }
  });

  it('that contradict both are refused', async () => {
    const tensors = {
      ...layer('a', dense.tensors),
      'a.weight_packed': { ...zeros(5), data: new Int32Array(185).fill(-1) },
    };
    const path = checkpointFolder(root, tensors, configFor(dense));
    await expect(withWeights(path, async () => 0)).rejects.toMatchObject({ code: 'LAYOUT_INVALID' });
  });
});

describe('zero points', () => {
  it('of before April 2025, one to a byte', async () => {
    const c = named('pack 4 bits group asym f32');
    const tensors = layer('a', c.tensors);
    const packed = rawTensor(c.tensors['weight_zero_point'] as EncodedArray).data as Uint8Array;
    const view = new DataView(packed.buffer, packed.byteOffset);
    const bytes = Int8Array.from({ length: 160 }, (_, i) => {
      const [row, group] = [Math.floor(i / 4), i % 4];
      return ((view.getInt32(4 * (Math.floor(row / 8) * 4 + group), true) >>> (4 * (row % 8))) & 15) - 8;
    });
    tensors['a.weight_zero_point'] = { dtype: 'I8', shape: [40, 4], data: bytes };
    await expectWeights(checkpointFolder(root, tensors, configFor(c)), { 'a.weight': c });
    bytes[7] = 8;
    const path = checkpointFolder(root, tensors, configFor(c));
    await expect(
      withWeights(path, async (weights) => floatBytes(weights.get('a.weight') as never)),
    ).rejects.toMatchObject({ code: 'LAYOUT_INVALID', tensor: 'a.weight_zero_point' });
  });

  it('of zero are allowed with floats, others are not', async () => {
    const c = named('float channel');
    for (const [value, works] of [
      [0, true],
      [0x80, true],
      [0x38, false],
    ] as const) {
      const zero = { dtype: 'F8_E4M3', shape: [9, 1], data: new Uint8Array(9).fill(value) };
      const path = checkpointFolder(root, { ...layer('a', c.tensors), 'a.weight_zero_point': zero }, configFor(c));
      if (works) await expectWeights(path, { 'a.weight': c });
      else await expect(withWeights(path, async () => 0)).rejects.toMatchObject({ code: 'LAYOUT_UNSUPPORTED' });
    }
  });
});

describe('what can be wrong', () => {
  const four = named('pack 4 bits group asym f32');
  const order = named('pack 4 bits actorder');
  const nvfp4 = named('nvfp4');
  const int8 = named('int 8 channel');
  const without = (c: Case, part: string) => {
    const { [part]: _, ...rest } = c.tensors;
    return layer('a', rest);
  };
  const withPart = (c: Case, part: string, dtype: string, shape: number[], data: ArrayBufferView) => ({
    ...layer('a', c.tensors),
    [`a.${part}`]: { dtype, shape, data },
  });
  const index = (change: (index: Int32Array) => void) => {
    const data = rawTensor(order.tensors['weight_g_idx'] as EncodedArray).data as Uint8Array;
    const copy = new Int32Array(data.slice().buffer);
    change(copy);
    return withPart(order, 'weight_g_idx', 'I32', [64], copy);
  };
  const empty = { dtype: 'BF16', shape: [1], data: new Uint16Array(1) };
  const group = (change: object) => ({ ...four.weights, ...change });

  const bad: [string, string, Tensors, object][] = [
    ['no scale', 'LAYOUT_MISSING_PART', without(four, 'weight_scale'), configFor(four)],
    ['no shape', 'LAYOUT_MISSING_PART', without(four, 'weight_shape'), configFor(four)],
    ['no zero points', 'LAYOUT_MISSING_PART', without(four, 'weight_zero_point'), configFor(four)],
    ['no codes', 'LAYOUT_MISSING_PART', without(four, 'weight_packed'), configFor(four)],
    ['no g_idx', 'LAYOUT_MISSING_PART', without(order, 'weight_g_idx'), configFor(order)],
    ['no global scale', 'LAYOUT_MISSING_PART', without(nvfp4, 'weight_global_scale'), configFor(nvfp4)],
    ['int8 without scale', 'LAYOUT_MISSING_PART', without(int8, 'weight_scale'), configFor(int8)],
    ['two weights', 'LAYOUT_INVALID', { ...layer('a', four.tensors), 'a.weight': empty }, configFor(four)],
    [
      'codes of floats',
      'LAYOUT_DTYPE',
      withPart(four, 'weight_packed', 'F32', [40, 8], new Float32Array(320)),
      configFor(four),
    ],
    [
      'scales of integers',
      'LAYOUT_DTYPE',
      withPart(four, 'weight_scale', 'I32', [40, 4], new Int32Array(160)),
      configFor(four),
    ],
    [
      'zero points of floats',
      'LAYOUT_DTYPE',
      withPart(four, 'weight_zero_point', 'F32', [5, 4], new Float32Array(20)),
      configFor(four),
    ],
    [
      'packed zero points of a tensor',
      'LAYOUT_DTYPE',
      withPart(named('pack 4 bits tensor'), 'weight_zero_point', 'I32', [1], new Int32Array(1)),
      configFor(named('pack 4 bits tensor')),
    ],
    [
      'a shape of floats',
      'LAYOUT_DTYPE',
      withPart(four, 'weight_shape', 'F32', [2], new Float32Array(2)),
      configFor(four),
    ],
    [
      'a shape of three',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_shape', 'I64', [3], new BigInt64Array(3)),
      configFor(four),
    ],
    [
      'other rows',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_shape', 'I64', [2], new BigInt64Array([41n, 64n])),
      configFor(four),
    ],
    [
      'other columns',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_shape', 'I64', [2], new BigInt64Array([40n, 80n])),
      configFor(four),
    ],
    [
      'a shape that overflows',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_shape', 'I64', [2], new BigInt64Array([40n, 2n ** 62n])),
      configFor(four),
    ],
    [
      'a negative shape',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_shape', 'I64', [2], new BigInt64Array([40n, -64n])),
      configFor(four),
    ],
    [
      'too few scales',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_scale', 'F32', [40, 3], new Float32Array(120)),
      configFor(four),
    ],
    [
      'too few zero points',
      'LAYOUT_SHAPE',
      withPart(four, 'weight_zero_point', 'I32', [4, 4], new Int32Array(16)),
      configFor(four),
    ],
    ['three axes', 'LAYOUT_SHAPE', withPart(int8, 'weight', 'I8', [7, 33, 1], new Int8Array(231)), configFor(int8)],
    [
      'NaN scales',
      'LAYOUT_SCALE',
      withPart(four, 'weight_scale', 'F32', [40, 4], new Float32Array(160).fill(Number.NaN)),
      configFor(four),
    ],
    [
      'E8M0 NaN',
      'LAYOUT_SCALE',
      withPart(named('mxfp4'), 'weight_scale', 'U8', [6, 2], new Uint8Array(12).fill(255)),
      configFor(named('mxfp4')),
    ],
    [
      'negative E4M3',
      'LAYOUT_SCALE',
      withPart(nvfp4, 'weight_scale', 'F8_E4M3', [6, 4], new Uint8Array(24).fill(0xb8)),
      configFor(nvfp4),
    ],
    [
      'a global scale of 0',
      'LAYOUT_SCALE',
      withPart(nvfp4, 'weight_global_scale', 'F32', [1], new Float32Array(1)),
      configFor(nvfp4),
    ],
    [
      'a global scale that overflows',
      'LAYOUT_SCALE',
      withPart(nvfp4, 'weight_global_scale', 'F32', [1], Float32Array.of(1e-45)),
      configFor(nvfp4),
    ],
    ['a group with too many columns', 'LAYOUT_INVALID', index((g) => g.fill(0)), configFor(order)],
    [
      'a group that is not there',
      'LAYOUT_INVALID',
      index((g) => {
        g[3] = 4;
      }),
      configFor(order),
    ],
    [
      'a negative group',
      'LAYOUT_INVALID',
      index((g) => {
        g[3] = -2;
      }),
      configFor(order),
    ],
    [
      'g_idx of another length',
      'LAYOUT_SHAPE',
      withPart(order, 'weight_g_idx', 'I32', [63], new Int32Array(63)),
      configFor(order),
    ],
    [
      'g_idx of channels',
      'LAYOUT_INVALID',
      withPart(int8, 'weight_g_idx', 'I32', [33], new Int32Array(33)),
      configFor(int8),
    ],
    [
      'another type than the config says',
      'LAYOUT_DTYPE',
      layer('a', four.tensors),
      configOf(four.format, group({ type: 'float' })),
    ],
    [
      'another width than the config says',
      'LAYOUT_SHAPE',
      layer('a', four.tensors),
      configOf(four.format, group({ num_bits: 8 })),
    ],
    [
      'sparse weights',
      'LAYOUT_UNSUPPORTED',
      layer('a', four.tensors),
      configFor(four, { sparsity_config: { format: 'sparse-24-bitmask' } }),
    ],
    ['marlin-24', 'LAYOUT_UNSUPPORTED', layer('a', four.tensors), configFor(four, { format: 'marlin-24' })],
    [
      'rotated weights',
      'LAYOUT_UNSUPPORTED',
      layer('a', four.tensors),
      configFor(four, { transform_config: { config_groups: { u: {} } } }),
    ],
    ['groups of nothing', 'CONFIG_INVALID', layer('a', four.tensors), configOf(four.format, group({ group_size: 0 }))],
    ['17 bits', 'CONFIG_INVALID', layer('a', four.tensors), configOf(four.format, group({ num_bits: 17 }))],
    [
      'an unknown strategy',
      'CONFIG_INVALID',
      layer('a', four.tensors),
      configOf(four.format, group({ strategy: 'diagonal' })),
    ],
    ['an unknown type', 'CONFIG_INVALID', layer('a', four.tensors), configOf(four.format, group({ type: 'posit' }))],
    [
      'an unknown order',
      'CONFIG_INVALID',
      layer('a', four.tensors),
      configOf(four.format, group({ actorder: 'random' })),
    ],
    [
      'blocks without shape',
      'CONFIG_INVALID',
      layer('a', four.tensors),
      configOf(four.format, group({ strategy: 'block' })),
    ],
    ['groups in an array', 'CONFIG_INVALID', layer('a', four.tensors), configFor(four, { config_groups: [] })],
    [
      'targets that are no array',
      'CONFIG_INVALID',
      layer('a', four.tensors),
      configFor(four, { config_groups: { g: { targets: 'Linear' } } }),
    ],
    [
      'no regular expression',
      'CONFIG_INVALID',
      layer('a', four.tensors),
      configFor(four, { config_groups: { g: { targets: ['re:('], weights: four.weights } } }),
    ],
  ];

  it.each(bad)('%s: %s', async (_, code, tensors, config) => {
    const path = checkpointFolder(root, tensors, config);
    const reading = withWeights(path, async (weights) => {
      for (const weight of weights.values()) await floatBytes(weight);
    });
    await expect(reading).rejects.toMatchObject({ code, path: expect.stringContaining(path) });
  });

  it('two groups that fit', async () => {
    const config = configFor(four, {
      config_groups: {
        g: { targets: ['Linear'], weights: four.weights },
        h: { targets: ['Embedding'], weights: group({ symmetric: true }) },
      },
    });
    const path = checkpointFolder(root, layer('a', four.tensors), config);
    await expect(withWeights(path, async () => 0)).rejects.toMatchObject({ code: 'LAYOUT_AMBIGUOUS' });
  });

  it('legacy formats are named', async () => {
    const tensor = { dtype: 'U8', shape: [1], data: new Uint8Array(1) };
    for (const [parts, format] of [
      [['bitmask', 'compressed', 'shape'], 'sparse-bitmask'],
      [['scale_packed', 'meta'], 'marlin-24'],
    ] as const) {
      const tensors = Object.fromEntries(parts.map((part) => [`a.${part}`, tensor]));
      await expect(withWeights(checkpointFolder(root, tensors), async () => 0)).rejects.toMatchObject({
        code: 'LAYOUT_UNSUPPORTED',
        message: expect.stringContaining(format),
      });
    }
  });

  it('weights of another method are left alone', async () => {
    const config = { quantization_config: { quant_method: 'gptq', bits: 4 } };
    await withWeights(checkpointFolder(root, layer('a', int8.tensors), config), async (weights) => {
      expect([...weights.keys()].sort()).toEqual(['a.weight', 'a.weight_scale']);
    });
  });
});
