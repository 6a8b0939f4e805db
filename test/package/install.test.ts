import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join, relative } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { barePath, ROOT, run, succeed, temporaryFolder, which } from './staging.js';

/** Unpacked size of a package with the prebuilt addon of one platform: every kernel for each of its instruction sets. */
const BUDGET_BYTES = 8_000_000;

/** Long enough to compile everything on a small machine. */
const MINUTES = 60_000;

const PLATFORM = `${process.platform}-${process.arch}`;
const folder = temporaryFolder();
const checkout = join(folder, 'checkout');

interface Packed {
  file: string;
  files: string[];
  unpackedSize: number;
}
let withPrebuild: Packed;
let withoutPrebuild: Packed;

const env = { ...process.env };
delete env['npm_config_build_from_source'];
const npmCli = realpathSync(which('npm') ?? '');
const npm = (args: string[], cwd: string, more: NodeJS.ProcessEnv = {}) =>
  run(process.execPath, [npmCli, ...args, '--prefer-offline', '--no-audit', '--no-fund'], {
    cwd,
    env: { ...env, ...more },
  });

async function pack(name: string): Promise<Packed> {
  const target = join(folder, name);
  mkdirSync(target);
  const { status, stdout, stderr } = await npm(
    ['pack', '--json', '--ignore-scripts', '--pack-destination', target],
    checkout,
  );
  expect(status, stderr).toBe(0);
  const [{ filename, files, unpackedSize }] = JSON.parse(stdout);
  return { file: join(target, filename), files: files.map(({ path }: { path: string }) => path), unpackedSize };
}

/** An empty project of a user. */
function project(name: string): string {
  const cwd = join(folder, name);
  mkdirSync(cwd);
  writeFileSync(join(cwd, 'package.json'), '{ "name": "user", "private": true }');
  return cwd;
}

const USE = `unpackCodes(quantizeTensor(new Float32Array([0.5, -1, 3.5]), { dtype: 'int4' })).join()`;
const CODES = '1,-2,7';

async function expectItWorks(cwd: string): Promise<void> {
  const required = await succeed(
    process.execPath,
    ['-p', `const { quantizeTensor, unpackCodes } = require('lowbit'); ${USE}`],
    { cwd },
  );
  expect(required.trim()).toBe(CODES);
  writeFileSync(join(cwd, 'user.mjs'), `import { quantizeTensor, unpackCodes } from 'lowbit';\nconsole.log(${USE});\n`);
  expect((await succeed(process.execPath, ['user.mjs'], { cwd })).trim()).toBe(CODES);
}

