/**
 * How a decoder is named and stored in GGUF: names of tensors both ways, and the order of the rows of query and key.
 *
 * Sources: llama.cpp, `gguf-py/gguf/tensor_mapping.py`, `convert_hf_to_gguf.py` (`LlamaModel.permute`) and
 * `src/models/*.cpp` (2025 and 2026).
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import type { Json } from '../checkpoint.js';

/** An architecture of llama.cpp that Hugging Face models can be turned into. */
export interface Architecture {
  /** `general.architecture`. */
  readonly name: 'llama' | 'qwen2' | 'qwen3';
  /**
   * Whether rows of query and key are stored in pairs (0, D/2, 1, D/2 + 1 …) instead of halves, as llama.cpp's rotary
   * embedding for this architecture takes neighbours where Hugging Face's takes elements half a head apart.
   */
  readonly pairsRows: boolean;
}

const ARCHITECTURES: ReadonlyMap<string, Architecture> = new Map(
  (
    [
      { name: 'llama', pairsRows: true },
      { name: 'qwen2', pairsRows: false },
      { name: 'qwen3', pairsRows: false },
    ] as const
  ).map((architecture) => [architecture.name, architecture]),
);

/** Hugging Face's classes, and the architecture that each one is in GGUF. */
const CLASSES: Readonly<Record<string, Architecture['name']>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'llama',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};
const MODEL_TYPES: Readonly<Record<string, Architecture['name']>> = {
  llama: 'llama',
  mistral: 'llama',
  qwen2: 'qwen2',
  qwen3: 'qwen3',
};

/** The architecture of a GGUF file, or null if names are not known for it. */
export function architectureNamed(name: string | undefined): Architecture | null {
  return ARCHITECTURES.get(name ?? '') ?? null;
}

/**
 * The architecture that a Hugging Face model becomes.
 *
 * @param config - config.json.
 * @throws {@link CheckpointError} `GGUF_UNKNOWN_ARCHITECTURE`, which names the architecture.
 */
export function architectureOf(config: Json, path: string): Architecture {
  const classes = config['architectures'];
  const [named] = Array.isArray(classes) ? (classes as unknown[]) : [];
  const type = config['model_type'];
  const found =
    typeof named === 'string'
      ? Object.hasOwn(CLASSES, named) && CLASSES[named]
      : typeof type === 'string' && Object.hasOwn(MODEL_TYPES, type) && MODEL_TYPES[type];
  if (typeof found === 'string') return ARCHITECTURES.get(found) as Architecture;
  const given = typeof named === 'string' ? named : typeof type === 'string' ? type : 'not named in config.json';
  const message =
    `The architecture of ${path} is ${given}. ` +
    `Expected one that can be written as GGUF: ${Object.keys(CLASSES).join(', ')}.`;
  throw new CheckpointError('GGUF_UNKNOWN_ARCHITECTURE', message, { path });
}

