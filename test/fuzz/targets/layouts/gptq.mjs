/** The gptq target: layers as its tools write them, changed. */
import { alike, FLOATS, groupIndex, layerNames, layout, PACKED_PARTS, scales, tensor } from './layout.mjs';

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
