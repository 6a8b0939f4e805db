/**
 * The result of an evaluation as a table.
 *
 * @module
 */
import type { CheckpointSize } from '../evaluate/checkpoint-size.js';
import type { Estimate } from '../evaluate/estimate.js';
import type { Distance, Evaluation, Quality } from '../evaluate/evaluation.js';
import { bytes } from './format.js';
import { table } from './table.js';

/** A model, and whether it keeps to the threshold; null if there is none. */
export interface EvaluatedModel extends Evaluation {
  readonly passed: boolean | null;
}

/** What `lowbit eval` found. */
export interface EvaluationReport {
  readonly text: string;
  /** The most that the perplexity may lie above the original's, as a fraction. */
  readonly maxLoss: number | null;
  readonly original: ({ readonly model: string } & CheckpointSize) | null;
  readonly models: readonly EvaluatedModel[];
}

/** A line of the table: a model or the original. */
export interface Row {
  readonly model: string;
  readonly size: CheckpointSize | null;
  /** Null for the original. */
  readonly activations: Evaluation['activations'] | null;
  readonly quality: Quality;
  /** Null for the original, and without one. */
  readonly distance: Distance | null;
  readonly passed: boolean | null;
}

/** The original first. */
export function rowsOf({ original, models }: EvaluationReport): Row[] {
  const found = models[0]?.against?.original;
  return [
    ...(original === null || found === undefined
      ? []
      : [{ model: original.model, size: original, activations: null, quality: found, distance: null, passed: null }]),
    ...models.map((model) => ({
      model: model.model,
      size: model.checkpoint,
      activations: model.activations,
      quality: model,
      distance: model.against,
      passed: model.passed,
    })),
  ];
}

/** `3.4987 ± 0.0123`; a single window has no error. */
export function estimated({ value, standardError }: Estimate, digits: number, sign = false): string {
  const shown = `${sign && value >= 0 ? '+' : ''}${value.toFixed(digits)}`;
  return standardError === null ? shown : `${shown} ± ${standardError.toFixed(digits)}`;
}

export function percent({ value }: Estimate, digits: number, sign = false): string {
  return `${sign && value >= 0 ? '+' : ''}${(100 * value).toFixed(digits)} %`;
}

/** `12 300/s` */
export function rate(tokensPerSecond: number): string {
  return `${tokensPerSecond < 100 ? tokensPerSecond.toPrecision(3) : Math.round(tokensPerSecond)}/s`;
}

/** Whether a table needs a column for activations: where models differ in them. */
export function differInActivations({ models }: EvaluationReport): boolean {
  return new Set(models.map(({ activations }) => activations)).size > 1;
}

/** How the text was cut, in words. */
export function describeWindows({ windows, totalWindows, windowLength, tokens, bytes: count }: Evaluation): string {
  const which = windows === totalWindows ? `${windows} windows` : `${windows} of ${totalWindows} windows`;
  return `${which} of ${windowLength} tokens; ${tokens} tokens scored, ${bytes(count)}`;
}

export function evaluationTable(report: EvaluationReport): string {
  const [first] = report.models;
  const compared = report.original !== null;
  const differ = differInActivations(report);
  const head = ['model', 'size', 'bits/weight', ...(differ ? ['activations'] : []), 'perplexity', 'bits/byte'];
  if (compared) head.push('Δ nats/token', 'Δ perplexity', 'KL divergence', 'same top token');
  head.push('tokens');
  const rows = table(head, ['left', ...new Array<'right'>(head.length - 1).fill('right')]);
  for (const { model, size, activations, quality, distance, passed } of rowsOf(report)) {
    rows.push([
      model + (passed === false ? '  (above the limit)' : ''),
      size === null ? '' : bytes(size.bytes),
      size === null ? '' : size.bitsPerWeight.toFixed(2),
      ...(differ ? [activations ?? ''] : []),
      estimated(quality.perplexity, 4),
      estimated(quality.bitsPerByte, 4),
      ...(compared
        ? distance === null
          ? ['', '', '', '']
          : [
              estimated(distance.natsChange, 5, true),
              percent(distance.perplexityChange, 2, true),
              estimated(distance.klDivergence, 5),
              percent(distance.topAgreement, 2),
            ]
        : []),
      rate(quality.tokensPerSecond),
    ]);
  }
  const summary = table([], ['left', 'left']);
  summary.push(['text', report.text]);
  if (first !== undefined) {
    summary.push(['windows', describeWindows(first)]);
    if (!differ && first.activations !== 'float32') summary.push(['activations', first.activations]);
  }
  if (report.maxLoss !== null) summary.push(['limit', `a perplexity ${100 * report.maxLoss} % above the original's`]);
  return `${rows.toString()}\n${summary.toString()}`;
}
