/** What calibration leaves: importance matrices of llama.cpp in both forms, and files of statistics. */
import { Finding } from '../engine.mjs';
import { mutated, textOf } from '../json.mjs';
import { fileAt, ROOT, setFiles } from '../memory.mjs';
import { randomBytes } from '../random.mjs';
import { makeFile } from './gguf.mjs';

const NAMES = ['blk.0.ffn_up.weight', 'blk.1.attn_q.weight', '__proto__', 'x'];

/** The older form: numbers of 32 bits, names, floats. */
function makeDat(random) {
  const parts = [];
  const numbers = [];
  const integer = (value) => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(value);
    numbers.push(bytes);
    parts.push(bytes);
  };
  const count = 1 + random.below(3);
  integer(count);
  for (let i = 0; i < count; i++) {
    const name = Buffer.from(NAMES[random.once(12) ? 0 : i]);
    const values = 1 + random.below(6);
    integer(name.length);
    parts.push(name);
    integer(random.below(5));
    integer(values);
    const floats = Float32Array.from({ length: values }, (_, j) => j / 2);
    parts.push(random.once(12) ? randomBytes(random, 4 * values) : Buffer.from(floats.buffer));
  }
  if (!random.once(4)) {
    integer(random.below(9));
    if (!random.once(4)) {
      integer(4);
      parts.push(Buffer.from('text'));
    }
  }
  for (let n = random.pick([0, 0, 1, 1, 2]); n > 0; n--) {
    const odd = [0, -1, 1, 2, 1024, 1025, 2 ** 31 - 1, -(2 ** 31), 2 ** 30, 2 ** 28];
    random.pick(numbers).writeInt32LE(random.pick(odd));
  }
  const bytes = Buffer.concat(parts);
  return random.once(6) ? bytes.subarray(0, random.below(bytes.length)) : bytes;
}

function makeGguf(random) {
  return makeFile(random, random.pick([0, 0, 0, 1, 1, 2]), (header) => {
    const tensors = [];
    const experts = random.once(3) ? [2] : [];
    for (let i = 0; i < 1 + random.below(2); i++) {
      const type = random.once(20) ? 1 : 0;
      if (!random.once(20)) tensors.push([`${NAMES[i]}.in_sum2`, [random.once(20) ? 0 : 4, ...experts], type]);
      if (!random.once(20)) tensors.push([`${NAMES[i]}.counts`, [1, ...(random.once(20) ? [3] : experts)], 0]);
    }
    if (random.once(8)) tensors.push(['other', [2], 0]);
    const keys = [];
    const key = (name, type, value) => {
      if (!random.once(20)) keys.push([name, type, value]);
    };
    key('general.type', 8, () => header.string(random.once(20) ? 'model' : 'imatrix'));
    key('imatrix.datasets', 9, () => {
      header.number(4, 8);
      header.number(8, 1);
      header.string('text');
    });
    key('imatrix.chunk_count', 4, () => header.number(4, 7));
    key('imatrix.chunk_size', 4, () => header.number(4, 512));
    header.number(8, tensors.length);
    header.number(8, keys.length);
    for (const [name, type, value] of keys) header.pair(name, type, value);
    let offset = 0;
    for (const [name, dims, type] of tensors) {
      header.tensor(name, dims, type, offset);
      offset += Math.ceil((dims.reduce((a, b) => a * b, 1) * (type === 0 ? 4 : 2)) / 32) * 32;
    }
    return offset;
  });
}

/** The data of a file as sums of squares: positive floats where there would be random bytes. */
function withFloats(bytes, random) {
  if (random.once(3)) return bytes;
  const copy = Buffer.from(bytes);
  for (let at = copy.lastIndexOf('counts') + 64; at >= 64 && at + 4 <= copy.length; at++) {
    if (at % 4 === 0) copy.writeFloatLE(at % 3, at);
  }
  return copy;
}

export function imatrix(dist) {
  const { readImatrix, writeImatrix, importanceOf } = dist('checkpoint/gguf/imatrix');
  const gguf = [
    'ALIGNMENT',
    'ARRAY_LENGTH',
    'BIG_ENDIAN',
    'COUNT',
    'DIMENSIONS',
    'DUPLICATE_KEY',
    'DUPLICATE_TENSOR',
    'EMPTY_KEY',
    'HEADER_TRUNCATED',
    'INVALID_UTF8',
    'MAGIC',
    'METADATA_TYPE',
    'NESTED_ARRAY',
    'OFFSET',
    'ROW_LENGTH',
    'SIZE_OVERFLOW',
    'STRING_LENGTH',
    'TENSOR_TYPE',
    'TOO_SMALL',
    'TRUNCATED',
    'VALUE_TYPE',
    'VERSION',
  ];
  return {
    codes: new Set([...gguf.map((code) => `GGUF_${code}`), 'IMATRIX_INVALID', 'IMATRIX_TRUNCATED']),
    reaches: ['ok', 'IMATRIX_INVALID', 'IMATRIX_TRUNCATED', 'GGUF_METADATA_TYPE'],
    enough: 50_000,
    generate: (random) => ({ bytes: random.once(2) ? makeDat(random) : withFloats(makeGguf(random), random) }),
    async run({ bytes }) {
      setFiles({ imatrix: bytes });
      const matrix = await readImatrix(`${ROOT}/imatrix`);
      for (const [name, entry] of matrix.entries) {
        const importance = importanceOf(entry);
        if (importance.length !== entry.sums.length) throw new Finding(`${name} has ${importance.length} numbers`);
        if (!importance.every((x) => x >= 0 && x < Infinity)) throw new Finding(`${name}: ${importance}`);
      }
      // Names of GGUF tensors have their limit.
      if ([...matrix.entries.keys()].some((name) => Buffer.byteLength(name) > 55)) return 'long name';
      if (matrix.chunkCount >= 2 ** 32 || matrix.chunkSize >= 2 ** 32) return 'large counts';
      await writeImatrix(`${ROOT}/again`, matrix);
      const again = await readImatrix(`${ROOT}/again`);
      for (const [name, { sums, counts }] of matrix.entries) {
        const other = again.entries.get(name);
        if (String(other?.sums) !== String(sums)) throw new Finding(`${name} has other sums when written and read`);
        if (String(other?.counts) !== String(counts.map(Math.fround))) throw new Finding(`${name} has other counts`);
      }
      return 'ok';
    },
  };
}

