/**
 * Layouts of quantized weights: layers as their tools write them, in which tensors are missing, renamed, reshaped, of another
 * type or hold other bytes, with configs that were changed, or none.
 */
import { mutated, textOf } from '../json.mjs';
import { memoryCheckpoint, ROOT } from '../memory.mjs';
import { randomBytes } from '../random.mjs';
import { checkWeights } from '../weights.mjs';

const BYTES = {
  ...{ U8: 1, I8: 1, BOOL: 1, F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1, F16: 2, BF16: 2, I16: 2, F32: 4, I32: 4, U32: 4 },
  ...{ I64: 8, F64: 8, U64: 8 },
};
const DTYPES = Object.keys(BYTES);

const sizeOf = (dtype, shape) => shape.reduce((a, b) => a * b, 1) * BYTES[dtype];
const tensor = (random, dtype, ...shape) => ({ dtype, shape, data: randomBytes(random, sizeOf(dtype, shape)) });
const holding = (dtype, shape, array) => ({
  dtype,
  shape,
  data: new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
});

/** Finite positive numbers, of which a view is taken. */
const SCALES = {
  F32: new Float32Array(4096),
  F16: new Uint16Array(4096),
  BF16: new Uint16Array(4096),
  F8_E4M3: new Uint8Array(4096),
  U8: new Uint8Array(4096),
};
for (let i = 0; i < 4096; i++) {
  SCALES.F32[i] = 2 ** -10 + ((i * 7919) % 4096) / 2 ** 20;
  SCALES.F16[i] = 0x1c00 + ((i * 7919) % 2048);
  SCALES.BF16[i] = 0x3b00 + ((i * 7919) % 256);
  SCALES.F8_E4M3[i] = 1 + ((i * 7919) % 100);
  SCALES.U8[i] = 110 + ((i * 7919) % 20);
}
SCALES.F8_E8M0 = SCALES.U8;

function scales(random, dtype, ...shape) {
  // Some are not finite, or negative.
  if (random.once(16)) return tensor(random, dtype, ...shape);
  const count = sizeOf(dtype, shape) / BYTES[dtype];
  const begin = 8 * random.below((4096 - count) / 8);
  return holding(dtype, shape, SCALES[dtype].subarray(begin, begin + count));
}

/** A tensor that a container can hold in place of another one. */
function changedTensor(random, { dtype, shape, data }) {
  const kind = random.below(10);
  if (kind < 3) {
    const copy = Uint8Array.from(data);
    for (let n = 1 + random.below(4); n > 0 && copy.length > 0; n--) {
      copy[random.below(copy.length)] = random.pick([0, 255, 127, 128, 48, 34, random.below(256)]);
    }
    return { dtype, shape, data: copy };
  }
  if (kind === 3) return { dtype, shape, data: new Uint8Array(data.length).fill(random.pick([0, 255, 0x7f, 0x77])) };
  const other = kind === 4 || kind === 5 ? random.pick(DTYPES) : dtype;
  const dims = shape.slice();
  const axis = random.below(Math.max(1, dims.length));
  const change = random.below(10);
  if (kind !== 4) {
    if (change === 0) dims.push(random.below(3));
    else if (change === 1) dims.pop();
    else if (change === 2) dims[axis] = 0;
    else if (change === 3) dims.reverse();
    else if (change === 4) dims.unshift(1);
    else if (change === 5) dims[axis] = Math.floor((dims[axis] ?? 1) * random.pick([0.25, 0.5, 0.75, 2, 3]));
    else if (change === 6 && dims.length > 1) [dims[axis], dims[(axis + 1) % dims.length]] = [2 ** 40, 0];
    else dims[axis] = Math.max(0, (dims[axis] ?? 1) + random.below(7) - 3);
  }
  const length = sizeOf(other, dims);
  if (length > 2 ** 15) return { dtype, shape, data };
  const filled = Uint8Array.from(length <= data.length ? data.subarray(0, length) : randomBytes(random, length));
  if (length > data.length) filled.set(data);
  return { dtype: other, shape: dims, data: filled };
}

