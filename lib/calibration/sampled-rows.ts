/**
 * Which rows of activations are kept as they are: those with the smallest keys, which depend on nothing but where a row comes
 * from. So the sample of many windows is the same however they were divided.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { comparePlaces, type WindowPlace } from './windows.js';

/** A row of activations: of a window, at a position. */
export interface SampledRow extends WindowPlace {
  readonly position: number;
}

interface Keyed extends SampledRow {
  readonly key: number;
}

function mixed(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** The keys of a window's rows, by position. */
function keysOf({ text, start }: WindowPlace): (position: number) => number {
  const hash = createHash('sha256').update(`${text}:${start}`).digest();
  const [a, b] = [hash.readInt32LE(0), hash.readInt32LE(4)];
  return (position) => mixed(a ^ mixed(position)) * 2 ** 21 + (mixed(b ^ mixed(~position)) >>> 11);
}

function inOrder(a: Keyed, b: Keyed): number {
  return a.key - b.key || comparePlaces(a, b) || a.position - b.position;
}

/** The `count` rows with the smallest keys of all rows of windows, smallest first. */
export function sampleRows(places: readonly WindowPlace[], windowLength: number, count: number): SampledRow[] {
  let best: Keyed[] = [];
  let worst = Number.POSITIVE_INFINITY;
  const reduce = () => {
    best = best.sort(inOrder).slice(0, count);
    if (best.length === count) worst = best.at(-1)?.key ?? worst;
  };
  for (const { text, start } of places) {
    const keyOf = keysOf({ text, start });
    for (let position = 0; position < windowLength; position++) {
      const key = keyOf(position);
      if (key <= worst) best.push({ text, start, position, key });
    }
    if (best.length > 4 * count) reduce();
  }
  reduce();
  return best.map(({ text, start, position }) => ({ text, start, position }));
}
