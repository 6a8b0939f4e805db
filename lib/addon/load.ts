/**
 * The only file that loads the native addon.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import bindings from 'bindings';
import nodeGypBuild from 'node-gyp-build';
import { AddonError } from '../errors.js';
import type { RawAddon } from './raw.js';

/** The package's root: the nearest folder above this file that holds CMakeLists.txt, in a checkout as in node_modules. */
export const packageRoot: string = (() => {
  const start = dirname(bindings.getFileName());
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'CMakeLists.txt'))) return folder;
    if (folder === dirname(folder)) {
      throw new AddonError('ADDON_NOT_FOUND', `lowbit is damaged: no CMakeLists.txt above ${start}. Install it again.`);
    }
  }
})();

function load(): RawAddon {
  const attempts: [string, () => unknown][] = [
    // build/Release, build/Debug, then prebuilds/<platform>-<arch>
    ['node-gyp-build', () => nodeGypBuild(packageRoot)],
    // build/lowbit.node: what a bare `cmake -B build` leaves, for example with sanitizers
    ['bindings', () => bindings({ bindings: 'lowbit', module_root: packageRoot })],
  ];
  const failures: string[] = [];
  const causes: unknown[] = [];
  for (const [name, attempt] of attempts) {
    try {
      return attempt() as RawAddon;
    } catch (error) {
      causes.push(error);
      failures.push(`${name}: ${String((error as Error).message).split('\n')[0]}`);
    }
  }
  throw new AddonError(
    'ADDON_NOT_FOUND',
    `No native addon for ${process.platform}-${process.arch} could be loaded (${failures.join('; ')}). ` +
      'Build it with `npm rebuild lowbit --build-from-source`; that needs CMake 3.18 or newer and a C++17 compiler.',
    { cause: new AggregateError(causes) },
  );
}

/** The native addon. */
export const addon: RawAddon = load();

/** What the addon was built with and chose on this machine. */
export const configuration: { readonly isa: string; readonly isas: readonly string[] } = (() => {
  const { isa, isas, error } = addon.configuration();
  if (error !== undefined) throw new AddonError('INVALID_ENVIRONMENT', error);
  return { isa, isas };
})();
