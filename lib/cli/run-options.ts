/**
 * Options of commands that write a checkpoint, and the way they run.
 *
 * @module
 */
import type { Command } from 'commander';
import type { RunOptions, RunReport, RunStart } from '../pipeline/carry-out.js';
import { bytes } from './format.js';
import { byteCount, type CommonFlags, interruptible, number, readingOf, toJson } from './options.js';
import { progressDisplay } from './progress.js';
import { reportTable } from './table.js';

export interface RunFlags extends CommonFlags {
  output?: string;
  maxMemory?: number;
  inputHashes: boolean;
  verify: boolean;
  minSqnr?: number;
  minCosine?: number;
  overwrite?: boolean;
  restart?: boolean;
}

/** Adds these options to a command. */
export function withRunOptions(command: Command): Command {
  return command
    .option('-o, --output <path>', 'folder to create; for gguf the file')
    .option('--max-memory <size>', 'memory that the process may take at most, for example 2GB', byteCount)
    .option(
      '--no-input-hashes',
      'leave the SHA-256 of the input files out of lowbit.json, which saves reading them twice',
    )
    .option('--no-verify', 'do not read the result back and compare it with the input, which measures its errors')
    .option(
      '--min-sqnr <dB>',
      'fail, and write nothing, if a tensor has a lower signal to quantization noise ratio',
      number,
    )
    .option('--min-cosine <value>', 'fail, and write nothing, if a tensor has a lower cosine similarity', number)
    .option('--overwrite', 'replace the output if it exists')
    .option('--restart', 'throw away what an unfinished run left, instead of going on with it');
}

/** What is said before the work begins. */
function announcement({ peakBytes, outputBytes, continued }: RunStart): string {
  const start = continued ? 'Continuing where another run ended. ' : '';
  return `${start}The result takes ${bytes(outputBytes)}, the work at most ${bytes(peakBytes)} of memory.`;
}

/** Runs a command's work with progress, and prints its report. */
export async function runAndReport(
  flags: RunFlags,
  command: Command,
  work: (options: RunOptions) => Promise<RunReport>,
): Promise<void> {
  const { output } = flags;
  if (output === undefined) return command.error("error: required option '-o, --output <path>' not specified");
  if (!flags.verify && (flags.minSqnr !== undefined || flags.minCosine !== undefined)) {
    return command.error('error: --min-sqnr and --min-cosine need what --no-verify leaves out');
  }
  const isTalking = flags.quiet !== true && flags.json !== true;
  const display = isTalking ? progressDisplay(process.stderr) : null;
  const report = await interruptible((signal) =>
    work({
      ...readingOf(flags),
      output,
      overwrite: flags.overwrite === true,
      restart: flags.restart === true,
      hashInputs: flags.inputHashes,
      verify: flags.verify,
      ...(flags.minSqnr === undefined ? {} : { minSqnr: flags.minSqnr }),
      ...(flags.minCosine === undefined ? {} : { minCosine: flags.minCosine }),
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
  if (flags.quiet === true) return;
  for (const name of report.leftOut) console.error(`left out: ${name} (weights in another format)`);
  for (const warning of report.warnings) console.error(`warning: ${warning}`);
}
