/**
 * Files around the weights: safetensors with their index and config.json, whole checkpoints, plan files, the journal of a run,
 * states of observers.
 */
import { Finding } from '../engine.mjs';
import { brokenText, mutated, textOf } from '../json.mjs';
import { fileAt, ROOT, setFiles } from '../memory.mjs';
import { randomBytes } from '../random.mjs';

const SAFETENSORS = [
  ...[
    'TOO_SMALL',
    'HEADER_TOO_LARGE',
    'HEADER_LENGTH',
    'HEADER_START',
    'INVALID_UTF8',
    'INVALID_JSON',
    'DUPLICATE_KEY',
  ],
  ...[
    'MISSING_FIELD',
    'UNKNOWN_DTYPE',
    'INVALID_SHAPE',
    'INVALID_OFFSETS',
    'INVALID_METADATA',
    'REVERSED_OFFSETS',
    'HOLE',
  ],
  ...['OVERLAP', 'SIZE_OVERFLOW', 'MISALIGNED', 'SIZE_MISMATCH', 'TRUNCATED', 'TRAILING_DATA'],
].map((name) => `SAFETENSORS_${name}`);

const HEADER_WORDS = [
  ...[
    'F32',
    'F16',
    'BF16',
    'I8',
    'U8',
    'F4',
    'F8_E4M3',
    'I64',
    'dtype',
    'shape',
    'data_offsets',
    '__metadata__',
    'format',
  ],
  ...[[0, 4], [4, 0], [0, 0], [2, 2], [2 ** 40, 0], [2 ** 40, 2 ** 40], [3], 4, 8, 16],
];

const BYTES = { F32: 4, F16: 2, BF16: 2, I8: 1, U8: 1, I32: 4, F8_E4M3: 1, I64: 8 };

