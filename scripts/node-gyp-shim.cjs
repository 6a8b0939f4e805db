#!/usr/bin/env node
/**
 * What prebuildify runs in place of node-gyp: it asks for `rebuild --target=20.0.0 --devdir=… --arch=x64 --release` and
 * expects the addon in build/Release of the current folder.
 */
'use strict';

const path = require('node:path');
const { parseArgs } = require('node:util');
const { build } = require('./build-native.cjs');

const { values } = parseArgs({
  options: { target: { type: 'string' }, arch: { type: 'string' } },
  strict: false,
});

try {
  build({ out: path.resolve('build'), arch: values.arch, target: values.target });
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
