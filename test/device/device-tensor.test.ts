import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import {
  capabilities,
  castTensor,
  type Device,
  type DeviceDtype,
  DeviceTensor,
  gramAsync,
  InvalidArgumentError,
  linear,
  linearAsync,
  prepack,
  quantizeTensor,
} from '../../lib/index.js';
import { freeBytes, hasDevice, hasEmulatedModule, otherDevice } from '../support/cuda.js';
import { normal } from '../support/random.js';

const halves = castTensor(normal(77, 2), { from: 'float32', to: 'float16' });
const invalid = (argument: string, message: RegExp) =>
  expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });

describe.skipIf(!hasDevice)('capabilities().cuda', () => {
  it('lists devices and what they have', () => {
    const { cuda } = capabilities();
    expect(cuda.available).toBe(true);
    expect(cuda.reason).toBeUndefined();
    for (const [
      i,
      { index, name, computeCapability, memoryBytes, freeBytes, multiprocessors },
    ] of cuda.devices.entries()) {
      expect(index).toBe(i);
      expect(name).toMatch(/\w/);
      expect(Number(computeCapability)).toBeGreaterThanOrEqual(7.5);
      expect(memoryBytes).toBeGreaterThan(2 ** 30);
      expect(freeBytes).toBeGreaterThan(0);
      expect(freeBytes).toBeLessThanOrEqual(memoryBytes);
      expect(multiprocessors).toBeGreaterThan(0);
    }
  });

  it.skipIf(!hasEmulatedModule)('lists the emulated ones', () => {
    const { cuda } = capabilities();
    expect(cuda.devices).toHaveLength(2);
    expect(cuda.devices[1]).toEqual({
      index: 1,
      name: 'Emulated device',
      computeCapability: '8.0',
      memoryBytes: 4 * 2 ** 30,
      freeBytes: expect.any(Number),
      multiprocessors: 4,
    });
  });
});

