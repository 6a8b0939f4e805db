/**
 * Tables of what was or would be done.
 *
 * @module
 */
import Table from 'cli-table3';
import { storedBytes } from '../checkpoint/weight.js';
import type { TensorReport } from '../pipeline/carry-out.js';
import { type Plan, tasksOf } from '../pipeline/plan.js';
import type { QuantizationReport } from '../pipeline/quantize-checkpoint.js';
import { layerOf } from '../pipeline/selection.js';
import { bytes, decibels } from './format.js';

/** Past this many layers, only the worst are listed. */
const LISTED_LAYERS = 64;

export function table(head: string[], alignment: ('left' | 'right')[]): Table.Table {
  return new Table({ head, colAligns: alignment, style: { head: [], border: [], compact: true } });
}

/** One row per layer, and a summary. */
export function reportTable(report: QuantizationReport): string {
  const { tensors } = report;
  const sqnrOf = ({ sqnrDb }: TensorReport) => sqnrDb ?? Number.POSITIVE_INFINITY;
  const byError = [...tensors].sort((a, b) => sqnrOf(a) - sqnrOf(b) || 0); // Infinity − Infinity is NaN
  const shown = tensors.length <= LISTED_LAYERS ? tensors : byError.slice(0, LISTED_LAYERS);
  const layers = table(
    ['layer', 'shape', 'bits/weight', 'before', 'after', 'SQNR', 'max error'],
    ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
  );
  for (const tensor of shown) {
    layers.push([
      tensor.name.replace(/\.weight$/, '') + (tensor.name === report.worstTensor ? '  (worst)' : ''),
      tensor.shape.join(' × '),
      tensor.bitsPerWeight.toFixed(2),
      bytes(tensor.inputBytes),
      bytes(tensor.outputBytes),
      tensor.sqnrDb === null ? '' : decibels(tensor.sqnrDb),
      tensor.maxAbs?.toPrecision(3) ?? '',
    ]);
  }
  const worst = byError[0] === undefined ? Number.POSITIVE_INFINITY : sqnrOf(byError[0]);
  const summary = table([], ['left', 'left']);
  summary.push(
    ['tensors', `${tensors.length} quantized, ${report.copied.length} copied`],
    ['bits per weight', report.bitsPerWeight.toFixed(3)],
    [
      'size',
      `${bytes(report.inputBytes)} → ${bytes(report.outputBytes)} (${((100 * report.outputBytes) / report.inputBytes).toFixed(1)} %)`,
    ],
    ['SQNR', report.verified ? `worst ${decibels(worst)} in ${report.worstTensor}` : 'not measured (--no-verify)'],
    ['time', `${report.seconds.toFixed(2)} s, ${(report.inputBytes / report.seconds / 1e9).toFixed(2)} GB/s read`],
    ['written to', report.output],
  );
  const heading = shown === tensors ? '' : `The ${LISTED_LAYERS} layers with the lowest SQNR of ${tensors.length}:\n`;
  return `${heading}${layers.toString()}\n${summary.toString()}`;
}

/** What a run would do. */
export function planTable(plan: Plan): string {
  const rows = table(
    ['layer', 'shape', 'from', 'to', 'before', 'after'],
    ['left', 'right', 'left', 'left', 'right', 'right'],
  );
  const tasks = tasksOf(plan);
  const entries = tasks.filter(({ kind }) => kind !== 'copied');
  for (const { weight, as, outputs } of entries) {
    rows.push([
      layerOf(weight.name),
      weight.shape.join(' × '),
      weight.encoding.dtype,
      as,
      bytes(storedBytes(weight)),
      bytes(outputs.reduce((sum, output) => sum + output.bytes, 0)),
    ]);
  }
  const copied = tasks.length - entries.length;
  return (
    `${rows.toString()}\n${entries.length} tensors would be quantized, ${copied} copied; ` +
    `${bytes(plan.inputBytes)} → ${bytes(plan.outputBytes)}.`
  );
}
