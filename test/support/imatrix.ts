/** An importance matrix of the bundled model that came of no text: the same numbers on every machine. */
import type { ImportanceEntry, ImportanceMatrix } from '../../lib/index.js';

/** Numbers in [0, 1), exact in float32. */
function* uniform(seed: number): Generator<number, never> {
  for (let state = seed >>> 0; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield (state >>> 8) / 2 ** 24;
  }
}

/** Every matrix of each layer of a Llama; a few inputs count a lot, some not at all. */
export function bundledImportance(layers = 6, hidden = 256, inner = 768): ImportanceMatrix {
  const entries = new Map<string, ImportanceEntry>();
  const numbers = uniform(1);
  const kinds = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'];
  for (let layer = 0; layer < layers; layer++) {
    for (const kind of kinds) {
      const sums = Float32Array.from({ length: kind === 'ffn_down' ? inner : hidden }, (_, i) => {
        const value = numbers.next().value;
        return i % 61 === 0 ? 0 : value ** 4 * (i % 37 === 0 ? 4096 : 64);
      });
      entries.set(`blk.${layer}.${kind}.weight`, { sums, counts: [37] });
    }
  }
  return { entries, datasets: ['some/text.txt'], chunkCount: 3, chunkSize: 512 };
}
