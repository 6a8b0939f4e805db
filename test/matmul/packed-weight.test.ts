import { inspect } from 'node:util';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import {
  InvalidArgumentError,
  linear,
  linearAsync,
  matmulInteger,
  PackedWeight,
  prepack,
  prepackInteger,
  savePacked,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { DIST, run, success } from '../support/processes.js';
import { quantizedMatrix } from '../support/products.js';
import { normal } from '../support/random.js';

const pack = (n = 32, k = 64) =>
  prepack(quantizedMatrix(n, k, { dtype: 'int4', granularity: 'per-group', groupSize: 32, scaleDtype: 'float16' }));
const x = normal(64, 1);

describe('PackedWeight', () => {
  it('tells its shape, kind and size', () => {
    const w = pack();
    expect(w).toBeInstanceOf(PackedWeight);
    expect(w).toMatchObject({ rows: 32, cols: 64, kind: 'quantized', disposed: false });
    // half a byte for each weight, two bytes for each scale
    expect(w.nbytes).toBe((32 * 64) / 2 + 32 * 2 * 2);
    expect(prepack(normal(32 * 64, 1), { shape: [32, 64] })).toMatchObject({ kind: 'float', nbytes: 4 * 32 * 64 });
    expect(inspect(w)).toBe(
      "PackedWeight {\n  kind: 'quantized',\n  rows: 32,\n  cols: 64,\n  nbytes: 1152,\n  disposed: false\n}",
    );
  });

  it("can't be changed or made by new", () => {
    const w = pack();
    for (const field of ['rows', 'cols', 'nbytes', 'kind', 'disposed']) {
      expect(() => Object.assign(w, { [field]: 1 })).toThrow(TypeError);
    }
    const Constructor = PackedWeight as unknown as new (...args: unknown[]) => PackedWeight;
    for (const args of [[], [{}], [null], [w], [1]]) {
      expect(() => new Constructor(...args)).toThrow(InvalidArgumentError);
      expect(() => new Constructor(...args)).toThrow(/made by prepack/);
    }
  });
});

describe('dispose', () => {
  it('ends its use, once and for all', async () => {
    const w = pack();
    w.dispose();
    w.dispose();
    expect(w).toMatchObject({ disposed: true, nbytes: 0, rows: 32, cols: 64 });
    const disposed = expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      argument: 'w',
      message: 'Expected w to be in use but it has been disposed.',
    });
    expect(() => linear(x, w)).toThrow(disposed);
    await expect(linearAsync(x, w)).rejects.toThrow(disposed);
    expect(() => savePacked(w, '/nowhere')).toThrow(disposed);
    expect(() => linear(x, pack(), { gate: w })).toThrow(/gate to be in use/);
    const b = prepackInteger(new Int8Array(4), { k: 2, n: 2 });
    b.dispose();
    expect(() => matmulInteger(new Int8Array(2), b, { m: 1, n: 2, k: 2 })).toThrow(/b to be in use/);
  });

  it('is what the end of a using block calls', () => {
    const w = pack();
    w[Symbol.dispose]();
    expect(w.disposed).toBe(true);
  });

  it('waits for the calls that have begun', async () => {
    const expected = linear(x, pack());
    for (let i = 0; i < 20; i++) {
      const [w, gate] = [pack(), pack()];
      const results = Array.from({ length: 5 }, () => linearAsync(x, w));
      const gated = linearAsync(x, w, { gate });
      w.dispose();
      gate.dispose();
      for (const y of await Promise.all(results)) expect(sameBytes(y, expected)).toBe(true);
      expect(await gated).toHaveLength(32);
    }
  });

  it('in the middle of a call does no harm', () => {
    const w = pack();
    const options = {
      get bias() {
        w.dispose();
        return new Float32Array(32);
      },
    };
    expect(() => linear(x, w, options)).toThrow(InvalidArgumentError);
  });
});

