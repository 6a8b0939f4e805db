import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Checkpoint, Json } from '../../lib/checkpoint/checkpoint.js';
import { SAFETENSORS_DTYPES } from '../../lib/checkpoint/safetensors.js';
import { tensorBytes } from '../../lib/checkpoint/safetensors-writer.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import type { StoredTensor } from '../../lib/checkpoint/stored-tensor.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { CheckpointError, dequantizeTensor } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { random } from '../support/random.js';

const folder = temporaryFolder();

interface Spec {
  dtype: (typeof SAFETENSORS_DTYPES)[number];
  shape: number[];
}

/** A layer as it should be. */
function layer(kind: 'gptq' | 'awq', bits: 2 | 3 | 4 | 8, n: number, k: number, groups: number): Record<string, Spec> {
  const i32 = (...shape: number[]): Spec => ({ dtype: 'I32', shape });
  const scales: Spec = { dtype: 'F16', shape: [groups, n] };
  if (kind === 'awq') return { qweight: i32(k, n / 8), qzeros: i32(groups, n / 8), scales };
  return { qweight: i32((k * bits) / 32, n), qzeros: i32(groups, (n * bits) / 32), scales, g_idx: i32(k) };
}

/** What can be wrong with a tensor: everything that a safetensors file can say of it. */
type Mutation =
  | { kind: 'dim'; axis: number; value: number }
  | { kind: 'scaled'; axis: number; by: number }
  | { kind: 'rank'; more: boolean }
  | { kind: 'dtype'; dtype: Spec['dtype'] }
  | { kind: 'gone' }
  | { kind: 'renamed'; name: string };

const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.record({
    kind: fc.constant('dim' as const),
    axis: fc.nat(1),
    value: fc.oneof(fc.integer({ min: 0, max: 300 }), fc.constant(2 ** 40)),
  }),
  fc.record({ kind: fc.constant('scaled' as const), axis: fc.nat(1), by: fc.constantFrom(0.25, 0.5, 0.75, 2, 3, 8) }),
  fc.record({ kind: fc.constant('rank' as const), more: fc.boolean() }),
  fc.record({ kind: fc.constant('dtype' as const), dtype: fc.constantFrom(...SAFETENSORS_DTYPES) }),
  fc.record({ kind: fc.constant('gone' as const) }),
  fc.record({
    kind: fc.constant('renamed' as const),
    name: fc.constantFrom('weight', 'qweight', 'g_idx', 'qzeros', 'bias', 'scales', ''),
  }),
);

function mutated(spec: Spec, m: Mutation): Spec | null {
  const shape = spec.shape.slice();
  switch (m.kind) {
    case 'dim':
      shape[Math.min(m.axis, shape.length - 1)] = m.value;
      // Only an empty tensor of such a shape fits into a file.
      if (m.value === 2 ** 40) shape[shape.length === 1 ? 1 : 1 - m.axis] = 0;
      return { ...spec, shape };
    case 'scaled': {
      const axis = Math.min(m.axis, shape.length - 1);
      shape[axis] = Math.floor((shape[axis] as number) * m.by);
      return { ...spec, shape };
    }
    case 'rank':
      return { ...spec, shape: m.more ? [...shape, 1] : shape.slice(1) };
    case 'dtype':
      return { dtype: m.dtype, shape };
    case 'gone':
      return null;
    case 'renamed':
      return spec;
  }
}

/** A number that a config may hold, or anything else. */
const odd = fc.oneof(
  fc.constantFrom<unknown>(-1, 0, 1, 2, 3, 4, 8, 16, 32, 64, 128, 1e9, 2 ** 53, 1.5, Number.NaN, null, true, false),
  fc.constantFrom<unknown>('gptq', 'gptq_v2', 'awq', 'GEMM', 'marlin', 'gemv', '', '4', {}, [], { bits: 8 }),
  fc.jsonValue(),
);
const METHODS = ['gptq', 'awq', 'auto-round', 'fp8'];
const FIELDS = [
  ...['quant_method', 'bits', 'w_bit', 'group_size', 'q_group_size', 'desc_act', 'sym', 'zero_point'],
  ...['checkpoint_format', 'version', 'is_marlin_format', 'dynamic', 'meta'],
];
/** What is changed in a config that fits; null: there is no config. */
const changes = fc.option(
  fc.record({
    method: fc.option(fc.constantFrom(...METHODS), { freq: 2 }),
    format: fc.constantFrom('gptq', 'gptq_v2', undefined),
    symmetric: fc.boolean(),
    fields: fc.oneof(
      fc.constant([]),
      fc.constant([]),
      fc.array(fc.tuple(fc.constantFrom(...FIELDS), odd), { maxLength: 2 }),
    ),
  }),
  { freq: 5 },
);

function configOf(kind: 'gptq' | 'awq', c: typeof changes extends fc.Arbitrary<infer T> ? T : never): Json | null {
  if (c === null) return null;
  const method = c.method ?? kind;
  const base = { quant_method: method, group_size: 32, desc_act: kind === 'gptq', sym: c.symmetric };
  const format = kind === 'gptq' && c.format !== undefined ? { checkpoint_format: c.format } : {};
  return { ...base, ...format, ...Object.fromEntries(c.fields) };
}

