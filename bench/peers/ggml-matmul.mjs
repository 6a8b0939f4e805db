/**
 * ggml's mul_mat in this process: what llama.cpp runs for a linear layer. The types that have a layout for this processor
 * (`repack`) are measured in it, as llama.cpp would choose it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { base, cpu, dequantize, quantize, TYPES } from './ggml.mjs';

export const name = 'ggml';

koffi.struct('ggml_init_params', { mem_size: 'size_t', mem_buffer: 'void*', no_alloc: 'bool' });
const init = base.func('void* ggml_init(ggml_init_params params)');
const free = base.func('void ggml_free(void* context)');
const newTensor = base.func('void* ggml_new_tensor_2d(void* context, int type, int64_t ne0, int64_t ne1)');
const tensorBytes = base.func('size_t ggml_nbytes(const void* tensor)');
const tensorOverhead = base.func('size_t ggml_tensor_overhead()');
const graphOverhead = base.func('size_t ggml_graph_overhead()');
const multiply = base.func('void* ggml_mul_mat(void* context, void* weights, void* x)');
const newGraph = base.func('void* ggml_new_graph(void* context)');
const addToGraph = base.func('void ggml_build_forward_expand(void* graph, void* tensor)');
const allocate = base.func('void* ggml_backend_alloc_ctx_tensors_from_buft(void* context, void* buffer_type)');
const freeBuffer = base.func('void ggml_backend_buffer_free(void* buffer)');
const setTensor = base.func('void ggml_backend_tensor_set(void* tensor, const void* data, size_t offset, size_t size)');
const getTensor = base.func('void ggml_backend_tensor_get(const void* tensor, void* data, size_t offset, size_t size)');
const compute = base.func('int ggml_backend_graph_compute(void* backend, void* graph)');
const plainBuffers = base.func('void* ggml_backend_cpu_buffer_type()');
// The symbol has its C++ name, and takes Q4_0, Q4_K and IQ4_NL on x86; other types crash in it.
const repackedBuffers = cpu.func('_Z35ggml_backend_cpu_repack_buffer_typev', 'void*', []);
const setThreads = cpu.func('void ggml_backend_cpu_set_n_threads(void* backend, int threads)');
const initPool = base.func('void ggml_threadpool_params_init(void* params, int threads)');
const newPool = cpu.func('void* ggml_threadpool_new(void* params)');
const freePool = cpu.func('void ggml_threadpool_free(void* pool)');
const pausePool = cpu.func('void ggml_threadpool_pause(void* pool)');
const setPool = cpu.func('void ggml_backend_cpu_set_threadpool(void* backend, void* pool)');

// Or it reports every tensor that it packs.
const logger = koffi.proto('void ggml_log_callback(int level, const char* text, void* data)');
const ignore = koffi.register(() => {}, koffi.pointer(logger));
base.func('void ggml_log_set(ggml_log_callback* callback, void* data)')(ignore, null);

const backend = cpu.func('void* ggml_backend_cpu_init()')();
const REPACKED = new Set(['q4_0', 'q4_k']);
const SAMPLE_ROWS = 256;

const pool = { threads: 0, handle: null };

/** Threads that live from one graph to the next, as llama.cpp has them; without a pool ggml starts them for every graph. */
function usePool(threads) {
  if (pool.threads === threads) return;
  const params = new Uint8Array(1024); // more than the struct takes
  initPool(params, threads);
  const handle = newPool(params);
  setPool(backend, handle);
  setThreads(backend, threads);
  if (pool.handle !== null) freePool(pool.handle);
  pool.threads = threads;
  pool.handle = handle;
}
// The library is unloaded while the process ends; none of its code may run then.
process.on('exit', () => {
  if (pool.handle !== null) freePool(pool.handle);
});

/** The weights in ggml's format. Its quantizers are slow, so that large matrices repeat their first rows. */
function encode(type, { weights, N, K }, bytes) {
  const encoded = new Uint8Array(bytes);
  const rows = Math.min(N, SAMPLE_ROWS);
  quantize(type, weights.subarray(0, rows * K), encoded, rows, K);
  const rowBytes = bytes / N;
  for (let row = rows; row < N; row += rows) {
    encoded.copyWithin(row * rowBytes, 0, Math.min(rows, N - row) * rowBytes);
  }
  return encoded;
}

/** A context that holds the description of so many tensors, and perhaps a graph of them, but not their memory. */
const context = (tensors) =>
  init({ mem_size: tensors * tensorOverhead() + graphOverhead() + 4096, mem_buffer: null, no_alloc: true });

/**
 * x · Wᵀ with weights of this type, in so many copies.
 *
 * @param matrix its `weights`, a Float32Array of N rows and K columns
 */
export function linear(type, matrix, copies) {
  const { N, K } = matrix;
  const weights = context(copies);
  const tensors = Array.from({ length: copies }, () => newTensor(weights, TYPES[type], K, N));
  const buffer = allocate(weights, REPACKED.has(type) ? repackedBuffers() : plainBuffers());
  const bytes = Number(tensorBytes(tensors[0]));
  const encoded = type === 'f32' ? matrix.weights : encode(type, matrix, bytes);
  for (const tensor of tensors) setTensor(tensor, encoded, 0, bytes);

  return {
    /** The weights as ggml understands them. */
    reference() {
      if (type === 'f32') return matrix.weights;
      const values = new Float32Array(N * K);
      dequantize[type](encoded, values, values.length);
      return values;
    },

    /** A function that multiplies M rows by the first `used` copies, in one graph, as the layers of a model are. */
    prepare(x, M, { threads, used }) {
      usePool(threads);
      const local = context(2 * used + 1);
      const input = newTensor(local, TYPES.f32, K, M);
      const outputs = tensors.slice(0, used).map((tensor) => multiply(local, tensor, input));
      const graph = newGraph(local);
      for (const output of outputs) addToGraph(graph, output);
      const memory = allocate(local, plainBuffers());
      setTensor(input, x, 0, x.byteLength);
      return {
        run() {
          const status = compute(backend, graph);
          if (status !== 0) throw new Error(`ggml_backend_graph_compute failed with status ${status}`);
        },
        /** Its threads would spin for a while, and the system needs a moment to give their processors to others. */
        async quiet() {
          if (threads === 1) return;
          pausePool(pool.handle);
          await sleep(5);
        },
        result() {
          const y = new Float32Array(M * N);
          getTensor(outputs[used - 1], y, 0, y.byteLength);
          return y;
        },
        release() {
          freeBuffer(memory);
          free(local);
        },
      };
    },

    release() {
      freeBuffer(buffer);
      free(weights);
    },
  };
}
