/**
 * The linear layer: activations times packed weights.
 *
 * @module
 */
import { addon, type RawWeight, runJob } from '../addon.js';
import { differentDevices, type Placed, placeOf, unsupported } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  checkTensor,
  type DeviceTensor,
  elementCount,
  isDeviceTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { floatCodeOf, LARGE_FLOAT_DTYPES, type LargeFloatDtype } from '../dtype.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import { checkAnyWeight, handleOf, type PackedWeight, placeOfWeight, type WeightKind } from './packed-weight.js';

/** In what numbers {@link linear} computes; see there. */
export type ComputeDtype = 'float32' | 'int16' | 'int8';

/** A function that {@link linear} applies to what it has computed; see there. */
export type Activation = 'silu' | 'gelu' | 'gelu-tanh';

/** Options of {@link linear}. */
export interface LinearOptions {
  /** `[N]`, added to every row of the product. */
  bias?: Float32Array;
  /** The array to write to and return, of M · N elements. It must not overlap what is read. */
  out?: Float32Array;
  /** Default: `'int16'` for quantized weights, `'float32'` for float ones. */
  computeDtype?: ComputeDtype;
  /**
   * What shares a scale when `'int16'` or `'int8'` quantizes x. `'per-group'` (default): the segments into which the weight's
   * groups are divided, at most 256 values. `'per-token'`: a row of x, which is a little faster and less accurate.
   */
  activationGranularity?: 'per-group' | 'per-token';
  /** Applied to the product and its bias. Default: none, or `'silu'` with a gate. */
  activation?: Activation;
  /** A second weight of the same shape: the result is `activation(x·Gᵀ + gateBias) ⊙ (x·Wᵀ + bias)`. */
  gate?: PackedWeight;
  /** `[N]`, added to every row of x·Gᵀ. */
  gateBias?: Float32Array;
}

/** Options of {@link linear} for what is on a device. */
export interface DeviceLinearOptions<D extends LargeFloatDtype = LargeFloatDtype>
  extends Pick<LinearOptions, 'activation' | 'gate'> {
  /** `[N]`, added to every row of the product. */
  bias?: Float32Array | DeviceTensor<'float32'>;
  /** `[N]`, added to every row of x·Gᵀ. */
  gateBias?: Float32Array | DeviceTensor<'float32'>;
  /** The tensor to write to and return, of M · N elements. */
  out?: DeviceTensor<D>;
}

/** The same, with a signal that ends the work early. */
export interface LinearAsyncOptions extends LinearOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'bias',
  'out',
  'computeDtype',
  'activationGranularity',
  'activation',
  'gate',
  'gateBias',
]);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

const LINEAR_KINDS: readonly WeightKind[] = ['quantized', 'float'];
/** In the order of ComputeType in native/ops/matmul/matmul.h. */
const COMPUTE_DTYPES: readonly ComputeDtype[] = ['float32', 'int16', 'int8'];
const GRANULARITIES = ['per-group', 'per-token'] as const;
/** In the order of native Activation, in which 0 is none. */
const ACTIVATIONS: readonly Activation[] = ['silu', 'gelu', 'gelu-tanh'];

interface Prepared {
  readonly compute: number;
  readonly perToken: boolean;
  readonly activation: number;
  readonly x: Float32Array;
  readonly weight: RawWeight;
  readonly bias: Float32Array | null;
  readonly gate: RawWeight | null;
  readonly gateBias: Float32Array | null;
  readonly out: Float32Array;
  readonly fresh: boolean;
}

