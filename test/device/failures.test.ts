import { afterEach, describe, expect, it } from 'vitest';
import {
  capabilities,
  castTensor,
  castTensorAsync,
  DeviceTensor,
  dequantizeTensor,
  fakeQuantize,
  fakeQuantizeBackwardAsync,
  gptq,
  gram,
  gramAsync,
  learnedQuantizeBackward,
  linear,
  linearAsync,
  matmulInteger,
  prepack,
  prepackAsync,
  quantizeBlocks,
  quantizeTensor,
  quantizeTensorAsync,
} from '../../lib/index.js';
import { emulatedModule, deviceEnvironment as env, freeBytes, hasDevice, hasEmulatedModule } from '../support/cuda.js';
import { DIST, run, success } from '../support/processes.js';
import { normal } from '../support/random.js';

const device = 'cuda';
const x = normal(4096, 1);
const q = quantizeTensor(x, { dtype: 'int4', shape: [64, 64], granularity: 'per-group', groupSize: 32 });

const sums = { columns: 64, rows: 64, gram: gram(x, { k: 64 }), sumOfSquares: new Float64Array(64) };

/** Every kind of call. */
const calls: (() => unknown)[] = [
  () => castTensor(x, { from: 'float32', to: 'float16', device }),
  () => castTensorAsync(x, { from: 'float32', to: 'float8_e5m2', device }),
  () => quantizeTensor(x, { dtype: 'uint4', device }),
  () => quantizeTensorAsync(x, { dtype: 'nvfp4', device }),
  () => dequantizeTensor(q, { device }),
  () => quantizeBlocks(x, { type: 'q8_0', rowLength: 4096, device }),
  () => gram(x, { k: 64, device }),
  () => gramAsync(x, { k: 64, device }),
  () => matmulInteger(new Int8Array(4096), new Int8Array(4096), { m: 64, n: 64, k: 64, device }),
  () => prepack(q, { device }).dispose(),
  () => prepackAsync(x, { shape: [64, 64], device }).then((w) => w.dispose()),
  () => DeviceTensor.upload(x).dispose(),
  () => fakeQuantize(x, { dtype: 'nvfp4', device }),
  () => fakeQuantizeBackwardAsync(x, { mask: new Uint8Array(4096), device }),
  () => learnedQuantizeBackward(x, { input: x, dtype: 'int8', scales: Float32Array.of(1), device }),
  () => gptq(x, sums, { dtype: 'uint4', groupSize: 16, device }),
];
const failure = (call: () => unknown) =>
  (async () => call())().then(
    () => undefined,
    (error: Error) => error,
  );

describe.skipIf(!hasEmulatedModule)('a device that fails', () => {
  afterEach(() => {
    delete process.env['LOWBIT_EMULATED_BYTES'];
    delete process.env['LOWBIT_EMULATED_LOST'];
  });

  it('runs out of memory, at whatever place, without losing any', async () => {
    for (const call of calls) await call();
    const start = freeBytes(capabilities);
    const used = 4 * 2 ** 30 - start;
    for (const call of calls) {
      let failures = 0;
      // More and more memory, so that the call fails at one allocation after the other.
      for (let room = 0; ; room += 1531) {
        process.env['LOWBIT_EMULATED_BYTES'] = String(used + room);
        const error = await failure(call);
        expect(freeBytes(capabilities)).toBe(room);
        if (error === undefined) break;
        failures++;
        expect(error).toMatchObject({ name: 'OutOfMemoryError', code: 'OUT_OF_MEMORY', device: 'cuda:0' });
        expect(error.message).toMatch(/not enough memory on cuda:0 for .* Dispose of/);
      }
      expect(failures).toBeGreaterThan(1);
    }
    delete process.env['LOWBIT_EMULATED_BYTES'];
    expect(freeBytes(capabilities)).toBe(start);
  });

  it('says how many bytes were asked for', () => {
    const used = 4 * 2 ** 30 - freeBytes(capabilities);
    process.env['LOWBIT_EMULATED_BYTES'] = String(used + 1000);
    expect(() => DeviceTensor.upload(x)).toThrow(expect.objectContaining({ bytes: 16384, device: 'cuda:0' }));
  });

  it('is lost, which only a new process helps', async () => {
    process.env['LOWBIT_EMULATED_LOST'] = '1';
    for (const call of calls) {
      const error = await failure(call);
      expect(error).toMatchObject({ name: 'DeviceError', code: 'DEVICE_LOST', device: 'cuda:0' });
      expect(error?.message).toMatch(/was lost \(.*\)\. .*restart the process/);
    }
    delete process.env['LOWBIT_EMULATED_LOST'];
    await calls[0]?.();
  });
});

