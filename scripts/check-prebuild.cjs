/**
 * Checks from the files alone that prebuilt Linux addons load on every system that lowbit promises to run on: no
 * library and no symbol version that such a system may lack. The promise stands in package.json under lowbit.floor.
 *
 * node scripts/check-prebuild.cjs [file or folder …]    default: prebuilds/linux-*
 */
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { isOlder } = require('./requirements.cjs');

const root = path.dirname(__dirname);

/** ELF's number of the machine, and the loader, which some compilers name as a library. */
const MACHINES = {
  x64: { number: 62, loader: 'ld-linux-x86-64.so.2', musl: 'libc.musl-x86_64.so.1' },
  arm64: { number: 183, loader: 'ld-linux-aarch64.so.1', musl: 'libc.musl-aarch64.so.1' },
};
/** What Node itself needs, so that every system with Node has it. */
const GLIBC_LIBRARIES = ['libc.so.6', 'libm.so.6', 'libpthread.so.0', 'libdl.so.2'];
const COMPILER_LIBRARIES = ['libstdc++.so.6', 'libgcc_s.so.1'];

/**
 * The machine, needed libraries and needed symbol versions of a shared object, from its dynamic section (elf.h:
 * Elf64_Dyn, Elf64_Verneed, Elf64_Vernaux).
 */
function readElf(bytes) {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2 || bytes[5] !== 1) {
    throw new Error('it is no 64-bit little-endian ELF file');
  }
  const number = (offset) => Number(bytes.readBigUInt64LE(offset));
  const segments = Array.from({ length: bytes.readUInt16LE(56) }, (_, i) => {
    const header = number(32) + i * bytes.readUInt16LE(54);
    const [offset, address, size] = [number(header + 8), number(header + 16), number(header + 32)];
    return { type: bytes.readUInt32LE(header), offset, address, size };
  });
  const offsetOf = (address) => {
    const segment = segments.find((s) => s.type === 1 && address >= s.address && address < s.address + s.size);
    return address - segment.address + segment.offset;
  };

  const dynamic = segments.find((segment) => segment.type === 2);
  const entries = []; // [tag, value]
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size && number(at) !== 0; at += 16) {
    entries.push([number(at), number(at + 8)]);
  }
  const valueOfTag = (tag) => entries.find((entry) => entry[0] === tag)?.[1];
  const names = offsetOf(valueOfTag(5)); // DT_STRTAB
  const nameAt = (offset) => bytes.toString('latin1', names + offset, bytes.indexOf(0, names + offset));

  const versions = [];
  const versionTable = valueOfTag(0x6ffffffe); // DT_VERNEED
  for (let at = versionTable === undefined ? 0 : offsetOf(versionTable); at !== 0; ) {
    let auxiliary = at + bytes.readUInt32LE(at + 8);
    for (let count = bytes.readUInt16LE(at + 2); count > 0; count--) {
      versions.push(nameAt(bytes.readUInt32LE(auxiliary + 8)));
      auxiliary += bytes.readUInt32LE(auxiliary + 12);
    }
    const next = bytes.readUInt32LE(at + 12);
    at = next === 0 ? 0 : at + next;
  }
  return {
    machine: bytes.readUInt16LE(18),
    libraries: entries.filter(([tag]) => tag === 1).map(([, name]) => nameAt(name)), // DT_NEEDED
    versions,
  };
}

/** What is wrong with a prebuilt addon, as sentences, and what it needs, as a line. */
function inspect(file, floor) {
  const { machine, libraries, versions } = readElf(fs.readFileSync(file));
  const arch = path.basename(path.dirname(file)).replace(/^linux-/, '');
  const expected = MACHINES[arch];
  if (expected === undefined) throw new Error('its folder is neither linux-x64 nor linux-arm64');
  const musl = path.basename(file).split('.').includes('musl');
  const faults = [];
  if (machine !== expected.number) faults.push(`is not for ${arch}`);

  const allowed = [...COMPILER_LIBRARIES, ...(musl ? [expected.musl] : [...GLIBC_LIBRARIES, expected.loader])];
  for (const library of libraries) {
    if (!allowed.includes(library)) faults.push(`needs the library ${library}`);
  }

  const highest = new Map(); // of each kind, such as GLIBC
  for (const version of versions) {
    const [, kind, number] = /^([A-Z]+)_(\d[\d.]*)$/.exec(version) ?? [];
    if (kind === undefined || !(kind in floor)) faults.push(`needs ${version}, for which package.json states no floor`);
    else if (!highest.has(kind) || isOlder(highest.get(kind), number)) highest.set(kind, number);
  }
  for (const [kind, number] of highest) {
    const lowest = floor[kind];
    if (musl && kind === 'GLIBC') faults.push(`needs GLIBC_${number} though it is for musl`);
    else if (isOlder(lowest, number)) faults.push(`needs ${kind}_${number}, but the floor is ${kind}_${lowest}`);
  }
  const needs = [...libraries, ...[...highest].map((pair) => pair.join('_'))].join(' ');
  return { faults, needs };
}

function filesOf(place) {
  if (!fs.existsSync(place) || !fs.statSync(place).isDirectory()) return [place];
  const names = fs.readdirSync(place).filter((name) => name.endsWith('.node'));
  return names.map((name) => path.join(place, name));
}

function defaultPlaces() {
  const prebuilds = path.join(root, 'prebuilds');
  if (!fs.existsSync(prebuilds)) return [];
  const platforms = fs.readdirSync(prebuilds).filter((name) => name.startsWith('linux-'));
  return platforms.map((name) => path.join(prebuilds, name));
}

/** Prints what each prebuilt addon needs; sets exit status 1 and says why if one of them does not pass. */
function checkPrebuilds(places = defaultPlaces()) {
  const { floor } = require('../package.json').lowbit;
  const files = places.flatMap(filesOf);
  const problems = files.length > 0 ? [] : ['There is no prebuilt addon to check: run `npm run make-prebuilds`.'];
  for (const file of files) {
    const name = path.relative(process.cwd(), file);
    try {
      const { faults, needs } = inspect(path.resolve(file), floor);
      console.log(`${name} (${fs.statSync(file).size} bytes) needs ${needs}`);
      problems.push(...faults.map((fault) => `${name} ${fault}.`));
    } catch (error) {
      problems.push(`${name} can't be checked: ${error.message}.`);
    }
  }
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
}

module.exports = { checkPrebuilds };

if (require.main === module) {
  checkPrebuilds(process.argv.length > 2 ? process.argv.slice(2) : undefined);
}
