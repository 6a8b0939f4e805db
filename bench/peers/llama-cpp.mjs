/** llama.cpp through FFI, out of the same package as ggml.mjs: a model and a context that decodes tokens. */
import { join } from 'node:path';
import koffi from 'koffi';

const folder = join(import.meta.dirname, 'node_modules', '@node-llama-cpp', 'linux-x64', 'bins', 'linux-x64');
const ggml = koffi.load(join(folder, 'libggml.v0.5.0.so'));
const llama = koffi.load(join(folder, 'libllama.v0.5.0.so'));

// Parameters are structs that grow with every release: larger ones are passed, and only what comes first in them is set.
const Parameters = koffi.struct('LlamaParameters', { words: koffi.array('uint32', 64, 'Typed') });
const Batch = koffi.struct('LlamaBatch', { words: koffi.array('uint32', 32, 'Typed') });
const call = (name, result, parameters) => llama.func(name, result, parameters);

ggml.func('ggml_backend_load_all_from_path', 'void', ['str'])(folder);
const quiet = koffi.register(() => undefined, koffi.pointer(koffi.proto('void LlamaLog(int, str, void *)')));
call('llama_log_set', 'void', [koffi.pointer('LlamaLog'), 'void *'])(quiet, null);

/**
 * Opens a model.
 *
 * @param options.threads how many threads decode
 * @param options.positions how many tokens a context has room for
 */
export function open(path, { threads, positions }) {
  const modelParameters = call('llama_model_default_params', Parameters, [])();
  const model = call('llama_model_load_from_file', 'void *', ['str', Parameters])(path, modelParameters);
  if (model === null) throw new Error(`llama.cpp does not load ${path}`);
  const parameters = call('llama_context_default_params', Parameters, [])();
  const { words } = parameters;
  if ([512, 2048, 512, 1].some((value, i) => words[i] !== value)) {
    throw new Error('the parameters of this llama.cpp are others than this script knows');
  }
  words[0] = positions;
  words[7] = words[8] = threads;
  const context = call('llama_init_from_model', 'void *', ['void *', Parameters])(model, parameters);
  if (context === null) throw new Error('no context');
  const decode = call('llama_decode', 'int32', ['void *', Batch]);
  const batchOf = call('llama_batch_get_one', Batch, ['int32 *', 'int32']);
  const memory = call('llama_get_memory', 'void *', ['void *'])(context);
  const clear = call('llama_memory_clear', 'void', ['void *', 'bool']);
  return {
    /** Forgets all tokens. */
    clear: () => clear(memory, true),
    /** Takes tokens in, and computes the logits after the last one. */
    decode(tokens) {
      const status = decode(context, batchOf(tokens, tokens.length));
      if (status !== 0) throw new Error(`llama_decode: ${status}`);
    },
    close() {
      call('llama_free', 'void', ['void *'])(context);
      call('llama_model_free', 'void', ['void *'])(model);
    },
  };
}
