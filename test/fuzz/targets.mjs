/**
 * Everything that is fuzzed. A target makes a case from random numbers and runs it:
 *
 * - `generate(random)` gives a case: plain data, with what is read as bytes or as text;
 * - `run(case)` throws a {@link Finding}, an error of ours, or returns the name of what came of it (a promise, or not);
 * - `codes` are those that errors may have; `reaches`: what any run of `enough` cases must come to.
 */
import { imatrix, statistics } from './targets/calibration.mjs';
import { ggufHeader, ggufModel, ggufSplit } from './targets/gguf.mjs';
import { awq } from './targets/layouts/awq.mjs';
import { bitsandbytes } from './targets/layouts/bitsandbytes.mjs';
import { compressedTensors } from './targets/layouts/compressed-tensors.mjs';
import { fp8 } from './targets/layouts/fp8.mjs';
import { gptq } from './targets/layouts/gptq.mjs';
import { index, inspect, journal, observerState, plan } from './targets/pipeline.mjs';
import { decoderConfig, modelConfig, tokenizerJson, tokenizerMetadata, tokenizerModel } from './targets/tokenizers.mjs';

export function targets(dist) {
  return {
    'gguf-header': ggufHeader(dist),
    'gguf-split': ggufSplit(dist),
    'gguf-model': ggufModel(dist),
    gptq: gptq(dist),
    awq: awq(dist),
    'compressed-tensors': compressedTensors(dist),
    bitsandbytes: bitsandbytes(dist),
    fp8: fp8(dist),
    'tokenizer-json': tokenizerJson(dist),
    'tokenizer-model': tokenizerModel(dist),
    'tokenizer-metadata': tokenizerMetadata(dist),
    'model-config': modelConfig(dist),
    'decoder-config': decoderConfig(dist),
    imatrix: imatrix(dist),
    statistics: statistics(dist),
    index: index(dist),
    inspect: inspect(dist),
    plan: plan(dist),
    journal: journal(dist),
    'observer-state': observerState(dist),
  };
}