function prepare(xValue: unknown, w: PackedWeight, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  if (isDeviceTensor(xValue)) throw differentDevices(placeOfTensor('x', xValue) as Placed, placeOfWeight('w', w));
  const x = validate.float32Array('x', xValue);
  const rows = w.rows;
  const m = rowsOf(x.length, w.cols);
  const weight = handleOf(w);
  const accurate = w.kind === 'quantized' ? 1 : 0;
  if (optionsValue === undefined) {
    const out = validate.allocated(Float32Array, m * rows);
    const [bias, gate, gateBias] = [null, null, null];
    return { compute: accurate, perToken: false, activation: 0, x, weight, bias, gate, gateBias, out, fresh: true };
  }
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const { bias, out, computeDtype, activationGranularity, activation, gate, gateBias } = given;
  const g = gate === undefined ? null : gateOf(gate, w);
  if (g === null && gateBias !== undefined) {
    throw new InvalidArgumentError('gateBias', 'Expected a gate together with gateBias.');
  }
  return {
    compute:
      computeDtype === undefined
        ? accurate
        : COMPUTE_DTYPES.indexOf(validate.oneOf('computeDtype', computeDtype, COMPUTE_DTYPES)),
    perToken:
      activationGranularity !== undefined &&
      validate.oneOf('activationGranularity', activationGranularity, GRANULARITIES) === 'per-token',
    activation: activationOf(activation, g !== null),
    x,
    weight,
    bias: bias === undefined ? null : validate.float32Array('bias', bias, rows),
    gate: g,
    gateBias: gateBias === undefined ? null : validate.float32Array('gateBias', gateBias, rows),
    out: validate.result(out, Float32Array, m * rows),
    fresh: out === undefined,
  };
}

function activationOf(value: unknown, hasGate: boolean): number {
  if (value === undefined) return Number(hasGate);
  return 1 + ACTIVATIONS.indexOf(validate.oneOf('activation', value, ACTIVATIONS));
}

function rowsOf(count: number, cols: number): number {
  const m = count === 0 ? 0 : count / cols;
  if (Number.isInteger(m)) return m;
  throw new InvalidArgumentError(
    'x',
    `Expected x to have whole rows of ${cols} elements, as the weight has columns, but its length is ${count}.`,
  );
}

/** A layer whose weight is on a device. */
interface DeviceLinear {
  readonly index: number;
  readonly x: Data<Float32Array>;
  readonly xType: number;
  readonly outType: number;
  readonly activation: number;
  readonly weight: RawWeight;
  readonly bias: Data<Float32Array> | null;
  readonly gate: RawWeight | null;
  readonly gateBias: Data<Float32Array> | null;
  readonly out: Data<Float32Array>;
  readonly fresh: boolean;
}

/** What a device has no choice of. */
const FIXED_ON_DEVICES = ['computeDtype', 'activationGranularity'] as const;

function prepareOnDevice(
  xValue: unknown,
  w: PackedWeight,
  optionsValue: unknown,
  known: ReadonlySet<string>,
): DeviceLinear {
  const given = validate.options<Record<string, unknown>>('options', optionsValue ?? {}, known);
  const { bias, out, activation, gate, gateBias } = given;
  const index = placeOf(w.device, [
    placeOfTensor('x', xValue),
    placeOfTensor('bias', bias),
    placeOfTensor('gateBias', gateBias),
    placeOfTensor('out', out),
  ]);
  for (const name of FIXED_ON_DEVICES) {
    if (given[name] === undefined) continue;
    throw unsupported(name, `no ${name}, as products are computed in x's type (float32: float16),`, index);
  }
  const g = gate === undefined ? null : gateOf(gate, w);
  if (g === null && gateBias !== undefined) {
    throw new InvalidArgumentError('gateBias', 'Expected a gate together with gateBias.');
  }
  const vector = (name: string, value: unknown) =>
    value === undefined
      ? null
      : checkEither(name, value, ['float32'], w.rows, () => validate.float32Array(name, value, w.rows));
  const common = {
    index,
    activation: activationOf(activation, g !== null),
    weight: handleOf(w),
    bias: vector('bias', bias),
    gate: g,
    gateBias: vector('gateBias', gateBias),
    fresh: out === undefined,
  };
  if (!isDeviceTensor(xValue)) {
    const x = validate.float32Array('x', xValue);
    const m = rowsOf(x.length, w.cols);
    return { ...common, x, xType: 0, outType: 0, out: validate.result(out, Float32Array, m * w.rows) };
  }
  const x = checkTensor('x', xValue, LARGE_FLOAT_DTYPES);
  const m = rowsOf(elementCount(x), w.cols);
  const dtype = out === undefined ? x.dtype : checkTensor('out', out, LARGE_FLOAT_DTYPES).dtype;
  const leading = x.shape.at(-1) === w.cols ? x.shape.slice(0, -1) : [m];
  return {
    ...common,
    x,
    xType: floatCodeOf('x', x.dtype),
    outType: floatCodeOf('out', dtype),
    out: resultTensor(out, dtype, [...leading, w.rows], index),
  };
}