/** A tensor in memory; its reads fail as those of a file do. */
function stored(
  name: string,
  { dtype, shape }: Spec,
  data: 'random' | 'groups' | 'middle',
  seed: number,
): StoredTensor {
  const bytes = Math.floor(tensorBytes({ name, dtype, shape }));
  const next = random(seed);
  const content = new Uint8Array(bytes);
  if (data === 'random') for (let i = 0; i < bytes; i++) content[i] = Math.floor(256 * next());
  if (data === 'middle') content.fill(0x77);
  if (data === 'groups') {
    const view = new Int32Array(content.buffer, 0, Math.floor(bytes / 4));
    for (let i = 0; i < view.length; i++) view[i] = Math.floor(i / 32);
    // Most orders keep the sizes of groups; some numbers are none.
    for (let swaps = Math.floor(20 * next()); swaps > 0 && view.length > 1; swaps--) {
      const [a, b] = [Math.floor(view.length * next()), Math.floor(view.length * next())];
      [view[a], view[b]] = [view[b] as number, view[a] as number];
    }
    if (next() < 0.1 && view.length > 0) view[Math.floor(view.length * next())] = Math.floor((next() - 0.5) * 2 ** 32);
  }
  return {
    name,
    dtype,
    shape,
    bytes,
    path: 'model.safetensors',
    position: 0,
    async read(begin, into) {
      if (begin < 0 || begin + into.length > bytes) throw new Error(`${name}: read past ${bytes} bytes`);
      into.set(content.subarray(begin, begin + into.length));
    },
  };
}

const layers = fc.record({
  kind: fc.constantFrom('gptq' as const, 'awq' as const),
  bits: fc.constantFrom(2 as const, 3 as const, 4 as const, 8 as const),
  n: fc.integer({ min: 1, max: 4 }).map((n) => 32 * n),
  groups: fc.integer({ min: 1, max: 4 }),
  mutations: fc.oneof(fc.constant([]), fc.array(fc.tuple(fc.nat(3), mutation), { maxLength: 2 })),
  data: fc.constantFrom('random' as const, 'middle' as const),
  seed: fc.integer(),
});

describe('tensors and configs that were tampered with', () => {
  it('are read as what they say, or refused with a code', async () => {
    const codes = new Map<string, number>();
    const note = (what: string) => codes.set(what, (codes.get(what) ?? 0) + 1);
    await fc.assert(
      fc.asyncProperty(
        fc.array(layers, { minLength: 1, maxLength: 2 }),
        changes,
        fc.integer({ min: 1, max: 4 }),
        async (specs, change, blocks) => {
          const config = configOf(specs[0]?.kind ?? 'gptq', change);
          const tensors = new Map<string, StoredTensor>();
          specs.forEach(({ kind, bits, n, groups, mutations, data, seed }, i) => {
            const parts = layer(kind, bits, n, 32 * groups, groups);
            Object.entries(parts).forEach(([part, good], at) => {
              let [spec, name]: [Spec | null, string] = [good, part];
              for (const [which, m] of mutations) {
                if (which !== at || spec === null) continue;
                spec = mutated(spec, m);
                if (m.kind === 'renamed') name = m.name;
              }
              if (spec === null) return;
              // Two mutations together can make what would fit into no file.
              if (tensorBytes({ name, ...spec }) > 2 ** 24) spec = good;
              const content = part === 'g_idx' ? 'groups' : part === 'scales' && seed % 2 === 0 ? 'middle' : data;
              tensors.set(`l${i}.${name}`, stored(`l${i}.${name}`, spec, content, seed));
            });
          });
          const checkpoint: Checkpoint = {
            path: folder,
            folder,
            container: 'safetensors',
            gguf: null,
            files: [],
            tensors,
            config: config === null ? null : { quantization_config: config },
            close: async () => {},
          };
          try {
            const weights = await weightsOf(checkpoint);
            const parts = weights.flatMap((weight) => weight.parts);
            expect(parts).toHaveLength(tensors.size);
            const scratch = new Scratch();
            for (const weight of weights) {
              if (weight.encoding.format !== 'gptq' && weight.encoding.format !== 'awq') continue;
              const step = weight.rowStep * blocks;
              for (let begin = 0; begin < weight.rows; begin += step) {
                const end = Math.min(weight.rows, begin + step);
                const block = await weight.read(begin, end, scratch);
                const floats =
                  block.kind === 'quantized' ? dequantizeTensor(block.tensor) : (block as { data: Uint16Array }).data;
                expect(floats).toHaveLength((end - begin) * weight.columns);
              }
              note(weight.encoding.format);
            }
          } catch (error) {
            if (!(error instanceof CheckpointError)) throw error;
            note(error.code);
          }
        },
      ),
      { numRuns: 5000 },
    );
    // All outcomes that there are have been met.
    for (const outcome of [
      'gptq',
      'awq',
      'LAYOUT_INVALID',
      'LAYOUT_AMBIGUOUS',
      'LAYOUT_UNSUPPORTED',
      'CONFIG_INVALID',
    ]) {
      expect(codes.get(outcome), outcome).toBeGreaterThan(10);
    }
  });
});