describe.skipIf(!hasDevice)('a device', () => {
  it('has not every option: the error names it and the remedy', async () => {
    const unsupported = (argument: string) => ({
      name: 'DeviceError',
      code: 'DEVICE_UNSUPPORTED',
      argument,
      device: 'cuda:0',
    });
    for (const [argument, call] of [
      ['range', () => quantizeTensor(x, { dtype: 'int8', range: 'mse', device })],
      ['range', () => quantizeTensor(DeviceTensor.upload(x), { dtype: 'int8', range: { percentile: 99 } })],
      ['range', () => quantizeTensorAsync(x, { dtype: 'ternary', device })],
      ['type', () => quantizeBlocks(x, { type: 'q4_k', rowLength: 4096, device })],
      ['importance', () => quantizeBlocks(x, { type: 'q4_0', rowLength: 4096, importance: x.map(Math.abs), device })],
    ] as const) {
      const error = await failure(call);
      expect(error).toMatchObject(unsupported(argument));
      expect(error?.message).toMatch(/^Expected .* on cuda:0\. Use device 'cpu', or download/);
    }
    const importance = x.slice().fill(-1);
    expect(() => quantizeBlocks(x, { type: 'q8_0', rowLength: 4096, importance, device })).toThrow(/not negative/);
  });
});

describe('without a device', () => {
  const script = `const lowbit = require(${DIST});
    const { cuda } = lowbit.capabilities();
    console.log(cuda.available, cuda.devices.length, cuda.reason);
    try { lowbit.castTensor(new Float32Array(4), { from: 'float32', to: 'float16', device: 'cuda' }); }
    catch (error) { console.log(error.name, error.code, error.message); }`;

  it('capabilities().cuda.reason says why, and so do errors', async () => {
    const { stdout, ...rest } = await run(script, { LOWBIT_CUDA_MODULE: '/nowhere/lowbit_cuda.so' });
    expect(rest).toMatchObject({ status: 0, stderr: '' });
    const reason =
      "This build has no CUDA module (/nowhere/lowbit_cuda.so does not exist): build it with LOWBIT_CUDA=ON and CUDA's nvcc.";
    expect(stdout).toBe(
      `false 0 ${reason}\nDeviceError NO_DEVICE The device cuda:0 can't be used. ${reason} ` +
        "capabilities().cuda says which devices there are; device 'cpu' is always there.\n",
    );
    const wrong = await run(script, { LOWBIT_CUDA_MODULE: __filename });
    expect(wrong.stdout).toMatch(/^false 0 The CUDA module could not be loaded: .*\nDeviceError NO_DEVICE/);
  });

  it.skipIf(!hasEmulatedModule)('a module without devices', async () => {
    const { stdout } = await run(script, { LOWBIT_CUDA_MODULE: emulatedModule, LOWBIT_EMULATED_DEVICES: '0' });
    expect(stdout).toMatch(
      /^false 0 CUDA has no device to use: no CUDA-capable device is detected\.\nDeviceError NO_DEVICE/,
    );
  });
});