const deviceRecord = new Float64Array(3);

function onDevice(p: DeviceLinear): DeviceCall<'deviceLinear'> {
  deviceRecord.set([p.xType, p.outType, p.activation]);
  return new DeviceCall(p.index, 'deviceLinear', (on) => [
    deviceRecord,
    on.reads(p.x),
    on.uses(p.weight),
    p.bias === null ? null : on.reads(p.bias),
    p.gate === null ? null : on.uses(p.gate),
    p.gateBias === null ? null : on.reads(p.gateBias),
    on.writes(p.out, p.fresh),
  ]);
}

function gateOf(value: unknown, w: PackedWeight): RawWeight {
  const gate = checkAnyWeight('gate', value, LINEAR_KINDS);
  const [place, other] = [placeOfWeight('w', w), placeOfWeight('gate', gate)];
  if (place.index !== other.index) throw differentDevices(place, other);
  if (gate.rows !== w.rows || gate.cols !== w.cols) {
    throw new InvalidArgumentError(
      'gate',
      `Expected gate to have the shape of w, [${w.rows}, ${w.cols}], but it has [${gate.rows}, ${gate.cols}].`,
    );
  }
  return handleOf(gate);
}

/** The numbers of the addon's call; it reads them before it returns, so one array serves every call. */
const record = new Float64Array(3);

function recordOf(p: Prepared): Float64Array {
  record[0] = p.compute;
  record[1] = p.perToken ? 1 : 0;
  record[2] = p.activation;
  return record;
}

/**
 * A linear layer: `y = activation(x·Wᵀ + bias)`, or with a gate `y = activation(x·Gᵀ + gateBias) ⊙ (x·Wᵀ + bias)`.
 *
 * How it computes with quantized weights is `computeDtype`'s choice:
 *
 * - `'float32'`: weights become float32 in registers, `scale · (code − zeroPoint)`; products are added in float32.
 * - `'int16'` (default): x is quantized symmetrically to 15 bits, products are added as exact integers and multiplied by the
 *   scales. Within 1e-4 of the largest exact result (2e-4 per token) for normally distributed data, and as fast as the weights
 *   can be read for a few rows of x.
 * - `'int8'`: x is quantized to 8 bits. The fastest from some ten rows on; its mean squared error is 3e-5 to 5e-5 of the signal
 *   per group, below 1e-4 per token.
 *
 * A channel of x that is much larger than the others coarsens the scale that they share with it. With one of 4096 a thousand
 * times larger, groups of 32, the mean squared error relative to what the others contribute is 4e-10 with `'float32'`; 3e-6
 * (per group) and 4e-4 (per token) with `'int16'`; 7e-3 (per group) with `'int8'`, and 0.8 per token: nothing is left of them.
 *
 * Float weights always compute in float32, whatever `computeDtype` says; so does a pair of which one holds floats. Integer
 * sums, and so `'int16'` and `'int8'`, give the same bits on every processor; `'float32'` gives those of the instruction set's
 * order of additions. No result depends on the number of threads.
 *
 * Activations: `'silu'`, `v·σ(v)`; `'gelu'`, `v·Φ(v)` with the normal distribution function; `'gelu-tanh'`, its usual
 * approximation with tanh.
 *
 * With a weight that was packed for a device, the layer is computed there, in tensor cores: products of codes and x, which is
 * float16 (for float32, whose rows are scaled by powers of two) or bfloat16, are added in float32 and multiplied by the scales.
 * `computeDtype` and `activationGranularity` have no meaning there. x may be an array, which is uploaded, or a
 * {@link DeviceTensor} of float32, float16 or bfloat16, whose type the result then has, on the device.
 *
 * @param x - Activations `[M, K]` in row-major order: whole rows, or none. It may be a view of a SharedArrayBuffer.
 * @param w - From {@link prepack} or {@link loadPacked}.
 * @returns `[M, N]` in row-major order, in a new array or in `out`; for an x on a device a {@link DeviceTensor}.
 * @throws {@link InvalidArgumentError} for a wrong type or length, a disposed weight, x and w on different devices, or an `out`
 *   that overlaps what is read; {@link NonFiniteError} for NaN or infinity in x; {@link OutOfMemoryError};
 *   {@link DeviceError} of a device.
 *
 * Sources: Shazeer, "GLU Variants Improve Transformer" (arXiv:2002.05202); Hendrycks and Gimpel, "Gaussian Error Linear Units"
 * (arXiv:1606.08415); Yao et al., "ZeroQuant" (arXiv:2206.01861), for dynamic activations per token.
 *
 * @example
 * ```ts
 * const w = prepack(quantizeTensor(weights, { dtype: 'int4', shape: [n, k], granularity: 'per-group', groupSize: 32 }));
 * const y = linear(x, w); // x: [m, k], y: [m, n]
 * linear(x, w, { out: y, computeDtype: 'int8' }); // faster for many rows, in the same memory
 * linear(x, up, { gate }); // SwiGLU: silu(x·Gᵀ) ⊙ (x·Uᵀ)
 * ```
 */
