/**
 * What must and what must not compile of fake quantization and lib/observe. Checked by the compiler (`npm run check`), never run:
 * an expected error that is none is an error.
 */
import {
  type FakeQuantized,
  fakeQuantize,
  fakeQuantizeAsync,
  fakeQuantizeBackward,
  learnedQuantizeBackward,
  mseRange,
  Observer,
  pytorchParameters,
  quantizeTensor,
} from '../../lib/index.js';

declare const floats: Float32Array;
declare const integers: Int32Array;
declare const bytes: Uint8Array;
declare const granularity: 'per-tensor' | 'per-channel';

const scales = floats;
export const result: FakeQuantized = fakeQuantize(floats, { dtype: 'int8', scales });
fakeQuantize(floats, { quantMin: -5, quantMax: 5, scales, zeroPoints: integers, rounding: 'half-away' });
fakeQuantize(floats, { dtype: 'uint4', quantMax: 14, scales, zeroPoints: floats, granularity: 'per-channel', axis: 1 });
fakeQuantize(floats, { dtype: 'float8_e5m2', scales, granularity });
fakeQuantize(floats, { dtype: 'mxint8', shape: [4, 32], out: result });
fakeQuantize(floats, { dtype: 'nvfp4', globalScale: 3 });
fakeQuantizeAsync(floats, { dtype: 'mxfp4', signal: AbortSignal.timeout(1) });
// @ts-expect-error: integers need scales
fakeQuantize(floats, { dtype: 'int8' });
// @ts-expect-error: a range needs both ends
fakeQuantize(floats, { quantMin: -5, scales });
// @ts-expect-error: an axis of what?
fakeQuantize(floats, { dtype: 'int8', scales, axis: 1 });
// @ts-expect-error: blocks find their own scales
fakeQuantize(floats, { dtype: 'mxfp4', scales });
// @ts-expect-error: only nvfp4 has one
fakeQuantize(floats, { dtype: 'mxfp4', globalScale: 3 });
// @ts-expect-error: floats have no zero points
fakeQuantize(floats, { dtype: 'float8_e5m2', scales, zeroPoints: integers });
// @ts-expect-error: signals end asynchronous calls
fakeQuantize(floats, { dtype: 'mxfp4', signal: AbortSignal.timeout(1) });

fakeQuantizeBackward(floats, { mask: bytes });
// @ts-expect-error: without a mask there is no telling
fakeQuantizeBackward(floats, {});
learnedQuantizeBackward(floats, { input: floats, dtype: 'int4', scales, gradFactor: 0.1 });
// @ts-expect-error: steps of floats are not learned
learnedQuantizeBackward(floats, { input: floats, dtype: 'float8_e5m2', scales });

const observer = new Observer({ method: 'percentile', percentile: 99, granularity, axis: 1 });
quantizeTensor(floats, { dtype: 'int8', ...observer.parameters('int8') });
quantizeTensor(floats, { dtype: 'uint4', granularity: 'per-channel', ...observer.parameters('uint4') });
Observer.fromState(observer.toState());
mseRange(observer.histogram(), { dtype: 'int4' });
pytorchParameters(floats, floats, { dtype: 'int8', scheme: 'symmetric' });
// @ts-expect-error: there is no such method
new Observer({ method: 'max' });
// @ts-expect-error: a range of what?
pytorchParameters(floats, floats, {});
