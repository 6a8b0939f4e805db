/**
 * What compiling needs, and one sentence that says what to install where something is missing. The tools' own words for
 * it ("CMAKE_CXX_COMPILER not set, after EnableLanguage") don't help anybody.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const { existsSync, readFileSync } = require('node:fs');

const NODE = 20;
const CMAKE = '3.18';

/** Tells whether the language and the library are those of C++17; an old compiler fails at one of them. */
const PROBE = `
#include <optional>
#include <string_view>
int main() {
  if constexpr (sizeof(std::string_view) > 0) return std::optional<int>(0).value();
}
`;

/** Packages per system, by the ID or ID_LIKE of /etc/os-release. */
const LINUX = [
  [/debian|ubuntu/, 'apt-get install cmake g++ make'],
  [/alpine/, 'apk add cmake g++ make'],
  [/fedora|rhel|centos/, 'dnf install cmake gcc-c++ make'],
  [/suse/, 'zypper install cmake gcc-c++ make'],
  [/arch/, 'pacman -S cmake gcc make'],
];

/** What a program prints, or undefined if it can't be run or fails. */
function output(command, args, input) {
  const result = spawnSync(command, args, { encoding: 'utf8', input });
  return result.status === 0 ? result.stdout : undefined;
}

/** Like CMake: CXX, which may carry arguments ("ccache g++"), else the usual names. */
function compilers() {
  const { CXX } = process.env;
  if (!CXX) return [['c++'], ['g++'], ['clang++']];
  return [existsSync(CXX) ? [CXX] : CXX.trim().split(/\s+/)];
}

function hasCompiler() {
  const probe = ['-std=c++17', '-fsyntax-only', '-x', 'c++', '-'];
  return compilers().some(([command, ...args]) => output(command, [...args, ...probe], PROBE) !== undefined);
}

/** Whether version `a` is lower than `b`; both are numbers with dots. */
function isOlder(a, b) {
  return a.localeCompare(b, 'en', { numeric: true }) < 0;
}

function howToInstall() {
  if (process.platform === 'darwin') return 'run `xcode-select --install` and `brew install cmake`';
  if (process.platform === 'win32') {
    return 'run `winget install Kitware.CMake` and install the C++ workload of the Visual Studio Build Tools';
  }
  let system = '';
  try {
    system = readFileSync('/etc/os-release', 'utf8')
      .split('\n')
      .filter((line) => /^ID(_LIKE)?=/.test(line))
      .join(' ');
  } catch {
    // Not every system has the file.
  }
  const known = LINUX.find(([pattern]) => pattern.test(system));
  return known === undefined ? 'install them with the package manager of your system' : `run \`${known[1]}\``;
}

/** The sentence, or undefined if nothing is missing. */
function missing() {
  const things = [];
  const remedies = [];
  const node = process.versions.node;
  if (Number.parseInt(node, 10) < NODE) {
    things.push(`Node.js ${NODE} or newer (this is ${node})`);
    remedies.push('get Node.js from https://nodejs.org');
  }
  const cmake = (output('cmake', ['--version']) || '').match(/version (\d+\.\d+)/);
  const old = cmake !== null && isOlder(cmake[1], CMAKE);
  if (old) {
    things.push(`CMake ${CMAKE} or newer (found ${cmake[1]})`);
    remedies.push('get CMake from https://cmake.org/download');
  }
  const tools = [];
  if (cmake === null) tools.push(`CMake ${CMAKE} or newer`);
  // On Windows CMake finds Visual Studio, which is not on the PATH.
  if (process.platform !== 'win32') {
    const { CXX } = process.env;
    if (!hasCompiler()) tools.push(CXX ? `a C++17 compiler (CXX is ${CXX})` : 'a C++17 compiler');
    if (!output('ninja', ['--version']) && !output('make', ['--version'])) tools.push('make or Ninja');
  }
  if (tools.length > 0) remedies.push(howToInstall());
  things.push(...tools);
  if (things.length === 0) return undefined;
  const list = things.length === 1 ? things[0] : `${things.slice(0, -1).join(', ')} and ${things[things.length - 1]}`;
  return `Compiling lowbit needs ${list}, which this machine lacks: ${remedies.join(', ')}, then try again.`;
}

/** Prints the sentence and ends the process with status 1 if something is missing. */
function check() {
  const sentence = missing();
  if (sentence === undefined) return;
  console.error(sentence);
  process.exit(1);
}

module.exports = { check, missing, isOlder };

if (require.main === module) check();
