/**
 * What must and what must not compile. Checked by the compiler (`npm run check`), never run: an expected error that is none
 * is an error.
 */
import {
  castTensor,
  dequantizeTensor,
  type Float16ArrayLike,
  type QuantizedTensor,
  quantizeCheckpoint,
  quantizeTensor,
  quantizeTensorAsync,
  unpackCodes,
} from '../../lib/index.js';

declare const floats: Float32Array;
declare const halves: Uint16Array;
declare const float16: Float16ArrayLike;
declare const scales: Float32Array;
declare const zeroPoints: Int32Array;

// Results follow from options.
export const int4: QuantizedTensor<'int4'> = quantizeTensor(floats, { dtype: 'int4' });
export const later: Promise<QuantizedTensor<'uint8'>> = quantizeTensorAsync(floats, { dtype: 'uint8' });
export const signed: Int8Array = unpackCodes(int4);
export const unsigned: Uint8Array = unpackCodes(quantizeTensor(floats, { dtype: 'uint4' }));
export const back: Float32Array = dequantizeTensor(int4);
export const narrow: Uint16Array = dequantizeTensor(int4, { dtype: 'bfloat16' });
export const cast: Uint16Array = castTensor(floats, { from: 'float32', to: 'float16' });
export const into: Float16ArrayLike = castTensor(floats, { from: 'float32', to: 'float16', out: float16 });
export const small: Uint8Array = castTensor(floats, { from: 'float32', to: 'float8_e4m3fn', saturate: false });
export const fromSmall: Float32Array = castTensor(small, { from: 'float4_e2m1fn', to: 'float32', count: 3 });
export const halfFromSmall: Uint16Array = castTensor(small, { from: 'float6_e2m3fn', to: 'float16' });
// @ts-expect-error: float32 is not a Uint16Array
export const wrongBack: Uint16Array = dequantizeTensor(int4, { dtype: 'float32' });
// @ts-expect-error: signed codes are an Int8Array
export const wrongCodes: Uint8Array = unpackCodes(int4);

// The element type of a Uint16Array must be said, that of others must not contradict the array.
quantizeTensor(halves, { dtype: 'int8', inputDtype: 'bfloat16' });
quantizeTensor(float16, { dtype: 'int8' });
// @ts-expect-error: float16 or bfloat16?
quantizeTensor(halves, { dtype: 'int8' });
// @ts-expect-error: a Float32Array holds float32
quantizeTensor(floats, { dtype: 'int8', inputDtype: 'float16' });
// @ts-expect-error: a Float16Array holds float16
quantizeTensor(float16, { dtype: 'int8', inputDtype: 'bfloat16' });
// @ts-expect-error: not a float array
quantizeTensor(new Float64Array(4), { dtype: 'int8' });
// @ts-expect-error: from says float32
castTensor(halves, { from: 'float32', to: 'float16' });
// @ts-expect-error: out does not hold float16
castTensor(floats, { from: 'float32', to: 'float16', out: new Float32Array(1) });

// @ts-expect-error: floats of 8 bits are bytes
castTensor(halves, { from: 'float8_e5m2', to: 'float32' });
// @ts-expect-error: nor are they anything else
castTensor(floats, { from: 'float32', to: 'float8_e5m2', out: new Uint16Array(1) });
// @ts-expect-error: floats of 8 bits are a matter of casts
quantizeTensor(halves, { dtype: 'int8', inputDtype: 'float8_e4m3fn' });
// @ts-expect-error: the same
dequantizeTensor(int4, { dtype: 'float8_e4m3fn' });
// @ts-expect-error: the same
quantizeTensor(floats, { dtype: 'int8', scaleDtype: 'float8_e4m3fn' });

// Axis and group size go with their granularity.
quantizeTensor(floats, { dtype: 'int8', granularity: 'per-channel', axis: 1 });
quantizeTensor(floats, { dtype: 'int8', granularity: 'per-group', groupSize: 32 });
// @ts-expect-error: groups need granularity 'per-group'
quantizeTensor(floats, { dtype: 'int8', groupSize: 32 });
// @ts-expect-error: per-channel has no groups
quantizeTensor(floats, { dtype: 'int8', granularity: 'per-channel', groupSize: 32 });
// @ts-expect-error: an axis needs granularity 'per-channel'
quantizeTensor(floats, { dtype: 'int8', granularity: 'per-group', axis: 0 });

// Codebooks.
export const nf4: QuantizedTensor<'nf4'> = quantizeTensor(floats, { dtype: 'nf4', nested: true });
export const ternaryCodes: Int8Array = unpackCodes(quantizeTensor(floats, { dtype: 'ternary', range: 'twn' }));
export const nf4Codes: Uint8Array = unpackCodes(nf4);
quantizeTensor(floats, { dtype: 'float8_e4m3fn', granularity: 'per-block', blockShape: [128, 128] });
// @ts-expect-error: only nf4 and fp4 have nested scales
quantizeTensor(floats, { dtype: 'int4', nested: true });
// @ts-expect-error: a codebook has no zero points
quantizeTensor(floats, { dtype: 'nf4', scales, zeroPoints });
// @ts-expect-error: nor an asymmetric scheme
quantizeTensor(floats, { dtype: 'mxfp4', scheme: 'asymmetric' });
// @ts-expect-error: nor a narrow range
quantizeTensor(floats, { dtype: 'mxint8', narrowRange: true });
// @ts-expect-error: its range is not searched for
quantizeTensor(floats, { dtype: 'nf4', range: 'mse' });
// @ts-expect-error: only ternary weights have a threshold
quantizeTensor(floats, { dtype: 'binary', range: 'twn' });
// @ts-expect-error: blocks need granularity 'per-block'
quantizeTensor(floats, { dtype: 'int8', blockShape: [2, 2] });

// A variable may stand for any name.
declare const scheme: 'symmetric' | 'asymmetric';
declare const granularity: 'per-tensor' | 'per-channel' | 'per-group';
quantizeTensor(floats, { dtype: 'int8', scheme, granularity });

// Narrow range concerns symmetric signed codes.
quantizeTensor(floats, { dtype: 'int8', narrowRange: false });
// @ts-expect-error: unsigned codes have no narrow range
quantizeTensor(floats, { dtype: 'uint8', scheme: 'symmetric', narrowRange: true });
// @ts-expect-error: nor has an asymmetric scheme
quantizeTensor(floats, { dtype: 'int8', scheme: 'asymmetric', narrowRange: true });

// Given parameters and a range search exclude each other.
quantizeTensor(floats, { dtype: 'int8', scales });
quantizeTensor(floats, { dtype: 'int8', scheme: 'asymmetric', scales, zeroPoints });
quantizeTensor(floats, { dtype: 'int8', range: { percentile: 99.9 } });
// @ts-expect-error: zero points need scales
quantizeTensor(floats, { dtype: 'int8', zeroPoints });
// @ts-expect-error: nothing to search
quantizeTensor(floats, { dtype: 'int8', scales, range: 'mse' });

// Names are checked.
// @ts-expect-error: no such dtype
quantizeTensor(floats, { dtype: 'int5' });
// @ts-expect-error: dtype is required
quantizeTensor(floats, {});
// @ts-expect-error: only asynchronous calls take a signal
quantizeTensor(floats, { dtype: 'int8', signal: AbortSignal.timeout(1) });
// @ts-expect-error: a quantized tensor can't be changed by accident
int4.dtype = 'int8';
// @ts-expect-error: an output folder is required
quantizeCheckpoint('model', { dtype: 'int4' });
