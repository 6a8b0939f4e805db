/**
 * What a weight becomes, put together in memory before it is written: where a layout stores weights transposed, a block of rows is
 * a strip of every stored row, and to write each by itself would take a thousand calls a block.
 *
 * @module
 */
import type { Piece } from '../checkpoint/layouts/layout.js';
import type { OutputTensor } from './task.js';

export class Gathered {
  private readonly places = new Map<string, Uint8Array>();

  /** @param memory - As large as all outputs together, or larger. */
  constructor(
    outputs: readonly OutputTensor[],
    readonly memory: Uint8Array,
  ) {
    let begin = 0;
    for (const { name, bytes } of outputs) {
      this.places.set(name, memory.subarray(begin, begin + bytes));
      begin += bytes;
    }
  }

  add({ tensor, begin, data, rowBytes = data.length, stride = rowBytes }: Piece): void {
    const place = this.places.get(tensor) as Uint8Array;
    for (let from = 0, to = begin; from < data.length; from += rowBytes, to += stride) {
      place.set(data.subarray(from, from + rowBytes), to);
    }
  }

  /** The whole tensors, by name. */
  get tensors(): Iterable<[string, Uint8Array]> {
    return this.places;
  }
}
