import { describe, expect, it } from 'vitest';
import { dynamicMap } from '../../lib/checkpoint/layouts/bitsandbytes/tables.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { CheckpointError } from '../../lib/index.js';
import { floats, memoryCheckpoint, rawTensor, type Tensors } from '../support/layouts.js';
import { random } from '../support/random.js';
import { type EncodedArray, readJson } from '../support/vectors.js';

interface Seed {
  tensors: Tensors;
  config: object | null;
}
type Json = Record<string, unknown>;

const layer = (tensors: Record<string, EncodedArray>): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([part, tensor]) => [`a.${part}`, rawTensor(tensor)]));

function compressedTensors(): Seed[] {
  const { cases } = readJson<{
    cases: { format: string; version: string; weights: Json; tensors: Record<string, EncodedArray> }[];
  }>('compressed-tensors', 'checkpoints.json');
  return cases.map(({ format, version, weights, tensors }) => ({
    tensors: layer(tensors),
    config: {
      quantization_config: {
        quant_method: 'compressed-tensors',
        format,
        version,
        config_groups: { g: { targets: ['Linear'], weights } },
      },
    },
  }));
}

function fp8(): Seed[] {
  const { cases } = readJson<{ cases: { config: Json; tensors: Record<string, EncodedArray> }[] }>(
    'fp8',
    'checkpoints.json',
  );
  return cases.map(({ config, tensors }) => ({ tensors: layer(tensors), config: { quantization_config: config } }));
}

function bitsandbytes(): Seed[] {
  const { cases } = readJson<{
    cases: {
      quant_type: 'nf4' | 'fp4';
      blocksize: number;
      W: EncodedArray;
      packed: EncodedArray;
      absmax: EncodedArray;
      nested: { offset: number; absmax_u8: EncodedArray; nested_absmax: EncodedArray };
    }[];
  }>('bitsandbytes', 'four_bits.json');
  const books = readJson<Record<'nf4' | 'fp4', EncodedArray>>('bitsandbytes', 'codebooks.json');
  const stored = (dtype: string, array: EncodedArray) => rawTensor({ ...array, dtype });
  return cases.flatMap(({ quant_type, blocksize, W, packed, absmax, nested }) =>
    [false, true].map((isNested) => {
      const json = new TextEncoder().encode(
        JSON.stringify({
          quant_type,
          blocksize,
          dtype: 'bfloat16',
          shape: W.shape,
          ...(isNested ? { nested_blocksize: 256, nested_dtype: 'float32', nested_offset: nested.offset } : {}),
        }),
      );
      return {
        tensors: {
          'a.weight': stored('U8', packed),
          'a.weight.absmax': isNested ? stored('U8', nested.absmax_u8) : stored('F32', absmax),
          'a.weight.quant_map': stored('F32', books[quant_type]),
          [`a.weight.quant_state.bitsandbytes__${quant_type}`]: { dtype: 'U8', shape: [json.length], data: json },
          ...(isNested
            ? {
                'a.weight.nested_absmax': stored('F32', nested.nested_absmax),
                'a.weight.nested_quant_map': { dtype: 'F32', shape: [256], data: dynamicMap() },
              }
            : {}),
        },
        config: { quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: true } },
      };
    }),
  );
}

const BYTES: Record<string, number> = {
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  F16: 2,
  BF16: 2,
  F32: 4,
  I32: 4,
  I64: 8,
  F64: 8,
};
const VALUES = [
  null,
  true,
  false,
  0,
  1,
  -1,
  2,
  3,
  4,
  7,
  16,
  32,
  128,
  1e9,
  2 ** 31,
  0.5,
  '',
  'group',
  'channel',
  'tensor',
  'block',
  'float',
  'int',
  'nf4',
  'pack-quantized',
  'dense',
  [],
  [128, 128],
  [0, 0],
  {},
  'dynamic',
];

