/**
 * ONNX Runtime's matrix products, with the weights as initializers, so that it packs them when the session is created.
 * The copies of the weights are nodes of one graph that share their input, as the layers of a model would follow each other.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import ort from 'onnxruntime-node';
import { integerAttributes, onnx, openSession, TYPES, valueInfo } from './onnxruntime.mjs';

export const name = 'ONNX Runtime';

const ARRAYS = { float32: Float32Array, int32: Int32Array };
const MICROSOFT = 'com.microsoft';

const bytesOf = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** ONNX Runtime shares packed weights that are equal; so every copy begins elsewhere. */
function rotated(array, copy) {
  const bytes = bytesOf(array);
  const start = (copy * 4096) % bytes.length;
  return start === 0 ? bytes : Buffer.concat([bytes.subarray(start), bytes.subarray(0, start)]);
}

/** A graph of so many nodes, with weights of their own. */
function model({ op, domain = '', attributes = {}, weights, xType, yType }, count) {
  const node = [];
  const initializer = [];
  for (let i = 0; i < count; i++) {
    for (const [name, { type, dims, data }] of Object.entries(weights)) {
      initializer.push({ name: `${name}${i}`, dataType: TYPES[type], dims, rawData: rotated(data, i) });
    }
    const input = ['x', ...Object.keys(weights).map((name) => `${name}${i}`)];
    node.push({ opType: op, domain, input, output: [`y${i}`], attribute: integerAttributes(attributes) });
  }
  const graph = {
    name: op,
    node,
    initializer,
    input: [valueInfo('x', xType)],
    output: node.map(({ output }) => valueInfo(output[0], yType)),
  };
  const opsetImport = [
    { domain: '', version: 21 },
    { domain: MICROSOFT, version: 1 },
  ];
  return onnx.ModelProto.encode(onnx.ModelProto.create({ irVersion: 10, opsetImport, graph })).finish();
}

/**
 * A product with this operator, whose weights mean `reference()`, [N, K]. `prepare` opens a session for so many threads and copies,
 * and keeps it for the next M.
 */
function product(operator, { N, K }, reference) {
  let session;
  let opened = '';
  const release = async () => {
    await session?.release();
    session = undefined;
    opened = '';
  };
  return {
    reference,
    async prepare(x, M, { threads, used }) {
      if (opened !== `${threads} ${used}`) {
        await release();
        session = await openSession(model(operator, used), threads);
        opened = `${threads} ${used}`;
      }
      const feeds = { x: new ort.Tensor(operator.xType, x, [M, K]) };
      const output = () => new ort.Tensor(operator.yType, new ARRAYS[operator.yType](M * N), [M, N]);
      const fetches = Object.fromEntries(Array.from({ length: used }, (_, i) => [`y${i}`, output()]));
      const running = session;
      return {
        run: () => running.run(feeds, fetches),
        /** Its threads spin for some 20 ms after a call. */
        quiet: () => (threads > 1 ? sleep(30) : undefined),
        result: () => fetches[`y${used - 1}`].data,
        release() {},
      };
    },
    release,
  };
}

/**
 * MatMulNBits: weights of 4 or 8 bits with a float32 scale for every block of a row.
 *
 * @param quantized int4 or int8 codes as lowbit has them; here they are unsigned, with the zero in the middle
 * @param options.accuracy accuracy_level: 0 multiplies in float32, 4 in int8
 */
export function blocks(matrix, quantized, { bits, blockSize, accuracy, reference }) {
  const { N, K } = matrix;
  const flip = bits === 4 ? 0x88 : 0x80;
  const codes = bytesOf(quantized.data).map((byte) => byte ^ flip);
  const perRow = K / blockSize;
  const operator = {
    op: 'MatMulNBits',
    domain: MICROSOFT,
    attributes: { K, N, bits, block_size: blockSize, accuracy_level: accuracy },
    weights: {
      b: { type: 'uint8', dims: [N, perRow, (blockSize * bits) / 8], data: codes },
      s: { type: 'float32', dims: [N * perRow], data: quantized.scales },
    },
    xType: 'float32',
    yType: 'float32',
  };
  return product(operator, matrix, reference);
}

/** MatMulInteger: uint8 · int8 → int32. */
export function integer(matrix) {
  const { N, K, codes, integers } = matrix;
  const weights = { b: { type: 'int8', dims: [K, N], data: codes } };
  return product({ op: 'MatMulInteger', weights, xType: 'uint8', yType: 'int32' }, matrix, () => integers);
}

/** DynamicQuantizeMatMul: float32 rows, quantized to uint8 on the way, times int8 weights of one scale. */
export function dynamic(matrix) {
  const { N, K, codes, scale } = matrix;
  const weights = {
    b: { type: 'int8', dims: [K, N], data: codes },
    s: { type: 'float32', dims: [1], data: Float32Array.of(scale) },
  };
  const operator = { op: 'DynamicQuantizeMatMul', domain: MICROSOFT, weights, xType: 'float32', yType: 'float32' };
  return product(operator, matrix, () => matrix.scaled);
}

/** MatMul: float32 weights. */
export function float(matrix) {
  const { N, K, transposed } = matrix;
  const weights = { b: { type: 'float32', dims: [K, N], data: transposed } };
  return product({ op: 'MatMul', weights, xType: 'float32', yType: 'float32' }, matrix, () => matrix.weights);
}
