/**
 * The result of an evaluation as one HTML file: size against quality, and a table that sorts.
 *
 * @module
 */
import { basename } from 'node:path';
import {
  describeWindows,
  differInActivations,
  type EvaluationReport,
  estimated,
  percent,
  rate,
  rowsOf,
} from './evaluation-table.js';
import { bytes } from './format.js';
import { cell, fact, failures, page, sortedTable } from './page.js';

/** Draws the charts from the embedded numbers: a point for each model, with its name beside it. */
const SCRIPT = `
const { names, size, perplexity, divergence, original } = JSON.parse(document.getElementById('data').textContent);
const ink = getComputedStyle(document.body).color;
const grid = { stroke: 'rgba(128,128,128,.2)', width: 1 };
const named = (self, i) => (i === null ? '–' : names[i]);
function labels(chart) {
  const { ctx, bbox } = chart;
  const unit = devicePixelRatio, height = 14 * unit, gap = 8 * unit;
  const placed = [];
  ctx.save();
  ctx.font = 12 * unit + 'px system-ui, sans-serif';
  ctx.fillStyle = ink;
  ctx.textAlign = 'left';
  ctx.textBaseline = 'middle';
  chart.data.slice(1).forEach((values) => values.forEach((value, i) => {
    if (value === null) return;
    const x = chart.valToPos(chart.data[0][i], 'x', true), y = chart.valToPos(value, 'y', true);
    const width = ctx.measureText(names[i]).width;
    const fits = x + gap + width <= bbox.left + bbox.width;
    const left = fits ? x + gap : Math.max(bbox.left, x - gap - width);
    // The nearest line at which no other name is in the way.
    const isFree = (top) => placed.every((other) => Math.abs(other.top - top) >= height || other.left > left + width || left > other.left + other.width);
    const shift = [0, -1, 1, -2, 2, -3, 3, -4, 4].find((lines) => isFree(y + lines * height)) ?? 0;
    placed.push({ left, width, top: y + shift * height });
    ctx.fillText(names[i], left, y + shift * height);
  }));
  ctx.restore();
}
const range = (self, low, high) => {
  const room = Math.max(0.1 * (high - low), 1e-9 + 1e-3 * Math.abs(high));
  return [low - room, high + room];
};
function draw(id, values, label) {
  const place = document.getElementById(id);
  if (place === null || values.length === 0) return;
  const width = () => Math.max(240, place.clientWidth - 12);
  const isOriginal = names.map((_, i) => i === original);
  const points = (title, stroke) => ({ label: title, stroke, width: 0, paths: () => null, points: { show: true, size: 8, fill: stroke } });
  const chart = new uPlot({
    width: width(), height: 320,
    scales: { x: { time: false, range }, y: { range } },
    axes: [{ stroke: ink, grid, label: 'MB of weights' }, { stroke: ink, grid, label, size: 72 }],
    series: [{ label: 'model', value: (self, v, s, i) => named(self, i) }, points('quantized', '#2f6fde'), points('original', '#2a9d6f')],
    hooks: { draw: [labels] },
  }, [size, values.map((v, i) => (isOriginal[i] ? null : v)), values.map((v, i) => (isOriginal[i] ? v : null))], place);
  addEventListener('resize', () => chart.setSize({ width: width(), height: 320 }));
}
draw('perplexity', perplexity, 'perplexity');
draw('divergence', divergence, 'nats');
`;

export function evaluationPage(report: EvaluationReport, failed: readonly string[]): string {
  const all = rowsOf(report);
  const compared = report.original !== null;
  const differ = differInActivations(report);
  const points = all
    .flatMap((row) => (row.size === null ? [] : [{ ...row, bytes: row.size.bytes }]))
    .sort((a, b) => a.bytes - b.bytes);
  const data = {
    names: points.map(({ model }) => basename(model)),
    size: points.map((point) => point.bytes / 1e6),
    perplexity: points.map(({ quality }) => quality.perplexity.value),
    divergence: compared ? points.map(({ distance }) => distance?.klDivergence.value ?? 0) : [],
    original: compared ? points.findIndex(({ distance }) => distance === null) : -1,
  };
  const rows = all.map(({ model, size, activations, quality, distance }) => [
    cell(model, model),
    cell(size === null ? '' : bytes(size.bytes), size?.bytes ?? 0),
    cell(size === null ? '' : size.bitsPerWeight.toFixed(2), size?.bitsPerWeight ?? 0),
    ...(differ ? [cell(activations ?? '', activations ?? '')] : []),
    cell(estimated(quality.perplexity, 4), quality.perplexity.value),
    cell(estimated(quality.bitsPerByte, 4), quality.bitsPerByte.value),
    ...(compared
      ? distance === null
        ? [cell('', 0), cell('', 0), cell('', 0), cell('', 0), cell('', 0), cell('', 0)]
        : [
            cell(estimated(distance.natsChange, 5, true), distance.natsChange.value),
            cell(percent(distance.perplexityChange, 2, true), distance.perplexityChange.value),
            cell(estimated(distance.klDivergence, 5), distance.klDivergence.value),
            cell(distance.klPercentiles.p99.toFixed(4), distance.klPercentiles.p99),
            cell(percent(distance.topAgreement, 2), distance.topAgreement.value),
            cell(distance.maxLogitDifference.toPrecision(3), distance.maxLogitDifference),
          ]
      : []),
    cell(rate(quality.tokensPerSecond), quality.tokensPerSecond),
  ]);
  const head = ['model', 'size', 'bits/weight', ...(differ ? ['activations'] : []), 'perplexity', 'bits/byte'];
  if (compared) head.push('Δ nats/token', 'Δ perplexity', 'KL divergence', 'KL, 99 %', 'same top token', 'max Δ logit');
  head.push('tokens');
  const [first] = report.models;
  const facts = [
    fact('text', report.text),
    ...(first === undefined ? [] : [fact('windows', describeWindows(first))]),
    ...(first === undefined || differ ? [] : [fact('activations', first.activations)]),
    ...(report.original === null ? [] : [fact('original', report.original.model)]),
    ...(report.maxLoss === null ? [] : [fact('limit', `${100 * report.maxLoss} % above the original's perplexity`)]),
  ];
  return page({
    title: 'lowbit eval',
    data,
    script: SCRIPT,
    body: `<h1>Size and quality</h1>
<dl>${facts.join('')}</dl>
${failures(failed)}
<h2>Perplexity and size</h2>
<div class="chart" id="perplexity"></div>
${compared ? '<h2>KL divergence from the original and size</h2>\n<div class="chart" id="divergence"></div>' : ''}
<h2>Models</h2>
${sortedTable(head, rows)}`,
  });
}
