/** The bitsandbytes target: layers as its tools write them, changed. */
import { mutated, textOf } from '../../json.mjs';
import { BYTES, holding, layerNames, layout, scales, tensor } from './layout.mjs';

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
