/**
 * Methods that turn one weight into codes, by name.
 *
 * @module
 */
import type { Device } from '../device/device.js';
import { codeTypeOf, type IntDtype } from '../dtype.js';
import { InvalidArgumentError, NonFiniteError, ScaleOverflowError } from '../errors.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { type GptqOptions, gptq } from './gptq.js';
import { type HqqOptions, hqq } from './hqq.js';
import type { InputStatistics } from './input-statistics.js';
import { type LinearWeight, roundToNearest, type WeightSettings } from './linear-weight.js';
import type { MethodOptions } from './method.js';

/** How a weight becomes codes. */
export type Rounding = 'rtn' | 'gptq' | 'hqq';

/** Options of {@link gptq} that do not follow from the settings of the weight. */
export type GptqChoices = Omit<GptqOptions, keyof MethodOptions | 'range' | 'device'>;

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

/** A layer that is to be quantized. */
export interface Layer {
  readonly name: string;
  readonly weight: LinearWeight;
  readonly settings: WeightSettings;
}

/** A copy of rows `begin` to `end` of a tensor. */
function rowsOf(tensor: QuantizedTensor, begin: number, end: number): QuantizedTensor {
  const { shape, data, scales, zeroPoints } = tensor;
  const [rows = 0, columns = 0] = shape;
  const part = <T extends Uint8Array | Float32Array | Int32Array>(array: T): T => {
    const perRow = rows === 0 ? 0 : array.length / rows;
    return array.slice(begin * perRow, end * perRow) as T;
  };
  return {
    ...tensor,
    shape: [end - begin, columns],
    data: part(data),
    scales: part(scales),
    zeroPoints: zeroPoints === null ? null : part(zeroPoints),
  };
}

/**
 * {@link gptq} for layers that read the same activations. Rows do not depend on each other: layers with the same settings are
 * quantized as one, so that their Gram matrix is factorized once.
 *
 * @returns By name, the same bits as from a call for each layer alone.
 * @throws What {@link gptq} throws.
 */
export async function gptqTogether(
  layers: readonly Layer[],
  statistics: InputStatistics,
  choices: GptqChoices | undefined,
  { device, signal }: { readonly device?: Device | undefined; readonly signal?: AbortSignal | undefined } = {},
): Promise<ReadonlyMap<string, RoundedWeight>> {
  const alike = new Map<string, Layer[]>();
  for (const layer of layers) {
    const key = JSON.stringify(layer.settings);
    alike.set(key, [...(alike.get(key) ?? []), layer]);
  }
  const results = new Map<string, RoundedWeight>();
  const alone = ({ weight, settings, name }: Layer) =>
    quantizeWeight(weight, 'gptq', settings, statistics, {
      name,
      device,
      signal,
      ...(choices === undefined ? {} : { gptq: choices }),
    });
  for (const group of alike.values()) {
    const all = group.length > 1 ? await alone(stacked(group)).catch(unlessOfOneLayer) : null;
    let begin = 0;
    for (const layer of group) {
      const end = begin + layer.weight.rows;
      const own =
        all === null
          ? await alone(layer)
          : {
              tensor: rowsOf(all.tensor, begin, end),
              order: all.order,
              warnings: all.warnings.map((warning) => warning.replace(nameOf(group), layer.name)),
            };
      results.set(layer.name, own);
      begin = end;
    }
  }
  return results;
}

const nameOf = (layers: readonly Layer[]) => layers.map(({ name }) => name).join(', ');

/** Layers as one, the rows of one below those of the other. */
function stacked(layers: readonly Layer[]): Layer {
  const { weight: first, settings } = layers[0] as Layer;
  const rows = layers.reduce((sum, { weight }) => sum + weight.rows, 0);
  const data = validate.allocated(Float32Array, rows * first.columns);
  let at = 0;
  for (const { weight } of layers) {
    data.set(weight.data, at);
    at += weight.data.length;
  }
  return { name: nameOf(layers), weight: { data, rows, columns: first.columns }, settings };
}

/** A number that is wrong: the call for its layer alone will say which layer that is. */
function unlessOfOneLayer(error: unknown): null {
  if (error instanceof NonFiniteError || error instanceof ScaleOverflowError) return null;
  throw error;
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
  choices: {
    readonly name: string;
    readonly gptq?: GptqChoices;
    /** Of `gptq`. */
    readonly device?: Device | undefined;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<RoundedWeight> {
  const { name, device, signal } = choices;
  switch (rounding) {
    case 'rtn':
      return { tensor: await roundToNearest(weight, settings, signal), order: null, warnings: [] };
    case 'gptq':
      return gptq(weight.data, statistics as InputStatistics, {
        ...methodOptions(weight, settings, 'GPTQ', name, signal),
        ...choices.gptq,
        ...(device === undefined ? {} : { device }),
      });
    case 'hqq':
      return hqq(weight.data, hqqOptions(methodOptions(weight, settings, 'HQQ', name, signal)));
  }
}
