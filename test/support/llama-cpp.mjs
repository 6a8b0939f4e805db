/**
 * llama.cpp in a process of its own, through FFI: the shared libraries of the node-llama-cpp binary package in bench/peers.
 * It takes a task as JSON in its first argument and prints the result as JSON.
 *
 * - `{ task: 'run', model, sequences, texts, greedy }`: logits of all positions of each sequence of token ids (base64 of
 *   float32), ids of each text, and greedy continuations of `greedy: [{ ids, count }]`.
 * - `{ task: 'quantize', model, output, fileType, imatrix }`: what llama-quantize does; `imatrix`: base64 of the float32
 *   importance of each tensor's columns, by the tensor's name.
 */
import { join } from 'node:path';
import koffi from '../../bench/peers/node_modules/koffi/index.js';

const folder = join(import.meta.dirname, '../../bench/peers/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64');
const ggml = koffi.load(join(folder, 'libggml.v0.5.0.so'));
const llama = koffi.load(join(folder, 'libllama.v0.5.0.so'));

// Parameters are structs that grow with every release: larger ones are passed, and only what comes first in them is set.
const Parameters = koffi.struct('Parameters', { words: koffi.array('uint32', 64, 'Typed') });
const Batch = koffi.struct('Batch', { words: koffi.array('uint32', 32, 'Typed') });
const call = (name, result, parameters) => llama.func(name, result, parameters);

ggml.func('ggml_backend_load_all_from_path', 'void', ['str'])(folder);
const task = JSON.parse(process.argv[2]);

const Importance = koffi.struct('Importance', { name: 'char *', data: 'float *', size: 'size_t' });

/** An array of importances that ends with an empty one, in memory that stays. */
function importances(imatrix) {
  const list = Object.entries(imatrix).map(([name, text]) => {
    const bytes = Buffer.from(text, 'base64');
    const data = koffi.alloc('float', bytes.length / 4);
    koffi.encode(
      data,
      'float',
      Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i)),
      bytes.length / 4,
    );
    return { name, data, size: bytes.length / 4 };
  });
  const array = koffi.alloc(Importance, list.length + 1);
  koffi.encode(array, Importance, [...list, { name: null, data: null, size: 0 }], list.length + 1);
  return koffi.address(array);
}

function quantize({ model, output, fileType, imatrix }) {
  const parameters = call('llama_model_quantize_default_params', Parameters, [])();
  parameters.words[0] = 1; // threads
  parameters.words[1] = fileType;
  if (imatrix !== undefined) {
    const address = importances(imatrix);
    parameters.words[6] = Number(address & 0xffffffffn);
    parameters.words[7] = Number(address >> 32n);
  }
  return {
    status: call('llama_model_quantize', 'uint32', ['str', 'str', koffi.pointer(Parameters)])(
      model,
      output,
      parameters,
    ),
  };
}

function open(path) {
  const model = call('llama_model_load_from_file', 'void *', ['str', Parameters])(
    path,
    call('llama_model_default_params', Parameters, [])(),
  );
  if (model === null) throw new Error(`llama.cpp does not load ${path}`);
  return model;
}

function newContext(model) {
  const parameters = call('llama_context_default_params', Parameters, [])();
  const { words } = parameters;
  const expected = [512, 2048, 512, 1];
  if (expected.some((value, i) => words[i] !== value) || words[26] !== 1 || words[27] !== 1) {
    throw new Error('the parameters of this llama.cpp are others than this script knows');
  }
  words[7] = words[8] = 1; // threads
  words[13] = 0; // no flash attention
  words[26] = words[27] = 0; // keys and values in float32
  const context = call('llama_init_from_model', 'void *', ['void *', Parameters])(model, parameters);
  if (context === null) throw new Error('no context');
  return context;
}

function run({ model: path, sequences = [], texts = [], greedy = [] }) {
  const model = open(path);
  const vocabulary = call('llama_model_get_vocab', 'void *', ['void *'])(model);
  const size = call('llama_vocab_n_tokens', 'int32', ['void *'])(vocabulary);
  const decode = call('llama_decode', 'int32', ['void *', Batch]);
  const batchOf = call('llama_batch_get_one', Batch, ['int32 *', 'int32']);
  const logitsAt = call('llama_get_logits_ith', koffi.pointer('float'), ['void *', 'int32']);
  const free = call('llama_free', 'void', ['void *']);
  /** Decodes one token and gives the logits after it. */
  const step = (context, id) => {
    const ids = Int32Array.of(id);
    const status = decode(context, batchOf(ids, 1));
    if (status !== 0) throw new Error(`llama_decode: ${status}`);
    return Float32Array.from(koffi.decode(logitsAt(context, -1), koffi.array('float', size, 'Typed')));
  };
  const logits = sequences.map((ids) => {
    const context = newContext(model);
    const all = new Float32Array(ids.length * size);
    for (const [i, id] of ids.entries()) all.set(step(context, id), i * size);
    free(context);
    return Buffer.from(all.buffer).toString('base64');
  });
  const tokenize = call('llama_tokenize', 'int32', ['void *', 'str', 'int32', 'int32 *', 'int32', 'bool', 'bool']);
  const tokens = texts.map(({ text, special }) => {
    const ids = new Int32Array(4096);
    const count = tokenize(vocabulary, text, Buffer.byteLength(text), ids, ids.length, special, true);
    return Array.from(ids.subarray(0, Math.max(0, count)));
  });
  const continuations = greedy.map(({ ids, count }) => {
    const context = newContext(model);
    let last = new Float32Array(0);
    for (const id of ids) last = step(context, id);
    const result = [];
    while (result.length < count) {
      const best = last.indexOf(last.reduce((a, b) => Math.max(a, b)));
      result.push(best);
      last = step(context, best);
    }
    free(context);
    return result;
  });
  return { size, logits, tokens, continuations };
}

console.log(JSON.stringify(task.task === 'quantize' ? quantize(task) : run(task)));