function changedTensors(random, tensors, names) {
  const which = random.below(tensors.length);
  const [name, value] = tensors[which];
  const kind = random.below(12);
  const copy = tensors.slice();
  if (kind === 0) {
    if (copy.length > 1) copy.splice(which, 1);
  } else if (kind === 1) copy[which] = [random.pick(names), value];
  else if (kind === 2) copy.push([random.pick(names), value]);
  else copy[which] = [name, changedTensor(random, value)];
  return copy;
}

/** A target out of a layout: layers, the names that tensors can have, and the words of its config. */
function layout(dist, { make, names, words, codes, reaches, mayBeNaN }) {
  const { weightsOf } = dist('checkpoint/weights');
  return {
    codes: new Set([...codes, 'CONFIG_INVALID', 'LAYOUT_UNSUPPORTED', 'LAYOUT_AMBIGUOUS', 'LAYOUT_INVALID']),
    reaches: ['ok', ...reaches],
    enough: 20_000,
    generate(random) {
      let { tensors, config, quantConfig } = make(random);
      const changes = random.pick([0, 1, 1, 1, 2, 2, 3]);
      for (let i = 0; i < changes; i++) {
        if (random.once(3)) quantConfig = quantConfig === null ? null : mutated(random, quantConfig, words, 1);
        else tensors = changedTensors(random, tensors, names);
      }
      if (random.once(10)) quantConfig = null;
      const all = { ...config, ...(quantConfig === null ? {} : { quantization_config: quantConfig }) };
      return {
        tensors: tensors.map(([name, value]) => ({ name, ...value })),
        config: random.once(100) ? null : textOf(all),
        strip: 1 + random.below(40),
      };
    },
    async run({ tensors, config, strip }) {
      const json = config === null ? null : JSON.parse(config);
      const stored = tensors.map(({ name, ...value }) => [name, value]);
      // A folder without a config in config.json would be looked through for one in a file of its own.
      const folder = json?.quantization_config == null ? null : ROOT;
      const checkpoint = memoryCheckpoint(stored, json, folder);
      const weights = await weightsOf(checkpoint);
      await checkWeights(dist, weights, { strip, tensors: checkpoint.tensors, mayBeNaN });
      const kinds = new Set(weights.map(({ encoding }) => encoding.format));
      return kinds.size === 1 && (kinds.has('float') || kinds.has('other')) ? 'not quantized' : 'ok';
    },
  };
}

const layerNames = (parts) => parts.flatMap((part) => [`a.${part}`, `b.${part}`]);

function groupIndex(random, columns, groups, dtype = 'I32') {
  const size = Math.ceil(columns / groups);
  const index = Int32Array.from({ length: columns }, (_, i) => Math.floor(i / size));
  if (random.once(2)) {
    for (let n = random.below(30); n > 0; n--) {
      const [a, b] = [random.below(columns), random.below(columns)];
      [index[a], index[b]] = [index[b], index[a]];
    }
  }
  if (random.once(10))
    index[random.below(columns)] = random.pick([-1, groups, 0, 2 ** 31 - 1, -(2 ** 31), random.below(groups)]);
  if (dtype === 'I32') return holding(dtype, [columns], index);
  return holding(dtype, [columns], BigInt64Array.from(index, BigInt));
}

const PACKED_PARTS = ['qweight', 'qzeros', 'scales', 'g_idx', 'weight', 'bias', ''];
const FLOATS = ['F16', 'BF16', 'F32'];

/** Whole words of one value: zero points that are all alike. */
const alike = (length, byte) => new Uint8Array(length).fill(byte);

