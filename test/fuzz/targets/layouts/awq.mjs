/** The awq target: layers as its tools write them, changed. */
import { FLOATS, layerNames, layout, PACKED_PARTS, scales, tensor } from './layout.mjs';

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
