import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  type CheckpointError,
  capabilities,
  convertCheckpoint,
  inspectCheckpoint,
  type QuantizationSpec,
  quantizeCheckpoint,
  verifyCheckpoint,
} from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
let count = 0;
const fresh = (spec: { format?: string }) => join(root, `out-${count++}${spec.format === 'gguf' ? '.gguf' : ''}`);

/** SHA-256 of a file, or of all files of a folder. */
function hashOf(path: string): string {
  const hash = createHash('sha256');
  if (statSync(path).isFile()) return hash.update(readFileSync(path)).digest('hex');
  for (const name of readdirSync(path).sort()) hash.update(name).update(readFileSync(join(path, name)));
  return hash.digest('hex');
}

const SPECS: [string, QuantizationSpec][] = [
  ['compressed-tensors', { groupSize: 32 }],
  ['compressed-tensors', { groupSize: null, scheme: 'asymmetric' }],
  ['compressed-tensors', { dtype: 'int2', groupSize: 64, scheme: 'asymmetric' }],
  ['compressed-tensors', { dtype: 'int3', groupSize: 32 }],
  ['compressed-tensors', { dtype: 'int8', groupSize: null }],
  ['compressed-tensors', { dtype: 'float8_e4m3fn' }],
  ['compressed-tensors', { dtype: 'float8_e4m3fn', granularity: 'per-tensor' }],
  ['compressed-tensors', { dtype: 'float8_e4m3fn', granularity: 'per-block' }],
  ['compressed-tensors', { dtype: 'nvfp4' }],
  ['compressed-tensors', { dtype: 'mxfp4' }],
  ['compressed-tensors', { dtype: 'mxfp8_e4m3' }],
  ['gptq', { groupSize: 32 }],
  ['gptq', { dtype: 'int3', groupSize: null }],
  ['gptq_v2', { dtype: 'int2', scheme: 'asymmetric', groupSize: 32 }],
  ['gptq_v2', { dtype: 'int8', scheme: 'asymmetric' }],
  ['awq', { groupSize: 64 }],
  ['awq', { scheme: 'symmetric' }],
  ['bitsandbytes', {}],
  ['bitsandbytes', { dtype: 'fp4', groupSize: 128 }],
  ['bitsandbytes', { groupSize: 32, nested: true }],
  ['fp8', {}],
  ['fp8', { granularity: 'per-tensor' }],
  ['fp8', { granularity: 'per-channel' }],
  ['gguf', { dtype: 'q4_k_m' }],
  ['gguf', { dtype: 'q4_0' }],
  ['gguf', { dtype: 'iq4_xs' }],
  ['gguf', { dtype: 'q8_0' }],
  ['gguf', { dtype: 'f16' }],
  ['compressed-tensors', { dtype: 'int8', activations: 'int8' }],
  ['compressed-tensors', { dtype: 'int4', layout: 'int-quantized', scheme: 'asymmetric', groupSize: 64 }],
  ['compressed-tensors', { layout: 'naive-quantized', dtype: 'int3', groupSize: null }],
  ['compressed-tensors', { layout: 'naive-quantized', dtype: 'float8_e4m3fn', granularity: 'per-block' }],
  ['compressed-tensors', { dtype: 'mxfp4', activations: 'mxfp4' }],
  // Neither 256 nor 768 inputs are whole groups of 96, or 512.
  ['gptq', { groupSize: 96 }],
  ['bitsandbytes', { groupSize: 512 }],
  ['bitsandbytes', { groupSize: 512, nested: true }],
  ['bitsandbytes', { dtype: 'int8' }],
];
const named = SPECS.map(
  ([format, spec]) => [`${format} ${Object.values(spec).join(' ')}`, { format, ...spec }] as const,
);