export function gptq(dist) {
  const make = (random) => {
    const tensors = [];
    const bits = random.pick([2, 3, 4, 4, 4, 8]);
    const groups = 1 + random.below(3);
    const groupSize = random.pick([16, 32]);
    const columns = random.once(6) ? 96 : groups * (bits === 3 ? 32 : groupSize);
    const symmetric = random.once(2);
    const desc = random.once(2);
    for (const layer of random.once(3) ? ['a', 'b'] : ['a']) {
      const rows = random.pick([32, 32, 64]);
      const zeros = tensor(random, 'I32', groups, (rows * bits) / 32);
      if (symmetric && bits === 4) zeros.data = alike(zeros.data.length, random.pick([0x77, 0x88]));
      if (symmetric && bits === 8) zeros.data = alike(zeros.data.length, random.pick([0x7f, 0x80]));
      tensors.push([`${layer}.qweight`, tensor(random, 'I32', (columns * bits) / 32, rows)]);
      tensors.push([`${layer}.qzeros`, zeros]);
      tensors.push([`${layer}.scales`, scales(random, random.pick(FLOATS), groups, rows)]);
      if (desc || random.once(3)) tensors.push([`${layer}.g_idx`, groupIndex(random, columns, groups)]);
    }
    if (random.once(3)) tensors.push(['a.bias', tensor(random, 'F16', 8)]);
    const quantConfig = {
      quant_method: random.pick(['gptq', 'gptq', 'gptq', 'auto-round']),
      bits,
      group_size: random.once(8) ? -1 : columns / groups,
      desc_act: desc,
      sym: symmetric,
      ...(random.once(2) ? { checkpoint_format: random.pick(['gptq', 'gptq_v2', 'marlin']) } : {}),
      ...(random.once(4)
        ? { meta: { quantizer: random.pick(['gptqmodel:1.4.0', ['gptqmodel:2', 'lowbit:0'], 'autogptq', 5, null]) } }
        : {}),
      ...(random.once(6) ? { dynamic: { '-:a': {}, '+:.*b': { bits: 8, group_size: 32 } } } : {}),
    };
    return { tensors, config: {}, quantConfig };
  };
  const words = [
    ...['gptq', 'gptq_v2', 'awq', 'auto-round', 'fp8', 'marlin', 'gptqmodel:1', 'bits', 'w_bit', 'wbits', 'group_size'],
    ...[
      'groupsize',
      'desc_act',
      'sym',
      'zero_point',
      'checkpoint_format',
      'version',
      'is_marlin_format',
      'dynamic',
      'meta',
    ],
    ...['quant_method', 2, 3, 4, 8, 16, 32, 64, -1],
  ];
  return layout(dist, {
    make,
    words,
    names: layerNames(PACKED_PARTS),
    codes: ['LAYOUT_MISSING_PART', 'LAYOUT_DTYPE', 'LAYOUT_SHAPE', 'LAYOUT_SCALE'],
    reaches: ['not quantized', 'LAYOUT_INVALID', 'LAYOUT_AMBIGUOUS', 'LAYOUT_UNSUPPORTED', 'CONFIG_INVALID'],
    mayBeNaN: false,
  });
}

export function awq(dist) {
  const make = (random) => {
    const tensors = [];
    const groups = 1 + random.below(3);
    const columns = groups * random.pick([8, 16, 32]);
    const symmetric = random.once(4);
    for (const layer of random.once(3) ? ['a', 'b'] : ['a']) {
      const rows = random.pick([8, 16, 32]);
      tensors.push([`${layer}.qweight`, tensor(random, 'I32', columns, rows / 8)]);
      if (!symmetric || random.once(2)) tensors.push([`${layer}.qzeros`, tensor(random, 'I32', groups, rows / 8)]);
      tensors.push([`${layer}.scales`, scales(random, random.pick(FLOATS), groups, rows)]);
    }
    const quantConfig = {
      quant_method: random.pick(['awq', 'awq', 'awq', 'auto-round']),
      bits: 4,
      group_size: groups === 1 && random.once(2) ? -1 : columns / groups,
      zero_point: !symmetric,
      ...(random.once(3) ? { version: random.pick(['gemm', 'GEMM', 'gemv', 'marlin', 1]) } : {}),
      ...(random.once(4) ? { modules_to_not_convert: null } : {}),
    };
    return { tensors, config: {}, quantConfig };
  };
  const words = [
    ...['awq', 'gemm', 'GEMM', 'gemv', 'gptq', 'auto-round', 'w_bit', 'q_group_size', 'zero_point', 'version', 'bits'],
    ...['quant_method', 'group_size', 'sym', 3, 4, 8, 32, -1],
  ];
  return layout(dist, {
    make,
    words,
    names: layerNames(PACKED_PARTS),
    codes: ['LAYOUT_MISSING_PART', 'LAYOUT_DTYPE', 'LAYOUT_SHAPE', 'LAYOUT_SCALE'],
    reaches: ['not quantized', 'LAYOUT_INVALID', 'LAYOUT_UNSUPPORTED', 'CONFIG_INVALID'],
    mayBeNaN: false,
  });
}

