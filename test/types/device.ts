/** What calls on devices take and give: this file need only compile. */
import {
  castTensor,
  type DeviceFakeQuantized,
  type DeviceQuantizedTensor,
  DeviceTensor,
  dequantizeTensor,
  fakeQuantize,
  fakeQuantizeBackward,
  gram,
  learnedQuantizeBackward,
  linear,
  matmulFloat8,
  matmulFloat8Async,
  matmulInteger,
  prepack,
  quantizeBlocks,
  quantizeTensor,
  quantizeTensorAsync,
} from '../../lib/index.js';

const floats = new Float32Array(6);
const halves = new Uint16Array(6);

export const x: DeviceTensor<'float32'> = DeviceTensor.upload(floats, { device: 'cuda:1', shape: [2, 3] });
export const half: DeviceTensor<'bfloat16'> = DeviceTensor.upload(halves, { dtype: 'bfloat16' });
export const bytes: DeviceTensor<'uint8'> = DeviceTensor.upload(new Uint8Array(4));
export const small: DeviceTensor<'float8_e4m3fn'> = DeviceTensor.upload(new Uint8Array(4), { dtype: 'float8_e4m3fn' });
// @ts-expect-error: a GPU's memory
DeviceTensor.upload(floats, { device: 'cpu' });
// @ts-expect-error: a Float32Array holds float32
DeviceTensor.upload(floats, { dtype: 'float16' });

export const array: Float32Array = x.download();
export const bits: Uint16Array = half.download();

export const cast: DeviceTensor<'float16'> = castTensor(x, { to: 'float16' });
export const host: Uint16Array = castTensor(floats, { from: 'float32', to: 'float16', device: 'cuda' });
export const q: DeviceQuantizedTensor<'int4'> = quantizeTensor(x, { dtype: 'int4', shape: [2, 3] });
export const later: Promise<DeviceQuantizedTensor<'nf4'>> = quantizeTensorAsync(x, { dtype: 'nf4' });
// @ts-expect-error: codebooks have no zero points
quantizeTensor(x, { dtype: 'nf4', zeroPoints: new Int32Array(1) });
export const y: DeviceTensor<'float32'> = dequantizeTensor(q);
export const z: DeviceTensor<'bfloat16'> = dequantizeTensor(q, { dtype: 'bfloat16' });

const w = prepack(q);
export const product: DeviceTensor<'float16'> = linear(cast, w, { bias: floats });
export const wider: DeviceTensor<'float32'> = linear(cast, w, { out: x });
// @ts-expect-error: a device has no choice of it
linear(cast, w, { computeDtype: 'int8' });
export const sums: DeviceTensor<'float32'> = gram(half, { k: 3 });
export const integers: DeviceTensor<'int32'> = matmulInteger(bytes, bytes, { m: 2, n: 2, k: 2 });
export const floatProduct: DeviceTensor<'float32'> = matmulFloat8(bytes, small, { m: 2, n: 2, k: 2, aScale: sums });
export const halfProduct: Promise<Uint16Array> = matmulFloat8Async(new Uint8Array(4), new Uint8Array(4), {
  m: 2,
  n: 2,
  k: 2,
  outDtype: 'float16',
});
// @ts-expect-error: codes are bytes
matmulFloat8(x, bytes, { m: 2, n: 2, k: 2 });
export const fake: DeviceFakeQuantized = fakeQuantize(x, { dtype: 'int8', scales: sums });
export const slope: DeviceTensor<'float32'> = fakeQuantizeBackward(x, { mask: fake.mask });
export const learned: DeviceTensor<'float32'> = learnedQuantizeBackward(x, {
  dtype: 'int8',
  scales: sums,
  input: x,
}).scales;
// @ts-expect-error: what is on a device stays there
fakeQuantize(x, { dtype: 'mxfp4', out: { output: floats, mask: new Uint8Array(6) } });
export const blocks: DeviceTensor<'uint8'> = quantizeBlocks(x, { type: 'q8_0', rowLength: 32 });
// @ts-expect-error: a tensor is made by upload, or by calls
new DeviceTensor();
