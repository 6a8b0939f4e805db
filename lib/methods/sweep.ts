/**
 * The addon's call behind the methods that quantize a weight column by column: ranges of groups, then codes, with or without
 * making up for the errors of earlier columns.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { CPU } from '../device/device.js';
import { DeviceCall } from '../device/device-call.js';
import type { IntDtype } from '../dtype.js';
import { ScaleOverflowError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import { emptyTensor, nonFinite, type Target } from './method.js';

/** Whose rules make scales and zero points: lowbit's, or those of the GPTQ code. */
export type Convention = 'affine' | 'gptq';

/** @internal */
export const CONVENTIONS = ['affine', 'gptq'] as const;

/** @internal */
export interface Sweep {
  /** A device's number, or {@link CPU}. */
  readonly device: number;
  /** [K, K] */
  readonly gram: Float32Array | null;
  /** Columns in the order in which they are quantized. */
  readonly order: Int32Array | null;
  /** The group of each, in that order. */
  readonly groups: Int32Array;
  readonly groupCount: number;
  readonly staticRanges: boolean;
  readonly zeroDead: boolean;
  /** Whether static ranges see such columns as they were. */
  readonly rangesWithDead: boolean;
  readonly block: number;
  readonly damp: number;
  readonly dampStep: number;
  readonly convention: Convention;
  /** Whether ranges are searched for. */
  readonly search: boolean;
  /** What weighs errors of that search: nothing, the diagonal of the Cholesky factor, or numbers for the columns. */
  readonly importance: Float32Array | 'factor' | null;
  readonly codesInOrder: boolean;
  /** Static ranges: how often columns are quantized, each time with the ranges of what the time before made of them. */
  readonly passes: number;
}

/** @internal */
export interface Swept {
  readonly tensor: QuantizedTensor<IntDtype>;
  readonly loss: number;
  readonly damp: number;
}

/** The factors by which a range is shrunk: 1.00, 0.99, … 0.21, as float32. */
function shrinking(convention: Convention): Float32Array {
  const factors = new Float32Array(80);
  for (let i = 0; i < 80; i++) {
    factors[i] = convention === 'gptq' ? 1 - i / 100 : 1 - Math.fround(i / 100);
  }
  return factors;
}

/** @internal Null if the Gram matrix is not positive definite, whatever is added to its diagonal. */
export async function sweep(t: Target, s: Sweep): Promise<Swept | null> {
  const tensor = emptyTensor(t);
  const { rows, columns, layout } = t;
  const { bits, signed } = layout.code;
  const symmetric = t.scheme === 'symmetric';
  t.signal?.throwIfAborted();
  if (rows === 0 || columns === 0) return { tensor, loss: 0, damp: s.damp };
  const record = Float64Array.of(
    rows,
    columns,
    s.groupCount,
    s.staticRanges ? 1 : 0,
    s.zeroDead ? 1 : 0,
    s.rangesWithDead ? 1 : 0,
    s.block,
    s.damp,
    s.dampStep,
    bits,
    signed ? 1 : 0,
    t.lowest,
    t.highest,
    s.convention === 'gptq' ? 1 : 0,
    symmetric ? 1 : 0,
    signed ? 0 : 2 ** (bits - 1),
    signed ? t.highest : 2 ** (bits - 1) - 1,
    t.scaleType,
    s.importance === null ? 0 : s.importance === 'factor' ? 2 : 1,
    s.convention === 'gptq' ? 1 : 0,
    s.codesInOrder ? 1 : 0,
    s.passes,
  );
  const importance = s.importance instanceof Float32Array ? s.importance : null;
  const factors = s.search ? shrinking(s.convention) : Float32Array.of(1);
  const result = new Float64Array(2);
  const { scales, zeroPoints, data } = tensor;
  const run = async () => {
    if (s.device !== CPU) {
      const call = new DeviceCall(s.device, 'deviceGptq', (on) => [
        record,
        on.reads(t.weight),
        s.gram === null ? null : on.reads(s.gram),
        s.order,
        s.groups,
        factors,
        importance,
        on.writes(scales, true),
        zeroPoints === null ? null : on.writes(zeroPoints, true),
        on.writes(data, true),
        result,
      ]);
      return call.later(t.signal, (error, seen) => explained(error, t, seen(t.weight), seen(s.gram)));
    }
    const weight = detachedFromCaller.input(t.weight);
    const gram = s.gram === null ? null : detachedFromCaller.input(s.gram);
    return runJob(
      (done) =>
        addon.gptqAsync(
          record,
          weight,
          gram,
          s.order,
          s.groups,
          factors,
          importance,
          scales,
          zeroPoints,
          data,
          result,
          done,
        ),
      t.signal,
      (error) => explained(error, t, weight, gram),
    );
  };
  try {
    await run();
  } catch (error) {
    if ((error as Partial<RawError>).code === 'NOT_POSITIVE_DEFINITE') return null;
    throw error;
  }
  const [loss = 0, damp = 0] = result;
  return { tensor, loss, damp };
}

/** @internal The addon's errors, in words. */
export function explained(error: unknown, t: Target, weight: Float32Array, gram: Float32Array | null): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code === 'NON_FINITE') {
    if (index < weight.length) return nonFinite(weight, index, 'weight', t.name);
    return nonFinite(gram as Float32Array, index - weight.length, 'Gram matrix', t.name);
  }
  if (code === 'SCALE_OVERFLOW') {
    const of = t.name === undefined ? '' : ` of ${t.name}`;
    return new ScaleOverflowError(
      `The scale${of} at index ${index} is too large for ${t.scaleDtype}. Use scaleDtype 'float32' or 'bfloat16'.`,
      index,
      t.name,
    );
  }
  return explain(error, 'weight');
}