/** weight_shape. */
const shapeTensor = (random, rows, columns) =>
  random.once(6)
    ? holding('I32', [2], Int32Array.of(rows, columns))
    : holding(
        'I64',
        [2],
        BigInt64Array.of(BigInt(rows), BigInt(random.once(30) ? random.pick([2 ** 40, -1, 0, columns + 1]) : columns)),
      );

const words32 = (count, bits, padded) =>
  padded ? Math.ceil(count / Math.floor(32 / bits)) : Math.ceil((count * bits) / 32);

function compressedLayer(random, layer) {
  const rows = 1 + random.below(5);
  const format = random.pick(['pack', 'pack', 'pack', 'int', 'float', 'nvfp4', 'mxfp4', 'mxfp8']);
  const strategy = random.pick(['tensor', 'channel', 'group', 'group', 'block']);
  const fixed = { nvfp4: 16, mxfp4: 32, mxfp8: 32 }[format];
  const size = fixed ?? random.pick([8, 16, 32]);
  const columns = size * (1 + random.below(3)) + (fixed === undefined && random.once(5) ? random.below(size) : 0);
  const shared = fixed !== undefined ? 'group' : format === 'pack' && strategy === 'block' ? 'group' : strategy;
  const groups = Math.ceil(columns / size);
  const shape = { tensor: [1], channel: [rows, 1], group: [rows, groups], block: [Math.ceil(rows / 2), groups] }[
    shared
  ];
  const dtype = random.pick(FLOATS);
  const scaleDtype = { nvfp4: 'F8_E4M3', mxfp4: 'U8', mxfp8: random.pick(['U8', 'F8_E8M0']) }[format] ?? dtype;
  const tensors = [[`${layer}.weight_scale`, scales(random, scaleDtype, ...shape)]];
  const bits = { pack: random.pick([1, 2, 3, 4, 4, 5, 6, 7, 8]), int: 8, float: 8, nvfp4: 4, mxfp4: 4, mxfp8: 8 }[
    format
  ];
  const weights = {
    num_bits: bits,
    type: format === 'pack' || format === 'int' ? 'int' : 'float',
    symmetric: true,
    strategy: format === 'nvfp4' ? 'tensor_group' : shared,
    group_size: shared === 'group' ? size : null,
    ...(shared === 'block' ? { block_structure: random.pick([[2, size], `2x${size}`]) } : {}),
  };
  if (format === 'pack') {
    const padded = random.once(3);
    const codes = tensor(random, 'I32', rows, words32(columns, bits, padded));
    if (random.once(2)) codes.data = alike(codes.data.length, random.pick([0, 0x11]));
    tensors.push([`${layer}.weight_packed`, codes], [`${layer}.weight_shape`, shapeTensor(random, rows, columns)]);
    if (random.once(3)) {
      weights.symmetric = false;
      const zero =
        random.once(3) || shared === 'tensor'
          ? tensor(random, 'I8', ...shape)
          : tensor(random, 'I32', words32(rows, bits, padded), shared === 'group' ? groups : 1);
      if (zero.dtype === 'I8') zero.data = alike(zero.data.length, random.pick([0, 1, 255]));
      tensors.push([`${layer}.weight_zero_point`, zero]);
    }
    if (shared === 'group' && random.once(4)) {
      weights.actorder = random.pick(['group', 'weight', null, true, 'static']);
      tensors.push([`${layer}.weight_g_idx`, groupIndex(random, columns, groups, random.pick(['I32', 'I64']))]);
    }
  } else if (format === 'int' || format === 'float' || format === 'mxfp8') {
    tensors.push([`${layer}.weight`, tensor(random, format === 'int' ? 'I8' : 'F8_E4M3', rows, columns)]);
    if (format === 'int' && random.once(4)) {
      weights.symmetric = false;
      tensors.push([`${layer}.weight_zero_point`, tensor(random, 'I8', ...shape)]);
    }
    if (format === 'float' && random.once(6))
      tensors.push([`${layer}.weight_zero_point`, holding('I8', shape, alike(sizeOf('I8', shape), 0))]);
  } else {
    tensors.push([`${layer}.weight_packed`, tensor(random, 'U8', rows, columns / 2)]);
    if (format === 'nvfp4')
      tensors.push([
        `${layer}.weight_global_scale`,
        holding('F32', [1], Float32Array.of(random.pick([448, 1, 1e-30, 0, -1, NaN]))),
      ]);
  }
  if (random.once(5)) tensors.push([`${layer}.input_scale`, tensor(random, 'F32', 1)]);
  const name = {
    pack: 'pack-quantized',
    int: 'int-quantized',
    float: 'float-quantized',
    nvfp4: 'nvfp4-pack-quantized',
    mxfp4: 'mxfp4-pack-quantized',
    mxfp8: 'mxfp8-quantized',
  }[format];
  return { tensors, weights, format: name };
}