/** A safetensors file of tensors: name, dtype, shape. */
function safetensors(random, tensors, changes) {
  const header = random.once(3) ? { __metadata__: { format: 'pt' } } : {};
  let end = 0;
  for (const [name, dtype, shape] of tensors) {
    const begin = end;
    end += shape.reduce((a, b) => a * b, 1) * BYTES[dtype];
    header[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  let text = textOf(mutated(random, header, HEADER_WORDS, changes));
  if (changes > 0 && random.once(6)) text = brokenText(random, text);
  const bytes = Buffer.from(text);
  if (changes > 0 && random.once(20)) bytes[random.below(bytes.length)] = random.pick([0xff, 0x80, 0, 0x20]);
  const prefix = Buffer.alloc(8);
  const lies = [bytes.length + 1, bytes.length - 1, 0, 2 ** 31, 2 ** 40, bytes.length + 8];
  prefix.writeBigUInt64LE(BigInt(Math.max(0, changes > 0 && random.once(20) ? random.pick(lies) : bytes.length)));
  const more = changes > 0 && random.once(20) ? random.pick([1, -1, 4]) : 0;
  const whole = Buffer.concat([prefix, bytes, randomBytes(random, Math.max(0, end + more))]);
  return changes > 0 && random.once(40) ? whole.subarray(0, random.below(whole.length)) : whole;
}

const NAMES = ['a', 'b', 'model.layers.0.mlp.up_proj.weight', 'w', '__proto__', 'lm_head.weight', 'x.weight'];
const SHARDS = ['s-1.safetensors', 's-2.safetensors', 's-3.safetensors'];
const INDEX = 'model.safetensors.index.json';
const SHARD_WORDS = [
  ...SHARDS,
  ...NAMES,
  ...[
    '../s-1.safetensors',
    './s-1.safetensors',
    '/etc/passwd',
    'a/b',
    'a\\b',
    '.',
    '..',
    's-1.safetensors\u0000',
    'C:\\x',
  ],
  ...['weight_map', 'metadata', 'total_size', 'config.json', INDEX],
];

function tensorsFor(random, names) {
  return names.map((name) => {
    const dtype = random.pick(Object.keys(BYTES));
    return [name, dtype, random.pick([[4], [2, 3], [], [0], [1, 1, 2], [8]])];
  });
}

export function index(dist) {
  const { openCheckpoint } = dist('checkpoint/checkpoint');
  const codes = [
    'INDEX_INVALID',
    'INDEX_MISSING_SHARD',
    'INDEX_MISSING_TENSOR',
    'INDEX_DUPLICATE_TENSOR',
    'CONFIG_INVALID',
  ];
  return {
    codes: new Set([...codes, ...SAFETENSORS, 'NOT_A_CHECKPOINT', 'FILE_NOT_FOUND']),
    reaches: ['ok', ...codes, ...SAFETENSORS.filter((code) => code !== 'SAFETENSORS_HEADER_TOO_LARGE')],
    enough: 200_000,
    generate(random) {
      const count = 1 + random.below(3);
      const files = {};
      const map = {};
      for (let i = 0; i < count; i++) {
        const names = random.once(3) ? [NAMES[2 * i], NAMES[2 * i + 1]] : [NAMES[random.once(15) ? 0 : i]];
        files[SHARDS[i]] = safetensors(random, tensorsFor(random, names), random.once(3) ? 1 : 0);
        for (const name of names)
          Object.defineProperty(map, name, { value: SHARDS[i], enumerable: true, configurable: true });
      }
      const json = { metadata: { total_size: 16 }, weight_map: map };
      const text = textOf(random.once(2) ? json : mutated(random, json, SHARD_WORDS));
      if (!random.once(20)) files[INDEX] = random.once(25) ? brokenText(random, text) : text;
      if (random.once(6))
        files['config.json'] = random.once(4)
          ? brokenText(random, '{"model_type":"llama"}')
          : textOf(mutated(random, { model_type: 'llama' }));
      return { files, open: random.once(12) ? `/${random.pick([...SHARDS, INDEX, 'gone'])}` : '' };
    },
    async run({ files, open }) {
      setFiles(files);
      const checkpoint = await openCheckpoint(`${ROOT}${open}`);
      const sizes = new Map();
      for (const [name, tensor] of checkpoint.tensors) {
        if (tensor.name !== name || typeof name !== 'string') throw new Finding(`${name} is called ${tensor.name}`);
        if (!tensor.path.startsWith(`${ROOT}/`)) throw new Finding(`${name} lies in ${tensor.path}`);
        sizes.set(tensor.path, (sizes.get(tensor.path) ?? 0) + tensor.bytes);
        await tensor.read(0, new Uint8Array(tensor.bytes));
      }
      // Every byte of every file belongs to one tensor.
      for (const [path, bytes] of sizes) {
        const file = fileAt(path.slice(ROOT.length + 1));
        if (8 + Number(file.readBigUInt64LE()) + bytes !== file.length)
          throw new Finding(`${path} has bytes of no tensor`);
      }
      await checkpoint.close();
      return 'ok';
    },
  };
}

/** Whole checkpoints, as `lowbit inspect --statistics` reads them. */
export function inspect(dist) {
  const { inspectCheckpoint } = dist('pipeline/inspect');
  const CONFIGS = [
    { model_type: 'llama', torch_dtype: 'bfloat16' },
    { quantization_config: { quant_method: 'fp8', weight_block_size: [2, 4] } },
    { quantization_config: { quant_method: 'gptq', bits: 4, group_size: 8, desc_act: false, sym: true } },
    {
      quantization_config: {
        quant_method: 'compressed-tensors',
        format: 'int-quantized',
        config_groups: { g: { targets: ['Linear'], weights: { num_bits: 8, strategy: 'channel' } } },
      },
    },
  ];
  const LAYERS = [
    [
      ['a.weight', 'F32', [3, 5]],
      ['b', 'BF16', [7]],
      ['c', 'I64', [2]],
      ['empty', 'F16', [0, 3]],
    ],
    [
      ['a.weight', 'F8_E4M3', [4, 8]],
      ['a.weight_scale_inv', 'F32', [2, 2]],
    ],
    [
      ['a.qweight', 'I32', [1, 32]],
      ['a.qzeros', 'I32', [1, 4]],
      ['a.scales', 'F16', [1, 32]],
    ],
    [
      ['a.weight', 'I8', [3, 8]],
      ['a.weight_scale', 'F16', [3, 1]],
    ],
  ];
  const words = [
    'fp8',
    'gptq',
    'awq',
    'compressed-tensors',
    'bitsandbytes',
    'model_type',
    'quant_method',
    'quantization_config',
    'bits',
    8,
  ];
  const layout = ['MISSING_PART', 'DTYPE', 'SHAPE', 'SCALE', 'INVALID', 'UNSUPPORTED', 'AMBIGUOUS'].map(
    (name) => `LAYOUT_${name}`,
  );
  return {
    codes: new Set([...SAFETENSORS, ...layout, 'CONFIG_INVALID', 'NOT_A_CHECKPOINT']),
    reaches: ['ok', 'CONFIG_INVALID', 'LAYOUT_INVALID', 'LAYOUT_SHAPE', 'LAYOUT_SCALE', 'SAFETENSORS_INVALID_JSON'],
    enough: 50_000,
    generate(random) {
      const kind = random.below(CONFIGS.length);
      const files = { 'model.safetensors': safetensors(random, LAYERS[kind], random.pick([0, 0, 1, 1, 2])) };
      if (!random.once(6)) {
        const text = textOf(mutated(random, random.once(10) ? random.pick(CONFIGS) : CONFIGS[kind], words));
        files['config.json'] = random.once(40) ? brokenText(random, text) : text;
      }
      if (random.once(12))
        files['quantize_config.json'] = textOf(mutated(random, CONFIGS[2].quantization_config, words));
      return { files };
    },
    async run({ files }) {
      setFiles(files);
      const report = await inspectCheckpoint(ROOT, { statistics: true });
      const text = JSON.stringify(report);
      for (const { name, bitsPerWeight, statistics } of report.weights) {
        if (!(bitsPerWeight >= 0 && bitsPerWeight < Infinity)) throw new Finding(`${name} has ${bitsPerWeight} bits`);
        if (statistics === null) continue;
        const { maxAbs, rms, outliers, nonFinite } = statistics;
        if (![maxAbs, rms, outliers, nonFinite].every((x) => Number.isFinite(x) && x >= 0))
          throw new Finding(`${name}: ${text}`);
        if (maxAbs < rms * (1 - 1e-9)) throw new Finding(`${name}: none is as large as the mean`);
      }
      if (!Number.isSafeInteger(report.bytes) || !Number.isSafeInteger(report.parameters)) throw new Finding(text);
      return 'ok';
    },
  };
}

/** Plan files of `--plan`. */
export function plan(dist) {
  const { specOf } = dist('cli/spec-options');
  const { checkOptions } = dist('pipeline/quantize-checkpoint');
  const { LowbitError } = dist('errors');
  const SEEDS = [
    {
      format: 'compressed-tensors',
      dtype: 'int4',
      scheme: 'symmetric',
      granularity: 'per-group',
      groupSize: 32,
      include: 'mlp',
      exclude: 'lm_head',
      range: 'mse',
    },
    {
      format: 'gguf',
      dtype: 'q4_k_m',
      layers: [
        { match: 'down_proj', spec: { dtype: 'q6_k' } },
        { match: 'x', spec: 'float' },
      ],
    },
    { format: 'bitsandbytes', dtype: 'nf4', nested: true, groupSize: 64, requantize: true },
    { format: 'awq', range: { percentile: 99.9 } },
  ];
  const words = [
    ...['gptq', 'awq', 'gguf', 'fp8', 'bitsandbytes', 'int4', 'int8', 'nf4', 'q4_k_m', 'float8_e4m3fn', 'symmetric'],
    ...[
      'asymmetric',
      'per-group',
      'per-tensor',
      'mse',
      'minmax',
      'float',
      'format',
      'dtype',
      'layers',
      'match',
      'spec',
    ],
    ...['include', 'nested', 'range', '(', '[', 'a{2,1}', '(?<x>', 32, 64, 128, { percentile: 99 }],
  ];
  return {
    codes: new Set(['PLAN_INVALID']),
    reaches: ['ok', 'PLAN_INVALID'],
    enough: 5_000,
    generate(random) {
      const text = textOf(mutated(random, random.pick(SEEDS), words));
      return { text: random.once(12) ? brokenText(random, text) : text };
    },
    async run({ text }) {
      setFiles({ 'plan.json': text });
      const command = {
        error: (message) => {
          throw new Finding(message);
        },
      };
      const spec = await specOf({ plan: `${ROOT}/plan.json`, writePlan: `${ROOT}/again.json` }, command);
      // What is taken can be used, and written again.
      try {
        checkOptions({ ...spec, output: 'out' });
      } catch (error) {
        if (error instanceof LowbitError) throw new Finding(`it is taken but can't be used: ${error.message}`, error);
        throw error;
      }
      const first = fileAt('again.json').toString();
      setFiles({ 'plan.json': first });
      await specOf({ plan: `${ROOT}/plan.json`, writePlan: `${ROOT}/again.json` }, command);
      if (fileAt('again.json').toString() !== first) throw new Finding(`${first} is written otherwise the second time`);
      return 'ok';
    },
  };
}

/** Journals that a run left. */
export function journal(dist) {
  const { Journal } = dist('pipeline/journal');
  const inputs = [{ file: 'model.safetensors', bytes: 100, modified: '17' }];
  const heading = { plan: 'f'.repeat(64), inputs };
  const report = {
    name: 'a',
    kind: 'quantized',
    shape: [2, 2],
    from: 'float32',
    to: 'int4',
    bitsPerWeight: 4.5,
    inputBytes: 16,
    outputBytes: 4,
    sqnrDb: 30,
    cosine: 1,
    maxAbs: 0.1,
    rmse: 0.1,
  };
  const entries = ['a', 'b', 'c'].map((unit) => ({
    unit,
    checksum: '0'.repeat(64),
    report: { ...report, name: unit },
  }));
  const words = [
    'plan',
    'inputs',
    'file',
    'bytes',
    'modified',
    'unit',
    'checksum',
    'report',
    'a',
    'model.safetensors',
    'f'.repeat(64),
    '17',
    100,
    ...entries,
  ];
  const output = { path: `${ROOT}/out`, workPath: ROOT, continued: true, note: (name) => `${ROOT}/${name}` };
  return {
    codes: new Set(['INPUT_CHANGED', 'UNFINISHED_WORK']),
    reaches: ['ok', 'continued', 'INPUT_CHANGED', 'UNFINISHED_WORK'],
    enough: 5_000,
    generate(random) {
      const changed = mutated(random, [heading, ...entries], words);
      const lines = Array.isArray(changed) ? changed.map(textOf) : [textOf(changed)];
      const text = `${lines.join('\n')}${random.once(4) ? '' : '\n'}`;
      return { text: random.once(8) ? brokenText(random, text) : text };
    },
    async run({ text }) {
      setFiles({ 'journal.jsonl': text });
      const opened = await Journal.open(output, heading);
      const again = await Journal.open(output, heading);
      if (JSON.stringify([...again.done]) !== JSON.stringify([...opened.done]))
        throw new Finding('it is not the same when opened again');
      if (fileAt('journal.jsonl').toString().split('\n').length !== opened.done.size + 2)
        throw new Finding('lines are missing');
      for (const [unit, entry] of opened.done) {
        if (typeof unit !== 'string' || entry.unit !== unit || typeof entry.checksum !== 'string')
          throw new Finding(`unit ${unit}`);
      }
      return opened.done.size > 0 ? 'continued' : 'ok';
    },
  };
}

/** States of observers, which people keep in files and databases. */
export function observerState(dist) {
  const { Observer } = dist('observe/observer');
  const state = (method, channels, more = {}) => ({
    ...{
      method,
      granularity: channels === 1 ? 'per-tensor' : 'per-channel',
      axis: 0,
      bins: 512,
      percentile: 99.9,
      averagingConstant: 0.01,
    },
    ...{ observed: 8, min: new Array(channels).fill(-1), max: new Array(channels).fill(2), exponents: [], counts: [] },
    ...more,
  });
  const counts = new Array(512).fill(0);
  counts[10] = 5;
  counts[300] = 3;
  const SEEDS = [
    state('minmax', 1),
    state('minmax', 3),
    state('moving-average', 2),
    state('minmax', 1, { observed: 0, min: [], max: [] }),
  ];
  const LARGE = ['percentile', 'mse', 'entropy'].map((method) => state(method, 1, { exponents: [1], counts }));
  const words = [
    'minmax',
    'percentile',
    'mse',
    'entropy',
    'moving-average',
    'per-tensor',
    'per-channel',
    'bins',
    'counts',
    'exponents',
    'min',
    'max',
    512,
    1024,
    -1,
  ];
  return {
    codes: new Set(['INVALID_ARGUMENT']),
    reaches: ['ok', 'INVALID_ARGUMENT'],
    enough: 5_000,
    generate(random) {
      const seed = random.once(8) ? random.pick(LARGE) : random.pick(SEEDS);
      // To search a histogram takes a millisecond.
      return { text: textOf(mutated(random, seed, words)), search: seed.counts.length === 0 || random.once(8) };
    },
    run({ text, search }) {
      const observer = Observer.fromState(JSON.parse(text));
      const again = observer.toState();
      if (JSON.stringify(Observer.fromState(JSON.parse(JSON.stringify(again))).toState()) !== JSON.stringify(again)) {
        throw new Finding('its state is another one the second time');
      }
      if (again.observed === 0 || !search) return 'ok';
      const { scales, zeroPoints } = observer.parameters('int8', { scheme: 'asymmetric' });
      if (!scales.every((scale) => scale > 0 && scale < Infinity)) throw new Finding(`scales ${scales}`);
      if (zeroPoints?.some((zero) => zero < -128 || zero > 127)) throw new Finding(`zero points ${zeroPoints}`);
      return 'ok';
    },
  };
}
