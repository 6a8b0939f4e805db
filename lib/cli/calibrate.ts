/**
 * `lowbit calibrate` and `lowbit calibrate merge`
 *
 * @module
 */
import { basename } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError as InvalidOption } from 'commander';
import { type CalibrationProgress, collectStatistics } from '../calibration/collect.js';
import { importanceMatrixOf } from '../calibration/imatrix.js';
import { mergeStatistics } from '../calibration/merge.js';
import { StatisticsFile } from '../calibration/statistics-file.js';
import { cutIntoWindows, usualWindowLength } from '../calibration/windows.js';
import { writeImatrix } from '../checkpoint/gguf/imatrix.js';
import { readText } from '../checkpoint/text.js';
import type { Device } from '../device/device.js';
import { openModel } from '../model/model.js';
import { duration } from './format.js';
import {
  applyCommonOptions,
  byteCount,
  type CommonFlags,
  device,
  interruptible,
  positiveInteger,
  readingOf,
  toJson,
  withCommonOptions,
} from './options.js';

interface Flags extends CommonFlags {
  text?: string[];
  output?: string;
  windows?: number;
  windowLength?: number;
  seed?: number;
  specialTokens: boolean;
  shard?: { index: number; count: number };
  gram: boolean;
  device?: Device;
  imatrix?: string;
  maxMemory?: number;
  overwrite?: boolean;
  restart?: boolean;
}

interface MergeFlags extends CommonFlags {
  output?: string;
  imatrix?: string;
  overwrite?: boolean;
}

function seed(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32)
    throw new InvalidOption('Expected an integer from 0 to 2^32 − 1.');
  return value;
}

/** `0/4`: the first of four parts. */
function shard(text: string): { index: number; count: number } {
  const [, index, count] = /^(\d+)\/(\d+)$/.exec(text) ?? [];
  if (Number(index) < Number(count)) return { index: Number(index), count: Number(count) };
  throw new InvalidOption('Expected a part such as 0/4, the first of four.');
}

interface Display {
  update(progress: CalibrationProgress): void;
  stop(): void;
}

/** A bar on a terminal, a line for each block otherwise. */
function displayOn(stream: NodeJS.WriteStream): Display {
  const format = '{bar} {percentage} % | block {block} of {blocks} | {eta_formatted} left';
  const bar = stream.isTTY
    ? new SingleBar({ format, stream, hideCursor: true, clearOnComplete: true, etaBuffer: 50 }, Presets.shades_classic)
    : null;
  let started = false;
  return {
    update({ blocks, totalBlocks, windows, totalWindows }) {
      if (bar === null) {
        if (windows === totalWindows) stream.write(`block ${blocks + 1} of ${totalBlocks} done\n`);
        return;
      }
      const payload = { block: blocks + 1, blocks: totalBlocks };
      const done = blocks * totalWindows + windows;
      if (started) bar.update(done, payload);
      else bar.start(totalBlocks * totalWindows, done, payload);
      started = true;
    },
    stop() {
      if (started) bar?.stop();
    },
  };
}

async function exportImatrix(statistics: string, path: string, texts: readonly string[]): Promise<void> {
  const file = await StatisticsFile.open(statistics);
  try {
    await writeImatrix(
      path,
      await importanceMatrixOf(
        file,
        texts.map((text) => basename(text)),
      ),
    );
  } finally {
    await file.close();
  }
}

