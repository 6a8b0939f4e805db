import { describe, expect, it } from 'vitest';
import {
  capabilities,
  castTensor,
  DeviceTensor,
  type LargeFloatDtype,
  type MatmulFloat8Options,
  matmulFloat8,
  matmulFloat8Async,
  quantizeTensor,
} from '../../lib/index.js';
import { emulatedModule, freeBytes, hasEmulatedModule } from '../support/cuda.js';
import { expectFloat8Product, float8Codes, float8Operands } from '../support/float8.js';
import { DIST, run } from '../support/processes.js';
import { normal } from '../support/random.js';

// Emulated devices have the instructions only if told so.
process.env['LOWBIT_EMULATED_CAPABILITY'] = '89';

const invalid = (argument: string, message: RegExp) =>
  expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });

describe.skipIf(!hasEmulatedModule)('matmulFloat8 on a device', () => {
  async function withoutLeak(call: () => unknown): Promise<void> {
    await call();
    const before = [freeBytes(capabilities), freeBytes(capabilities, 1)];
    await call();
    expect([freeBytes(capabilities), freeBytes(capabilities, 1)]).toEqual(before);
  }

  it.each([
    [1, 18, 64],
    [17, 40, 300],
    [3, 6, 0],
  ])('is the product in float64, wherever its operands are: m %i, n %i, k %i', async (m, n, k) => {
    for (const [choice, outDtype] of (['float32', 'float16', 'bfloat16'] as LargeFloatDtype[]).entries()) {
      const { a, b, options } = float8Operands(m, n, k, choice);
      const given = { ...options, outDtype } as MatmulFloat8Options;
      const y = matmulFloat8(a, b, { ...given, device: 'cuda' });
      expectFloat8Product(y, a, b, given, 2 ** -20); // the emulator rounds as float32 does
      await withoutLeak(async () => {
        expect(await matmulFloat8Async(a, b, { ...given, device: 'cuda:1' })).toEqual(y);
        const out = y.slice().fill(0);
        expect(await matmulFloat8Async(a, b, { ...given, device: 'cuda', out })).toBe(out);
        expect(out).toEqual(y);

        using x = DeviceTensor.upload(a, { dtype: 'float8_e4m3fn', shape: [m, k] });
        using w = DeviceTensor.upload(b);
        const { out: _, ...there } = given;
        using result = matmulFloat8(x, w, there);
        expect(result).toMatchObject({ dtype: outDtype, shape: [m, n], device: 'cuda:0' });
        expect(result.download()).toEqual(y);
        using later = await matmulFloat8Async(x, b, there);
        expect(later.download()).toEqual(y);
        expect(matmulFloat8(x, w, { ...there, out: later })).toBe(later);
      });
    }
  });

  it('multiplies what quantizeTensor makes there', () => {
    const [m, n, k] = [5, 8, 96];
    const [x, w] = [normal(m * k, 6), normal(n * k, 7)];
    const perRow = { dtype: 'float8_e4m3fn', granularity: 'per-channel' } as const;
    using tx = DeviceTensor.upload(x, { shape: [m, k] });
    using tw = DeviceTensor.upload(w, { shape: [n, k] });
    const [qx, qw] = [quantizeTensor(tx, perRow), quantizeTensor(tw, perRow)];
    using bias = DeviceTensor.upload(new Float32Array(n).fill(2));
    using y = matmulFloat8(qx.data, qw.data, { m, n, k, aScale: qx.scales, bScale: qw.scales, bias });
    const [a, b] = [qx.data.download(), qw.data.download()];
    const options = { m, n, k, aScale: qx.scales.download(), bScale: qw.scales.download(), bias: bias.download() };
    expectFloat8Product(y.download(), a, b, options, 2 ** -20);
    for (const tensor of [qx.data, qx.scales, qw.data, qw.scales]) tensor.dispose();
    // One scale for all of a, on the device as well.
    using one = DeviceTensor.upload(Float32Array.of(0.5));
    using codes = castTensor(tx, { to: 'float8_e4m3fn' });
    using again = matmulFloat8(codes, b, { m, n, k, aScale: one });
    const cast = castTensor(x, { from: 'float32', to: 'float8_e4m3fn' }) as Uint8Array;
    expectFloat8Product(again.download(), cast, b, { m, n, k, aScale: 0.5 }, 2 ** -20);
  });

  it('a NaN reaches the results that it takes part in, as on the processor', () => {
    const [m, n, k] = [3, 4, 20];
    const [a, b] = [float8Codes(m * k, 1), float8Codes(n * k, 2)];
    a[k + 7] = 0x7f;
    b[2 * k + 3] = 0xff;
    const spoilt = (y: Float32Array) => Array.from(y, Number.isNaN);
    const expected = spoilt(matmulFloat8(a, b, { m, n, k }));
    expect(expected.filter(Boolean)).toHaveLength(6);
    expect(spoilt(matmulFloat8(a, b, { m, n, k, device: 'cuda' }))).toEqual(expected);
  });

  it('without results', async () => {
    using none = DeviceTensor.upload(new Uint8Array(0));
    using y = await matmulFloat8Async(none, new Uint8Array(6), { m: 0, n: 2, k: 3 });
    expect(y).toMatchObject({ shape: [0, 2], dtype: 'float32' });
    expect(y.download()).toEqual(new Float32Array(0));
  });

  it('wrong arguments', () => {
    const size = { m: 2, n: 3, k: 4 };
    const [a, b] = [new Uint8Array(8), new Uint8Array(12)];
    using x = DeviceTensor.upload(a);
    using floats = DeviceTensor.upload(new Float32Array(8));
    using two = DeviceTensor.upload(new Float32Array(2));
    using elsewhere = DeviceTensor.upload(b, { device: 'cuda:1' });
    const calls: [string, RegExp, unknown, unknown, object][] = [
      ['a', /uint8 or float8_e4m3fn for a/, floats, b, {}],
      ['a', /as device says/, x, b, { device: 'cpu' }],
      ['a', /Expected 12 elements/, x, b, { m: 3 }],
      ['b', /on cuda:0, as a is/, x, elsewhere, {}],
      ['bScale', /Expected 3 elements/, x, b, { bScale: two }],
      ['aScale', /of float32/, x, b, { aScale: x }],
      ['out', /a DeviceTensor/, x, b, { out: new Float32Array(6) }],
      ['out', /Float32Array/, a, b, { out: two }],
      ['out', /of bfloat16/, x, b, { outDtype: 'bfloat16', out: floats }],
    ];
    for (const [argument, message, left, right, options] of calls) {
      const call = () => matmulFloat8(left as never, right as never, { ...size, ...options } as never);
      expect(call, String(message)).toThrow(invalid(argument, message));
    }
  });

  it('too little memory, and a signal that aborts', async () => {
    const { a, b, options } = float8Operands(8, 8, 128, 1);
    await matmulFloat8Async(a, b, { ...options, device: 'cuda' });
    const start = freeBytes(capabilities);
    const used = 4 * 2 ** 30 - start;
    let failures = 0;
    for (let room = 0; ; room += 250) {
      process.env['LOWBIT_EMULATED_BYTES'] = String(used + room);
      const error = await matmulFloat8Async(a, b, { ...options, device: 'cuda' }).then(
        () => undefined,
        (failed: unknown) => failed,
      );
      expect(freeBytes(capabilities)).toBe(room);
      if (error === undefined) break;
      failures++;
      expect(error).toMatchObject({ code: 'OUT_OF_MEMORY', device: 'cuda:0' });
    }
    delete process.env['LOWBIT_EMULATED_BYTES'];
    expect(failures).toBeGreaterThan(3);
    const stop = new AbortController();
    const result = matmulFloat8Async(a, b, { ...options, device: 'cuda', signal: stop.signal });
    stop.abort(new Error('stop'));
    await expect(result).rejects.toThrow('stop');
    expect(freeBytes(capabilities)).toBe(start);
  });

  it('devices before compute capability 8.9 have no such products', async () => {
    const script = `const { DeviceTensor, matmulFloat8, matmulFloat8Async } = require(${DIST});
      (async () => {
        const [a, size] = [new Uint8Array(4), { m: 1, n: 1, k: 4 }];
        const show = ({ name, code, argument, device, message }) => console.log(name, code, argument, device, message);
        try { matmulFloat8(a, a, { ...size, device: 'cuda' }); } catch (error) { show(error); }
        await matmulFloat8Async(DeviceTensor.upload(a), a, size).catch(show);
        console.log(matmulFloat8(a, a, size)[0]);
      })();`;
    const env = { LOWBIT_CUDA_MODULE: emulatedModule, LOWBIT_EMULATED_CAPABILITY: '86' };
    const { stdout, stderr } = await run(script, env);
    const line =
      "DeviceError DEVICE_UNSUPPORTED device cuda:0 Expected compute capability 8.9 or newer, which has products of float8, on cuda:0. Use device 'cpu', or download what is on the device.\n";
    expect({ stdout, stderr }).toEqual({ stdout: `${line}${line}0\n`, stderr: '' });
  });
});
