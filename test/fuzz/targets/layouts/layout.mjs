/**
 * Layouts of quantized weights: layers as their tools write them, in which tensors are missing, renamed, reshaped, of another
 * type or hold other bytes, with configs that were changed, or none.
 */
import { mutated, textOf } from '../../json.mjs';
import { memoryCheckpoint, ROOT } from '../../memory.mjs';
import { randomBytes } from '../../random.mjs';
import { checkWeights } from '../../weights.mjs';

export const BYTES = {
  ...{ U8: 1, I8: 1, BOOL: 1, F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1, F16: 2, BF16: 2, I16: 2, F32: 4, I32: 4, U32: 4 },
  ...{ I64: 8, F64: 8, U64: 8 },
};
const DTYPES = Object.keys(BYTES);

export const sizeOf = (dtype, shape) => shape.reduce((a, b) => a * b, 1) * BYTES[dtype];
export const tensor = (random, dtype, ...shape) => ({ dtype, shape, data: randomBytes(random, sizeOf(dtype, shape)) });
export const holding = (dtype, shape, array) => ({
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

export function scales(random, dtype, ...shape) {
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
export function layout(dist, { make, names, words, codes, reaches, mayBeNaN }) {
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

export const layerNames = (parts) => parts.flatMap((part) => [`a.${part}`, `b.${part}`]);

export function groupIndex(random, columns, groups, dtype = 'I32') {
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

export const PACKED_PARTS = ['qweight', 'qzeros', 'scales', 'g_idx', 'weight', 'bias', ''];
export const FLOATS = ['F16', 'BF16', 'F32'];

/** Whole words of one value: zero points that are all alike. */
export const alike = (length, byte) => new Uint8Array(length).fill(byte);
