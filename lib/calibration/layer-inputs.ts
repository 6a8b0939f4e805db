/**
 * Activations of a layer that become codes: what goes with them, and their scale.
 *
 * @module
 */
import { codeTypeOf } from '../dtype.js';
import { InvalidArgumentError, ScaleOverflowError } from '../errors.js';
import type { InputStatistics, RangeOfInputs } from '../methods/input-statistics.js';
import type { WeightSettings } from '../methods/linear-weight.js';
import { parametersOf } from '../observe/parameters.js';
import { roundHalfEven } from '../tensor/channels.js';
import { type InputQuantization, roundedTo } from '../tensor/input-quantization.js';
import type { LayerActivations } from './quantize-work.js';

/**
 * The codes of weights must be those that activations are multiplied with.
 *
 * @param smoothed - Whether scales were chosen for int8.
 * @throws {@link InvalidArgumentError}
 */
export function checkCodes(
  name: string,
  { dtype, granularity, scheme = 'symmetric' }: WeightSettings,
  activations: LayerActivations | 'llm-int8',
  smoothed: boolean,
): void {
  if (dtype === 'int8' && granularity === 'per-channel' && scheme === 'symmetric') return;
  if (dtype === 'float8_e4m3fn' && activations === 'static' && !smoothed) return;
  const expected =
    activations === 'static' && !smoothed
      ? 'symmetric int8 per channel or float8_e4m3fn'
      : 'symmetric int8 per channel';
  const what =
    activations === 'static' ? 'static' : activations === 'static-asymmetric' ? 'static and asymmetric' : 'int8';
  throw new InvalidArgumentError(
    'weights',
    `Expected ${expected} for ${name}, since activations are ${what}, but received ${scheme} ${dtype} ${granularity ?? 'per-tensor'}.`,
  );
}

/** The largest E4M3 number. */
const FLOAT8_LARGEST = 448;

/** The least scale of activations: one that every type of scales holds. */
const LEAST_SCALE = 2 ** -24;

/**
 * How static activations become codes: the scale as files keep it, and the zero point that goes with it.
 *
 * @param name - Of the weight, for messages.
 * @throws {@link ScaleOverflowError}
 */
export function staticInput(
  name: string,
  statistics: InputStatistics,
  range: RangeOfInputs | undefined,
  activations: LayerActivations | 'llm-int8',
  { dtype, scaleDtype = 'float32' }: WeightSettings,
): InputQuantization {
  const scheme = activations === 'static-asymmetric' ? 'asymmetric' : 'symmetric';
  const { min, max } = statistics.range(range, scheme);
  const isFloat8 = dtype !== 'int8';
  const code = codeTypeOf('dtype', 'int8');
  const largest = Math.max(-min, max);
  const exact = isFloat8 ? largest / FLOAT8_LARGEST : parametersOf(min, max, code, scheme).scale;
  const scale = largest === 0 ? 1 : Math.max(LEAST_SCALE, roundedTo(exact, scaleDtype));
  if (scale === Number.POSITIVE_INFINITY) {
    const message = `The scale of the activations of ${name} is too large for ${scaleDtype}: ${exact}. Use scaleDtype 'bfloat16'.`;
    throw new ScaleOverflowError(message, 0, name);
  }
  if (scheme === 'symmetric') return { dtype: isFloat8 ? 'float8_e4m3fn' : 'int8', scale, zeroPoint: null };
  const zeroPoint = Math.min(code.highest, Math.max(code.lowest, roundHalfEven(code.lowest - min / scale))) + 0; // no −0
  return { dtype: 'int8', scale, zeroPoint };
}
