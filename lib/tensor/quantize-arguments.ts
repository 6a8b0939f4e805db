/**
 * The arguments of quantizeTensor, checked.
 *
 * @module
 */
import { addon, explain, type RawFloats } from '../addon.js';
import { CPU, placeOf } from '../device/device.js';
import type { Data } from '../device/device-call.js';
import {
  checkEither,
  checkTensor,
  elementCount,
  isDeviceTensor,
  newTensor,
  placeOfTensor,
} from '../device/device-tensor.js';
import {
  type CodebookType,
  codeTypeOf,
  floatCodeOf,
  LARGE_FLOAT_DTYPES,
  type LargeFloatDtype,
  type QuantDtype,
  SCALE_RULES,
} from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import * as validate from '../validate.js';
import {
  type AnyQuantizedTensor,
  arrayChecks,
  type DeviceQuantizedTensor,
  GRANULARITIES,
  isOnDevice,
  type Layout,
  layoutOf,
  tensorOf,
} from './quantized-tensor.js';

/** @internal */
export const OPTIONS: ReadonlySet<string> = new Set([
  'shape',
  'inputDtype',
  'dtype',
  'scheme',
  'granularity',
  'axis',
  'groupSize',
  'blockShape',
  'narrowRange',
  'scaleDtype',
  'range',
  'scales',
  'zeroPoints',
  'nonFinite',
  'nested',
  'globalScale',
  'out',
  'device',
]);
/** @internal */
export const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

/** RangeChoice::Method in native/ops/affine/affine.h. */
const RANGE_CODES = { minmax: 0, mse: 1, percentile: 2, given: 3 } as const;

/** @internal A call whose arguments have been checked. */
export interface Prepared {
  /** A device's number, or CPU: then nothing is on a device. The result is where the input is. */
  readonly index: number;
  readonly input: Data<RawFloats>;
  readonly inputType: number;
  readonly layout: Layout;
  readonly symmetric: boolean;
  readonly lowest: number;
  readonly scaleType: number;
  readonly scaleDtype: LargeFloatDtype;
  readonly range: Range;
  readonly saturate: boolean;
  readonly result: AnyQuantizedTensor;
  /** Whether the result is not the caller's `out`. */
  readonly fresh: boolean;
  /** Whether the scales are quantized as well. */
  readonly nested: boolean;
  /** nvfp4: the global scale, or 0 for the one that follows from the input. */
  readonly globalScale: number;
  /** Parameters to copy into the result first. */
  readonly given: Parameters | undefined;
}

interface Parameters {
  readonly scales: Data<Float32Array>;
  readonly zeroPoints: Data<Int32Array> | null;
}

