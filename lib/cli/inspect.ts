/**
 * `lowbit inspect`
 *
 * @module
 */
import { Command } from 'commander';
import { type InspectedWeight, type Inspection, inspectCheckpoint } from '../pipeline/inspect.js';
import { bytes } from './format.js';
import {
  applyCommonOptions,
  type CommonFlags,
  interruptible,
  readingOf,
  toJson,
  withCommonOptions,
} from './options.js';
import { table } from './table.js';

interface Flags extends CommonFlags {
  statistics?: boolean;
  all?: boolean;
}

/** Past this many tensors, only the encodings are listed unless all are asked for. */
const LISTED_TENSORS = 200;

function countOf(parameters: number): string {
  if (parameters >= 1e9) return `${(parameters / 1e9).toFixed(2)} billion`;
  if (parameters >= 1e6) return `${(parameters / 1e6).toFixed(2)} million`;
  return String(parameters);
}

function rowOf({ name, shape, dtype, groupSize, traits, bytes: size, bitsPerWeight, statistics }: InspectedWeight) {
  const row = [
    name,
    shape.join(' × ') || 'scalar',
    [dtype, ...(groupSize === null ? [] : [`g${groupSize}`]), ...traits].join(' '),
    bitsPerWeight.toFixed(2),
    bytes(size),
  ];
  if (statistics === null) return row;
  const { maxAbs, rms, outliers, nonFinite, scales } = statistics;
  return [
    ...row,
    maxAbs.toPrecision(3),
    rms.toPrecision(3),
    String(outliers) + (nonFinite > 0 ? ` (+${nonFinite} not finite)` : ''),
    scales === null ? '' : `${scales.lowest.toPrecision(3)} … ${scales.highest.toPrecision(3)}`,
  ];
}

function inspectionTable(inspection: Inspection, all: boolean): string {
  const summary = table([], ['left', 'left']);
  const { path, container, architecture, parameters, weights, bitsPerWeight } = inspection;
  summary.push(
    ['checkpoint', path],
    ['container', container],
    ...(architecture === null ? [] : [['architecture', architecture]]),
    ['parameters', `${countOf(parameters)} in ${weights.length} tensors`],
    ['size', `${bytes(inspection.bytes)}, ${bitsPerWeight.toFixed(2)} bits per weight`],
    ...inspection.encodings.map(({ description, weights: count, bytes: size }) => [
      description,
      `${count} tensor${count === 1 ? '' : 's'}, ${bytes(size)}`,
    ]),
  );
  if (weights.length === 0) return summary.toString();
  if (!all && weights.length > LISTED_TENSORS) {
    return `${summary.toString()}\n${weights.length} tensors; --all lists them.`;
  }
  const withStatistics = weights.some(({ statistics }) => statistics !== null);
  const head = ['tensor', 'shape', 'type', 'bits', 'size'];
  const rows = table(
    withStatistics ? [...head, 'max |x|', 'rms', 'past 6 rms', 'scales'] : head,
    ['left', 'right', 'left', 'right', 'right', 'right', 'right', 'right', 'left'].slice(0, withStatistics ? 9 : 5) as (
      | 'left'
      | 'right'
    )[],
  );
  for (const weight of weights) rows.push(rowOf(weight));
  return `${rows.toString()}\n${summary.toString()}`;
}

async function run(path: string, flags: Flags): Promise<void> {
  applyCommonOptions(flags);
  const inspection = await interruptible((signal) =>
    inspectCheckpoint(path, { ...readingOf(flags), statistics: flags.statistics === true, signal }),
  );
  if (flags.quiet === true) return;
  console.log(flags.json === true ? toJson(inspection) : inspectionTable(inspection, flags.all === true));
}

export function inspectCommand(): Command {
  return withCommonOptions(
    new Command('inspect')
      .description('Say what a checkpoint is: formats, types, shapes, sizes; GPTQ v1 or v2; ranges and outliers.')
      .argument('<checkpoint>', 'a safetensors or GGUF file, or a folder')
      .option('-s, --statistics', 'read the weights too: largest magnitude, outliers, range of the scales')
      .option('--all', `list every tensor, even of more than ${LISTED_TENSORS}`),
  )
    .addHelpText(
      'after',
      `
Without --statistics only headers are read.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 the checkpoint can't be read.

Example:
  lowbit inspect Llama-3.2-1B-int4 --statistics`,
    )
    .action(run);
}