export function compressedTensors(dist) {
  const make = (random) => {
    const layers = random.once(4) ? ['a', 'b'] : ['a'];
    const made = layers.map((layer) => compressedLayer(random, layer));
    const groups = Object.fromEntries(
      made.map(({ weights, format }, i) => [
        `group_${i}`,
        {
          // Expressions run in a context of their own, which takes a millisecond.
          targets: made.length === 1 ? ['Linear'] : random.once(40) ? [`re:${layers[i]}`] : [layers[i]],
          weights,
          ...(made.length > 1 || random.once(6) ? { format } : {}),
          ...(random.once(5)
            ? { input_activations: { num_bits: 8, type: 'int', dynamic: true, strategy: 'token' } }
            : {}),
        },
      ]),
    );
    const quantConfig = {
      quant_method: 'compressed-tensors',
      format: made.length > 1 ? 'mixed-precision' : made[0].format,
      ...(random.once(2) ? { version: random.pick(['0.18.0', '0.12.2', '0.17.2a20260701', '1.0', 'x']) } : {}),
      config_groups: groups,
      ...(random.once(8)
        ? { ignore: ['lm_head'], kv_cache_scheme: null, sparsity_config: {}, transform_config: {} }
        : {}),
    };
    return {
      tensors: made.flatMap(({ tensors }) => tensors),
      config: random.once(3) ? { torch_dtype: 'float16' } : {},
      quantConfig,
    };
  };
  const parts = [
    'weight',
    'weight_packed',
    'weight_scale',
    'weight_shape',
    'weight_zero_point',
    'weight_g_idx',
    'weight_global_scale',
    'bitmask',
    'compressed',
    'scale_packed',
    'meta',
  ];
  const words = [
    ...['pack-quantized', 'int-quantized', 'float-quantized', 'nvfp4-pack-quantized', 'mxfp4-pack-quantized', 'dense'],
    ...[
      'sparse-24',
      'tensor',
      'channel',
      'group',
      'block',
      'tensor_group',
      'int',
      'float',
      'dynamic',
      'weight',
      'Linear',
    ],
    ...[
      'a',
      'b',
      '2x16',
      '128x128',
      'compressed-tensors',
      'sparseml',
      'config_groups',
      'targets',
      'weights',
      'num_bits',
    ],
    ...['type', 'symmetric', 'strategy', 'group_size', 'block_structure', 'actorder', 'format', 'sparsity_config'],
    ...['transform_config', 'quantization_config', 2, 3, 4, 8, 16, 32, [1, 16], '0.12.0'],
  ];
  return layout(dist, {
    make,
    words,
    names: layerNames(parts),
    codes: ['LAYOUT_MISSING_PART', 'LAYOUT_DTYPE', 'LAYOUT_SHAPE', 'LAYOUT_SCALE'],
    reaches: [
      'LAYOUT_MISSING_PART',
      'LAYOUT_DTYPE',
      'LAYOUT_SHAPE',
      'LAYOUT_SCALE',
      'LAYOUT_INVALID',
      'LAYOUT_AMBIGUOUS',
      'LAYOUT_UNSUPPORTED',
      'CONFIG_INVALID',
    ],
    mayBeNaN: true,
  });
}