describe('the bundled Llama in every format', () => {
  it.each(named)('%s: the report says what verifyCheckpoint finds', async (_, given) => {
    const spec = given as QuantizationSpec;
    const output = fresh(spec);
    const report = await quantizeCheckpoint(LLAMA, { ...spec, output });
    // Reading takes the layout apart again, from the file and its config alone.
    const verified = await verifyCheckpoint(LLAMA, output);
    expect(verified.missing).toEqual([]);
    expect(verified.extra).toEqual([]);
    expect(verified.reshaped).toEqual([]);
    const byName = new Map(verified.tensors.map((tensor) => [tensor.name, tensor]));
    for (const { name, sqnrDb, cosine, maxAbs, outputBytes } of report.tensors) {
      const tensor = byName.get(name);
      expect(tensor?.sqnrDb).toBe(sqnrDb);
      expect(tensor?.cosine).toBe(cosine);
      expect(tensor?.maxAbs).toBe(maxAbs);
      expect(tensor?.quantizedBytes).toBe(outputBytes);
    }
    for (const name of report.copied) expect(byName.get(name)?.identical).toBe(true);
    const inspected = await inspectCheckpoint(output, { statistics: true });
    expect(inspected.bytes).toBe(report.outputBytes);
    expect(inspected.parameters).toBe(4_854_528);
    expect(inspected.weights.every(({ statistics }) => statistics?.nonFinite === 0)).toBe(true);
    expect(inspected.architecture).toBe('llama');
  });

  it.each([
    named[0],
    named[8],
    named[11],
    named[15],
    named[19],
    named[20],
    named[23],
    named[35],
  ] as (typeof named)[number][])(
    '%s: the same bytes for any number of threads, ceiling on memory and instruction set',
    async (_, given) => {
      const spec = given as QuantizationSpec;
      const reference = fresh(spec);
      await quantizeCheckpoint(LLAMA, { ...spec, output: reference });
      const expected = hashOf(reference);
      const small = fresh(spec);
      await quantizeCheckpoint(LLAMA, { ...spec, output: small, maxMemory: 140_000_000 });
      expect(hashOf(small)).toBe(expected);
      const { format, dtype, groupSize, nested } = spec;
      const args = ['quantize', LLAMA, '-q', '-f', `${format}`, ...(dtype === undefined ? [] : ['-d', dtype])];
      if (nested === true) args.push('--nested');
      if (groupSize != null) args.push('-g', String(groupSize));
      const { isas } = capabilities();
      for (const [threads, isa] of [
        ['1', isas[0]],
        ['2', isas.at(-1)],
        ['7', isas[Math.floor(isas.length / 2)]],
      ] as const) {
        const output = fresh(spec);
        const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args, '--threads', threads, '-o', output], {
          env: { ...process.env, LOWBIT_ISA: isa },
          encoding: 'utf8',
        });
        expect(stderr).toBe('');
        expect(status).toBe(0);
        expect(hashOf(output)).toBe(expected);
      }
    },
  );

  it('keeps layers in float, or treats them otherwise, and says so in the config', async () => {
    const output = fresh({});
    await quantizeCheckpoint(LLAMA, {
      groupSize: 32,
      layers: [
        { match: /down_proj/, spec: { dtype: 'int8', groupSize: null } },
        { match: /layers\.0\.self_attn/, spec: 'float' },
      ],
      output,
    });
    const { weights } = await inspectCheckpoint(output);
    const dtypeOf = (name: string) => weights.find((weight) => weight.name === name)?.dtype;
    expect(dtypeOf('model.layers.3.mlp.down_proj.weight')).toBe('int8');
    expect(dtypeOf('model.layers.3.mlp.up_proj.weight')).toBe('int4');
    expect(dtypeOf('model.layers.0.self_attn.q_proj.weight')).toBe('bfloat16');
    const { quantization_config: config } = JSON.parse(readFileSync(join(output, 'config.json'), 'utf8'));
    expect(config.ignore).toContain('model.layers.0.self_attn.q_proj');
    expect(Object.keys(config.config_groups)).toEqual(['group_0', 'group_1']);
    // compressed-tensors finds a group's format in the group, where the whole is mixed-precision.
    expect(config.config_groups).toMatchObject({
      group_0: { targets: ['Linear'], format: 'pack-quantized' },
      group_1: { format: 'pack-quantized', weights: { num_bits: 8, strategy: 'channel' } },
    });
    const gguf = fresh({ format: 'gguf' });
    await quantizeCheckpoint(LLAMA, {
      format: 'gguf',
      dtype: 'q4_0',
      layers: [{ match: /down_proj/, spec: { dtype: 'q6_k' } }],
      exclude: /layers\.0\./,
      output: gguf,
    });
    const types = await inspectCheckpoint(gguf);
    const typeOf = (name: string) => types.weights.find((weight) => weight.name === name)?.dtype;
    expect(typeOf('model.layers.3.mlp.down_proj.weight')).toBe('q6_k');
    expect(typeOf('model.layers.3.mlp.up_proj.weight')).toBe('q4_0');
    expect(typeOf('model.layers.0.mlp.up_proj.weight')).toBe('bfloat16');
    await expect(
      quantizeCheckpoint(LLAMA, {
        format: 'gptq',
        layers: [{ match: /down_proj/, spec: { dtype: 'int8' } }],
        output: fresh({}),
      }),
    ).rejects.toMatchObject({ code: 'UNSUPPORTED_PLAN', message: expect.stringContaining('one setting') });
  });

  it('says how activations are treated, and where the output head is', async () => {
    const configOf = async (spec: QuantizationSpec) => {
      const output = fresh(spec);
      await quantizeCheckpoint(LLAMA, { include: /layers\.0\.mlp\.up|lm_head/, ...spec, output });
      return JSON.parse(readFileSync(join(output, 'config.json'), 'utf8')).quantization_config;
    };
    const dynamic = { symmetric: true, dynamic: true };
    for (const [spec, format, activations] of [
      [{ dtype: 'int8', activations: 'int8' }, 'int-quantized', { num_bits: 8, type: 'int', strategy: 'token' }],
      [{ layout: 'int-quantized' }, 'int-quantized', { num_bits: 8, type: 'int', strategy: 'token' }],
      [{ layout: 'naive-quantized' }, 'naive-quantized', null],
      [{ dtype: 'int8' }, 'pack-quantized', null],
      [{ activations: 'float8_e4m3fn' }, 'pack-quantized', { num_bits: 8, type: 'float', strategy: 'token' }],
      [{ dtype: 'float8_e4m3fn' }, 'float-quantized', { num_bits: 8, type: 'float', strategy: 'token' }],
      [{ dtype: 'float8_e4m3fn', activations: 'float' }, 'float-quantized', null],
      [
        { dtype: 'mxfp4', activations: 'mxfp4' },
        'mxfp4-pack-quantized',
        { num_bits: 4, type: 'float', strategy: 'group', group_size: 32 },
      ],
    ] as [QuantizationSpec, string, object | null][]) {
      const config = await configOf(spec);
      expect(config.format).toBe(format);
      const expected = activations === null ? null : { ...activations, ...dynamic };
      if (expected === null) expect(config.config_groups.group_0.input_activations).toBeNull();
      else expect(config.config_groups.group_0.input_activations).toMatchObject(expected);
    }
    const w8a8 = await configOf({ layout: 'int-quantized' });
    expect(w8a8.config_groups.group_0.weights).toMatchObject({ num_bits: 8, strategy: 'channel', symmetric: true });
    const gptq = await configOf({ format: 'gptq', groupSize: 32, include: /layers\.0\.mlp\.up/ });
    expect(gptq).toMatchObject({ lm_head: false, desc_act: false });
  });

  it.each([
    [{ dtype: 'float8_e4m3fn', layout: 'int-quantized' }, 'layout', 'float-quantized or naive-quantized'],
    [{ dtype: 'int4', layout: 'float-quantized' }, 'layout', 'pack-quantized or int-quantized or naive-quantized'],
    [{ dtype: 'nvfp4', layout: 'pack-quantized' }, 'layout', 'no layout'],
    [{ dtype: 'nvfp4', activations: 'int8' }, 'activations', 'float for nvfp4'],
    [{ dtype: 'float8_e4m3fn', activations: 'int8' }, 'activations', 'float or float8_e4m3fn'],
    [{ format: 'gptq', activations: 'int8' }, 'activations', 'compressed-tensors'],
    [{ format: 'gguf', layout: 'int-quantized' }, 'layout', 'compressed-tensors'],
    [{ layout: 'marlin' }, 'layout', 'int-quantized'],
  ] as [QuantizationSpec, string, string][])('refuses %j', async (spec, argument, words) => {
    await expect(quantizeCheckpoint(LLAMA, { ...spec, output: fresh(spec) })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument,
      message: expect.stringContaining(words),
    });
  });

  it('refuses a shorter last group where the layout has no place for it, and says what would do', async () => {
    for (const format of ['compressed-tensors', 'awq'] as const) {
      const error = (await quantizeCheckpoint(LLAMA, { format, groupSize: 512, output: fresh({}) }).catch(
        (e: unknown) => e,
      )) as CheckpointError;
      expect(error.code).toBe('UNSUPPORTED_PLAN');
      expect(error.message).toContain('its 768 inputs are no multiple of the group size, 512: choose a group size of');
      expect(error.message).toContain('model.layers.5.mlp.down_proj.weight [256, 768]');
      expect(error.message).toContain('--exclude');
      expect(error.message.includes('--layer')).toBe(format === 'compressed-tensors');
    }
  });

  it('writes a GGUF file and its manifest, and nothing else', async () => {
    const output = fresh({ format: 'gguf' });
    await quantizeCheckpoint(LLAMA, { format: 'gguf', output });
    const manifest = JSON.parse(readFileSync(`${output}.lowbit.json`, 'utf8'));
    expect(manifest.inputs[0]).toMatchObject({
      file: 'model.safetensors',
      sha256: createHash('sha256')
        .update(readFileSync(join(LLAMA, 'model.safetensors')))
        .digest('hex'),
    });
    expect(manifest.tensors).toHaveLength(57);
    await expect(quantizeCheckpoint(LLAMA, { format: 'gguf', output: join(root, 'folder') })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      argument: 'output',
    });
    await expect(
      quantizeCheckpoint(join(LLAMA, 'model.safetensors'), { format: 'gguf', output: fresh({ format: 'gguf' }) }),
    ).rejects.toMatchObject({ code: 'GGUF_UNSUPPORTED_MODEL' });
  });
});

