/** The compressed-tensors target: layers as its tools write them, changed. */
import { alike, FLOATS, groupIndex, holding, layerNames, layout, scales, sizeOf, tensor } from './layout.mjs';

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
  if (random.once(5)) {
    const scale = random.once(3) ? Float32Array.of(random.pick([0.5, 1e-20, 0, -1, NaN, Infinity])) : null;
    tensors.push([`${layer}.input_scale`, scale === null ? tensor(random, 'F32', 1) : holding('F32', [1], scale)]);
    if (random.once(2)) tensors.push([`${layer}.input_zero_point`, tensor(random, 'I8', 1)]);
  }
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

function activations(random) {
  if (random.once(2)) return { num_bits: 8, type: 'int', dynamic: true, strategy: 'token' };
  return {
    num_bits: random.once(8) ? 4 : 8,
    type: random.pick(['int', 'float']),
    symmetric: !random.once(3),
    dynamic: false,
    strategy: random.once(8) ? null : 'tensor',
  };
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
          ...(random.once(5) ? { input_activations: activations(random) } : {}),
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
