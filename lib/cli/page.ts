/**
 * Pages of one file, with charts and a table that sorts, without anything to load.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { outputError } from '../errors.js';

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
export function escaped(text: string): string {
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

export function fact(name: string, value: string): string {
  return `<div><dt>${name}</dt><dd>${escaped(value)}</dd></div>`;
}

/** A cell of a table, and the value by which it is sorted. */
export function cell(shown: string, value: number | string): string {
  return `<td data-sort="${escaped(String(value))}">${escaped(shown)}</td>`;
}

/** A table that sorts by the column whose head is clicked. */
export function sortedTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return `<div class="scroll"><table class="sortable asc"><thead><tr>${head.map((name) => `<th>${name}</th>`).join('')}</tr></thead>
<tbody>${rows.map((cells) => `<tr>${cells.join('')}</tr>`).join('\n')}</tbody></table></div>`;
}

/** What falls short of thresholds, one sentence each. */
export function failures(failed: readonly string[]): string {
  if (failed.length === 0) return '';
  const lines = failed.map((line) => `<li>${escaped(line)}</li>`).join('');
  return `<h2 class="bad">Below the threshold</h2><ul class="bad">${lines}</ul>`;
}

/** A page whose script finds `data`, as JSON, in the element "data". */
export function page(content: { title: string; body: string; data: unknown; script: string }): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(content.title)}</title>
<style>${asset('uplot/dist/uPlot.min.css')}${asset('sortable-tablesort/dist/sortable-base.min.css')}${STYLE}</style>
</head>
<body>
${content.body}
<script type="application/json" id="data">${embedded(content.data)}</script>
<script>${asset('uplot/dist/uPlot.iife.min.js')}</script>
<script>${asset('sortable-tablesort/dist/sortable.min.js')}</script>
<script>${content.script}</script>
</body>
</html>
`;
}

/** Writes a file that appears complete, or not at all. */
export async function writePage(path: string, text: string): Promise<void> {
  const partial = `${path}.partial`;
  try {
    await writeFile(partial, text);
    await rename(partial, path);
  } catch (cause) {
    await rm(partial, { force: true });
    throw outputError(path, cause);
  }
}
