/**
 * Brings a checkout to the state in which it can run: packages installed, addon and TypeScript built. Does only what is
 * missing.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const requirements = require('./requirements.cjs');

const root = path.dirname(__dirname);

/** Runs a command in the checkout and ends this process if it fails. */
function run(command, args, options = {}) {
  // npm is a script that only a shell can start on Windows.
  const shell = process.platform === 'win32' && command === 'npm';
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', shell, ...options });
  if (result.error) console.error(`${command} can't be started: ${result.error.message}`);
  if (result.status !== 0) process.exit(result.status ?? 1);
}

/** The packages that package-lock.json lists are installed: npm writes this file when it is done. */
function packagesInstalled() {
  const stamp = path.join(root, 'node_modules', '.package-lock.json');
  if (!fs.existsSync(stamp)) return false;
  return fs.statSync(stamp).mtimeMs >= fs.statSync(path.join(root, 'package-lock.json')).mtimeMs;
}

/** The start of a local command line tool: `node <script>`. */
function tool(name, script) {
  return path.join(root, 'node_modules', name, script);
}

function prepare() {
  requirements.check();
  // Also compiles the addon: see install.cjs.
  if (!packagesInstalled()) run('npm', ['ci', '--no-audit', '--no-fund']);
  run(process.execPath, [path.join(__dirname, 'build-native.cjs')]);
  run(process.execPath, [tool('typescript', 'bin/tsc'), '-p', 'tsconfig.json']);
}

module.exports = { prepare, root, run, tool };
