/**
 * The `quantization_config` of written weights. Its fields are those of the presets of
 * vllm-project/compressed-tensors ac8e2ba8, src/compressed_tensors/quantization/quant_scheme.py.
 *
 * @module
 */
import { inputKindOf } from '../../../tensor/input-quantization.js';
import type { Json } from '../../checkpoint.js';
import type { Sharing } from '../scaled-weight.js';
import type { WriterPlan } from './writer.js';

const STRATEGIES: Record<Sharing['granularity'], string> = {
  'per-tensor': 'tensor',
  'per-channel': 'channel',
  'per-group': 'group',
  'per-block': 'block',
};

function weightArguments({ dtype, bits, scheme, sharing, actOrder }: WriterPlan): Json {
  const scaleDtype = dtype === 'nvfp4' ? 'torch.float8_e4m3fn' : 'torch.uint8';
  return {
    num_bits: bits,
    type: dtype.startsWith('int') ? 'int' : 'float',
    symmetric: scheme === 'symmetric',
    strategy: dtype === 'nvfp4' ? 'tensor_group' : STRATEGIES[sharing.granularity],
    group_size: sharing.granularity === 'per-group' ? sharing.groupSize : null,
    block_structure: sharing.granularity === 'per-block' ? [...sharing.blockShape] : null,
    dynamic: false,
    actorder: actOrder ? 'group' : null,
    ...(dtype === 'nvfp4' || dtype.startsWith('mx') ? { scale_dtype: scaleDtype } : {}),
    observer: 'minmax',
    observer_kwargs: {},
  };
}

/** What engines do with activations at run time: a scale for each token, for each group of one, or a stored one for all. */
function activationArguments({ activations, sharing }: WriterPlan): Json | null {
  if (activations === 'float') return null;
  const stored = inputKindOf(activations);
  if (stored !== null) {
    return {
      num_bits: 8,
      type: stored.dtype === 'int8' ? 'int' : 'float',
      symmetric: stored.scheme === 'symmetric',
      strategy: 'tensor',
      group_size: null,
      dynamic: false,
      observer: 'minmax',
      observer_kwargs: {},
    };
  }
  const isMx = activations.startsWith('mx');
  const common = {
    num_bits: activations === 'mxfp4' ? 4 : 8,
    type: activations === 'int8' ? 'int' : 'float',
    symmetric: true,
    dynamic: true,
  };
  const grouped = (size: number) => ({ ...common, strategy: 'group', group_size: size });
  if (isMx) return { ...grouped(32), scale_dtype: 'torch.uint8' };
  if (sharing.granularity === 'per-block') return grouped(sharing.blockShape[1]);
  return { ...common, strategy: 'token', group_size: null };
}

/** The config of a plan. */
export function writtenConfig(plan: WriterPlan, ignored: readonly string[]): Json {
  return {
    quant_method: 'compressed-tensors',
    format: plan.format,
    // Codes of 3 bits were packed in another way before this version.
    ...(32 % plan.bits === 0 ? {} : { version: '0.18.0' }),
    quantization_status: 'compressed',
    global_compression_ratio: null,
    ignore: [...ignored],
    kv_cache_scheme: null,
    config_groups: {
      group_0: {
        targets: ['Linear'],
        weights: weightArguments(plan),
        input_activations: activationArguments(plan),
        output_activations: null,
      },
    },
  };
}