class Mutator {
  private readonly next: () => number;
  constructor(seed: number) {
    this.next = random(seed);
  }
  below(n: number): number {
    return Math.floor(this.next() * n);
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** A tensor of another shape or type, with as many bytes as that takes: what a valid container can hold. */
  private reshaped(tensor: Tensors[string]): Tensors[string] {
    const dtype = this.below(3) === 0 ? this.pick(Object.keys(BYTES)) : tensor.dtype;
    const shape = [...tensor.shape];
    const axis = this.below(Math.max(1, shape.length));
    const change = this.below(6);
    if (change === 0) shape.push(1 + this.below(2));
    else if (change === 1) shape.pop();
    else if (change === 2) shape[axis] = 0;
    else if (change < 5) shape[axis] = Math.max(0, (shape[axis] ?? 1) + this.below(5) - 2);
    const length = shape.reduce((a, b) => a * b, 1) * (BYTES[dtype] as number);
    const old = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
    return { dtype, shape, data: Uint8Array.from({ length }, (_, i) => old[i] ?? this.below(256)) };
  }

  private flipped(tensor: Tensors[string]): Tensors[string] {
    const data = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength).slice();
    for (let i = 0; i < 1 + this.below(4) && data.length > 0; i++) {
      data[this.below(data.length)] = this.pick([0, 255, 127, 128, 48, 34, this.below(256)]);
    }
    return { ...tensor, data };
  }

  /** A value of a field somewhere in a config, replaced. */
  private changed(config: Json): Json {
    const keys = Object.keys(config);
    if (keys.length === 0) return config;
    const key = this.pick(keys);
    const value = config[key];
    if (typeof value === 'object' && value !== null && !Array.isArray(value) && this.below(6) !== 0) {
      return { ...config, [key]: this.changed(value as Json) };
    }
    const { [key]: _, ...rest } = config;
    return this.below(4) === 0 ? rest : { ...rest, [key]: this.pick(VALUES) };
  }

  mutated({ tensors, config }: Seed): Seed {
    let result: Seed = { tensors: { ...tensors }, config };
    for (let i = 0; i < 1 + this.below(3); i++) {
      const name = this.pick(Object.keys(result.tensors));
      const tensor = result.tensors[name];
      const kind = this.below(9);
      if (kind === 0) {
        const { [name]: _, ...rest } = result.tensors;
        if (Object.keys(rest).length > 0) result = { ...result, tensors: rest };
      } else if (kind === 1) result = { ...result, config: null };
      else if (kind < 4 && result.config !== null) result = { ...result, config: this.changed(result.config as Json) };
      else if (tensor !== undefined) {
        result = {
          ...result,
          tensors: { ...result.tensors, [name]: kind < 7 ? this.reshaped(tensor) : this.flipped(tensor) },
        };
      }
    }
    return result;
  }
}

describe.each([
  ['compressed-tensors', compressedTensors(), 3000],
  ['FP8', fp8(), 1500],
  ['bitsandbytes', bitsandbytes(), 2000],
] as const)('%s: whatever a file holds, it is read or refused with a code', (_, seeds, count) => {
  it('in thousands of mutated layers', async () => {
    const codes = new Map<string, number>();
    for (let seed = 1; seed <= count; seed++) {
      const mutator = new Mutator(seed);
      const { tensors, config } = mutator.mutated(mutator.pick(seeds));
      let code = 'read';
      try {
        for (const weight of await weightsOf(memoryCheckpoint(tensors, config))) {
          if (weight.dtype === null) continue;
          const values = await floats(weight, 1 + mutator.below(weight.rows));
          if (values.length !== weight.rows * weight.columns) throw new Error('values are missing');
        }
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
        if (!/^(LAYOUT_|CONFIG_INVALID)/.test(error.code)) throw new Error(`seed ${seed}: ${error.code}`);
        if (
          !/expected|Expected|does not read|which lowbit|config groups|can be read|does not tell|can mean|target/.test(
            error.message,
          )
        ) {
          throw new Error(`seed ${seed}: ${error.message}`);
        }
        code = error.code;
      }
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    // The mutations reach both ends: most kinds of refusal, and weights that are still read.
    expect(codes.get('read') ?? 0).toBeGreaterThan(count / 20);
    for (const code of ['LAYOUT_MISSING_PART', 'LAYOUT_SHAPE', 'LAYOUT_DTYPE']) {
      expect(codes.get(code) ?? 0, code).toBeGreaterThan(count / 100);
    }
  }, 120_000);
});
