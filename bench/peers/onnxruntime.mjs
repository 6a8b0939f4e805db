/** ONNX Runtime's operators, one graph each, with outputs that are reused. */
import onnxProto from 'onnx-proto';
import ort from 'onnxruntime-node';

export const { onnx } = onnxProto;
export const TYPES = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, float16: 10, float8_e4m3fn: 17 };

export const name = 'ONNX Runtime';

export const valueInfo = (name, type) => ({ name, type: { tensorType: { elemType: TYPES[type] } } });

export const integerAttributes = (attributes) =>
  Object.entries(attributes).map(([key, value]) => ({
    name: key,
    type: onnx.AttributeProto.AttributeType.INT,
    i: value,
  }));

export const openSession = (model, threads, options = {}) =>
  ort.InferenceSession.create(model, {
    ...options,
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
  });

/** A graph of one node. */
function model(op, inputs, outputs, attributes) {
  const node = {
    opType: op,
    input: Object.keys(inputs),
    output: Object.keys(outputs),
    attribute: integerAttributes(attributes),
  };
  const graph = {
    name: op,
    node: [node],
    input: Object.entries(inputs).map(([key, type]) => valueInfo(key, type)),
    output: Object.entries(outputs).map(([key, type]) => valueInfo(key, type)),
  };
  const proto = onnx.ModelProto.create({ irVersion: 10, opsetImport: [{ domain: '', version: 21 }], graph });
  return onnx.ModelProto.encode(proto).finish();
}

/** A function that runs one operator; `feeds` are typed arrays with their dims. */
export async function operator(op, { inputs, outputs, attributes = {}, feeds, fetches, threads }) {
  const session = await openSession(model(op, inputs, outputs, attributes), threads);
  const tensors = (types, arrays) =>
    Object.fromEntries(
      Object.entries(arrays).map(([key, [data, dims]]) => [key, new ort.Tensor(types[key], data, dims)]),
    );
  const feed = tensors(inputs, feeds);
  const fetch = tensors(outputs, fetches);
  return () => session.run(feed, fetch);
}

/** Nodes of one input and one output each, as they are: no optimization leaves any out or computes it beforehand. */
function openChain(nodes, input, output, initializer, threads) {
  const graph = {
    name: 'chain',
    node: nodes.map(([opType, from, to, attributes]) => ({
      opType,
      input: [from],
      output: [to],
      attribute: integerAttributes(attributes),
    })),
    input,
    output,
    initializer,
  };
  const proto = onnx.ModelProto.create({ irVersion: 10, opsetImport: [{ domain: '', version: 21 }], graph });
  return openSession(onnx.ModelProto.encode(proto).finish(), threads, { graphOptimizationLevel: 'disabled' });
}

/**
 * A function that casts float32 to float8. JavaScript has no such tensors: only the shape of the result leaves the graph.
 */
export async function castToFloat8([data, dims], threads) {
  const to = TYPES.float8_e4m3fn;
  const nodes = [
    ['Cast', 'x', 'codes', { to, saturate: 1 }],
    ['Shape', 'codes', 'shape', {}],
  ];
  const session = await openChain(nodes, [valueInfo('x', 'float32')], [valueInfo('shape', 'int64')], [], threads);
  const feed = { x: new ort.Tensor('float32', data, dims) };
  return () => session.run(feed);
}

/** A function that casts codes of float8, which are a constant of the graph, to float32. */
export async function castFromFloat8(codes, [data, dims], threads) {
  const constant = { name: 'codes', dataType: TYPES.float8_e4m3fn, dims, rawData: codes };
  const nodes = [['Cast', 'codes', 'y', { to: TYPES.float32 }]];
  const session = await openChain(nodes, [], [valueInfo('y', 'float32')], [constant], threads);
  const fetch = { y: new ort.Tensor('float32', data, dims) };
  return () => session.run({}, fetch);
}