beforeAll(async () => {
  // A copy: nothing here may touch the build of the checkout that is tested.
  const left = /^(node_modules|\.git|dist|prebuilds|build.*)$/;
  cpSync(ROOT, checkout, {
    recursive: true,
    filter: (path) => !left.test(relative(ROOT, path)) && basename(path) !== 'node_modules',
  });
  symlinkSync(join(ROOT, 'node_modules'), join(checkout, 'node_modules'));
  await succeed(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'], { cwd: checkout });
  withoutPrebuild = await pack('without');
  await succeed(process.execPath, ['scripts/prebuild.cjs'], { cwd: checkout, env });
  withPrebuild = await pack('with');
}, 10 * MINUTES);

const posix = describe.skipIf(process.platform === 'win32');

posix('making a prebuild', () => {
  it('leaves the build folder of the checkout alone', () => {
    expect(existsSync(join(checkout, 'build'))).toBe(false);
  });
});

posix('the tarball', () => {
  const allowed = [
    /^package\.json$/,
    /^(README|CHANGELOG)\.md$/,
    /^LICENSE$/,
    /^CMakeLists\.txt$/,
    /^dist\/[\w/-]+\.(js|d\.ts)$/,
    /^native\/(?!test\/)[\w/-]+\.(cc|h|cu|cuh|inc|md)$/,
    /^scripts\/(build-native|install|requirements)\.cjs$/,
    new RegExp(`^prebuilds/${PLATFORM}/lowbit(\\.glibc|\\.musl)?\\.node$`),
  ];

  it('holds nothing but what users need', () => {
    expect(withPrebuild.files.filter((file) => !allowed.some((pattern) => pattern.test(file)))).toEqual([]);
  });

  it('holds all of it', () => {
    const documents = ['README.md', 'LICENSE', 'CHANGELOG.md'].filter((file) => existsSync(join(ROOT, file)));
    const scripts = ['install', 'build-native', 'requirements'].map((name) => `scripts/${name}.cjs`);
    const lib = readdirSync(join(ROOT, 'lib'), { recursive: true, encoding: 'utf8' });
    const modules = lib
      .filter((file) => /(?<!\.d)\.ts$/.test(file))
      .map((file) => `dist/${file.slice(0, -'.ts'.length)}`);
    const wanted = ['package.json', 'CMakeLists.txt', ...documents, ...scripts];
    wanted.push(...modules.flatMap((file) => [`${file}.js`, `${file}.d.ts`]));
    expect(withPrebuild.files).toEqual(expect.arrayContaining(wanted));
    const prebuilds = withPrebuild.files.filter((file) => file.startsWith('prebuilds/'));
    expect(prebuilds).toHaveLength(1);
    expect(withPrebuild.files.length).toBe(withoutPrebuild.files.length + 1);
  });

  it('is small', () => expect(withPrebuild.unpackedSize).toBeLessThan(BUDGET_BYTES));
});

posix('installing a package with a fitting prebuild', () => {
  let cwd: string;
  let installed: string;
  let PATH: string;

  beforeAll(async () => {
    cwd = project('prebuilt');
    installed = join(cwd, 'node_modules', 'lowbit');
    PATH = barePath(join(folder, 'bare'));
    const { status, stderr } = await npm(['install', withPrebuild.file], cwd, { PATH });
    expect(status, stderr).toBe(0);
  }, 5 * MINUTES);

  it('needs no compiler and compiles nothing', async () => {
    expect(existsSync(join(installed, 'build'))).toBe(false);
    const again = await run(process.execPath, ['scripts/install.cjs'], { cwd: installed, env: { PATH } });
    expect(again).toEqual({ status: 0, stdout: '', stderr: '' });
    await expectItWorks(cwd);
  });

  it('gives a command line', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    expect((await succeed(join(cwd, 'node_modules', '.bin', 'lowbit'), ['--version'])).trim()).toBe(version);
  });

  it.each([
    // A library for Node: its types, no DOM.
    [
      'node16',
      {
        module: 'node16',
        moduleResolution: 'node16',
        lib: ['es2022'],
        types: ['node'],
        typeRoots: [join(ROOT, 'node_modules', '@types')],
      },
    ],
    // What a bundler gets by default: the DOM, no types of Node.
    ['bundler', { module: 'esnext', moduleResolution: 'bundler', types: [] }],
  ])(
    'compiles and runs from TypeScript with moduleResolution %s',
    async (name, options) => {
      const source = join(cwd, `typescript-${name}`);
      mkdirSync(source);
      const body = [
        "const options: QuantizeOptions<'int4', Float32Array> = { dtype: 'int4', granularity: 'per-group', groupSize: 2 };",
        "const q: QuantizedTensor<'int4'> = quantizeTensor(new Float32Array([0.25, -1, 3.5, 7]), options);",
        'const codes: Int8Array = unpackCodes(q);',
        '// @ts-expect-error the dtypes are known',
        "const wrong = () => quantizeTensor(new Float32Array(1), { dtype: 'int5' });",
        'console.log(codes.join(), typeof wrong);',
      ].join('\n');
      const imports =
        "import { quantizeTensor, unpackCodes, type QuantizedTensor, type QuantizeOptions } from 'lowbit';\n";
      writeFileSync(join(source, 'user.mts'), imports + body);
      // Bundlers' output is no CommonJS.
      if (name === 'node16') writeFileSync(join(source, 'user.cts'), imports + body);
      const compilerOptions = { target: 'es2022', strict: true, skipLibCheck: false, ...options };
      writeFileSync(join(source, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*'] }));
      const { status, stdout } = await run(process.execPath, [
        join(ROOT, 'node_modules/typescript/bin/tsc'),
        '-p',
        source,
      ]);
      expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
      const made = readdirSync(source).filter((file) => /\.[cm]js$/.test(file));
      expect(made).toHaveLength(name === 'node16' ? 2 : 1);
      for (const file of made) {
        expect((await succeed(process.execPath, [join(source, file)])).trim()).toBe('2,-7,4,7 function');
      }
    },
    MINUTES,
  );

  it(
    'works with --ignore-scripts as well',
    async () => {
      const other = project('without-scripts');
      const { status, stderr } = await npm(['install', '--ignore-scripts', withPrebuild.file], other);
      expect(status, stderr).toBe(0);
      await expectItWorks(other);
    },
    5 * MINUTES,
  );

  it('compiles nevertheless with --build-from-source', async () => {
    const { status, stderr } = await npm(['rebuild', 'lowbit', '--build-from-source'], cwd, { PATH });
    expect(status).not.toBe(0);
    expect(stderr).toContain('Compiling lowbit needs CMake');
  });

  it('gives an error that names the remedy once the prebuild is gone', async () => {
    renameSync(join(installed, 'prebuilds'), join(installed, 'elsewhere'));
    try {
      const code =
        "try { require('lowbit') } catch (error) { const { name, code, message } = error; console.log(JSON.stringify({ name, code, message })) }";
      const error = JSON.parse(await succeed(process.execPath, ['-e', code], { cwd }));
      expect(error).toMatchObject({ name: 'AddonError', code: 'ADDON_NOT_FOUND' });
      expect(error.message).toContain(PLATFORM);
      expect(error.message).toContain('`npm rebuild lowbit --build-from-source`');
      expect(error.message).toContain('CMake');

      const script = await run(process.execPath, ['scripts/install.cjs'], { cwd: installed, env: { PATH } });
      expect(script).toMatchObject({ status: 1, stdout: '' });
      expect(script.stderr).toMatch(/^Compiling lowbit needs CMake .*\n$/);
    } finally {
      renameSync(join(installed, 'elsewhere'), join(installed, 'prebuilds'));
    }
  });
});

posix('installing a package without a fitting prebuild', () => {
  it(
    'compiles it, and so does the remedy of the error',
    async () => {
      const cwd = project('compiled');
      const { status, stderr } = await npm(['install', withoutPrebuild.file], cwd);
      expect(status, stderr).toBe(0);
      const addon = join(cwd, 'node_modules', 'lowbit', 'build', 'Release', 'lowbit.node');
      expect(existsSync(addon)).toBe(true);
      // cmake-js is for the development of lowbit only.
      expect(existsSync(join(cwd, 'node_modules', 'cmake-js'))).toBe(false);
      await expectItWorks(cwd);

      rmSync(addon);
      expect(await run(process.execPath, ['-e', "require('lowbit')"], { cwd })).toMatchObject({ status: 1 });
      const rebuilt = await npm(['rebuild', 'lowbit', '--build-from-source'], cwd);
      expect(rebuilt.status, rebuilt.stderr).toBe(0);
      await expectItWorks(cwd);
    },
    10 * MINUTES,
  );
});
