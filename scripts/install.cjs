/**
 * Runs when npm installs lowbit: nothing to do where a prebuilt addon of the package fits this machine, else the addon
 * is compiled. Nothing is ever downloaded. Where a prebuilt addon fits, lowbit works without this script, too
 * (--ignore-scripts).
 */
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { build } = require('./build-native.cjs');

const root = path.dirname(__dirname);

/** npm rebuild lowbit --build-from-source, or npm install --build-from-source=lowbit */
function fromSourceWanted() {
  const value = process.env.npm_config_build_from_source;
  if (value === undefined || value === 'false') return false;
  return value === '' || value === 'true' || value.split(',').includes('lowbit');
}

/** Loads it too: a fitting file name says nothing of the versions of the system's libraries. */
function prebuildFits() {
  // For node-gyp-build: leave out build/, which may be what is to be replaced.
  process.env.PREBUILDS_ONLY = '1';
  try {
    require(require('node-gyp-build').resolve(root));
    return true;
  } catch {
    return false;
  }
}

// In a checkout the sources are what counts, not prebuilt addons of earlier ones.
const isCheckout = fs.existsSync(path.join(root, '.git'));

if (isCheckout || fromSourceWanted() || !prebuildFits()) {
  try {
    build();
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