describe('converting', () => {
  const formats = ['compressed-tensors', 'gptq', 'gptq_v2', 'awq'] as const;
  const pairs = formats.flatMap((from) => formats.map((to) => [from, to] as const));

  it.each(pairs)('%s to %s keeps every value, bit for bit', async (from, to) => {
    for (const scheme of ['symmetric', 'asymmetric'] as const) {
      const [source, target] = [fresh({}), fresh({})];
      // Version 1 of GPTQ has no zero point 0, which ranges on one side of 0 have.
      const isLimited = scheme === 'asymmetric' && [from, to].includes('gptq');
      await quantizeCheckpoint(LLAMA, {
        format: isLimited && from === 'gptq' ? 'gptq_v2' : from,
        scheme,
        groupSize: 32,
        output: source,
      });
      const report = await convertCheckpoint(source, {
        to: isLimited && to === 'gptq' ? 'gptq_v2' : to,
        output: target,
      });
      expect(report.tensors).toHaveLength(42);
      expect(report.tensors.every(({ kind }) => kind === 'repacked')).toBe(true);
      const { tensors, missing, extra } = await verifyCheckpoint(source, target);
      expect([missing, extra]).toEqual([[], []]);
      expect(tensors.filter(({ identical }) => !identical)).toEqual([]);
    }
  });

  it('dequantizes to float, exactly where the type holds it', async () => {
    const [source, exact, rounded] = [fresh({}), fresh({}), fresh({})];
    await quantizeCheckpoint(LLAMA, { dtype: 'nvfp4', output: source });
    await convertCheckpoint(source, { to: 'float', floatDtype: 'float32', output: exact });
    expect((await verifyCheckpoint(source, exact)).worst).toBeNull();
    const report = await convertCheckpoint(source, { to: 'float', output: rounded });
    expect(report.tensors.every(({ kind, to }) => kind === 'cast' && to === 'bfloat16')).toBe(true);
    const { quantization_config: config } = JSON.parse(readFileSync(join(rounded, 'config.json'), 'utf8'));
    expect(config).toBeUndefined();
  });

  it.each([
    [{ format: 'gptq', groupSize: 32 }, 'q4_0'],
    [{ format: 'awq', groupSize: 128 }, 'q5_0'],
    [{ format: 'gptq_v2', dtype: 'int3', scheme: 'asymmetric', groupSize: 64 }, 'q4_0'],
    [{ dtype: 'int8', groupSize: 32 }, 'q8_0'],
    [{ dtype: 'int4', groupSize: null }, 'q4_0'],
    [{ dtype: 'mxfp4' }, 'mxfp4'],
  ] as [QuantizationSpec, string][])('%j becomes GGUF %s with the same values, and comes back', async (spec, type) => {
    const [source, gguf, back] = [fresh({}), fresh({ format: 'gguf' }), fresh({})];
    await quantizeCheckpoint(LLAMA, { ...spec, output: source });
    const report = await convertCheckpoint(source, { to: 'gguf', output: gguf });
    const kinds = report.tensors.filter(({ name }) => name.includes('proj')).map(({ kind, to }) => `${kind} ${to}`);
    expect(new Set(kinds)).toEqual(new Set([`repacked ${type}`]));
    expect((await verifyCheckpoint(source, gguf)).worst).toBeNull();
    await convertCheckpoint(gguf, { to: 'compressed-tensors', output: back });
    expect((await verifyCheckpoint(source, back)).worst).toBeNull();
    const config = JSON.parse(readFileSync(join(back, 'config.json'), 'utf8'));
    expect(config).toMatchObject({ architectures: ['LlamaForCausalLM'], hidden_size: 256, num_hidden_layers: 6 });
  });

  it('to GGUF names what no block holds, and quantizes again if it may', async () => {
    const source = fresh({});
    await quantizeCheckpoint(LLAMA, { dtype: 'nvfp4', output: source });
    await expect(convertCheckpoint(source, { to: 'gguf', output: fresh({ format: 'gguf' }) })).rejects.toMatchObject({
      code: 'UNSUPPORTED_PLAN',
      message: expect.stringContaining('no block type holds it'),
    });
    const output = fresh({ format: 'gguf' });
    await expect(convertCheckpoint(source, { to: 'gguf', dtype: 'q4_k_m', output })).rejects.toMatchObject({
      code: 'ALREADY_QUANTIZED',
    });
    await convertCheckpoint(source, { to: 'gguf', dtype: 'q4_k_m', requantize: true, output });
    expect((await verifyCheckpoint(source, output)).worst?.sqnrDb).toBeGreaterThan(15);
  });

  it('makes groups smaller and codes wider, which loses nothing', async () => {
    const [source, target] = [fresh({}), fresh({})];
    await quantizeCheckpoint(LLAMA, { format: 'awq', groupSize: 128, output: source });
    await convertCheckpoint(source, { to: 'compressed-tensors', dtype: 'int8', groupSize: 32, output: target });
    expect((await verifyCheckpoint(source, target)).worst).toBeNull();
  });

  it('names every weight that the format can not hold, unless it may quantize again', async () => {
    const source = fresh({});
    await quantizeCheckpoint(LLAMA, { groupSize: 32, scheme: 'asymmetric', output: source });
    for (const [options, reason] of [
      [{ scheme: 'symmetric' }, 'zero points'],
      [{ groupSize: 64 }, 'groups are of 32, not 64'],
      [{ dtype: 'int2' }, 'more codes'],
      [{ dtype: 'float8_e4m3fn' }, 'int4 is no float8_e4m3fn'],
    ] as const) {
      const error = (await convertCheckpoint(source, {
        to: 'compressed-tensors',
        ...options,
        output: fresh({}),
      } as never).catch((e: unknown) => e)) as CheckpointError;
      expect(error.code).toBe('UNSUPPORTED_PLAN');
      expect(error.message).toContain(reason);
      expect(error.message).toContain('--requantize');
      expect(error.message).toContain('model.layers.5.mlp.down_proj.weight');
    }
    const report = await convertCheckpoint(source, {
      to: 'compressed-tensors',
      scheme: 'symmetric',
      requantize: true,
      output: fresh({}),
    });
    expect(report.tensors.every(({ kind }) => kind === 'quantized')).toBe(true);
  });

  it('has nothing to do with float checkpoints', async () => {
    await expect(convertCheckpoint(LLAMA, { to: 'gptq', output: fresh({}) })).rejects.toMatchObject({
      code: 'NOTHING_TO_QUANTIZE',
    });
  });
});
