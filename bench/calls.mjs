/**
 * What does a call from JavaScript cost besides its arithmetic, and what does fresh memory cost?
 *
 * One row of 4,096 elements, a call at a time: the whole call, and the time of the same elements within one large call.
 * Then large calls into fresh and into reused memory: what differs are page faults.
 */
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { markdownTable, publish, time } from './support/report.mjs';

const ROW = 4096;
const CACHED_ROWS = 16; // enough to make the cost of a call vanish, few enough to stay in the second-level cache
const LARGE_ROWS = 16384;

/** The operations on `rows` rows: into fresh memory, and into memory that is reused. */
function operations(rows) {
  const x = normal(rows * ROW);
  const shape = [rows, ROW];
  const list = {};
  for (const [dtype, groupSize] of [
    ['int8', 32],
    ['int4', 128],
  ]) {
    const options = { dtype, shape, granularity: 'per-group', groupSize };
    const q = lowbit.quantizeTensor(x, options);
    const y = new Float32Array(x.length);
    const [reused, into] = [{ ...options, out: q }, { out: y }];
    list[`quantize ${dtype}, groups of ${groupSize}`] = {
      fresh: () => lowbit.quantizeTensor(x, options),
      reused: () => lowbit.quantizeTensor(x, reused),
    };
    list[`dequantize ${dtype}, groups of ${groupSize}`] = {
      fresh: () => lowbit.dequantizeTensor(q),
      reused: () => lowbit.dequantizeTensor(q, into),
    };
  }
  const out = new Uint16Array(x.length);
  const cast = { from: 'float32', to: 'float16' };
  const castInto = { ...cast, out };
  list['cast float32 → float16'] = {
    fresh: () => lowbit.castTensor(x, cast),
    reused: () => lowbit.castTensor(x, castInto),
  };
  return list;
}

const ALL = lowbit.capabilities().threads;
lowbit.setNumThreads(1);
const [single, several, large] = [operations(1), operations(CACHED_ROWS), operations(LARGE_ROWS)];
const calls = [];
const memory = [];
for (const name of Object.keys(single)) {
  const call = await medians(
    { one: single[name].reused, fresh: single[name].fresh, many: several[name].reused },
    { rounds: 41 },
  );
  const arithmetic = call.many / CACHED_ROWS;
  calls.push([name, time(call.one), time(arithmetic), time(call.one - arithmetic), time(call.fresh)]);
  const place = await medians(large[name], { rounds: 9 });
  memory.push([name, time(place.reused), time(place.fresh), `${(place.fresh / place.reused).toFixed(1)}×`]);
}
lowbit.setNumThreads(ALL);
publish(
  'Calls',
  'npm run bench -- calls',
  `### A row of ${ROW} float32 elements, one thread

${markdownTable(['operation', 'call, `out` reused', 'its arithmetic', 'overhead', 'call, fresh result'], calls)}

### ${(4 * LARGE_ROWS * ROW) / 2 ** 20} MiB of float32, one thread: reused \`out\` and fresh results

${markdownTable(['operation', '`out` reused', 'fresh result', 'fresh costs'], memory)}`,
);