export function bitsandbytes(dist) {
  const { codeValues, dynamicMap } = dist('checkpoint/layouts/bitsandbytes/tables');
  const books = { nf4: codeValues('nf4'), fp4: codeValues('fp4') };
  const map = dynamicMap();
  const words = [
    ...[
      'nf4',
      'fp4',
      'float32',
      'float16',
      'bfloat16',
      'quant_type',
      'blocksize',
      'dtype',
      'shape',
      'nested_blocksize',
    ],
    ...['nested_dtype', 'nested_offset', 32, 64, 128, 256, [2, 32], [64], [1, 1, 32], 0.05],
  ];
  const make = (random) => {
    if (random.once(4)) {
      const [rows, columns] = [1 + random.below(4), 1 + random.below(9)];
      return {
        tensors: [
          ['a.weight', tensor(random, 'I8', rows, columns)],
          ['a.SCB', scales(random, 'F32', rows)],
          ...(random.once(2)
            ? [['a.weight_format', holding('U8', [], Uint8Array.of(random.once(5) ? random.below(4) : 0))]]
            : []),
        ],
        config: {},
        quantConfig: { quant_method: 'bitsandbytes', load_in_8bit: true, load_in_4bit: false },
      };
    }
    const type = random.pick(['nf4', 'fp4']);
    const blockSize = random.pick([32, 64, 64]);
    const shape = [1 + random.below(4), random.pick([1, 2, 8, 16, 31, 32, 64, 96])];
    const count = shape[0] * shape[1];
    const blocks = Math.ceil(count / blockSize);
    const nested = random.once(3);
    const state = {
      quant_type: type,
      blocksize: blockSize,
      dtype: random.pick(['float16', 'bfloat16', 'float32']),
      shape,
      ...(nested ? { nested_blocksize: random.pick([256, 256, 1]), nested_dtype: 'float32', nested_offset: 0.05 } : {}),
    };
    const json = Buffer.from(textOf(random.once(5) ? mutated(random, state, words, 1) : state));
    const storage = random.pick(['U8', 'U8', 'U8', 'BF16', 'F32']);
    const codeBytes = Math.ceil(count / 2);
    const codes =
      codeBytes % BYTES[storage] === 0
        ? tensor(random, storage, codeBytes / BYTES[storage], 1)
        : tensor(random, 'U8', codeBytes, 1);
    return {
      tensors: [
        ['a.weight', codes],
        ['a.weight.absmax', nested ? tensor(random, 'U8', blocks) : scales(random, 'F32', blocks)],
        ['a.weight.quant_map', holding('F32', [16], books[random.once(30) ? 'nf4' : type])],
        [`a.weight.quant_state.bitsandbytes__${type}`, { dtype: 'U8', shape: [json.length], data: json }],
        ...(nested
          ? [
              ['a.weight.nested_absmax', scales(random, 'F32', Math.ceil(blocks / state.nested_blocksize))],
              ['a.weight.nested_quant_map', holding('F32', [256], map)],
            ]
          : []),
      ],
      config: random.once(3) ? { dtype: 'bfloat16' } : {},
      quantConfig: { quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: type },
    };
  };
  const parts = [
    'weight',
    'weight.absmax',
    'weight.quant_map',
    'weight.quant_state.bitsandbytes__nf4',
    'weight.quant_state.bitsandbytes__fp4',
    'weight.nested_absmax',
    'weight.nested_quant_map',
    'SCB',
    'weight_format',
  ];
  return layout(dist, {
    make,
    words: ['bitsandbytes', 'gptq', 'quant_method'],
    names: layerNames(parts),
    codes: ['LAYOUT_MISSING_PART', 'LAYOUT_DTYPE', 'LAYOUT_SHAPE', 'LAYOUT_SCALE'],
    reaches: [
      'LAYOUT_MISSING_PART',
      'LAYOUT_DTYPE',
      'LAYOUT_SHAPE',
      'LAYOUT_SCALE',
      'LAYOUT_INVALID',
      'LAYOUT_UNSUPPORTED',
    ],
    mayBeNaN: false,
  });
}

