/**
 * The rows of an embedding.
 *
 * @module
 */
import { Scratch } from '../checkpoint/scratch.js';
import type { Weight } from '../checkpoint/weight.js';
import { rowsOf } from './linear-layer.js';
import { Loader } from './loader.js';
import { Remembered } from './remembered.js';

/** Tables up to this size are kept in float32; of larger ones rows are read from the file when they are asked for. */
export const TABLE_BYTES = 64 * 2 ** 20;

/** Looks rows up. */
export class Embedding {
  private readonly table = new Remembered(() => rowsOf(this.weight, 0, this.weight.rows, new Scratch()));
  private readonly loader = new Loader();

  constructor(
    private readonly weight: Weight,
    private readonly keepsTable: boolean,
  ) {}

  /** `[tokens, columns]` */
  async rows(tokens: Int32Array): Promise<Float32Array> {
    const { weight } = this;
    const { rows, columns } = weight;
    const out = new Float32Array(tokens.length * columns);
    if (this.keepsTable && rows * columns * 4 <= TABLE_BYTES) {
      const table = await this.table.get();
      for (const [i, token] of tokens.entries()) {
        out.set(table.subarray(token * columns, (token + 1) * columns), i * columns);
      }
      return out;
    }
    await this.loader.run((scratch) => this.read(tokens, out, scratch));
    return out;
  }

  private async read(tokens: Int32Array, out: Float32Array, scratch: Scratch): Promise<void> {
    const { rows, columns, rowStep } = this.weight;
    const places = new Map<number, number>();
    for (const [i, token] of tokens.entries()) {
      const known = places.get(token);
      if (known !== undefined) {
        out.copyWithin(i * columns, known * columns, (known + 1) * columns);
        continue;
      }
      places.set(token, i);
      const begin = token - (token % rowStep);
      const block = await rowsOf(this.weight, begin, Math.min(begin + rowStep, rows), scratch);
      out.set(block.subarray((token - begin) * columns, (token - begin + 1) * columns), i * columns);
    }
  }
}