/** @internal */
export function prepare(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const index = placeOf(given['device'], [
    placeOfTensor('input', inputValue),
    placeOfTensor('scales', given['scales']),
    placeOfTensor('zeroPoints', given['zeroPoints']),
    placeOfTensor('out', (given['out'] as Partial<AnyQuantizedTensor> | undefined)?.data),
  ]);
  const { input, inputType, inputShape, count } = inputFrom(inputValue, given['inputDtype']);
  const shapeValue = given['shape'];
  const shape = shapeValue === undefined ? inputShape : validate.shape('shape', shapeValue);
  const layout = layoutFrom(given, shape);
  if (layout.elementCount !== count) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the input, ${count}, but it has ${layout.elementCount}.`,
    );
  }
  const { signed, bits, codebook } = layout.code;
  if (codebook !== undefined) checkCodebookOptions(given, codebook);
  const parameters = givenParameters(given, layout);
  const scheme = codebook !== undefined ? 'symmetric' : schemeFrom(given, signed, parameters);
  const symmetric = scheme === 'symmetric';
  if (symmetric && parameters?.zeroPoints != null) {
    const expected = signed ? 0 : 2 ** (bits - 1);
    if (isDeviceTensor(parameters.zeroPoints) || parameters.zeroPoints.some((z) => z !== expected)) {
      throw new InvalidArgumentError(
        'zeroPoints',
        `Expected every zero point to be ${expected} in a symmetric scheme: use scheme 'asymmetric' for others.`,
      );
    }
  }
  const narrow = validate.boolean('narrowRange', given['narrowRange'], true) && symmetric && signed;
  const scaleDtype = given['scaleDtype'] === undefined ? 'float32' : given['scaleDtype'];
  const scaleType = floatCodeOf('scaleDtype', scaleDtype);
  const range = rangeFrom(given, codebook, parameters !== undefined);
  const nonFinite =
    given['nonFinite'] === undefined ? 'throw' : validate.oneOf('nonFinite', given['nonFinite'], ['throw', 'saturate']);
  if (nonFinite === 'saturate' && range.rule >= SCALE_RULES.mean && range.rangeCode !== RANGE_CODES.given) {
    throw invalidArgument('nonFinite', "'throw' for a scale that is a mean", nonFinite);
  }
  const needsZeroPoints = !(symmetric && signed) && codebook === undefined;
  const nested = validate.boolean('nested', given['nested'], false);
  const globalScale = globalScaleFrom(given);
  if (nested) checkNested(given, codebook);
  if (index !== CPU && parameters !== undefined) checkParameters(parameters, layout);
  const dtype = given['dtype'] as QuantDtype;
  const result = resultFor(given['out'], dtype, scheme, layout, needsZeroPoints, isDeviceTensor(input) ? index : CPU);
  return {
    index,
    input,
    inputType,
    layout,
    symmetric,
    lowest: layout.code.lowest + (narrow ? 1 : 0),
    scaleType,
    scaleDtype: scaleDtype as LargeFloatDtype,
    range,
    saturate: nonFinite === 'saturate',
    result,
    fresh: given['out'] === undefined,
    nested,
    globalScale,
    given: parameters,
  };
}

function inputFrom(
  value: unknown,
  dtype: unknown,
): { input: Data<RawFloats>; inputType: number; inputShape: number[]; count: number } {
  if (isDeviceTensor(value)) {
    const input = checkTensor('input', value, LARGE_FLOAT_DTYPES);
    if (dtype !== undefined) validate.oneOf('inputDtype', dtype, [input.dtype]);
    const inputType = floatCodeOf('inputDtype', input.dtype);
    return { input, inputType, inputShape: [...input.shape], count: elementCount(input) };
  }
  const { data, type } = validate.floats('input', value, 'inputDtype', dtype);
  return { input: data, inputType: type, inputShape: [data.length], count: data.length };
}

/** What the addon does for parameters that it reads itself. */
function checkParameters({ scales, zeroPoints }: Parameters, { code, elementCount: count }: Layout): void {
  if (count === 0) return;
  const floats = isDeviceTensor(scales) ? new Float32Array(0) : scales;
  const integers = isDeviceTensor(zeroPoints) ? null : zeroPoints;
  try {
    addon.checkParameters(floats, integers, true, code.lowest, code.highest, '');
  } catch (error) {
    throw explain(error, 'scales');
  }
}

/** The tensor to write to: the caller's, or a new one on the device of this number, or the host. */
function resultFor(
  out: unknown,
  dtype: QuantDtype,
  scheme: 'symmetric' | 'asymmetric',
  layout: Layout,
  needsZeroPoints: boolean,
  index: number,
): AnyQuantizedTensor {
  if (out !== undefined) return reused(out, dtype, scheme, layout, needsZeroPoints, index !== CPU);
  const { dataBytes, parameterCount } = layout;
  if (index === CPU) {
    return tensorOf(
      layout,
      dtype,
      scheme,
      new Uint8Array(dataBytes),
      new Float32Array(parameterCount),
      needsZeroPoints ? new Int32Array(parameterCount) : null,
    );
  }
  return tensorOf<DeviceQuantizedTensor>(
    layout,
    dtype,
    scheme,
    newTensor(index, 'uint8', [dataBytes]),
    newTensor(index, 'float32', [parameterCount]),
    needsZeroPoints ? newTensor(index, 'int32', [parameterCount]) : null,
  );
}

function layoutFrom(given: Partial<Record<string, unknown>>, shape: readonly number[]): Layout {
  const { dtype, granularity } = given;
  const { codebook } = codeTypeOf('dtype', dtype);
  const fallback = codebook?.groupSize === undefined ? 'per-tensor' : 'per-group';
  const chosen = granularity === undefined ? fallback : validate.oneOf('granularity', granularity, GRANULARITIES);
  for (const [name, needed] of [
    ['axis', 'per-channel'],
    ['groupSize', 'per-group'],
    ['blockShape', 'per-block'],
  ] as const) {
    if (given[name] !== undefined && granularity === undefined && chosen !== needed) {
      throw new InvalidArgumentError(name, `Expected granularity: '${needed}' together with ${name}.`);
    }
  }
  const layout = layoutOf(dtype, shape, chosen, given);
  if (codebook?.fixed && layout.groupSize !== codebook.groupSize) {
    const [name, value] =
      chosen === 'per-group' ? (['groupSize', given['groupSize']] as const) : (['granularity', chosen] as const);
    throw invalidArgument(name, `groups of ${codebook.groupSize} for ${dtype}`, value);
  }
  return layout;
}

/** What means nothing for codes that stand for a table's values. */
function checkCodebookOptions(given: Partial<Record<string, unknown>>, { fixed }: CodebookType): void {
  const { dtype } = given;
  if (given['scheme'] !== undefined) validate.oneOf('scheme', given['scheme'], ['symmetric']);
  for (const name of ['zeroPoints', 'narrowRange'] as const) {
    if (given[name] !== undefined) throw new InvalidArgumentError(name, `Expected no ${name}: ${dtype} has none.`);
  }
  if (!fixed) return;
  for (const name of ['scales', 'scaleDtype'] as const) {
    if (given[name] !== undefined) {
      throw new InvalidArgumentError(name, `Expected no ${name}: those of ${dtype} follow from its blocks.`);
    }
  }
}

function globalScaleFrom({ dtype, globalScale }: Partial<Record<string, unknown>>): number {
  if (globalScale === undefined) return 0;
  if (dtype !== 'nvfp4')
    throw new InvalidArgumentError('globalScale', "Expected globalScale with the dtype 'nvfp4' only.");
  return validate.finite('globalScale', globalScale, true);
}

function checkNested(given: Partial<Record<string, unknown>>, codebook: CodebookType | undefined): void {
  if (codebook?.nests !== true)
    throw new InvalidArgumentError('nested', "Expected nested with the dtypes 'nf4' and 'fp4' only.");
  for (const name of ['scales', 'out'] as const) {
    if (given[name] !== undefined) throw new InvalidArgumentError(name, `Expected no ${name} together with nested.`);
  }
}

function schemeFrom(
  given: Partial<Record<string, unknown>>,
  signed: boolean,
  parameters: Parameters | undefined,
): 'symmetric' | 'asymmetric' {
  if (given['scheme'] !== undefined) return validate.oneOf('scheme', given['scheme'], ['symmetric', 'asymmetric']);
  return signed && parameters?.zeroPoints == null ? 'symmetric' : 'asymmetric';
}

function givenParameters(given: Partial<Record<string, unknown>>, layout: Layout): Parameters | undefined {
  const { scales, zeroPoints, range } = given;
  if (scales === undefined) {
    if (zeroPoints !== undefined)
      throw new InvalidArgumentError('zeroPoints', 'Expected scales together with zeroPoints.');
    return undefined;
  }
  if (range !== undefined) {
    throw new InvalidArgumentError('range', 'Expected no range together with scales: given scales need no search.');
  }
  const { parameterCount: count } = layout;
  return {
    scales: checkEither('scales', scales, ['float32'], count, () => validate.float32Array('scales', scales, count)),
    zeroPoints:
      zeroPoints == null
        ? null
        : checkEither('zeroPoints', zeroPoints, ['int32'], count, () =>
            validate.int32Array('zeroPoints', zeroPoints, count),
          ),
  };
}

interface Range {
  /** One of {@link RANGE_CODES}. */
  readonly rangeCode: number;
  readonly percentile: number;
  /** One of SCALE_RULES; for codebooks. */
  readonly rule: number;
}

/** What a dtype's range may be called, besides `{ percentile }`. */
function namedRanges(codebook: CodebookType | undefined): Readonly<Record<string, Partial<Range>>> {
  if (codebook === undefined) return { minmax: {}, mse: { rangeCode: RANGE_CODES.mse } };
  if (codebook.rule < SCALE_RULES.mean) return { minmax: {} };
  const minmax = { rule: SCALE_RULES.largest };
  return codebook.rule === SCALE_RULES.mean
    ? { absmean: {}, minmax }
    : { absmean: {}, twn: { rule: SCALE_RULES.ternaryWeights }, minmax };
}

function rangeFrom(
  given: Partial<Record<string, unknown>>,
  codebook: CodebookType | undefined,
  hasParameters: boolean,
): Range {
  const { range } = given;
  const fallback: Range = {
    rangeCode: RANGE_CODES.minmax,
    percentile: 100,
    rule: codebook?.rule ?? SCALE_RULES.largest,
  };
  if (hasParameters) return { ...fallback, rangeCode: RANGE_CODES.given };
  if (range === undefined) return fallback;
  const named = namedRanges(codebook);
  if (typeof range === 'string' && Object.hasOwn(named, range)) return { ...fallback, ...named[range] };
  if (typeof range !== 'object' || range === null) {
    const names = Object.keys(named).map((name) => `'${name}'`);
    throw invalidArgument('range', `${names.join(', ')} or { percentile }`, range);
  }
  const { percentile } = validate.options<{ percentile: unknown }>('range', range, new Set(['percentile']));
  if (typeof percentile !== 'number' || !(percentile > 50 && percentile <= 100)) {
    throw invalidArgument('range.percentile', 'a number greater than 50 and at most 100', percentile);
  }
  const rule = fallback.rule >= SCALE_RULES.mean ? SCALE_RULES.largest : fallback.rule;
  return { rangeCode: RANGE_CODES.percentile, percentile, rule };
}

function reused(
  value: unknown,
  dtype: QuantDtype,
  scheme: 'symmetric' | 'asymmetric',
  layout: Layout,
  needsZeroPoints: boolean,
  onDevice: boolean,
): AnyQuantizedTensor {
  if (typeof value !== 'object' || value === null) throw invalidArgument('out', 'a QuantizedTensor', value);
  const out = value as AnyQuantizedTensor;
  const expected = tensorOf<AnyQuantizedTensor>(layout, dtype, scheme, out.data, out.scales, out.zeroPoints);
  for (const field of ['dtype', 'scheme', 'granularity', 'axis', 'groupSize'] as const) {
    if (out[field] !== expected[field]) {
      throw invalidArgument(`out.${field}`, String(expected[field]), out[field]);
    }
  }
  if (
    !Array.isArray(out.shape) ||
    out.shape.length !== layout.shape.length ||
    out.shape.some((d, i) => d !== layout.shape[i])
  ) {
    throw new InvalidArgumentError('out.shape', `Expected out to have the shape [${layout.shape.join(', ')}].`);
  }
  if (layout.blockShape !== undefined && String(out.blockShape) !== String(layout.blockShape)) {
    throw invalidArgument('out.blockShape', `[${layout.blockShape.join(', ')}]`, out.blockShape);
  }
  if (onDevice !== isOnDevice(out)) {
    throw invalidArgument('out.data', onDevice ? 'a DeviceTensor, as the input is,' : 'a Uint8Array', out.data);
  }
  const arrays = arrayChecks(onDevice);
  arrays.bytes('out.data', out.data, layout.dataBytes);
  arrays.floats('out.scales', out.scales, layout.parameterCount);
  if (needsZeroPoints) arrays.integers('out.zeroPoints', out.zeroPoints, layout.parameterCount);
  else if (out.zeroPoints !== null) throw invalidArgument('out.zeroPoints', 'null', out.zeroPoints);
  return out;
}