export function fp8(dist) {
  const make = (random) => {
    const kind = random.pick(['inv', 'inv', 'scale', 'scale', 'experts', 'nvfp4']);
    if (kind === 'nvfp4') {
      const [rows, columns] = [1 + random.below(4), 16 * (1 + random.below(3))];
      return {
        tensors: [
          ['a.weight', tensor(random, 'U8', rows, columns / 2)],
          ['a.weight_scale', scales(random, 'F8_E4M3', rows, columns / 16)],
          [
            'a.weight_scale_2',
            holding('F32', [], Float32Array.of(random.once(10) ? random.pick([0, -1, NaN, Infinity, 1e-45]) : 0.01)),
          ],
          ...(random.once(3) ? [['a.input_scale', tensor(random, 'F32')]] : []),
        ],
        config: {},
        quantConfig: { quant_method: random.pick(['modelopt', 'modelopt_fp4']), quant_algo: 'NVFP4' },
      };
    }
    const block = random.pick([
      [2, 8],
      [1, 16],
      [4, 4],
    ]);
    const rows = kind === 'experts' ? block[0] : 1 + random.below(6);
    const columns = 4 * (1 + random.below(6));
    const grid = [Math.ceil(rows / block[0]), Math.ceil(columns / block[1])];
    const dtype = random.pick(['F8_E4M3', 'F8_E4M3', 'F8_E5M2']);
    const experts = 1 + random.below(3);
    const shape = kind === 'experts' ? [experts, rows, columns] : [rows, columns];
    const sharing =
      kind === 'scale'
        ? random.pick([[], [1], [rows], [rows, 1], [rows, columns / 4]])
        : kind === 'experts'
          ? [experts, ...grid]
          : grid;
    const scaleDtype = random.pick(['F32', 'F32', 'BF16', 'F16', 'F8_E8M0']);
    return {
      tensors: [
        ['a.weight', tensor(random, dtype, ...shape)],
        [`a.weight_scale${kind === 'scale' ? '' : '_inv'}`, scales(random, scaleDtype, ...sharing)],
        ...(random.once(4) ? [['a.input_scale', tensor(random, 'F32', 1)]] : []),
        ...(random.once(6) ? [['b.weight', tensor(random, 'BF16', 2, 2)]] : []),
      ],
      config: random.once(3)
        ? { torch_dtype: 'bfloat16', text_config: random.pick([null, { dtype: 'float16' }, 5]) }
        : {},
      quantConfig: {
        quant_method: random.pick(['fp8', 'fp8', 'fp8', 'fbgemm_fp8', 'modelopt']),
        activation_scheme: 'dynamic',
        ...(kind === 'scale' ? {} : { weight_block_size: block }),
      },
    };
  };
  const words = [
    'fp8',
    'fbgemm_fp8',
    'modelopt',
    'FP8',
    'NVFP4',
    'W4A8',
    'dynamic',
    'static',
    'quant_method',
    'quant_algo',
    'weight_block_size',
    [128, 128],
    [1, 1],
    [0, 8],
  ];
  const parts = [
    'weight',
    'weight_scale',
    'weight_scale_inv',
    'weight_scale_2',
    'pre_quant_scale',
    'down_proj',
    'down_proj_scale',
    'input_scale',
  ];
  return layout(dist, {
    make,
    words,
    names: layerNames(parts),
    codes: ['LAYOUT_MISSING_PART', 'LAYOUT_DTYPE', 'LAYOUT_SHAPE', 'LAYOUT_SCALE'],
    reaches: [
      'LAYOUT_MISSING_PART',
      'LAYOUT_DTYPE',
      'LAYOUT_SHAPE',
      'LAYOUT_SCALE',
      'LAYOUT_INVALID',
      'LAYOUT_UNSUPPORTED',
      'CONFIG_INVALID',
    ],
    mayBeNaN: true,
  });
}