async function run(path: string, flags: Flags, command: Command): Promise<void> {
  const { text, output } = flags;
  if (text === undefined) return command.error("error: required option '--text <file...>' not specified");
  if (output === undefined) return command.error("error: required option '-o, --output <file>' not specified");
  applyCommonOptions(flags);
  const display = flags.quiet === true || flags.json === true ? null : displayOn(process.stderr);
  const report = await interruptible(async (signal) => {
    const model = await openModel(path, { residentBlocks: 'one', ...readingOf(flags), signal });
    try {
      const texts = await Promise.all(text.map(readText));
      const windows = cutIntoWindows(model.tokenizer, texts, {
        windowLength: flags.windowLength ?? usualWindowLength(model.config.maxPositions),
        addSpecialTokens: flags.specialTokens,
        ...(flags.windows === undefined ? {} : { count: flags.windows }),
        ...(flags.seed === undefined ? {} : { seed: flags.seed }),
        ...(flags.shard === undefined ? {} : { shard: flags.shard }),
      });
      return await collectStatistics(model, windows, {
        output,
        gram: flags.gram,
        ...(flags.device === undefined ? {} : { device: flags.device }),
        overwrite: flags.overwrite === true,
        restart: flags.restart === true,
        ...(flags.maxMemory === undefined ? {} : { maxMemory: flags.maxMemory }),
        signal,
        onProgress: (progress) => display?.update(progress),
      });
    } finally {
      await model.close();
    }
  }).finally(() => display?.stop());
  if (flags.imatrix !== undefined) await exportImatrix(output, flags.imatrix, text);
  if (flags.json === true) console.log(toJson(report));
  else if (flags.quiet !== true) {
    const { windows, windowLength, tokens, inputs, seconds } = report;
    console.log(
      `${windows} windows of ${windowLength} tokens, ${tokens} in all, seen by ${inputs} inputs in ${duration(seconds)}.`,
    );
  }
}

async function merge(files: string[], flags: MergeFlags, command: Command): Promise<void> {
  const { output } = flags;
  if (output === undefined) return command.error("error: required option '-o, --output <file>' not specified");
  const report = await interruptible((signal) =>
    mergeStatistics(files, { output, overwrite: flags.overwrite === true, signal }),
  );
  if (flags.imatrix !== undefined) await exportImatrix(output, flags.imatrix, []);
  if (flags.json === true) console.log(toJson(report));
  else if (flags.quiet !== true)
    console.log(`${report.files} files, ${report.windows} windows, ${report.tokens} tokens.`);
}

function mergeCommand(): Command {
  return new Command('merge')
    .description('Add statistics of parts of a calibration: the result is that of a single run, byte for byte.')
    .argument('<files...>', 'what lowbit calibrate wrote')
    .option('-o, --output <file>', 'file to create')
    .option('--imatrix <file>', 'write an importance matrix for llama-quantize as well (GGUF)')
    .option('--overwrite', 'replace the output if it exists')
    .option('--json', 'print the result as JSON')
    .option('-q, --quiet', 'print nothing but errors')
    .action(merge);
}

export function calibrateCommand(): Command {
  return withCommonOptions(
    new Command('calibrate')
      .description('Run a model over texts, and write down what its linear layers read: for GPTQ, AWQ, SmoothQuant.')
      .argument('<model>', 'a folder of a Hugging Face model, or a GGUF file')
      .option('--text <file...>', 'texts to read, UTF-8')
      .option('-o, --output <file>', 'file of statistics to create (safetensors)')
      .option(
        '--windows <n>',
        'windows that are taken of the texts (default: 128, or all if there are fewer)',
        positiveInteger,
      )
      .option(
        '--window-length <n>',
        'tokens of a window (default: 512, or as many as the model has positions)',
        positiveInteger,
      )
      .option('--seed <n>', 'decides which windows are taken (default: 0)', seed)
      .option('--no-special-tokens', 'leave out what the tokenizer puts in front of a text')
      .option('--shard <i/n>', 'take part i (from 0) of n of the windows; merge adds the parts', shard)
      .option('--no-gram', 'leave out the Gram matrices, which GPTQ and AWQ need: a smaller file')
      .option('--device <device>', 'compute Gram matrices on a GPU, cuda or cuda:<n>, with the same result', device)
      .option('--imatrix <file>', 'write an importance matrix for llama-quantize as well (GGUF)')
      .option('--max-memory <size>', 'memory that the process may take at most, for example 2GB', byteCount)
      .option('--overwrite', 'replace the output if it exists')
      .option('--restart', 'throw away what an unfinished run left, instead of going on with it'),
  )
    .enablePositionalOptions() // what follows merge is merge's
    .addCommand(mergeCommand())
    .addHelpText(
      'after',
      `
A run that was ended early is continued by the same command, block by block.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 the model or a text can't be used, 4 the output can't be written,
130 interrupted.

Examples:
  lowbit calibrate Llama-3.2-1B --text wiki.txt code.txt -o stats.safetensors
  lowbit calibrate Llama-3.2-1B --text wiki.txt --shard 0/2 -o part0.safetensors
  lowbit calibrate merge part0.safetensors part1.safetensors -o stats.safetensors`,
    )
    .action(run);
}
