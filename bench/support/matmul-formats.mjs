/**
 * What bench/matmul.mjs measures: for every format of the weights lowbit's ways to multiply by them, and the peers'.
 *
 * Everything that multiplies is a product: `prepare(x, M, { threads, used })` returns `{ run, quiet?, result, release }`,
 * where `run` multiplies the M rows of x by the first `used` copies of the weights; `reference()` returns the [N, K] weights
 * that the product has in mind.
 */
import lowbit from '../../dist/index.js';
import { normal } from './measure.mjs';
import { peer } from './peer.mjs';

const ggml = await peer('ggml-matmul');
const onnxruntime = await peer('onnxruntime-matmul');

function transpose(array, rows, columns) {
  const result = new array.constructor(array.length);
  const BLOCK = 32; // elements of a column are far apart: block by block each cache line is fetched once
  for (let r = 0; r < rows; r += BLOCK) {
    for (let c = 0; c < columns; c += BLOCK) {
      for (let i = r; i < Math.min(r + BLOCK, rows); i++) {
        for (let j = c; j < Math.min(c + BLOCK, columns); j++) result[j * rows + i] = array[i * columns + j];
      }
    }
  }
  return result;
}

/** Weights of N rows and K columns, in the forms that products ask for, each made once. */
export class Matrix {
  #made = new Map();
  /** Of the integers. */
  scale = 0.03;

  constructor(N, K) {
    this.N = N;
    this.K = K;
    this.weights = normal(N * K);
  }

  #once(key, make) {
    if (!this.#made.has(key)) this.#made.set(key, make());
    return this.#made.get(key);
  }

  /** Forgets what was made: no two formats need the same. */
  clear() {
    this.#made.clear();
  }

  quantized(options) {
    const make = () => lowbit.quantizeTensor(this.weights, { shape: [this.N, this.K], ...options });
    return this.#once(JSON.stringify(options), make);
  }

  /** Floats [K, N], as ONNX has them. */
  get transposed() {
    return this.#once('transposed', () => transpose(this.weights, this.N, this.K));
  }

  /** int8 [N, K]. */
  get integers() {
    return this.#once('integers', () => {
      const integers = new Int8Array(this.weights.length);
      for (let i = 0; i < integers.length; i++) {
        integers[i] = Math.max(-127, Math.min(127, Math.round(this.weights[i] / this.scale)));
      }
      return integers;
    });
  }

  /** int8 [K, N]. */
  get codes() {
    return this.#once('codes', () => transpose(this.integers, this.N, this.K));
  }

  /** What the integers mean, [N, K]. */
  get scaled() {
    return Float32Array.from(this.integers, (integer) => integer * this.scale);
  }
}

/**
 * One of lowbit's products.
 *
 * @param packed copies of the weights
 * @param call multiplies: `call(x, weights, options)`
 * @param optionsFor its options for M rows
 */
function own(matrix, packed, call, optionsFor, reference, Output = Float32Array) {
  return {
    reference,
    prepare(x, M, { used }) {
      const calls = Array.from({ length: used }, () => ({ ...optionsFor(M), out: new Output(M * matrix.N) }));
      return {
        run() {
          for (let i = 0; i < used; i++) call(x, packed[i], calls[i]);
        },
        result: () => calls[used - 1].out,
        release() {},
      };
    },
  };
}

/** So many copies of packed weights that they fill `total` bytes, and at least one. */
function copiesOf(pack, total) {
  const packed = [pack()];
  while (packed.length * packed[0].nbytes < total) packed.push(pack());
  return packed;
}

/** lowbit's products with float weights or quantized ones. */
const linear = (pack, reference, rows) => (matrix, total) => {
  const packed = copiesOf(() => pack(matrix), total);
  return {
    packed,
    rows: rows.map(({ options, ...row }) => ({
      ...row,
      product: own(
        matrix,
        packed,
        lowbit.linear,
        () => options,
        () => reference(matrix),
      ),
    })),
  };
};

