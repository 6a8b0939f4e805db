/**
 * Methods that turn one weight into codes, by name.
 *
 * @module
 */
import { codeTypeOf, type IntDtype } from '../dtype.js';
import { InvalidArgumentError } from '../errors.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import { type GptqOptions, gptq } from './gptq.js';
import { type HqqOptions, hqq } from './hqq.js';
import type { InputStatistics } from './input-statistics.js';
import { type LinearWeight, roundToNearest, type WeightSettings } from './linear-weight.js';
import type { MethodOptions } from './method.js';

/** How a weight becomes codes. */
export type Rounding = 'rtn' | 'gptq' | 'hqq';

/** Options of {@link gptq} that do not follow from the settings of the weight. */
export type GptqChoices = Omit<GptqOptions, keyof MethodOptions | 'range'>;

/** What became of a weight. */
export interface RoundedWeight {
  readonly tensor: QuantizedTensor;
  /** Column i of `tensor` is column `order[i]` of the weight; null: the same. */
  readonly order: Int32Array | null;
  readonly warnings: readonly string[];
}

/** What all integer methods take of the settings. */
function methodOptions(
  { rows, columns }: LinearWeight,
  settings: WeightSettings,
  method: string,
  name: string,
  signal: AbortSignal | undefined,
): MethodOptions & { range?: 'minmax' | 'mse' } {
  const { dtype, scheme, granularity = 'per-tensor', groupSize, narrowRange, codeBits, scaleDtype, range } = settings;
  const isInteger = codeTypeOf('weights.dtype', dtype).codebook === undefined;
  if (!isInteger || !(granularity === 'per-group' || granularity === 'per-channel')) {
    throw new InvalidArgumentError(
      'weights',
      `Expected integers per group or per channel for ${name}, as ${method} makes them, but received ${dtype} ${granularity}.`,
    );
  }
  if (range !== undefined && range !== 'minmax' && range !== 'mse') {
    throw new InvalidArgumentError('weights.range', `Expected minmax or mse for ${name} with ${method}.`);
  }
  return {
    shape: [rows, columns],
    dtype: dtype as IntDtype,
    granularity,
    name,
    ...(scheme === undefined ? {} : { scheme }),
    ...(granularity === 'per-group' && groupSize !== undefined ? { groupSize } : {}),
    ...(narrowRange === undefined ? {} : { narrowRange }),
    ...(codeBits === undefined ? {} : { codeBits }),
    ...(scaleDtype === undefined ? {} : { scaleDtype }),
    ...(range === undefined ? {} : { range }),
    ...(signal === undefined ? {} : { signal }),
  };
}

/** HQQ has one scheme, and chooses ranges itself. */
function hqqOptions({
  shape,
  range,
  scheme,
  narrowRange,
  codeBits,
  ...rest
}: ReturnType<typeof methodOptions>): HqqOptions {
  if (range === 'mse' || scheme === 'symmetric' || narrowRange !== undefined || codeBits !== undefined) {
    throw new InvalidArgumentError(
      'weights',
      'Expected an asymmetric scheme, and neither a range nor narrowRange or codeBits, with HQQ, which searches for zero points.',
    );
  }
  return { ...rest, shape: shape as readonly [number, number] };
}

/**
 * Quantizes a weight by a method.
 *
 * @param statistics - Of its inputs; `gptq` needs their Gram matrix.
 * @throws What the method throws.
 */
export async function quantizeWeight(
  weight: LinearWeight,
  rounding: Rounding,
  settings: WeightSettings,
  statistics: InputStatistics | null,
  choices: { readonly name: string; readonly gptq?: GptqChoices; readonly signal?: AbortSignal | undefined },
): Promise<RoundedWeight> {
  const { name, signal } = choices;
  switch (rounding) {
    case 'rtn':
      return { tensor: await roundToNearest(weight, settings, signal), order: null, warnings: [] };
    case 'gptq':
      return gptq(weight.data, statistics as InputStatistics, {
        ...methodOptions(weight, settings, 'GPTQ', name, signal),
        ...choices.gptq,
      });
    case 'hqq':
      return hqq(weight.data, hqqOptions(methodOptions(weight, settings, 'HQQ', name, signal)));
  }
}