const BINS = 2048;
const HISTOGRAM = new Uint8Array(8 * BINS);
new Float64Array(HISTOGRAM.buffer)[3] = 8;
const HASH = 'a'.repeat(64);

/** A file of statistics: header and data. */
function makeStatistics(random) {
  const inputs = random.once(3)
    ? [
        ['a', 2],
        ['b', 3],
      ]
    : [['a', 2]];
  const gram = random.once(2);
  const json = {
    inputs,
    gram,
    windowLength: 4,
    prefix: [1],
    texts: [{ sha256: HASH, bytes: 100, tokens: 50 }],
    selections: [{ seed: 1, count: 1 }],
    windows: [[0]],
    sample: [[0, 0, 1]],
  };
  const words = ['inputs', 'windows', 'sample', 'texts', 'sha256', HASH, [0, 0, 9], [[0, 4]], 0, 4, 5, 2 ** 40];
  const changed = { ...mutated(random, json, words, random.pick([0, 0, 1, 1, 2])) };
  const metadata = {
    format: 'lowbit.statistics',
    version: random.once(40) ? '2' : '1',
    model: random.once(40) ? 'x' : HASH,
  };
  for (const [key, value] of Object.entries(changed)) metadata[key] = textOf(value);
  const header = { __metadata__: metadata };
  const data = [];
  let end = 0;
  const add = (name, dtype, shape, bytes) => {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    data.push(bytes);
    end += bytes.length;
  };
  const numbers = (Type, ...values) => new Uint8Array(Type.from(values).buffer);
  const odd = (random_, value) => (random_.once(40) ? random_.pick([NaN, Infinity, -1, 1e300, 0]) : value);
  for (const [name, columns] of inputs) {
    const triangle = (columns * (columns + 1)) / 2;
    const doubles = (part, count) =>
      add(
        `${name}.${part}`,
        'F64',
        [count],
        numbers(Float64Array, ...Array.from({ length: count }, (_, i) => odd(random, i))),
      );
    for (const part of ['high', 'low']) if (gram) doubles(`gram.${part}`, triangle);
    for (const part of ['squares.high', 'squares.low', 'magnitudes.high', 'magnitudes.low']) doubles(part, columns);
    add(`${name}.histogram`, 'F64', [BINS], HISTOGRAM);
    add(`${name}.range`, 'F32', [2], numbers(Float32Array, odd(random, -1), odd(random, 2)));
    add(`${name}.absmax`, 'F32', [columns], numbers(Float32Array, ...new Array(columns).fill(odd(random, 2))));
    add(`${name}.sample`, 'F32', [1, columns], numbers(Float32Array, ...new Array(columns).fill(1)));
    add(
      `${name}.exponent`,
      'I32',
      [1],
      numbers(Int32Array, random.once(20) ? random.pick([-200, 200, 2 ** 31 - 1]) : 2),
    );
  }
  const text = Buffer.from(
    textOf(random.once(6) ? mutated(random, header, ['F64', 'F32', 'I32', 'dtype', 'shape', [2], [1]], 1) : header),
  );
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  return { bytes: Buffer.concat([prefix, text, ...data]) };
}

const SAFETENSORS = [
  'HEADER_START',
  'INVALID_JSON',
  'DUPLICATE_KEY',
  'MISSING_FIELD',
  'UNKNOWN_DTYPE',
  'INVALID_SHAPE',
  'INVALID_OFFSETS',
  'INVALID_METADATA',
  'REVERSED_OFFSETS',
  'HOLE',
  'OVERLAP',
  'SIZE_OVERFLOW',
  'MISALIGNED',
  'SIZE_MISMATCH',
  'TRUNCATED',
  'TRAILING_DATA',
];

export function statistics(dist) {
  const { StatisticsFile } = dist('calibration/statistics-file');
  return {
    codes: new Set([...SAFETENSORS.map((code) => `SAFETENSORS_${code}`), 'STATISTICS_INVALID', 'CALIBRATION_OVERFLOW']),
    reaches: ['ok', 'STATISTICS_INVALID'],
    enough: 5_000,
    generate: makeStatistics,
    async run({ bytes }) {
      setFiles({ 's.safetensors': bytes });
      const file = await StatisticsFile.open(`${ROOT}/s.safetensors`);
      for (const name of file.names) {
        const { columns, absMax, sumOfSquares, sumOfMagnitudes, gram } = await file.read(name);
        for (const values of [absMax, sumOfSquares, sumOfMagnitudes]) {
          if (values.length !== columns) throw new Finding(`${name} has ${values.length} numbers`);
          if (!values.every((x) => Number.isFinite(x) && x >= 0)) throw new Finding(`${name}: ${values}`);
        }
        if (gram !== null && !gram.every(Number.isFinite)) throw new Finding(`${name}: ${gram}`);
      }
      await file.close();
      if (fileAt('s.safetensors') !== bytes) throw new Finding('it was written to');
      return 'ok';
    },
  };
}
