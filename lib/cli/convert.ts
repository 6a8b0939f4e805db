/**
 * `lowbit convert`
 *
 * @module
 */
import { Command, Option } from 'commander';
import type { ActivationDtype } from '../checkpoint/layouts/compressed-tensors/writer.js';
import type { LargeFloatDtype } from '../dtype.js';
import { convertCheckpoint } from '../pipeline/convert-checkpoint.js';
import { type CheckpointDtype, type CheckpointFormat, type CodeLayout, FORMATS } from '../pipeline/spec.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import { applyCommonOptions, positiveInteger, withCommonOptions } from './options.js';
import { type RunFlags, runAndReport, withRunOptions } from './run-options.js';
import { activationsOption, checkpointFormat, DTYPES } from './spec-options.js';

interface Flags extends RunFlags {
  to: { format: CheckpointFormat | 'float'; dtype?: CheckpointDtype; layout?: CodeLayout };
  dtype?: CheckpointDtype;
  groupSize?: number;
  scheme?: Scheme;
  activations?: ActivationDtype;
  floatDtype?: LargeFloatDtype;
  requantize?: boolean;
}

function target(text: string): Flags['to'] {
  return text.toLowerCase() === 'float' ? { format: 'float' } : checkpointFormat(text);
}

async function run(input: string, flags: Flags, command: Command): Promise<void> {
  applyCommonOptions(flags);
  const dtype = flags.dtype ?? flags.to.dtype;
  await runAndReport(flags, command, (options) =>
    convertCheckpoint(input, {
      ...options,
      to: flags.to.format,
      ...(dtype === undefined ? {} : { dtype }),
      ...(flags.groupSize === undefined ? {} : { groupSize: flags.groupSize }),
      ...(flags.scheme === undefined ? {} : { scheme: flags.scheme }),
      ...(flags.to.layout === undefined ? {} : { layout: flags.to.layout }),
      ...(flags.activations === undefined ? {} : { activations: flags.activations }),
      ...(flags.floatDtype === undefined ? {} : { floatDtype: flags.floatDtype }),
      requantize: flags.requantize === true,
    }),
  );
}

export function convertCommand(): Command {
  const command = new Command('convert')
    .description('Convert a quantized checkpoint into another format, exactly where that can hold the same values.')
    .argument('<input>', 'a quantized checkpoint: a folder, or a safetensors or GGUF file')
    .addOption(
      new Option('-t, --to <format>', `what to write: ${Object.keys(FORMATS).join(', ')}, or float`)
        .argParser(target)
        .makeOptionMandatory(),
    )
    .addOption(new Option('-d, --dtype <dtype>', 'code type (default: that of the input)').choices([...DTYPES]))
    .option('-g, --group-size <n>', 'inputs that share a scale (default: those of the input)', positiveInteger)
    .addOption(new Option('--scheme <scheme>', 'default: that of the input').choices(['symmetric', 'asymmetric']))
    .addOption(
      new Option(
        '--float-dtype <dtype>',
        'with --to float: the type of the weights (default: that of the model)',
      ).choices(['float32', 'float16', 'bfloat16']),
    )
    .addOption(activationsOption())
    .option('--requantize', 'quantize weights again that the format can not hold exactly');
  return withCommonOptions(withRunOptions(command))
    .addHelpText(
      'after',
      `
The report says of every tensor whether it was repacked (the same values, bit for bit), quantized again, cast or copied.
Without --requantize, weights that the format can't hold exactly are refused before any work.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 the input can't be read or converted as asked,
4 the output can't be written, 5 it is not what it should be or falls below --min-sqnr or --min-cosine, 130 interrupted.

Examples:
  lowbit convert model-AWQ --to compressed-tensors -o model-ct
  lowbit convert model-GPTQ --to float --float-dtype float16 -o model-f16`,
    )
    .action(run);
}