describe('what is no weight is refused', () => {
  const w = pack();
  const foreign: [string, unknown][] = [
    ['a clone', structuredClone(w)],
    ['an object of its prototype', Object.create(PackedWeight.prototype)],
    ['an object with its fields', { rows: 32, cols: 64, nbytes: 1152, kind: 'quantized', disposed: false }],
    ['a proxy of one', new Proxy(w, {})],
    ['null', null],
    ['an array', normal(32 * 64, 1)],
    ['a quantized tensor', quantizedMatrix(32, 64, { dtype: 'int8' })],
  ];

  it.each(foreign)('%s', (_, value) => {
    expect(() => linear(x, value as PackedWeight)).toThrow(InvalidArgumentError);
    expect(() => linear(x, value as PackedWeight)).toThrow(/Expected a PackedWeight that prepack.* for w/);
    expect(() => linear(x, w, { gate: value as PackedWeight })).toThrow(/Expected a PackedWeight.* for gate/);
    expect(() => savePacked(value as PackedWeight, '/nowhere')).toThrow(InvalidArgumentError);
  });

  it('what postMessage makes of one', () => {
    const { port1, port2 } = new MessageChannel();
    port1.postMessage(w);
    const received = receiveMessageOnPort(port2) as { message: PackedWeight };
    expect(() => linear(x, received.message)).toThrow(/Expected a PackedWeight/);
    expect(() => port1.postMessage(w, [w as never])).toThrow();
    port1.close();
  });

  it('its getters want one', () => {
    expect(() => Object.create(PackedWeight.prototype).rows).toThrow(TypeError);
    expect(() => PackedWeight.prototype.dispose.call({} as PackedWeight)).toThrow(TypeError);
  });

  it('of the wrong kind', () => {
    const b = prepackInteger(new Int8Array(64 * 32), { k: 64, n: 32 });
    expect(() => linear(x, b)).toThrow(
      /Expected a weight of the kind quantized or float for w but its kind is integer/,
    );
    expect(() => matmulInteger(new Int8Array(64), w, { m: 1, n: 32, k: 64 })).toThrow(
      /kind integer for b but its kind is quantized/,
    );
  });
});

