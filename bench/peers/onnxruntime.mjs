/** ONNX Runtime's operators, one graph each, with outputs that are reused. */
import onnxProto from 'onnx-proto';
import ort from 'onnxruntime-node';

export const { onnx } = onnxProto;
export const TYPES = { float32: 1, uint8: 2, int8: 3, int32: 6, float16: 10 };

export const name = 'ONNX Runtime';

export const valueInfo = (name, type) => ({ name, type: { tensorType: { elemType: TYPES[type] } } });

export const integerAttributes = (attributes) =>
  Object.entries(attributes).map(([key, value]) => ({
    name: key,
    type: onnx.AttributeProto.AttributeType.INT,
    i: value,
  }));

export const openSession = (model, threads) =>
  ort.InferenceSession.create(model, {
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