describe.skipIf(!hasDevice)('DeviceTensor', () => {
  const cases: [DeviceDtype, Parameters<typeof DeviceTensor.upload>[0], number[]][] = [
    ['float32', normal(60, 1), [3, 20]],
    ['float16', halves, [7, 11]],
    ['bfloat16', halves, [77]],
    ['float8_e4m3fn', Uint8Array.from({ length: 30 }, (_, i) => i), [5, 6]],
    ['float6_e2m3fn', Uint8Array.from({ length: 9 }, (_, i) => i), [11]],
    ['float4_e2m1fn', Uint8Array.from({ length: 9 }, (_, i) => i), [17]],
    ['int8', Int8Array.from([-128, 0, 127]), [3]],
    ['uint8', Uint8Array.from([0, 128, 255]), [1, 3]],
    ['int32', Int32Array.from([-(2 ** 31), 2 ** 31 - 1]), [2]],
    ['float32', new Float32Array(0), [0, 5]],
    ['float32', Float32Array.of(2.5), []],
  ];

  it.each(cases)('holds %s', async (dtype, array, shape) => {
    const t = DeviceTensor.upload(array as never, { dtype: dtype as never, shape, device: otherDevice });
    expect(t).toMatchObject({ dtype, shape, device: otherDevice, nbytes: array.byteLength, disposed: false });
    const back = t.download();
    expect(back).toEqual(array);
    expect(back).not.toBe(array);
    const out = (array as Uint8Array).slice().fill(0) as never;
    expect(t.download(out)).toBe(out);
    expect(out).toEqual(array);
    const later = await DeviceTensor.uploadAsync(array as never, { dtype: dtype as never, shape });
    expect(await later.downloadAsync()).toEqual(array);
    expect(await later.downloadAsync(out)).toBe(out);
  });

  it('takes the dtype and shape of the array where they are not said', () => {
    expect(DeviceTensor.upload(normal(5, 1))).toMatchObject({ dtype: 'float32', shape: [5], device: 'cuda:0' });
    expect(DeviceTensor.upload(new Int32Array(2))).toMatchObject({ dtype: 'int32', shape: [2] });
    expect(DeviceTensor.upload(new Int8Array(2))).toMatchObject({ dtype: 'int8' });
    expect(DeviceTensor.upload(new Uint8Array(2))).toMatchObject({ dtype: 'uint8' });
  });

  it('copies: neither side sees the other', async () => {
    const array = Float32Array.of(1, 2, 3);
    const t = DeviceTensor.upload(array);
    const later = DeviceTensor.uploadAsync(array);
    array.fill(9);
    expect(t.download()).toEqual(Float32Array.of(1, 2, 3));
    expect((await later).download()).toEqual(Float32Array.of(1, 2, 3));
    const shared = new Float32Array(new SharedArrayBuffer(12));
    expect((await DeviceTensor.uploadAsync(shared)).download()).toEqual(new Float32Array(3));
  });

  it('gives its memory back when it is disposed', () => {
    DeviceTensor.upload(new Uint8Array(1)).dispose();
    const before = freeBytes(capabilities);
    const t = DeviceTensor.upload(new Uint8Array(1 << 20));
    if (hasEmulatedModule) expect(freeBytes(capabilities)).toBe(before - (1 << 20));
    t.dispose();
    t.dispose();
    t[Symbol.dispose]();
    expect(freeBytes(capabilities)).toBe(before);
    expect(t).toMatchObject({ disposed: true, nbytes: 0, shape: [1 << 20], dtype: 'uint8' });
    expect(() => t.download()).toThrow(invalid('tensor', /disposed/));
    expect(() => castTensor(t as DeviceTensor, { to: 'float32' })).toThrow(invalid('input', /disposed/));
  });

  it('lives until the asynchronous calls that use it have ended', async () => {
    const x = normal(10_000, 3);
    const t = DeviceTensor.upload(x);
    const [half, same] = [castTensor(t, { to: 'float16' }), t.downloadAsync()];
    const later = [quantizeTensor(t, { dtype: 'int8' }), t.downloadAsync()];
    t.dispose();
    expect(await same).toEqual(x);
    expect(await later[1]).toEqual(x);
    expect(half.download()).toEqual(castTensor(x, { from: 'float32', to: 'float16' }));
  });

  it('and weights live until calls of several steps have ended', async () => {
    const [n, k] = [48, 64];
    const weights = quantizeTensor(normal(n * k, 4), { dtype: 'int8', shape: [n, k], granularity: 'per-channel' });
    const [x, bias] = [normal(3 * k, 5), normal(n, 6)];
    const [w, t] = [prepack(weights, { device: 'cuda' }), DeviceTensor.upload(x, { shape: [3, k] })];
    const expected = [linear(x, w, { bias }), linear(t, w, { bias }).download()];
    const later = [linearAsync(x, w, { bias }), linearAsync(t, w, { bias }).then((y) => y.download())];
    w.dispose();
    t.dispose();
    expect(await Promise.all(later)).toEqual(expected);
  });

  it("can't be changed, made by new, cloned or sent", () => {
    const t = DeviceTensor.upload(normal(4, 1));
    for (const field of ['dtype', 'shape', 'device', 'nbytes', 'disposed']) {
      expect(() => Object.assign(t, { [field]: 1 })).toThrow(TypeError);
    }
    expect(() => (t.shape as number[]).push(1)).toThrow(TypeError);
    const Constructor = DeviceTensor as unknown as new (...args: unknown[]) => DeviceTensor;
    for (const args of [[], [{}], [null], [t], [1]]) {
      expect(() => new Constructor(...args)).toThrow(/made by DeviceTensor.upload/);
    }
    const clone = structuredClone(t) as unknown as Float32Array;
    expect(() => castTensor(clone, { from: 'float32', to: 'float16' })).toThrow(InvalidArgumentError);
    expect(() => quantizeTensor(clone, { dtype: 'int8' })).toThrow(InvalidArgumentError);
    expect(() => DeviceTensor.prototype.download.call(clone as never)).toThrow(TypeError);
    expect(inspect(t)).toBe(
      "DeviceTensor {\n  dtype: 'float32',\n  shape: [ 4 ],\n  device: 'cuda:0',\n  nbytes: 16,\n  disposed: false\n}",
    );
  });

  it('refuses what does not fit', () => {
    const upload = (array: unknown, options?: object) => () =>
      DeviceTensor.upload(array as Float32Array, options as never);
    const x = normal(6, 1);
    expect(upload([1, 2])).toThrow(invalid('array', /Float32Array/));
    expect(upload(x, { device: 'cpu' })).toThrow(invalid('device', /'cuda' or/));
    for (const device of ['gpu', 'cuda:', 'cuda:-1', 'cuda:01', 'cuda:x', 0]) {
      expect(upload(x, { device })).toThrow(invalid('device', /'cpu', 'cuda' or 'cuda:<n>'/));
    }
    expect(upload(x, { shape: [7] })).toThrow(invalid('shape', /whose length is 6: it takes 7/));
    expect(upload(x, { dtype: 'float16' })).toThrow(invalid('dtype', /float32/));
    expect(upload(x, { dtype: 'int4' })).toThrow(invalid('dtype', /./));
    expect(upload(halves)).toThrow(invalid('dtype', /float16 or bfloat16/));
    expect(upload(new Uint8Array(3), { dtype: 'float4_e2m1fn' })).toThrow(invalid('shape', /4 bits/));
    expect(upload(new Uint8Array(3), { dtype: 'int8' })).toThrow(invalid('dtype', /uint8/));
    expect(upload(x, { shapes: [6] })).toThrow(invalid('shapes', /Unknown option/));
    const t = DeviceTensor.upload(x);
    expect(() => t.download(new Float32Array(5))).toThrow(invalid('out', /length 6/));
    expect(() => t.download(new Uint8Array(24) as never)).toThrow(invalid('out', /Float32Array/));
  });

  it('says which devices there are when there is no such', () => {
    const device: Device = 'cuda:99';
    const error = expect.objectContaining({
      name: 'DeviceError',
      code: 'NO_DEVICE',
      device,
      message:
        "The device cuda:99 can't be used. invalid device ordinal. capabilities().cuda says which devices there are; device 'cpu' is always there.",
    });
    expect(() => DeviceTensor.upload(normal(4, 1), { device })).toThrow(error);
    expect(() => castTensor(normal(4, 1), { from: 'float32', to: 'float16', device })).toThrow(error);
    expect(() => quantizeTensor(normal(4, 1), { dtype: 'int8', device })).toThrow(error);
  });

  it('can be aborted', async () => {
    const reason = new Error('enough');
    const signal = AbortSignal.abort(reason);
    await expect(DeviceTensor.uploadAsync(normal(4, 1), { signal })).rejects.toBe(reason);
    const t = DeviceTensor.upload(normal(4, 1));
    await expect(t.downloadAsync(undefined, { signal })).rejects.toBe(reason);
    const before = freeBytes(capabilities);
    const controller = new AbortController();
    // Jobs wait for each other: this one is still running.
    const busy = gramAsync(normal(1 << 20, 1), { k: 1024 });
    const aborted = DeviceTensor.uploadAsync(normal(1 << 16, 1), { signal: controller.signal });
    controller.abort(reason);
    await expect(aborted).rejects.toBe(reason);
    await busy;
    // (What tests before this one left to the garbage collector may have gone as well.)
    expect(freeBytes(capabilities)).toBeGreaterThanOrEqual(before);
  });
});
