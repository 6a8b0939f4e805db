/**
 * Tensors of GGUF files, as small as can be: headers may describe millions of them.
 *
 * @module
 */
import type { FileHandle } from 'node:fs/promises';
import { readFully } from '../file.js';
import type { StoredTensor } from '../stored-tensor.js';

/** Where the tensors of a file lie and how they are read: one for all of them. */
export interface Home {
  readonly path: string;
  readonly handle: FileHandle | null;
  dataPosition: number;
}

/** A tensor of a GGUF file. */
export class GgufTensor implements StoredTensor {
  constructor(
    readonly name: string,
    readonly dtype: string,
    readonly shape: readonly number[],
    readonly bytes: number,
    private readonly offset: number,
    private readonly home: Home,
  ) {}

  get path(): string {
    return this.home.path;
  }

  get position(): number {
    return this.home.dataPosition + this.offset;
  }

  async read(begin: number, into: Uint8Array): Promise<void> {
    const { path, handle } = this.home;
    if (handle === null) throw new RangeError(`${path} is not open`);
    await readFully(path, handle, this.position + begin, into, this.name);
  }
}

/** A 64-bit number; those past 2^53 come out as one that no limit admits. */
export function uint64At(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

/** The shapes that were read last: layers repeat a few, and headers may have millions of tensors. */
export class Shapes {
  private readonly recent: (readonly number[])[] = [];
  private oldest = 0;

  /** The shape whose dimensions lie at `dims`, the innermost first; equal ones are one array. */
  at(view: DataView, dims: number, axes: number): readonly number[] {
    for (const shape of this.recent) {
      if (shape.length !== axes) continue;
      let axis = 0;
      while (axis < axes && uint64At(view, dims + 8 * axis) === shape[axes - 1 - axis]) axis++;
      if (axis === axes) return shape;
    }
    const fresh = Array.from({ length: axes }, (_, axis) => uint64At(view, dims + 8 * (axes - 1 - axis)));
    this.recent[this.oldest] = Object.freeze(fresh);
    this.oldest = (this.oldest + 1) % 16;
    return fresh;
  }
}
