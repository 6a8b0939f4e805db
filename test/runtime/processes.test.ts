import { describe, expect, it } from 'vitest';
import { capabilities } from '../../lib/index.js';
import { DIST, run, success } from '../support/processes.js';

describe('worker threads', () => {
  const worker = `
    const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
    const source = (body) => \`const lowbit = require(${DIST}); const { parentPort } = require('node:worker_threads'); \${body}\`;
    const start = (body) => new Worker(source(body), { eval: true });
    const big = 'const x = new Float32Array(1 << 22).fill(0.5);';
    const ended = (w) => new Promise((resolve, reject) => { w.on('error', reject); w.on('exit', resolve); });
  `;

  it('load the addon side by side, and go, while the main thread never loaded it', async () => {
    const script = `${worker}
      (async () => {
        for (let round = 0; round < 4; round++) {
          const workers = Array.from({ length: 8 }, (_, i) => start(\`
            const x = Float32Array.from({ length: 5000 }, (_, k) => Math.sin(k * \${i + 1}));
            const q = lowbit.quantizeTensor(x, { dtype: 'int4', granularity: 'per-group' });
            lowbit.quantizeTensorAsync(x, { dtype: 'int4', granularity: 'per-group' }).then((r) =>
              parentPort.postMessage(Buffer.from(r.data).equals(Buffer.from(q.data))));
          \`));
          const answers = Promise.all(workers.map((w) => new Promise((resolve) => w.on('message', resolve))));
          await Promise.all(workers.map(ended));
          if ((await answers).some((same) => !same)) throw new Error('different bytes');
        }
        console.log('done');
      })();`;
    expect(await run(script)).toEqual(success('done\n'));
  });

  it('may be terminated in the middle of a call, again and again', async () => {
    const script = `${worker}
      (async () => {
        for (let round = 0; round < 25; round++) {
          const w = start(big + \`
            lowbit.quantizeTensorAsync(x, { dtype: 'int8', range: 'mse' });
            lowbit.quantizeTensorAsync(x, { dtype: 'int4', range: 'mse' });
            parentPort.postMessage('started');
          \`);
          await new Promise((resolve) => w.on('message', resolve));
          await new Promise((resolve) => setTimeout(resolve, round));
          await w.terminate();
        }
        const lowbit = require(${DIST});
        console.log((await lowbit.quantizeTensorAsync(new Float32Array([1, -2]), { dtype: 'int8' })).data.join());
      })();`;
    expect(await run(script)).toEqual(success('64,129\n'));
  });

  it('may be terminated in the middle of synchronous calls, whatever they throw', async () => {
    const script = `${worker}
      const bodies = [
        'const x = new Float32Array(64).fill(NaN); for (;;) try { lowbit.quantizeTensor(x, { dtype: "int8" }) } catch {}',
        'const w = lowbit.prepack(new Float32Array(4096), { shape: [64, 64] }), x = new Float32Array(64); for (;;) lowbit.linear(x, w);',
        'for (;;) lowbit.prepack(new Float32Array(256), { shape: [16, 16] }).dispose();',
      ];
      (async () => {
        for (let round = 0; round < 60; round++) {
          const w = start('parentPort.postMessage(1); ' + bodies[round % bodies.length]);
          await new Promise((resolve) => w.on('message', resolve));
          await new Promise((resolve) => setTimeout(resolve, round % 5));
          await w.terminate();
        }
        console.log('done');
      })();`;
    expect(await run(script)).toEqual(success('done\n'));
  });

  it("share one pool without getting in each other's way", async () => {
    const script = `${worker}
      const body = big + "for (let i = 0; i < 10; i++) lowbit.quantizeTensor(x, { dtype: 'int8', granularity: 'per-channel', shape: [1024, 4096] });";
      Promise.all(Array.from({ length: 6 }, () => ended(start(body)))).then((codes) => console.log(codes.join()));`;
    expect(await run(script)).toEqual(success('0,0,0,0,0,0\n'));
  });
});

describe('process exit', () => {
  it('waits for pending calls, and not for the pool', async () => {
    const script = `const { quantizeTensorAsync } = require(${DIST});
      quantizeTensorAsync(new Float32Array(1 << 20).fill(1), { dtype: 'int8' }).then(() => console.log('done'));`;
    expect(await run(script)).toEqual(success('done\n'));
  });

  it.each(['process.exit(7)', 'throw new Error("stop")', 'process.kill(process.pid, "SIGTERM")'])(
    '%s in the middle of a call',
    async (end) => {
      const script = `const lowbit = require(${DIST});
      const x = new Float32Array(1 << 22).fill(0.5);
      for (let i = 0; i < 4; i++) lowbit.quantizeTensorAsync(x, { dtype: 'int8', range: 'mse' });
      setTimeout(() => { ${end} }, 15);`;
      const { status, signal } = await run(script);
      expect(signal === 'SIGTERM' ? 'SIGTERM' : status).toBe(
        end.startsWith('process.exit') ? 7 : end.startsWith('throw') ? 1 : 'SIGTERM',
      );
    },
  );
});

