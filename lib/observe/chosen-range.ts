/**
 * The range that an observer's method chooses.
 *
 * @module
 */
import type { CodeType, IntDtype } from '../dtype.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import { entropyCut, leastSquaresRange, percentileBin, type ValueRange } from './histogram.js';
import type { Seen } from './seen.js';

/** The far edge of the bin, counting from zero, in which the percentile lies. */
function percentileEnd(seen: Seen, counts: Float64Array, channel: number): number {
  return (percentileBin(counts, seen.settings.percentile) + 1) * seen.width(channel);
}

/** Either end by itself, on the bins from one end of the grid to the other. */
function percentiles(seen: Seen, channel: number, { min, max }: ValueRange): ValueRange {
  const table = seen.table(channel);
  const end = (counts: Float64Array) => percentileEnd(seen, counts, channel) - (table.length / 2) * seen.width(channel);
  return {
    min: Math.min(0, Math.max(min, -end(table.slice().reverse()))),
    max: Math.max(0, Math.min(max, end(table))),
  };
}

/** @internal The range by the method, within that of the values, and containing zero. */
export function chosenRange(seen: Seen, channel: number, dtype: IntDtype, code: CodeType, scheme: Scheme): ValueRange {
  const { method, bins } = seen.settings;
  const [min, max] = [Math.min(0, seen.min[channel] as number), Math.max(0, seen.max[channel] as number)];
  const within = (amax: number) => ({ min: Math.max(min, -amax), max: Math.min(max, amax) });
  switch (method) {
    case 'percentile':
      return scheme === 'symmetric'
        ? within(percentileEnd(seen, seen.magnitudes(channel), channel))
        : percentiles(seen, channel, { min, max });
    case 'mse': {
      const [half, width] = [bins / 2, seen.width(channel)];
      const centers = Float64Array.from({ length: 2 * half }, (_, i) => (i - half + 0.5) * width);
      return leastSquaresRange(seen.table(channel), centers, { min, max }, dtype, scheme);
    }
    case 'entropy': {
      const magnitudes = seen.magnitudes(channel);
      const used = magnitudes.subarray(0, magnitudes.findLastIndex((count) => count > 0) + 1);
      const unsigned = scheme === 'asymmetric' && (min === 0 || max === 0);
      const cut = entropyCut(used, 2 ** (unsigned ? code.bits : code.bits - 1), 1, Math.min(128, used.length));
      return within(cut * seen.width(channel));
    }
    default:
      return { min, max };
  }
}
