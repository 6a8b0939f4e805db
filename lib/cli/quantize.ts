/**
 * `lowbit quantize`
 *
 * @module
 */
import { Command, InvalidArgumentError as InvalidOption, Option } from 'commander';
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { storedBytes } from '../checkpoint/weight.js';
import { weightsOf } from '../checkpoint/weights.js';
import type { RunStart } from '../pipeline/carry-out.js';
import { type Plan, planQuantization, tasksOf } from '../pipeline/plan.js';
import { quantizeCheckpoint } from '../pipeline/quantize-checkpoint.js';
import type { QuantizationSpec } from '../pipeline/spec.js';
import { bytes } from './format.js';
import {
  applyCommonOptions,
  byteCount,
  type CommonFlags,
  interruptible,
  positiveInteger,
  regularExpression,
  toJson,
  withCommonOptions,
} from './options.js';
import { progressDisplay } from './progress.js';
import { planTable, reportTable } from './table.js';

interface Flags extends CommonFlags {
  dtype: 'int4' | 'int8';
  output?: string;
  granularity: 'per-group' | 'per-channel';
  groupSize?: number;
  scheme: 'symmetric' | 'asymmetric';
  range: QuantizationSpec['range'];
  include?: RegExp;
  exclude?: RegExp;
  maxMemory?: number;
  inputHashes: boolean;
  overwrite?: boolean;
  restart?: boolean;
  dryRun?: boolean;
}

function rangeMethod(text: string): NonNullable<QuantizationSpec['range']> {
  if (text === 'minmax' || text === 'mse') return text;
  const percentile = /^percentile:(\d+(?:\.\d+)?)$/.exec(text)?.[1];
  if (percentile !== undefined && Number(percentile) > 50 && Number(percentile) <= 100) {
    return { percentile: Number(percentile) };
  }
  throw new InvalidOption(
    'Expected minmax, mse or percentile:<number above 50, at most 100>, for example percentile:99.9.',
  );
}

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

async function dryRun(input: string, spec: QuantizationSpec, json: boolean): Promise<string> {
  const checkpoint = await openCheckpoint(input);
  try {
    const plan = planQuantization(checkpoint, await weightsOf(checkpoint), spec);
    return json ? toJson(planAsJson(plan)) : planTable(plan);
  } finally {
    await checkpoint.close();
  }
}

async function run(input: string, flags: Flags, command: Command): Promise<void> {
  if (flags.granularity === 'per-channel' && flags.groupSize !== undefined) {
    command.error('error: --group-size goes with --granularity per-group');
  }
  applyCommonOptions(flags);
  const spec: QuantizationSpec = {
    dtype: flags.dtype,
    scheme: flags.scheme,
    groupSize: flags.granularity === 'per-channel' ? null : (flags.groupSize ?? 128),
    ...(flags.range === undefined ? {} : { range: flags.range }),
    ...(flags.include === undefined ? {} : { include: flags.include }),
    ...(flags.exclude === undefined ? {} : { exclude: flags.exclude }),
  };
  if (flags.dryRun === true) {
    console.log(await dryRun(input, spec, flags.json === true));
    return;
  }
  if (flags.output === undefined) return command.error("error: required option '-o, --output <folder>' not specified");

  const { output } = flags;
  const isTalking = flags.quiet !== true && flags.json !== true;
  const display = isTalking ? progressDisplay(process.stderr) : null;
  const report = await interruptible((signal) =>
    quantizeCheckpoint(input, {
      ...spec,
      output,
      overwrite: flags.overwrite === true,
      restart: flags.restart === true,
      hashInputs: flags.inputHashes,
      ...(flags.maxMemory === undefined ? {} : { maxMemory: flags.maxMemory }),
      signal,
      onStart: (start) => {
        if (isTalking) console.error(announcement(start));
      },
      onProgress: (progress) => display?.update(progress),
    }),
  ).finally(() => display?.stop());
  if (flags.json === true) console.log(toJson(report));
  else if (flags.quiet !== true) console.log(reportTable(report));
  for (const name of report.leftOut) {
    if (flags.quiet !== true) console.error(`left out: ${name} (weights in another format)`);
  }
}

/** What is said before the work begins. */
function announcement({ peakBytes, outputBytes, continued }: RunStart): string {
  const start = continued ? 'Continuing where another run ended. ' : '';
  return `${start}The result takes ${bytes(outputBytes)}, the work at most ${bytes(peakBytes)} of memory.`;
}

export function quantizeCommand(): Command {
  const command = new Command('quantize')
    .description(
      'Quantize the linear layers of a checkpoint to int4 or int8, and write a Hugging Face folder that vLLM and transformers load (compressed-tensors layout).',
    )
    .argument('<input>', 'a .safetensors file, or a folder with one or several of them (float32, float16, bfloat16)')
    .addOption(
      new Option('-d, --dtype <dtype>', 'code type of the weights').choices(['int4', 'int8']).makeOptionMandatory(),
    )
    .option('-o, --output <folder>', 'folder to create')
    .addOption(
      new Option('--granularity <granularity>', 'what shares a scale: a group of inputs, or an output channel')
        .choices(['per-group', 'per-channel'])
        .default('per-group'),
    )
    .option('-g, --group-size <n>', 'inputs that share a scale (default: 128)', positiveInteger)
    .addOption(
      new Option('--scheme <scheme>', 'symmetric: zero point 0; asymmetric: a zero point for each scale')
        .choices(['symmetric', 'asymmetric'])
        .default('symmetric'),
    )
    .option(
      '--range <method>',
      'how the range is chosen: minmax, mse, or percentile:<p>',
      rangeMethod,
      'minmax' as const,
    )
    .option('--include <regex>', 'quantize only the weights whose name matches', regularExpression)
    .option('--exclude <regex>', 'keep the weights whose name matches in float', regularExpression)
    .option('--max-memory <size>', 'memory that the process may take at most, for example 2GB', byteCount)
    .option(
      '--no-input-hashes',
      'leave the SHA-256 of the input files out of lowbit.json, which saves reading them twice',
    )
    .option('--overwrite', 'replace the output folder if it exists')
    .option('--restart', 'throw away what an unfinished run left, instead of going on with it')
    .option('--dry-run', 'show what would be done, and do nothing')
    .addHelpText(
      'after',
      `
Embeddings, norms and the output head stay as they are. The result appears when it is complete, or not at all;
a run that was ended early is continued by the same command.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 the input can't be read or quantized as asked,
4 the output can't be written, 130 interrupted.

Example:
  lowbit quantize Llama-3.2-1B --dtype int4 --group-size 32 -o Llama-3.2-1B-int4`,
    )
    .action(run);
  return withCommonOptions(command);
}