/** Names outside the layers, and inside one: Hugging Face's → GGUF's. */
const WHOLE: readonly (readonly [string, string])[] = [
  ['model.embed_tokens', 'token_embd'],
  ['model.norm', 'output_norm'],
  ['lm_head', 'output'],
];
const LAYER: readonly (readonly [string, string])[] = [
  ['input_layernorm', 'attn_norm'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.o_proj', 'attn_output'],
  ['self_attn.q_norm', 'attn_q_norm'],
  ['self_attn.k_norm', 'attn_k_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
];

const WHOLE_TO_GGUF = new Map(WHOLE);
const LAYER_TO_GGUF = new Map(LAYER);
const WHOLE_TO_HF = new Map(WHOLE.map(([hf, gguf]) => [gguf, hf]));
const LAYER_TO_HF = new Map(LAYER.map(([hf, gguf]) => [gguf, hf]));

const HF_LAYER = /^model\.layers\.(0|[1-9]\d*)\.(.+)\.(weight|bias)$/;
const GGUF_LAYER = /^blk\.(0|[1-9]\d*)\.(.+)\.(weight|bias)$/;
const ENDING = /^(.+)\.(weight|bias)$/;

/** Only Qwen3 has norms of query and key. */
const isKnown = ({ name }: Architecture, gguf: string) => name === 'qwen3' || !/^attn_[qk]_norm$/.test(gguf);

/** The GGUF name of a tensor of a Hugging Face model, or null if there is none. */
export function ggufNameOf(architecture: Architecture, hfName: string): string | null {
  const layer = HF_LAYER.exec(hfName);
  if (layer !== null) {
    const [, number, inner, ending] = layer as unknown as [string, string, string, string];
    const name = LAYER_TO_GGUF.get(inner);
    return name === undefined || !isKnown(architecture, name) ? null : `blk.${number}.${name}.${ending}`;
  }
  const [, outer = '', ending] = ENDING.exec(hfName) ?? [];
  const name = WHOLE_TO_GGUF.get(outer);
  return name === undefined ? null : `${name}.${ending}`;
}

/** The Hugging Face name of a tensor of a GGUF file, or null if there is none. */
export function hfNameOf(architecture: Architecture, ggufName: string): string | null {
  const layer = GGUF_LAYER.exec(ggufName);
  if (layer !== null) {
    const [, number, inner, ending] = layer as unknown as [string, string, string, string];
    const name = LAYER_TO_HF.get(inner);
    return name === undefined || !isKnown(architecture, inner) ? null : `model.layers.${number}.${name}.${ending}`;
  }
  const [, outer = '', ending] = ENDING.exec(ggufName) ?? [];
  const name = WHOLE_TO_HF.get(outer);
  return name === undefined ? null : `${name}.${ending}`;
}

/** Tensors of Hugging Face models that hold nothing of their own: they follow from the config. */
export function isDerived(hfName: string): boolean {
  return hfName.endsWith('.rotary_emb.inv_freq');
}

/** Which of query and key a GGUF tensor belongs to, and its layer; null if to neither. */
export function queryOrKey(ggufName: string): { part: 'q' | 'k'; layer: number } | null {
  const match = /^blk\.(\d+)\.attn_([qk])\.(?:weight|bias)$/.exec(ggufName);
  return match === null ? null : { part: match[2] as 'q' | 'k', layer: Number(match[1]) };
}

function moveRows(
  from: Uint8Array,
  to: Uint8Array,
  rowBytes: number,
  headRows: number,
  place: (row: number) => number,
): void {
  const places = Array.from({ length: headRows }, (_, row) => place(row));
  for (let head = 0; head < from.length; head += headRows * rowBytes) {
    for (let row = 0; row < headRows; row++) {
      const begin = head + row * rowBytes;
      to.set(from.subarray(begin, begin + rowBytes), head + (places[row] as number) * rowBytes);
    }
  }
}

/**
 * Rows of query or key in the order of GGUF: row `i` of the first half of a head becomes `2i`, of the second half `2i + 1`.
 *
 * @param from - Whole heads, of `headRows` rows each, in any encoding whose rows have `rowBytes` bytes.
 * @param to - As long; it must not overlap `from`.
 * @param headRows - The head dimension, an even number.
 */
export function pairRows(from: Uint8Array, to: Uint8Array, rowBytes: number, headRows: number): void {
  const half = headRows / 2;
  moveRows(from, to, rowBytes, headRows, (row) => (row < half ? 2 * row : 2 * (row - half) + 1));
}

/** The reverse of {@link pairRows}: rows of GGUF in the order of Hugging Face. */
export function unpairRows(from: Uint8Array, to: Uint8Array, rowBytes: number, headRows: number): void {
  const half = headRows / 2;
  moveRows(from, to, rowBytes, headRows, (row) => (row % 2 === 0 ? row / 2 : half + (row - 1) / 2));
}
