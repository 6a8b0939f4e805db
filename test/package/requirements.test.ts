import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { barePath, ROOT, run, temporaryFolder } from './staging.js';

const SCRIPTS = join(ROOT, 'scripts');
const folder = temporaryFolder();

const CMAKE = 'echo "cmake version 3.25.1"';
const NINJA = 'echo 1.11.1';

/** Runs a script on a machine that has these programs only. */
let machines = 0;
function onMachineWith(programs: Record<string, string>, script = 'requirements.cjs', env: NodeJS.ProcessEnv = {}) {
  const PATH = barePath(join(folder, String(machines++)), programs);
  return run(process.execPath, [join(SCRIPTS, script)], { env: { PATH, ...env } });
}

describe.skipIf(process.platform === 'win32')('a machine that cannot compile', () => {
  it.each(['build-native.cjs', 'requirements.cjs'])('gets one sentence from %s', async (script) => {
    const { status, stdout, stderr } = await onMachineWith({}, script);
    expect(status).toBe(1);
    expect(stdout).toBe('');
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(
      /^Compiling lowbit needs CMake 3\.18 or newer, a C\+\+17 compiler and make or Ninja, which this machine lacks: /,
    );
    expect(stderr).toMatch(/run `[^`]*cmake[^`]*`|install them with the package manager/);
    expect(stderr).toMatch(/, then try again\.\n$/);
  });

  it('is told of an old CMake', async () => {
    const { status, stderr } = await onMachineWith({
      cmake: 'echo "cmake version 3.9.6"',
      ninja: NINJA,
      'c++': 'exit 0',
    });
    expect(status).toBe(1);
    expect(stderr).toBe(
      'Compiling lowbit needs CMake 3.18 or newer (found 3.9), which this machine lacks: get CMake from https://cmake.org/download, then try again.\n',
    );
  });

  it('is told of a compiler that does not know C++17', async () => {
    const { status, stderr } = await onMachineWith({ cmake: CMAKE, ninja: NINJA, 'c++': 'exit 1' });
    expect(status).toBe(1);
    expect(stderr).toMatch(/^Compiling lowbit needs a C\+\+17 compiler, which/);
  });

  it('is told of a compiler in CXX that does not work, even if another one would', async () => {
    const programs = { cmake: CMAKE, make: 'echo GNU Make 4.3', 'c++': 'exit 0' };
    const { status, stderr } = await onMachineWith(programs, 'requirements.cjs', { CXX: 'no-such-compiler -m64' });
    expect(status).toBe(1);
    expect(stderr).toContain('a C++17 compiler (CXX is no-such-compiler -m64)');
  });

  it('is told of an old Node.js', async () => {
    const pretend = "Object.defineProperty(process.versions, 'node', { value: '18.20.1' });";
    const code = `${pretend} require(${JSON.stringify(join(SCRIPTS, 'requirements.cjs'))}).check()`;
    const { status, stderr } = await run(process.execPath, ['-e', code]);
    expect(status).toBe(1);
    expect(stderr).toContain('Node.js 20 or newer (this is 18.20.1)');
    expect(stderr).toContain('https://nodejs.org');
  });
});

describe.skipIf(process.platform === 'win32')('a machine that can compile', () => {
  it.each([
    ['c++ and Ninja', { cmake: CMAKE, ninja: NINJA, 'c++': 'exit 0' }, {}],
    ['clang++ and make', { cmake: CMAKE, make: 'echo GNU Make 4.3', 'clang++': 'exit 0' }, {}],
    ['a compiler in CXX', { cmake: CMAKE, ninja: NINJA, cache: 'test "$1" = gcc-9' }, { CXX: 'cache gcc-9' }],
  ])('passes with %s', async (_, programs, env) => {
    const { status, stderr } = await onMachineWith(programs as Record<string, string>, 'requirements.cjs', env);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});
