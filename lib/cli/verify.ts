/**
 * `lowbit verify`
 *
 * @module
 */
import { Command } from 'commander';
import { shortcomings } from '../pipeline/read-back.js';
import { type VerificationReport, verifyCheckpoint } from '../pipeline/verify.js';
import { bytes, decibels } from './format.js';
import { judge } from './judgement.js';
import {
  applyCommonOptions,
  type CommonFlags,
  interruptible,
  number,
  positiveInteger,
  readingOf,
  withCommonOptions,
} from './options.js';
import { progressDisplay } from './progress.js';
import { table } from './table.js';
import { verificationPage } from './verification-page.js';

interface Flags extends CommonFlags {
  minSqnr?: number;
  minCosine?: number;
  worstRows: number;
  html?: string;
}

/** Past this many tensors, only the worst are listed. */
const LISTED_TENSORS = 64;

function verificationTable(report: VerificationReport): string {
  const changed = report.tensors.filter(({ identical }) => !identical);
  const byError = [...changed].sort((a, b) => a.sqnrDb - b.sqnrDb);
  const shown = changed.length <= LISTED_TENSORS ? changed : byError.slice(0, LISTED_TENSORS);
  const rows = table(
    ['tensor', 'from', 'to', 'bits', 'SQNR', 'cosine', 'max error', 'worst rows'],
    ['left', 'left', 'left', 'right', 'right', 'right', 'right', 'left'],
  );
  for (const tensor of shown) {
    rows.push([
      tensor.name + (tensor.name === report.worst?.name ? '  (worst)' : ''),
      tensor.from,
      tensor.to,
      tensor.bitsPerWeight.toFixed(2),
      decibels(tensor.sqnrDb),
      tensor.cosine.toFixed(6),
      tensor.maxAbs.toPrecision(3),
      tensor.worstRows.map(({ row, sqnrDb }) => `${row} (${decibels(sqnrDb)})`).join(', '),
    ]);
  }
  const { originalBytes, quantizedBytes, missing, extra, reshaped, worst } = report;
  const summary = table([], ['left', 'left']);
  const list = (names: readonly string[]) =>
    names.length === 0 ? 'none' : `${names.length}: ${names.slice(0, 5).join(', ')}${names.length > 5 ? ', …' : ''}`;
  summary.push(
    ['tensors', `${changed.length} changed, ${report.tensors.length - changed.length} identical`],
    ['missing', list(missing)],
    ['added', list(extra)],
    ...(reshaped.length === 0 ? [] : [['other shape', list(reshaped.map(({ name }) => name))]]),
    [
      'size',
      `${bytes(originalBytes)} → ${bytes(quantizedBytes)} (${((100 * quantizedBytes) / Math.max(1, originalBytes)).toFixed(1)} %)`,
    ],
    ['bits per weight', report.bitsPerWeight.toFixed(3)],
    ['SQNR', worst === null ? 'everything is identical' : `worst ${decibels(worst.sqnrDb)} in ${worst.name}`],
  );
  const heading = shown === changed ? '' : `The ${LISTED_TENSORS} tensors with the lowest SQNR of ${changed.length}:\n`;
  return changed.length === 0 ? summary.toString() : `${heading}${rows.toString()}\n${summary.toString()}`;
}

/** What falls short of the thresholds, and what is missing. */
function failures(report: VerificationReport, { minSqnr, minCosine }: Flags): string[] {
  if (minSqnr === undefined && minCosine === undefined) return [];
  const found = shortcomings(report.tensors, { minSqnr, minCosine });
  for (const name of report.missing) found.push(`${name}: missing`);
  for (const { name } of report.reshaped) found.push(`${name}: another shape`);
  return found;
}

async function run(original: string, quantized: string, flags: Flags): Promise<void> {
  applyCommonOptions(flags);
  const display = flags.quiet === true || flags.json === true ? null : progressDisplay(process.stderr);
  const report = await interruptible((signal) =>
    verifyCheckpoint(original, quantized, {
      ...readingOf(flags),
      worstRows: flags.worstRows,
      signal,
      onProgress: (progress) => display?.update(progress),
    }),
  ).finally(() => display?.stop());
  await judge(report, failures(report, flags), flags, { page: verificationPage, table: verificationTable });
}

export function verifyCommand(): Command {
  return withCommonOptions(
    new Command('verify')
      .description('Compare a quantized checkpoint with its original, tensor by tensor, in any formats.')
      .argument('<original>', 'a safetensors or GGUF file, or a folder')
      .argument('<quantized>', 'what was made from it')
      .option('--min-sqnr <dB>', 'fail if a tensor has a lower signal to quantization noise ratio', number)
      .option('--min-cosine <value>', 'fail if a tensor has a lower cosine similarity', number)
      .option('--html <file>', 'write a page with charts and a table that sorts')
      .option('--worst-rows <n>', 'rows listed for each tensor', positiveInteger, 3),
  )
    .addHelpText(
      'after',
      `
Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 a checkpoint can't be read, 4 the page can't be written,
5 a tensor is missing, has another shape, or falls below --min-sqnr or --min-cosine, 130 interrupted.

Example:
  lowbit verify Llama-3.2-1B Llama-3.2-1B-int4 --min-sqnr 15`,
    )
    .action(run);
}
