/**
 * The tensors of a checkpoint by name.
 *
 * @module
 */
import type { StoredTensor } from './stored-tensor.js';

/**
 * A map that looks up names only when somebody does: a header can have a million of them, and most readers go through all and
 * ask for none. Names must be different, and the list is not changed.
 */
export class TensorMap extends Map<string, StoredTensor> {
  /** The tensors in order, until the first look-up. */
  private list: readonly StoredTensor[] | null;

  constructor(list: readonly StoredTensor[]) {
    super();
    this.list = list;
  }

  private fill(): void {
    const { list } = this;
    if (list === null) return;
    this.list = null;
    for (const tensor of list) super.set(tensor.name, tensor);
  }

  override get size(): number {
    return this.list?.length ?? super.size;
  }

  override get(name: string): StoredTensor | undefined {
    this.fill();
    return super.get(name);
  }

  override has(name: string): boolean {
    this.fill();
    return super.has(name);
  }

  override set(name: string, tensor: StoredTensor): this {
    this.fill();
    return super.set(name, tensor);
  }

  override delete(name: string): boolean {
    this.fill();
    return super.delete(name);
  }

  override clear(): void {
    this.list = null;
    super.clear();
  }

  override forEach(
    body: (tensor: StoredTensor, name: string, map: Map<string, StoredTensor>) => void,
    self?: unknown,
  ): void {
    for (const [name, tensor] of this) body.call(self, tensor, name, this);
  }

  // What is deleted or added meanwhile must be seen, as with every map: the iteration goes on with the map itself then.

  override *values(): MapIterator<StoredTensor> {
    const { list } = this;
    let next = 0;
    for (; list !== null && this.list === list && next < list.length; next++) yield list[next] as StoredTensor;
    if (list === null || this.list !== list) yield* this.rest(list, next);
  }

  override *keys(): MapIterator<string> {
    for (const { name } of this.values()) yield name;
  }

  override *entries(): MapIterator<[string, StoredTensor]> {
    for (const tensor of this.values()) yield [tensor.name, tensor];
  }

  override [Symbol.iterator](): MapIterator<[string, StoredTensor]> {
    return this.entries();
  }

  /** What is left of an iteration that had got as far as `next` when the list became a map. */
  private *rest(list: readonly StoredTensor[] | null, next: number): Generator<StoredTensor> {
    const seen = list === null ? null : new Set(list.slice(0, next));
    for (const tensor of super.values()) if (seen?.has(tensor) !== true) yield tensor;
  }
}
