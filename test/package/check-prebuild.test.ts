import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT, run, succeed, temporaryFolder, which } from './staging.js';

const ADDON = join(ROOT, 'build', 'Release', 'lowbit.node');
const HERE = `linux-${process.arch}`;
const OTHER = process.arch === 'x64' ? 'linux-arm64' : 'linux-x64';

/** Whatever the compiler of this machine makes the addon need. */
const ANY = { GLIBC: '99', GLIBCXX: '99', CXXABI: '99', GCC: '99' };

/** The script in a package of its own, with its own floors and one prebuilt addon. */
const folder = temporaryFolder();
let packages = 0;
function check(name: string, content: Buffer | string, floor: Record<string, string> = ANY) {
  const root = join(folder, String(packages++));
  mkdirSync(join(root, 'scripts'), { recursive: true });
  for (const script of ['check-prebuild.cjs', 'requirements.cjs']) {
    copyFileSync(join(ROOT, 'scripts', script), join(root, 'scripts', script));
  }
  writeFileSync(join(root, 'package.json'), JSON.stringify({ lowbit: { floor } }));
  const file = join(root, 'prebuilds', name);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, content);
  return run(process.execPath, ['scripts/check-prebuild.cjs'], { cwd: root });
}

/** The addon with one name in its tables exchanged for another of the same length. */
function doctored(from: RegExp, to: string): Buffer {
  const text = readFileSync(ADDON).toString('latin1');
  const match = from.exec(text);
  expect(match?.[0]).toHaveLength(to.length);
  return Buffer.from(
    text.replace(from, () => to),
    'latin1',
  );
}

describe.skipIf(process.platform !== 'linux')('check-prebuild', () => {
  it('passes an addon that needs no more than the floors, and prints what it needs', async () => {
    const { status, stdout, stderr } = await check(`${HERE}/lowbit.glibc.node`, readFileSync(ADDON));
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/lowbit\.glibc\.node \(\d+ bytes\) needs libstdc\+\+\.so\.6 .*GLIBC_2\.\d+/);
  });

  it.skipIf(which('readelf') === undefined)('sees what readelf sees', async () => {
    const { stdout } = await check(`${HERE}/lowbit.glibc.node`, readFileSync(ADDON));
    const needs = stdout.trim().split(' needs ')[1]?.split(' ') as string[];
    const text = await succeed('readelf', ['--wide', '--dynamic', '--version-info', ADDON]);
    const libraries = [...text.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1]);
    const highest = new Map<string, string>();
    for (const [, kind = '', number = ''] of text.matchAll(/Name: ([A-Z]+)_([\d.]+) /g)) {
      const known = highest.get(kind);
      if (known === undefined || known.localeCompare(number, 'en', { numeric: true }) < 0) highest.set(kind, number);
    }
    expect(new Set(needs)).toEqual(new Set([...libraries, ...[...highest].map((pair) => pair.join('_'))]));
  });

  it('states the floors of the package', () => {
    const { lowbit } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { lowbit: { floor: object } };
    expect(Object.keys(lowbit.floor).sort()).toEqual(Object.keys(ANY).sort());
  });

  it.each([
    [
      'a newer glibc',
      /GLIBC_2\.\d\d(?=\0)/,
      'GLIBC_2.99',
      { ...ANY, GLIBC: '2.17' },
      'needs GLIBC_2.99, but the floor is GLIBC_2.17.',
    ],
    [
      'a newer libstdc++',
      /GLIBCXX_3\.4\.\d\d(?=\0)/,
      'GLIBCXX_3.4.98',
      { ...ANY, GLIBCXX: '3.4.22' },
      'needs GLIBCXX_3.4.98, but the floor is GLIBCXX_3.4.22.',
    ],
    [
      'a newer C++ ABI',
      /CXXABI_1\.3\.\d(?=\0)/,
      'CXXABI_1.4.0',
      { ...ANY, CXXABI: '1.3.10' },
      'needs CXXABI_1.4.0, but the floor is CXXABI_1.3.10.',
    ],
    [
      'versions of another library',
      /GCC_3\.0(?=\0)/,
      'XYZ_3.0',
      ANY,
      'needs XYZ_3.0, for which package.json states no floor.',
    ],
    ['a CUDA library', /libgcc_s\.so\.1(?=\0)/, 'libcuda.so.1\0', ANY, 'needs the library libcuda.so.1.'],
  ])('fails an addon that needs %s', async (_, from, to, floor, sentence) => {
    const { status, stderr } = await check(`${HERE}/lowbit.glibc.node`, doctored(from, to), floor);
    expect(status).toBe(1);
    expect(stderr).toBe(`${join('prebuilds', HERE, 'lowbit.glibc.node')} ${sentence}\n`);
  });

  it('fails an addon for musl that needs glibc', async () => {
    const { status, stderr } = await check(`${HERE}/lowbit.musl.node`, readFileSync(ADDON));
    expect(status).toBe(1);
    expect(stderr).toMatch(/lowbit\.musl\.node needs the library libc\.so\.6\.\n/);
    expect(stderr).toMatch(/needs GLIBC_2\.\d+ though it is for musl\.\n/);
  });

  it('fails an addon in the folder of another architecture, and what is no addon', async () => {
    const wrong = await check(`${OTHER}/lowbit.glibc.node`, readFileSync(ADDON));
    expect(wrong.status).toBe(1);
    expect(wrong.stderr).toContain(`is not for ${OTHER.slice('linux-'.length)}.`);
    const text = await check(`${HERE}/lowbit.glibc.node`, 'no addon');
    expect(text.status).toBe(1);
    expect(text.stderr).toContain("can't be checked: it is no 64-bit little-endian ELF file.");
  });

  it('fails where there is nothing to check', async () => {
    const { status, stderr } = await check('readme.txt', '');
    expect(status).toBe(1);
    expect(stderr).toBe('There is no prebuilt addon to check: run `npm run make-prebuilds`.\n');
  });
});