const linearQuantized = (quantization, rows) => {
  const quantized = (matrix) => matrix.quantized({ ...quantization, scaleDtype: 'float16' });
  return linear(
    (matrix) => lowbit.prepack(quantized(matrix)),
    (matrix) => lowbit.dequantizeTensor(quantized(matrix)),
    rows,
  );
};

/** lowbit's product with integer weights that come as ONNX has them. */
const onnx =
  ({ call, options, reference, Output, ...row }) =>
  (matrix, total) => {
    const { N, K } = matrix;
    const packed = copiesOf(() => lowbit.prepackInteger(matrix.codes, { k: K, n: N }), total);
    const optionsFor = (M) => ({ m: M, n: N, k: K, ...options(matrix) });
    return {
      packed,
      rows: [{ ...row, product: own(matrix, packed, call, optionsFor, () => reference(matrix), Output) }],
    };
  };

const inGgml = (type, arithmetic = 'int8') => ({
  arithmetic,
  make: ggml && ((matrix, copies) => ggml.linear(type, matrix, copies)),
});

const inOnnxruntime = (make, arithmetic = 'int8') => ({ arithmetic, make });

const inBlocks = (bits, blockSize, arithmetic) => {
  const make = (matrix) => {
    const quantized = matrix.quantized({ dtype: `int${bits}`, granularity: 'per-group', groupSize: blockSize });
    const reference = () => lowbit.dequantizeTensor(quantized);
    const accuracy = arithmetic === 'int8' ? 4 : 0;
    return onnxruntime.blocks(matrix, quantized, { bits, blockSize, accuracy, reference });
  };
  return inOnnxruntime(onnxruntime && make, arithmetic);
};

const INT8 = { computeDtype: 'int8' };
const INT16 = { computeDtype: 'int16' };
const FLOAT32 = { computeDtype: 'float32' };

/**
 * The formats. `own(matrix, total)` packs the weights and lists lowbit's products with them, each with the peers to
 * compare it with; a peer is made from the matrix and a number of copies. `arithmetic` is what the rows of x become.
 */
