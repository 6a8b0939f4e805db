/**
 * The result of a comparison as one HTML file: charts and a table that sorts, without anything to load.
 *
 * @module
 */
import type { VerificationReport } from '../pipeline/verify.js';
import { bytes, decibels } from './format.js';
import { cell, fact, failures, page, sortedTable } from './page.js';

/** Draws the charts from the embedded numbers; colours are those of the page. */
const SCRIPT = `
const { names, sqnr, before, after } = JSON.parse(document.getElementById('data').textContent);
const ink = getComputedStyle(document.body).color;
const grid = { stroke: 'rgba(128,128,128,.2)', width: 1 };
const axes = (label) => [{ stroke: ink, grid }, { stroke: ink, grid, label, size: 64 }];
const x = names.map((_, i) => i);
const scales = { x: { time: false } };
const named = (self, i) => (i === null ? '–' : names[i]);
const points = (label, stroke) => ({ label, stroke, width: 0, paths: () => null, points: { show: true, size: 6, fill: stroke } });
function draw(id, series, data, label) {
  const place = document.getElementById(id);
  const width = () => Math.max(240, place.clientWidth - 12);
  const options = { width: width(), height: 260, scales, axes: axes(label), series: [{ label: 'tensor', value: (self, v, s, i) => named(self, i) }, ...series] };
  const chart = new uPlot(options, data, place);
  addEventListener('resize', () => chart.setSize({ width: width(), height: 260 }));
}
if (names.length > 0) {
  draw('sqnr', [points('SQNR', '#2f6fde')], [x, sqnr], 'dB');
  draw('size', [points('before', '#8a94a8'), points('after', '#2a9d6f')], [x, before, after], 'MB');
}
`;

function listed(names: readonly string[]): string {
  return names.length === 0
    ? 'none'
    : `${names.length}: ${names.slice(0, 20).join(', ')}${names.length > 20 ? ', …' : ''}`;
}

/**
 * A page of a report.
 *
 * @param failed - What falls short of thresholds, one sentence each.
 */
export function verificationPage(report: VerificationReport, failed: readonly string[]): string {
  const changed = report.tensors.filter(({ identical }) => !identical);
  const data = {
    names: changed.map(({ name }) => name),
    sqnr: changed.map(({ sqnrDb }) => (Number.isFinite(sqnrDb) ? sqnrDb : null)),
    before: changed.map(({ originalBytes }) => originalBytes / 1e6),
    after: changed.map(({ quantizedBytes }) => quantizedBytes / 1e6),
  };
  const rows = changed.map((tensor) => [
    cell(tensor.name, tensor.name),
    cell(
      tensor.shape.join(' × '),
      tensor.shape.reduce((a, b) => a * b, 1),
    ),
    cell(`${tensor.from} → ${tensor.to}`, tensor.to),
    cell(tensor.bitsPerWeight.toFixed(2), tensor.bitsPerWeight),
    cell(decibels(tensor.sqnrDb), Number.isFinite(tensor.sqnrDb) ? tensor.sqnrDb : 1e9),
    cell(tensor.cosine.toFixed(6), tensor.cosine),
    cell(tensor.maxAbs.toPrecision(3), tensor.maxAbs),
    cell(
      tensor.worstRows.map(({ row, sqnrDb }) => `${row} (${decibels(sqnrDb)})`).join(', '),
      tensor.worstRows[0]?.row ?? -1,
    ),
    cell(bytes(tensor.quantizedBytes), tensor.quantizedBytes),
  ]);
  const { originalBytes, quantizedBytes, worst } = report;
  const facts = [
    fact('original', report.original),
    fact('quantized', report.quantized),
    fact('tensors', `${changed.length} changed, ${report.tensors.length - changed.length} identical`),
    fact(
      'size',
      `${bytes(originalBytes)} → ${bytes(quantizedBytes)} (${((100 * quantizedBytes) / Math.max(1, originalBytes)).toFixed(1)} %)`,
    ),
    fact('bits per weight', report.bitsPerWeight.toFixed(3)),
    fact('worst', worst === null ? 'everything is identical' : `${decibels(worst.sqnrDb)} in ${worst.name}`),
    fact('missing', listed(report.missing)),
    fact('added', listed(report.extra)),
    ...(report.reshaped.length === 0 ? [] : [fact('other shape', listed(report.reshaped.map(({ name }) => name)))]),
  ];
  return page({
    title: `${report.quantized} – lowbit verify`,
    data,
    script: SCRIPT,
    body: `<h1>What quantization cost</h1>
<dl>${facts.join('')}</dl>
${failures(failed)}
<h2>Signal to quantization noise of every tensor</h2>
<div class="chart" id="sqnr"></div>
<h2>Size of every tensor</h2>
<div class="chart" id="size"></div>
<h2>Tensors</h2>
${sortedTable(['tensor', 'shape', 'type', 'bits', 'SQNR', 'cosine', 'max error', 'worst rows', 'size'], rows)}`,
  });
}
