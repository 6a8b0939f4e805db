/** The fp8 target: layers as its tools write them, changed. */
import { holding, layerNames, layout, scales, tensor } from './layout.mjs';

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