describe.skipIf(!hasDevice)('threads', () => {
  it('the event loop goes on during asynchronous calls, and ES modules have the same names', async () => {
    const script = `import(${JSON.stringify(`file://${JSON.parse(DIST)}`)}).then(async (lowbit) => {
      const x = new Float32Array(1 << 20).fill(0.5);
      let turns = 0, over = false;
      const turn = () => { turns++; if (!over) setImmediate(turn); };
      turn();
      const t = await lowbit.DeviceTensor.uploadAsync(x);
      const half = await lowbit.castTensorAsync(t, { to: 'float16' });
      const out = await half.downloadAsync();
      over = true;
      console.log(turns > 20, out.length, out[5], lowbit.default.DeviceTensor === lowbit.DeviceTensor);
    });`;
    expect(await run(script, env)).toEqual(success('true 1048576 14336 true\n'));
  });

  it('workers have devices; those that are terminated in the middle of calls do no harm, and lose no memory', async () => {
    const script = `const lowbit = require(${DIST});
      const { Worker } = require('node:worker_threads');
      const used = () => 4 * 2 ** 30 - lowbit.capabilities().cuda.devices[0].freeBytes;
      const body = \`const lowbit = require(${DIST}); const { parentPort } = require('node:worker_threads');
        const x = new Float32Array(1 << 18).fill(0.25);
        const t = lowbit.DeviceTensor.upload(x);
        const w = lowbit.prepack(x, { shape: [512, 512], device: 'cuda' });
        const endless = () => lowbit.linearAsync(x.subarray(0, 512), w).then(endless);
        endless(); endless();
        lowbit.castTensorAsync(t, { to: 'float16' });
        parentPort.postMessage('started');
        if (\${'$'}{sync}) for (;;) lowbit.castTensor(t, { to: 'float16' }).dispose();\`;
      (async () => {
        for (let round = 0; round < 9; round++) {
          const worker = new Worker(body.replace('\${sync}', String(round % 3 === 0)), { eval: true });
          await new Promise((resolve, reject) => { worker.on('message', resolve); worker.on('error', reject); });
          await new Promise((resolve) => setTimeout(resolve, 5 * round));
          await worker.terminate();
        }
        // A few streams stay, with what they need in between; tensors of a megabyte and weights go with their thread.
        console.log(!${hasEmulatedModule} || used() < 1 << 20, lowbit.castTensor(new Float32Array([1]), { from: 'float32', to: 'float16', device: 'cuda' })[0]);
      })();`;
    expect(await run(script, env)).toEqual(success('true 15360\n'));
  });

  it('a tensor that is sent to another thread is refused there', async () => {
    const script = `const lowbit = require(${DIST});
      const { Worker } = require('node:worker_threads');
      const worker = new Worker(\`const lowbit = require(${DIST}); const { parentPort } = require('node:worker_threads');
        parentPort.on('message', (t) => {
          try { lowbit.castTensor(t, { from: 'float32', to: 'float16' }); } catch (error) { console.log(error.code); }
          parentPort.close();
        });\`, { eval: true });
      worker.postMessage(lowbit.DeviceTensor.upload(new Float32Array(4)));`;
    expect(await run(script, env)).toEqual(success('INVALID_ARGUMENT\n'));
  });

  it.skipIf(!hasEmulatedModule)(
    'what is not disposed is freed by the garbage collector, which knows of the memory',
    async () => {
      const script = `const lowbit = require(${DIST});
      const free = () => lowbit.capabilities().cuda.devices[0].freeBytes;
      (async () => {
        lowbit.DeviceTensor.upload(new Float32Array(4)).dispose();
        const start = free();
        const before = process.memoryUsage().external;
        let t = lowbit.DeviceTensor.upload(new Float32Array(1 << 20));
        const known = process.memoryUsage().external - before >= 1 << 22;
        t = undefined;
        for (let i = 0; i < 50 && free() !== start; i++) { globalThis.gc(); await new Promise((done) => setTimeout(done, 10)); }
        console.log(known, free() === start);
      })();`;
      expect(await run(script, env, ['--expose-gc'])).toEqual(success('true true\n'));
    },
  );
});

describe.skipIf(!hasEmulatedModule)('linear', () => {
  it('without memory for the result', async () => {
    const w = prepack(q, { device });
    const t = DeviceTensor.upload(x);
    linear(t, w).dispose();
    await linearAsync(x, w);
    const used = 4 * 2 ** 30 - freeBytes(capabilities);
    for (const room of [0, 100, 20_000]) {
      process.env['LOWBIT_EMULATED_BYTES'] = String(used + room);
      for (const call of [() => linear(x, w), () => linearAsync(x, w)]) {
        expect(await failure(call)).toMatchObject({ code: 'OUT_OF_MEMORY', device: 'cuda:0' });
        expect(freeBytes(capabilities)).toBe(room);
      }
    }
    delete process.env['LOWBIT_EMULATED_BYTES'];
    w.dispose();
    t.dispose();
  });
});
