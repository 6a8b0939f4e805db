/**
 * The result of a comparison as one HTML file: charts and a table that sorts, without anything to load.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import type { VerificationReport } from '../pipeline/verify.js';
import { bytes, decibels } from './format.js';

/** A file of a package, as text. */
function asset(name: string): string {
  return readFileSync(require.resolve(name), 'utf8');
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Names come from files that anybody can make. */
function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] as string);
}

/** JSON inside a script: no text of it may end the script. */
function embedded(value: unknown): string {
  return JSON.stringify(value).replace(/</g, '\\u003c');
}

const STYLE = `
:root { color-scheme: light dark; --ink: #1d2433; --paper: #fff; --line: #d9dee8; --soft: #5c667a; --bad: #c43d3d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --paper: #151922; --line: #343b4a; --soft: #9aa4b8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .6rem 1rem; margin: 0; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; overflow-wrap: anywhere; }
.chart { border: 1px solid var(--line); border-radius: .4rem; padding: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
thead th { cursor: pointer; position: sticky; top: 0; background: var(--paper); }
.bad { color: var(--bad); }
`;

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

function fact(name: string, value: string): string {
  return `<div><dt>${name}</dt><dd>${escaped(value)}</dd></div>`;
}

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
  const cell = (shown: string, value: number | string) =>
    `<td data-sort="${escaped(String(value))}">${escaped(shown)}</td>`;
  const rows = changed.map(
    (tensor) =>
      `<tr>${[
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
      ].join('')}</tr>`,
  );
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
  const failures =
    failed.length === 0
      ? ''
      : `<h2 class="bad">Below the threshold</h2><ul class="bad">${failed.map((line) => `<li>${escaped(line)}</li>`).join('')}</ul>`;
  const head = ['tensor', 'shape', 'type', 'bits', 'SQNR', 'cosine', 'max error', 'worst rows', 'size'];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(report.quantized)} – lowbit verify</title>
<style>${asset('uplot/dist/uPlot.min.css')}${asset('sortable-tablesort/dist/sortable-base.min.css')}${STYLE}</style>
</head>
<body>
<h1>What quantization cost</h1>
<dl>${facts.join('')}</dl>
${failures}
<h2>Signal to quantization noise of every tensor</h2>
<div class="chart" id="sqnr"></div>
<h2>Size of every tensor</h2>
<div class="chart" id="size"></div>
<h2>Tensors</h2>
<div class="scroll"><table class="sortable asc"><thead><tr>${head.map((name) => `<th>${name}</th>`).join('')}</tr></thead>
<tbody>${rows.join('\n')}</tbody></table></div>
<script type="application/json" id="data">${embedded(data)}</script>
<script>${asset('uplot/dist/uPlot.iife.min.js')}</script>
<script>${asset('sortable-tablesort/dist/sortable.min.js')}</script>
<script>${SCRIPT}</script>
</body>
</html>
`;
}
