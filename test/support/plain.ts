/** Affine quantization written down once more, element by element in float64 and Math.fround: the judge of properties. */

export interface Code {
  readonly lowest: number;
  readonly highest: number;
}

/** The integer nearest to x, ties to the even one. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest === 0.5) return floor % 2 === 0 ? floor : floor + 1;
  return rest < 0.5 ? floor : floor + 1;
}

export function quantizeOne(x: number, scale: number, zeroPoint: number, { lowest, highest }: Code): number {
  const code = roundHalfEven(Math.fround(x / scale)) + zeroPoint;
  return Math.min(highest, Math.max(lowest, code));
}

export function symmetricScale(values: Iterable<number>, bits: number): number {
  let largest = 0;
  for (const v of values) largest = Math.max(largest, Math.abs(v));
  return largest === 0 ? 1 : Math.fround(largest / (2 ** (bits - 1) - 1));
}

export function asymmetricParameters(
  values: Iterable<number>,
  { lowest, highest }: Code,
): { scale: number; zeroPoint: number } {
  let min = 0;
  let max = 0;
  for (const v of values) {
    min = Math.min(min, v);
    max = Math.max(max, v);
  }
  if (min === max) return { scale: 1, zeroPoint: lowest };
  const scale = Math.fround(Math.fround(max - min) / (highest - lowest));
  const position = Math.fround(lowest - Math.fround(min / scale));
  return { scale, zeroPoint: Math.min(highest, Math.max(lowest, roundHalfEven(position))) + 0 };
}
