/**
 * One direction of imports: what a folder of lib/ may import is what the table in CONTRIBUTING.md says, and what those may
 * import; files of lib/ itself are for everyone, and import nothing but each other and the addon.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { ROOT } from './staging.js';

const LIB = join(ROOT, 'lib');
const BASE = 'lib/*.ts';

/** The folder of a file of lib/: the row of the table that it belongs to. */
function folderOf(file: string): string {
  const [first = '', ...rest] = relative(LIB, file).split(sep);
  return rest.length === 0 ? BASE : `lib/${first}`;
}

/** Folder → folders that it may import. */
function allowed(): Map<string, Set<string>> {
  const rows = readFileSync(join(ROOT, 'CONTRIBUTING.md'), 'utf8').matchAll(
    /^\| `(lib\/[^`]+)`[^|]*\|[^|]*\|([^|]*)\|$/gm,
  );
  const direct = new Map(
    [...rows].map(([, folder = '', names = '']) => {
      const folders = names
        .split(',')
        .map((name) => name.trim())
        .filter((name) => /^[a-z]+$/.test(name));
      return [folder, folders.map((name) => `lib/${name}`)] as const;
    }),
  );
  const closure = (folder: string, seen: Set<string>): Set<string> => {
    for (const next of direct.get(folder) ?? []) {
      if (!seen.has(next)) closure(next, seen.add(next));
    }
    return seen;
  };
  return new Map([...direct.keys()].map((folder) => [folder, closure(folder, new Set([folder, BASE]))]));
}

const files = readdirSync(LIB, { recursive: true, encoding: 'utf8' })
  .filter((name) => /(?<!\.d)\.ts$/.test(name) && name !== 'index.ts')
  .map((name) => join(LIB, name));

describe('imports', () => {
  const table = allowed();

  it('are of folders that the table has, none of which may import itself through others', () => {
    expect([...new Set(files.map(folderOf))].filter((folder) => !table.has(folder))).toEqual([]);
    const mutual = [...table.keys()].filter(
      (folder) =>
        folder !== BASE &&
        [...table].some(
          ([other, may]) => other !== BASE && other !== folder && may.has(folder) && table.get(folder)?.has(other),
        ),
    );
    expect(mutual).toEqual([]);
  });

  it('go in one direction', () => {
    const wrong = files.flatMap((file) =>
      ts
        .preProcessFile(readFileSync(file, 'utf8'))
        .importedFiles.filter(({ fileName }) => fileName.startsWith('.'))
        .map(({ fileName }) => join(dirname(file), fileName))
        .filter((target) => !table.get(folderOf(file))?.has(folderOf(target)))
        .map((target) => `${relative(ROOT, file)} → ${relative(ROOT, target)}`),
    );
    expect(wrong).toEqual([]);
  });
});
