/** Printing tables, and keeping them in RESULTS.md. */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import lowbit from '../../dist/index.js';

/** The machine, as far as a reader can use it. */
export function machine() {
  let info = {};
  try {
    const text = readFileSync('/proc/cpuinfo', 'utf8').split('\n\n')[0];
    info = Object.fromEntries(text.split('\n').map((line) => line.split(':').map((part) => part.trim())));
  } catch {
    // not Linux
  }
  const model = info['model name'] ?? cpus()[0]?.model ?? 'unknown';
  const family = info['cpu family'] === undefined ? '' : `, family ${info['cpu family']} model ${info.model}`;
  const { isa, threads, version } = lowbit.capabilities();
  return `${model}${family}, ${threads} threads; ${isa}; Node ${process.version}; lowbit ${version}`;
}

export function markdownTable(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n');
}

/** Prints a section, and with --write puts it into RESULTS.md in place of the one of the same name. */
export function publish(name, command, body) {
  const text = `${machine()}\n\nReproduce with \`${command}\`.\n\n${body}\n`;
  console.log(`\n## ${name}\n\n${text}`);
  if (!process.argv.includes('--write')) return;
  const path = join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '..', 'RESULTS.md');
  const [begin, end] = [`<!-- begin ${name} -->`, `<!-- end ${name} -->`];
  const results = readFileSync(path, 'utf8');
  const section = `${begin}\n${text}${end}`;
  const from = results.indexOf(begin);
  if (from < 0) throw new Error(`RESULTS.md has no section ${name}`);
  writeFileSync(path, results.slice(0, from) + section + results.slice(results.indexOf(end) + end.length));
}

export const gigabytes = (bytes, seconds) => (bytes / seconds / 1e9).toFixed(1);

export function time(seconds) {
  return seconds >= 1e-3 ? `${(seconds * 1e3).toFixed(2)} ms` : `${(seconds * 1e6).toFixed(2)} µs`;
}