export function linear(x: Float32Array, w: PackedWeight, options?: LinearOptions): Float32Array;
/** The same of a tensor on a device, which the result does not leave. */
export function linear<X extends LargeFloatDtype, D extends LargeFloatDtype = X>(
  x: DeviceTensor<X>,
  w: PackedWeight,
  options?: DeviceLinearOptions<D>,
): DeviceTensor<D>;
export function linear(x: unknown, wValue: unknown, options?: unknown): unknown {
  const w = checkAnyWeight('w', wValue, LINEAR_KINDS);
  if (w.device !== 'cpu') {
    const p = prepareOnDevice(x, w, options, OPTIONS);
    onDevice(p).now((error) => explained(error, 'out', p.x));
    return p.out;
  }
  const p = prepare(x, w, options, OPTIONS);
  try {
    addon.linear(recordOf(p), p.x, p.weight, p.bias, p.gate, p.gateBias, p.out);
  } catch (error) {
    throw explained(error, 'out', p.x);
  }
  return p.out;
}

/**
 * {@link linear} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first; the
 * weights are not, and may be disposed meanwhile.
 *
 * @throws As {@link linear}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export function linearAsync(x: Float32Array, w: PackedWeight, options?: LinearAsyncOptions): Promise<Float32Array>;
/** The same of a tensor on a device, which the result does not leave. */
export function linearAsync<X extends LargeFloatDtype, D extends LargeFloatDtype = X>(
  x: DeviceTensor<X>,
  w: PackedWeight,
  options?: DeviceLinearOptions<D> & { signal?: AbortSignal },
): Promise<DeviceTensor<D>>;
export async function linearAsync(x: unknown, wValue: unknown, options?: { signal?: AbortSignal }): Promise<unknown> {
  const w = checkAnyWeight('w', wValue, LINEAR_KINDS);
  if (w.device !== 'cpu') {
    const p = prepareOnDevice(x, w, options, ASYNC_OPTIONS);
    const signal = validate.abortSignal('signal', options?.signal);
    await onDevice(p).later(signal, (error, seen) => explained(error, 'out', seen(p.x)));
    return p.out;
  }
  const p = prepare(x, w, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.x);
  const bias = p.bias === null ? null : detachedFromCaller.input(p.bias);
  const gateBias = p.gateBias === null ? null : detachedFromCaller.input(p.gateBias);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) => addon.linearAsync(recordOf(p), copied, p.weight, bias, p.gate, gateBias, out, done),
    signal,
    (error) => explained(error, 'out', copied),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
