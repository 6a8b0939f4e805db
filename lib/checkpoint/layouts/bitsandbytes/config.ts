/**
 * The `quantization_config` of bitsandbytes, as transformers saves it.
 *
 * @module
 */
import type { Json } from '../../checkpoint.js';

/**
 * @param own - What goes with the codes.
 * @param ignored - Layers that stay in float.
 */
export function bitsandbytesConfig(own: Json, ignored: readonly string[]): Json {
  return {
    quant_method: 'bitsandbytes',
    load_in_4bit: false,
    load_in_8bit: false,
    ...own,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: [...ignored],
    // No llm_int8_threshold: transformers wants a float, and JSON.stringify writes 6.0 as 6. It defaults to that.
  };
}