describe('processes', () => {
  const prelude = `const lowbit = require(${DIST});
    const weights = new Float32Array(1 << 20).fill(0.5);
    const q = lowbit.quantizeTensor(weights, { dtype: 'int8', shape: [1024, 1024] });
    const pack = () => lowbit.prepack(q);
    const rss = () => { for (let i = 0; i < 4; i++) gc(); return process.memoryUsage().rss; };
    const turn = () => new Promise((resolve) => setImmediate(resolve));`;

  it('the collector knows how large weights are, and comes by itself', async () => {
    const script = `${prelude}
      (async () => {
        let most = 0;
        for (let i = 0; i < 500; i++) {
          lowbit.prepack(weights, { shape: [1024, 1024] });
          await turn();
          most = Math.max(most, process.memoryUsage().rss);
        }
        console.log(most < 600e6 ? 'bounded' : 'grew to ' + most);
      })();`;
    expect(await run(script)).toEqual(success('bounded\n'));
  });

  it('weights that nobody refers to are freed', async () => {
    const script = `${prelude}
      (async () => {
        for (let i = 0; i < 50; i++) { pack(); if (i % 10 === 0) { gc(); await turn(); } }
        await turn();
        const before = rss();
        for (let i = 0; i < 1000; i++) { pack(); if (i % 10 === 0) { gc(); await turn(); } }
        for (let i = 0; i < 5; i++) { gc(); await turn(); }
        const grown = rss() - before;
        console.log(grown < 50e6 && process.memoryUsage().external < 50e6 ? 'flat' : 'grew by ' + grown);
      })();`;
    expect(await run(script, {}, ['--expose-gc'])).toEqual(success('flat\n'));
  });

  it('memory stays flat over many calls', async () => {
    const script = `${prelude}
      (async () => {
        const x = new Float32Array(1024).fill(1);
        const work = async (rounds) => {
          for (let i = 0; i < rounds; i++) {
            const w = pack();
            lowbit.linear(x, w);
            lowbit.linear(x, w, { computeDtype: 'float32' });
            const later = i % 10 === 0 ? lowbit.linearAsync(x, w) : undefined;
            w.dispose();
            await later;
            try { lowbit.linear(x, w); } catch {}
          }
        };
        await work(100);
        const before = rss();
        await work(500);
        const grown = rss() - before;
        console.log(grown < 50e6 ? 'flat' : 'grew by ' + grown);
      })();`;
    expect(await run(script, {}, ['--expose-gc'])).toEqual(success('flat\n'));
  });

  it('worker threads that are terminated in the middle of calls do no harm', async () => {
    const script = `${prelude}
      const { Worker } = require('node:worker_threads');
      const body = \`const lowbit = require(${DIST}); const { parentPort } = require('node:worker_threads');
        const w = lowbit.prepack(new Float32Array(1 << 20).fill(0.25), { shape: [1024, 1024] });
        const x = new Float32Array(256 * 1024).fill(1);
        const endless = () => lowbit.linearAsync(x, w).then(endless);
        endless(); endless();
        lowbit.prepackAsync(new Float32Array(1 << 20), { shape: [1024, 1024] }).then((p) => p.dispose());
        parentPort.postMessage('started');
        if (\${'$'}{sync}) for (;;) lowbit.linear(x, w);\`;
      (async () => {
        for (let round = 0; round < 12; round++) {
          const worker = new Worker(body.replace('\${sync}', String(round % 3 === 0)), { eval: true });
          await new Promise((resolve, reject) => { worker.on('message', resolve); worker.on('error', reject); });
          await new Promise((resolve) => setTimeout(resolve, 3 * round));
          await worker.terminate();
        }
        const y = await lowbit.linearAsync(new Float32Array(1024).fill(1), pack());
        console.log(y.length, Math.round(y[0]));
      })();`;
    expect(await run(script)).toEqual(success('1024 512\n'));
  });

  it('every number of threads gives the same bits, for integer sums every instruction set', async () => {
    const script = `const lowbit = require(${DIST}); const { createHash } = require('node:crypto');
      const values = (n, s) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898 + s) * 10 ** (i % 5 - 2));
      const hashes = { integer: createHash('sha256'), float: createHash('sha256') };
      for (const [m, n, k] of [[1, 700, 544], [7, 130, 1024], [70, 65, 96]])
        for (const dtype of ['int8', 'uint4', 'int3', 'uint2'])
          for (const layout of [{ granularity: 'per-channel' }, { granularity: 'per-group', groupSize: 32 }]) {
            const w = lowbit.prepack(lowbit.quantizeTensor(values(n * k, 1), { dtype, shape: [n, k], ...layout }));
            const x = values(m * k, 2);
            for (const computeDtype of ['int16', 'int8', 'float32'])
              for (const activationGranularity of ['per-group', 'per-token'])
                hashes[computeDtype === 'float32' ? 'float' : 'integer'].update(
                  lowbit.linear(x, w, { computeDtype, activationGranularity, activation: 'silu', gate: w }));
          }
      console.log(hashes.integer.digest('hex'), hashes.float.digest('hex'));`;
    const { isas } = (await import('../../lib/index.js')).capabilities();
    const seen = { integer: new Set<string>(), float: new Map<string, Set<string>>() };
    for (const isa of isas) {
      for (const threads of ['1', '2', '7']) {
        const { stdout, stderr } = await run(script, { LOWBIT_ISA: isa, LOWBIT_NUM_THREADS: threads });
        const [integer, float] = stdout.trim().split(' ');
        expect(float, stderr).toBeDefined();
        seen.integer.add(integer as string);
        seen.float.set(isa, (seen.float.get(isa) ?? new Set()).add(float as string));
      }
    }
    expect(seen.integer.size).toBe(1);
    for (const [isa, floats] of seen.float) expect(floats.size, isa).toBe(1);
  });
});
