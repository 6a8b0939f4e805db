import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { floatsOf } from '../../lib/checkpoint/floats.js';
import { type GgufTensorSpec, writeGguf } from '../../lib/checkpoint/gguf/gguf-writer.js';
import { type GgufValue, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import type { Weight } from '../../lib/checkpoint/weight.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { dequantizeBlocks, quantizeBlocks } from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';

const folder = temporaryFolder();
let count = 0;

type Given = GgufTensorSpec & { data: Uint8Array | Float32Array | Uint16Array };
const f32 = (name: string, shape: number[], data: Float32Array): Given => ({ name, dtype: 'f32', shape, data });
const zeros = (name: string, dtype: string, shape: number[], bytes: number): Given => ({
  name,
  dtype,
  shape,
  data: new Uint8Array(bytes),
});

async function weightsFrom(
  metadata: [string, GgufValue][],
  tensors: Given[],
): Promise<{ weights: Map<string, Weight>; order: string[]; close: () => Promise<void> }> {
  const path = join(folder, `${count++}.gguf`);
  const writer = await writeGguf(path, tensors, new Map(metadata));
  for (const { name, data } of tensors) {
    await writer.write(name, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  await writer.close();
  const checkpoint = await openCheckpoint(path);
  try {
    const weights = await weightsOf(checkpoint);
    return {
      weights: new Map(weights.map((weight) => [weight.name, weight])),
      order: weights.map(({ name }) => name),
      close: () => checkpoint.close(),
    };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

const llama = (heads = 4, headsKv = 2): [string, GgufValue][] => [
  ['general.architecture', ggufValue.string('llama')],
  ['llama.block_count', ggufValue.uint32(1)],
  ['llama.attention.head_count', ggufValue.uint32(heads)],
  ['llama.attention.head_count_kv', ggufValue.uint32(headsKv)],
];

/** The row of the file where row `row` of the Hugging Face model is, after LlamaModel.permute of llama.cpp. */
function storedRow(row: number, headRows: number): number {
  const [head, inner] = [Math.floor(row / headRows), row % headRows];
  const half = headRows / 2;
  return head * headRows + (inner % half) * 2 + Math.floor(inner / half);
}

describe('names', () => {
  it('of Llama are those of Hugging Face, unknown ones stay', async () => {
    const tensors = [
      'token_embd.weight',
      'rope_freqs.weight',
      'blk.0.attn_norm.weight',
      'blk.0.ffn_gate.weight',
      'blk.0.attn_output.bias',
      'blk.0.attn_q_norm.weight',
      'blk.00.ffn_up.weight',
      'blk.0.ffn_up',
      'output_norm.weight',
      'output.weight',
    ].map((name) => f32(name, [2], new Float32Array(2)));
    const { order, close } = await weightsFrom(llama(), tensors);
    expect(order).toEqual([
      'model.embed_tokens.weight',
      'rope_freqs.weight',
      'model.layers.0.input_layernorm.weight',
      'model.layers.0.mlp.gate_proj.weight',
      'model.layers.0.self_attn.o_proj.bias',
      'blk.0.attn_q_norm.weight',
      'blk.00.ffn_up.weight',
      'blk.0.ffn_up',
      'model.norm.weight',
      'lm_head.weight',
    ]);
    await close();
  });

  it('of Qwen3 have norms of query and key, rows as they are', async () => {
    const rows = Float32Array.from({ length: 16 }, (_, i) => i);
    const { weights, close } = await weightsFrom(
      [['general.architecture', ggufValue.string('qwen3')]],
      [f32('blk.3.attn_q_norm.weight', [2], new Float32Array(2)), f32('blk.3.attn_q.weight', [8, 2], rows)],
    );
    expect([...weights.keys()]).toEqual([
      'model.layers.3.self_attn.q_norm.weight',
      'model.layers.3.self_attn.q_proj.weight',
    ]);
    const block = await weights.get('model.layers.3.self_attn.q_proj.weight')?.read(0, 8, new Scratch());
    expect(Array.from((block as { data: Float32Array }).data)).toEqual(Array.from(rows));
    await close();
  });

  it.each([[[]], [[['general.architecture', ggufValue.string('mamba')]]]] as [string, GgufValue][][][])(
    'of unknown architectures stay',
    async (metadata) => {
      const { order, close } = await weightsFrom(metadata, [f32('token_embd.weight', [2], new Float32Array(2))]);
      expect(order).toEqual(['token_embd.weight']);
      await close();
    },
  );
});

describe('rows of query and key', () => {
  it('are in the order of Hugging Face, whatever their type', async () => {
    const [columns, headRows] = [64, 8];
    const q = normal(4 * headRows * columns, 1);
    const k = normal(2 * headRows * columns, 2);
    const bias = Float32Array.from({ length: 4 * headRows }, (_, i) => i);
    const blocks = quantizeBlocks(k, { type: 'q5_1', rowLength: columns });
    const { weights, close } = await weightsFrom(llama(4, 2), [
      f32('blk.0.attn_q.weight', [4 * headRows, columns], q),
      { name: 'blk.0.attn_k.weight', dtype: 'q5_1', shape: [2 * headRows, columns], data: blocks },
      f32('blk.0.attn_q.bias', [4 * headRows], bias),
    ]);
    const qProj = weights.get('model.layers.0.self_attn.q_proj.weight') as Weight;
    expect(qProj.rowStep).toBe(headRows);
    const scratch = new Scratch();
    for (const [begin, end] of [
      [0, 32],
      [8, 24],
    ] as const) {
      const got = await floatsOf(await qProj.read(begin, end, scratch), (end - begin) * columns, columns, scratch);
      for (let row = begin; row < end; row++) {
        const stored = storedRow(row, headRows) * columns;
        expect(
          sameBytes(
            got.subarray((row - begin) * columns, (row - begin + 1) * columns),
            q.subarray(stored, stored + columns),
          ),
        ).toBe(true);
      }
    }
    const kProj = weights.get('model.layers.0.self_attn.k_proj.weight') as Weight;
    expect(kProj.encoding).toEqual({ format: 'gguf', dtype: 'q5_1', groupSize: 32, traits: [] });
    const kRows = await floatsOf(await kProj.read(0, 16, scratch), 16 * columns, columns, scratch);
    const decoded = dequantizeBlocks(blocks, { type: 'q5_1', rowLength: columns });
    for (let row = 0; row < 16; row++) {
      const stored = storedRow(row, headRows) * columns;
      expect(
        sameBytes(kRows.subarray(row * columns, (row + 1) * columns), decoded.subarray(stored, stored + columns)),
      ).toBe(true);
    }
    await expect(qProj.read(0, 4, scratch)).rejects.toThrow('no whole heads');
    await close();
  });

  it('a bias is one row of as many columns, in order too', async () => {
    const bias = Float32Array.from({ length: 32 }, (_, i) => i);
    const { weights, close } = await weightsFrom(llama(4, 2), [f32('blk.0.attn_q.bias', [32], bias)]);
    const weight = weights.get('model.layers.0.self_attn.q_proj.bias') as Weight;
    const block = await weight.read(0, weight.rows, new Scratch());
    expect(Array.from((block as { data: Float32Array }).data)).toEqual(
      Array.from({ length: 32 }, (_, row) => bias[storedRow(row, 8)]),
    );
    await close();
  });

  it.each([
    ['no count of heads', llama().slice(0, 2)],
    ['rows that are no whole heads', llama(5, 5)],
    ['an odd head', llama(16, 16)],
    ['no heads', llama(0, 0)],
  ])('are refused with %s', async (_, metadata) => {
    const q = f32('blk.0.attn_q.weight', [16, 2], new Float32Array(32));
    await expect(weightsFrom(metadata, [q])).rejects.toMatchObject({ code: 'LAYOUT_INVALID', tensor: q.name });
  });

  it('follow counts of heads for each layer', async () => {
    const metadata: [string, GgufValue][] = [
      ['general.architecture', ggufValue.string('llama')],
      ['llama.block_count', ggufValue.uint32(2)],
      ['llama.attention.head_count', ggufValue.int32s(Int32Array.of(2, 4))],
    ];
    const q = (layer: number) => f32(`blk.${layer}.attn_q.weight`, [16, 2], new Float32Array(32));
    const { weights, close } = await weightsFrom(metadata, [q(0), q(1)]);
    expect([...weights.values()].map(({ rowStep }) => rowStep)).toEqual([8, 4]);
    await close();
    metadata[2] = ['llama.attention.head_count', ggufValue.int32s(Int32Array.of(2))];
    await expect(weightsFrom(metadata, [q(0)])).rejects.toMatchObject({ code: 'GGUF_METADATA_TYPE' });
    metadata[2] = ['llama.attention.head_count', ggufValue.string('2')];
    await expect(weightsFrom(metadata, [q(0)])).rejects.toMatchObject({ code: 'GGUF_METADATA_TYPE' });
  });
});

describe('types', () => {
  it('floats, blocks, and what can only be listed', async () => {
    const { weights, close } = await weightsFrom(
      [],
      [
        zeros('f16', 'f16', [2, 3], 12),
        zeros('bf16', 'bf16', [2, 3], 12),
        zeros('q6_k', 'q6_k', [2, 256], 420),
        zeros('mxfp4', 'mxfp4', [2, 32], 34),
        zeros('iq2_xxs', 'iq2_xxs', [2, 256], 132),
        zeros('i32', 'i32', [3], 12),
      ],
    );
    expect([...weights.values()].map(({ encoding, dtype }) => [encoding.format, encoding.dtype, dtype])).toEqual([
      ['float', 'float16', 'float16'],
      ['float', 'bfloat16', 'bfloat16'],
      ['gguf', 'q6_k', 'float16'],
      ['gguf', 'mxfp4', 'bfloat16'],
      ['other', 'iq2_xxs', null],
      ['other', 'i32', null],
    ]);
    await expect(weights.get('q6_k')?.read(0, 2, new Scratch())).resolves.toMatchObject({
      kind: 'blocks',
      type: 'q6_k',
    });
    await expect(weights.get('iq2_xxs')?.read(0, 2, new Scratch())).rejects.toMatchObject({
      code: 'GGUF_TYPE_NOT_DECODABLE',
      tensor: 'iq2_xxs',
    });
    await expect(weights.get('i32')?.read(0, 1, new Scratch())).rejects.toThrow('i32');
    await close();
  });

  it('NVFP4 with a scale beside it', async () => {
    const values = normal(4 * 64, 5);
    const data = quantizeBlocks(values, { type: 'nvfp4', rowLength: 64 });
    const blocks: Given = { name: 'w.weight', dtype: 'nvfp4', shape: [4, 64], data };
    const { weights, order, close } = await weightsFrom([], [blocks, f32('w.scale', [1], Float32Array.of(0.75))]);
    expect(order).toEqual(['w.weight']);
    const weight = weights.get('w.weight') as Weight;
    expect(weight.parts.map(({ name }) => name)).toEqual(['w.weight', 'w.scale']);
    const scratch = new Scratch();
    const got = await floatsOf(await weight.read(1, 4, scratch), 3 * 64, 64, scratch);
    const expected = dequantizeBlocks(data, { type: 'nvfp4', rowLength: 64 }).map((value) => value * 0.75);
    expect(sameBytes(got, expected.subarray(64))).toBe(true);
    await close();
    await expect(weightsFrom([], [blocks, f32('w.scale', [2], new Float32Array(2))])).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      tensor: 'w.scale',
    });
  });

  it('two tensors of one name are refused', async () => {
    const twice = ['output_norm.weight', 'model.norm.weight'].map((name) => f32(name, [1], new Float32Array(1)));
    await expect(weightsFrom(llama(), twice)).rejects.toMatchObject({ code: 'LAYOUT_INVALID' });
  });
});
