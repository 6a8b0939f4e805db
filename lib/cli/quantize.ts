/**
 * `lowbit quantize`
 *
 * @module
 */
import { Command } from 'commander';
import { deviceFor } from '../calibration/quantize-work.js';
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { storedBytes } from '../checkpoint/weight.js';
import { weightsOf } from '../checkpoint/weights.js';
import type { Device } from '../device/device.js';
import { checkSpec } from '../pipeline/check-spec.js';
import { type Plan, tasksOf } from '../pipeline/plan.js';
import { planOfSpec, type QuantizeCheckpointOptions, quantizeCheckpoint } from '../pipeline/quantize-checkpoint.js';
import type { QuantizationSpec } from '../pipeline/spec.js';
import { applyCommonOptions, device, toJson, withCommonOptions } from './options.js';
import { type RunFlags, runAndReport, withRunOptions } from './run-options.js';
import { type SpecFlags, specOf, withSpecOptions } from './spec-options.js';
import { planTable } from './table.js';

interface Flags extends RunFlags, SpecFlags {
  device?: Device;
  dryRun?: boolean;
}

type QuantizeSpec = QuantizationSpec & Pick<QuantizeCheckpointOptions, 'device'>;

function planAsJson(plan: Plan): object {
  return {
    tensors: tasksOf(plan)
      .filter(({ kind }) => kind !== 'copied')
      .map(({ weight, kind, as, outputs }) => ({
        name: weight.name,
        kind,
        shape: weight.shape,
        from: weight.encoding.dtype,
        to: as,
        inputBytes: storedBytes(weight),
        outputBytes: outputs.reduce((sum, { bytes }) => sum + bytes, 0),
      })),
    copied: tasksOf(plan)
      .filter(({ kind }) => kind === 'copied')
      .map(({ weight }) => weight.name),
    inputBytes: plan.inputBytes,
    outputBytes: plan.outputBytes,
  };
}

async function dryRun(input: string, spec: QuantizeSpec, json: boolean): Promise<string> {
  const { device: _, ...rest } = spec;
  checkSpec(rest);
  deviceFor(spec);
  const checkpoint = await openCheckpoint(input);
  try {
    const plan = await planOfSpec(checkpoint, await weightsOf(checkpoint), spec);
    return json ? toJson(planAsJson(plan)) : planTable(plan);
  } finally {
    await checkpoint.close();
  }
}

async function run(input: string, flags: Flags, command: Command): Promise<void> {
  applyCommonOptions(flags);
  const place = flags.device === undefined ? {} : { device: flags.device };
  const spec: QuantizeSpec = { ...(await specOf(flags, command)), ...place };
  if (flags.dryRun === true) {
    console.log(await dryRun(input, spec, flags.json === true));
    return;
  }
  await runAndReport(flags, command, (options) => quantizeCheckpoint(input, { ...spec, ...options }));
}

export function quantizeCommand(): Command {
  const command = withSpecOptions(
    new Command('quantize')
      .description('Quantize the linear layers of a checkpoint, and write what vLLM, transformers or llama.cpp load.')
      .argument('<input>', 'a folder of a Hugging Face model, or a safetensors or GGUF file'),
  )
    .option('--device <device>', 'gptq, awq-gptq: compute on a GPU, cuda or cuda:<n>, with the same result', device)
    .option('--dry-run', 'show what would be done, and do nothing')
    .addHelpText(
      'after',
      `
Embeddings, norms and the output head stay as they are (in GGUF they follow llama-quantize's mixtures). The result is read back
and compared with the input, and appears complete, or not at all; a run that was ended early is continued by the same command.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 the input can't be read or quantized as asked,
4 the output can't be written, 5 it is not what it should be or falls below --min-sqnr or --min-cosine, 130 interrupted.

Examples:
  lowbit quantize Llama-3.2-1B --dtype int4 --group-size 32 -o Llama-3.2-1B-int4
  lowbit quantize Llama-3.2-1B --format gguf:q4_k_m -o Llama-3.2-1B-Q4_K_M.gguf
  lowbit quantize Llama-3.2-1B --format gptq --layer down_proj=float -o Llama-3.2-1B-GPTQ`,
    )
    .action(run);
  return withCommonOptions(withRunOptions(command));
}