export const FORMATS = [
  {
    key: 'int4-g32',
    bits: 4,
    own: linearQuantized({ dtype: 'int4', granularity: 'per-group', groupSize: 32 }, [
      {
        label: 'int4 groups of 32 × int8 per group',
        arithmetic: 'int8',
        options: { ...INT8, activationGranularity: 'per-group' },
        against: ['ggml Q4_0', 'ggml Q4_K', 'ORT int8'],
      },
      {
        label: 'int4 groups of 32 × int8 per token',
        arithmetic: 'int8',
        options: { ...INT8, activationGranularity: 'per-token' },
        against: ['ggml Q4_0', 'ggml Q4_K', 'ORT int8'],
      },
      {
        label: 'int4 groups of 32 × int16',
        arithmetic: 'int16',
        options: INT16,
        against: ['ggml Q4_0', 'ggml Q4_K', 'ORT int8', 'ORT float32'],
      },
      {
        label: 'int4 groups of 32 × float32',
        arithmetic: 'float32',
        options: FLOAT32,
        against: ['ggml Q4_0', 'ggml Q4_K', 'ORT int8', 'ORT float32'],
      },
    ]),
    peers: {
      'ggml Q4_0': inGgml('q4_0'),
      'ggml Q4_K': inGgml('q4_k'),
      'ORT int8': inBlocks(4, 32, 'int8'),
      'ORT float32': inBlocks(4, 32, 'float32'),
    },
  },
  {
    key: 'int4-g128',
    bits: 4,
    own: linearQuantized({ dtype: 'int4', granularity: 'per-group', groupSize: 128 }, [
      { label: 'int4 groups of 128 × int8', arithmetic: 'int8', options: INT8, against: ['ORT int8'] },
      {
        label: 'int4 groups of 128 × int16',
        arithmetic: 'int16',
        options: INT16,
        against: ['ORT int8', 'ORT float32'],
      },
      {
        label: 'int4 groups of 128 × float32',
        arithmetic: 'float32',
        options: FLOAT32,
        against: ['ORT int8', 'ORT float32'],
      },
    ]),
    peers: { 'ORT int8': inBlocks(4, 128, 'int8'), 'ORT float32': inBlocks(4, 128, 'float32') },
  },
  {
    key: 'int8',
    bits: 8,
    own: linearQuantized({ dtype: 'int8', granularity: 'per-channel' }, [
      { label: 'int8 per channel × int8', arithmetic: 'int8', options: INT8, against: ['ggml Q8_0', 'ORT int8'] },
      { label: 'int8 per channel × int16', arithmetic: 'int16', options: INT16, against: ['ggml Q8_0', 'ORT int8'] },
    ]),
    peers: { 'ggml Q8_0': inGgml('q8_0'), 'ORT int8': inBlocks(8, 32, 'int8') },
  },
  {
    key: 'int2',
    bits: 2,
    own: linearQuantized({ dtype: 'int2', granularity: 'per-channel' }, [
      { label: 'int2 per channel × int8', arithmetic: 'int8', options: INT8, against: ['ggml TQ2_0'] },
    ]),
    peers: { 'ggml TQ2_0': inGgml('tq2_0') },
  },
  {
    key: 'float32',
    bits: 32,
    own: linear(
      ({ weights, N, K }) => lowbit.prepack(weights, { shape: [N, K] }),
      ({ weights }) => weights,
      [{ label: 'float32 × float32', arithmetic: 'float32', options: {}, against: ['ggml F32', 'ORT MatMul'] }],
    ),
    peers: { 'ggml F32': inGgml('f32', 'float32'), 'ORT MatMul': inOnnxruntime(onnxruntime?.float, 'float32') },
  },
  {
    key: 'integer',
    bits: 8,
    input: 'uint8',
    own: onnx({
      label: 'matmulInteger, int8 × uint8',
      arithmetic: 'int8',
      call: lowbit.matmulInteger,
      options: () => ({}),
      reference: ({ integers }) => integers,
      Output: Int32Array,
      against: ['ORT MatMulInteger'],
    }),
    peers: { 'ORT MatMulInteger': inOnnxruntime(onnxruntime?.integer) },
  },
  {
    key: 'dynamic',
    bits: 8,
    own: onnx({
      label: 'dynamicQuantizeMatmul, int8 × float32',
      arithmetic: 'int8',
      call: lowbit.dynamicQuantizeMatmul,
      options: ({ scale }) => ({ bScale: scale }),
      reference: ({ scaled }) => scaled,
      against: ['ORT DynamicQuantizeMatMul'],
    }),
    peers: { 'ORT DynamicQuantizeMatMul': inOnnxruntime(onnxruntime?.dynamic) },
  },
];

/** M rows of input, which have nothing to do with the weights. */
export function inputOf(format, M, K) {
  const x = normal(M * K, 2);
  return format.input === 'uint8' ? Uint8Array.from(x, (value) => Math.max(0, Math.min(255, 128 + 60 * value))) : x;
}

/** Relative errors that the arithmetic explains. */
const TOLERANCE = { int8: 0.03, int16: 1e-3, float32: 2e-5 };

/** Throws if a product is not that of its weights. What computes nonsense must not be compared. */
export async function verify(name, product, arithmetic, x, { N, K }, threads) {
  const M = x.length / K;
  const weights = product.reference();
  const prepared = await product.prepare(x, M, { threads, used: 1 });
  await prepared.run();
  await prepared.quiet?.();
  const y = prepared.result();
  prepared.release();
  let [error, size] = [0, 0];
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += x[m * K + k] * weights[n * K + k];
      error += (y[m * N + n] - sum) ** 2;
      size += sum ** 2;
    }
  }
  const relative = Math.sqrt(error / size);
  const tolerance = y instanceof Int32Array ? 0 : TOLERANCE[arithmetic];
  if (!(relative <= tolerance)) {
    throw new Error(`${name} is wrong: a relative error of ${relative}, of ${tolerance} that ${arithmetic} explains`);
  }
  return relative;
}
