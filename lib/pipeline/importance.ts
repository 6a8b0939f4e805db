/**
 * An importance matrix for the tensors of a GGUF file: which of them it weighs, and what the file says of it.
 *
 * Source: llama.cpp, `src/llama-quant.cpp` and `tools/quantize/quantize.cpp` (2026).
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { type ImportanceMatrix, importanceOf, readImatrix } from '../checkpoint/gguf/imatrix.js';
import { type GgufValue, ggufValue } from '../checkpoint/gguf/metadata.js';
import type { GgufRecipe } from '../checkpoint/gguf/recipes.js';
import { CheckpointError } from '../errors.js';

/** A tensor that will be quantized. */
export interface QuantizedPlace {
  /** GGUF's name. */
  readonly name: string;
  readonly type: string;
  readonly columns: number;
}

/** Tensors of which the usual importance matrix has nothing; they are quantized without. */
const OFTEN_MISSING: ReadonlySet<string> = new Set(['token_embd.weight', 'output.weight']);

/** What a file takes of a long text: llama-quantize has 128 bytes for it, with the end of the string. */
function short(text: string): string {
  let end = Math.min(text.length, 127); // a unit of UTF-16 is at least a byte
  while (Buffer.byteLength(text.slice(0, end)) > 127) end--;
  return text.slice(0, end).replace(/[\uD800-\uDBFF]$/, '');
}

/** Refuses what comes out useless without importance, as llama-quantize does. */
export function checkNeeded(
  recipe: GgufRecipe,
  places: readonly QuantizedPlace[],
  importance: ReadonlyMap<string, Float32Array>,
  path: string,
): void {
  if (recipe !== 'q2_k_s') return;
  const without = places.filter(
    ({ name, type }) => type === 'q2_k' && name !== 'token_embd.weight' && !importance.has(name),
  );
  const [first] = without;
  if (first === undefined) return;
  const message =
    `q2_k_s needs an importance for ${without.length} tensors of ${path} that it makes q2_k, ${first.name} the first: ` +
    'without, the model would be useless. Pass imatrix (--imatrix), or choose q2_k.';
  throw new CheckpointError('IMATRIX_REQUIRED', message, { path, tensor: first.name });
}

/** An importance matrix in use. */
export class Importance {
  private constructor(
    private readonly matrix: ImportanceMatrix,
    /** The file it was read from, or null. */
    private readonly path: string | null,
  ) {}

  /** @throws {@link CheckpointError} if a file is no importance matrix. */
  static async from(source: string | ImportanceMatrix | undefined): Promise<Importance | null> {
    if (source === undefined) return null;
    return typeof source === 'string'
      ? new Importance(await readImatrix(source), source)
      : new Importance(source, null);
  }

  /** Decides the bytes of a result, as SHA-256. */
  get hash(): string {
    const hash = createHash('sha256');
    for (const [name, { sums, counts }] of [...this.matrix.entries].sort(([a], [b]) => (a < b ? -1 : 1))) {
      hash.update(JSON.stringify([name, sums.length, counts]));
      hash.update(new Uint8Array(sums.buffer, sums.byteOffset, sums.byteLength));
    }
    return hash.digest('hex');
  }

  /** What llama-quantize writes of it. */
  get metadata(): [string, GgufValue][] {
    const { entries, datasets, chunkCount } = this.matrix;
    const [dataset] = datasets;
    return [
      ...(this.path === null
        ? []
        : [['quantize.imatrix.file', ggufValue.string(short(this.path))] as [string, GgufValue]]),
      ...(dataset === undefined
        ? []
        : [['quantize.imatrix.dataset', ggufValue.string(short(dataset))] as [string, GgufValue]]),
      ['quantize.imatrix.entries_count', ggufValue.uint32(entries.size)],
      ...(chunkCount === 0
        ? []
        : [['quantize.imatrix.chunks_count', ggufValue.uint32(chunkCount)] as [string, GgufValue]]),
    ];
  }

  /**
   * The importance of each column, by tensor.
   *
   * @throws {@link CheckpointError} `IMATRIX_MISMATCH` with every tensor that it lacks or has another size for.
   */
  of(places: readonly QuantizedPlace[], model: string): Map<string, Float32Array> {
    const found = new Map<string, Float32Array>();
    const wrong: string[] = [];
    for (const { name, columns } of places) {
      const entry = this.matrix.entries.get(name);
      if (entry === undefined) {
        if (!OFTEN_MISSING.has(name)) wrong.push(`${name}: it is missing`);
      } else if (entry.sums.length === columns) {
        found.set(name, importanceOf(entry));
      } else if (name !== 'token_embd.weight') {
        wrong.push(`${name}: it has ${entry.sums.length} values for ${columns} columns`);
      }
    }
    if (wrong.length === 0) return found;
    const path = this.path ?? 'the importance matrix';
    const list = wrong.slice(0, 20).join('\n  ');
    const more = wrong.length > 20 ? `\n  and ${wrong.length - 20} more` : '';
    const message = `${path} does not belong to ${model}:\n  ${list}${more}\nMake one of this very model with llama-imatrix.`;
    throw new CheckpointError('IMATRIX_MISMATCH', message, { path, tensor: wrong[0]?.split(':')[0] });
  }
}