describe('environment', () => {
  const digest = `const { createHash } = require('node:crypto');
    const lowbit = require(${DIST});
    const x = Float32Array.from({ length: 300_007 }, (_, i) => Math.sin(i * i) * 10 ** (i % 7 - 3));
    const hash = createHash('sha256');
    for (const dtype of ['int8', 'uint8', 'int4', 'uint4', 'int3', 'uint3', 'int2', 'uint2'])
      for (const scheme of ['symmetric', 'asymmetric'])
        for (const where of [{}, { granularity: 'per-group', groupSize: 32 }, { granularity: 'per-group', groupSize: 7 }])
          for (const range of ['minmax', { percentile: 99.5 }]) {
            const q = lowbit.quantizeTensor(x, { dtype, scheme, range, scaleDtype: 'float16', ...where });
            hash.update(q.data).update(new Uint8Array(q.scales.buffer)).update(new Uint8Array((q.zeroPoints ?? q.scales).buffer));
            hash.update(new Uint8Array(lowbit.dequantizeTensor(q, { dtype: 'bfloat16' }).buffer));
          }
    const mse = lowbit.quantizeTensor(x.subarray(0, 20_000), { dtype: 'int4', granularity: 'per-group', groupSize: 64, range: 'mse' });
    hash.update(mse.data).update(JSON.stringify(lowbit.compareTensors(x.subarray(0, 20_000), lowbit.dequantizeTensor(mse))));
    console.log(lowbit.capabilities().isa, lowbit.capabilities().threads, hash.digest('hex'));`;

  it('every instruction set and number of threads gives the same bytes', async () => {
    const { isas } = capabilities();
    const digests = new Set<string>();
    for (const isa of isas) {
      for (const threads of ['1', '2', '7']) {
        const { stdout } = await run(digest, { LOWBIT_ISA: isa, LOWBIT_NUM_THREADS: threads });
        const [usedIsa, usedThreads, hash] = stdout.trim().split(' ');
        expect([usedIsa, usedThreads]).toEqual([isa, threads]);
        digests.add(hash as string);
      }
    }
    expect(digests.size).toBe(1);
  });

  it.each([
    [
      'LOWBIT_ISA',
      'mmx',
      /Expected LOWBIT_ISA to be one of .*scalar but received "mmx": this build has no such instruction set\./,
    ],
    ['LOWBIT_NUM_THREADS', '0', /Expected LOWBIT_NUM_THREADS to be an integer from 1 to 1024 but received "0"\./],
    ['LOWBIT_NUM_THREADS', '2x', /Expected LOWBIT_NUM_THREADS/],
  ])('refuses %s=%s with a sentence', async (name, value, message) => {
    const { status, stdout } = await run(
      `try { require(${DIST}) } catch (e) { console.log(e.code, e.message); process.exit(3) }`,
      { [name]: value },
    );
    expect(status).toBe(3);
    expect(stdout).toMatch(/^INVALID_ENVIRONMENT /);
    expect(stdout).toMatch(message);
  });

  it('names an instruction set that this processor lacks', async ({ skip }) => {
    const missing =
      ['avx512', 'avx2', 'neon'].find((isa) => !capabilities().isas.includes(isa)) ?? skip('this processor has all');
    const { stdout } = await run(`try { require(${DIST}) } catch (e) { console.log(e.message) }`, {
      LOWBIT_ISA: missing,
    });
    expect(stdout).toMatch(/this processor does not support|this build has no such instruction set/);
  });
});

describe('memory', () => {
  it('stays flat over a hundred thousand calls, synchronous and not', async () => {
    const script = `const lowbit = require(${DIST});
      const x = new Float32Array(1000).fill(0.25);
      const rss = () => { for (let i = 0; i < 4; i++) gc(); return process.memoryUsage().rss; };
      (async () => {
        const work = async (calls) => {
          for (let i = 0; i < calls; i++) {
            const q = lowbit.quantizeTensor(x, { dtype: 'int4' });
            lowbit.dequantizeTensor(q);
            try { lowbit.quantizeTensor(x, { dtype: 'nonsense' }); } catch {}
            if (i % 20 === 0) await lowbit.quantizeTensorAsync(x, { dtype: 'int8' });
          }
        };
        await work(20_000);
        const before = rss();
        await work(100_000);
        console.log(rss() - before < 20e6 ? 'flat' : 'grew by ' + (rss() - before));
      })();`;
    expect(await run(script, {}, ['--expose-gc'])).toEqual(success('flat\n'));
  });
});
