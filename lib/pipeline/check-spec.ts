/**
 * Checks of what is said about quantizing.
 *
 * @module
 */
import { checkImatrix } from '../checkpoint/gguf/imatrix.js';
import { type ActivationDtype, activationsOf } from '../checkpoint/layouts/compressed-tensors/writer.js';
import type { QuantDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { inputKindOf } from '../tensor/input-quantization.js';
import type { Granularity } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { checkMethod } from './method-spec.js';
import {
  ACTIVATIONS,
  type CheckpointDtype,
  type CheckpointFormat,
  CODE_LAYOUTS,
  type CodeLayout,
  completed,
  FORMATS,
  LAYER_OPTIONS,
  type LayerSpec,
} from './spec.js';

/** Elements that share an absmax, as bitsandbytes has them. */
const BLOCK_SIZES: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/** @internal Checks the setting of a layer; returns its format. */
export function checkLayer(
  given: Record<string, unknown>,
  prefix: string,
  inherited?: CheckpointFormat,
): CheckpointFormat {
  const name = (option: string) => `${prefix}${option}`;
  const format =
    given['format'] === undefined
      ? (inherited ?? 'compressed-tensors')
      : validate.oneOf(name('format'), given['format'], Object.keys(FORMATS) as CheckpointFormat[]);
  if (inherited !== undefined && format !== inherited) {
    throw invalidArgument(name('format'), `the format of the whole, ${inherited},`, format);
  }
  const { dtypes } = FORMATS[format];
  if (given['dtype'] !== undefined) validate.oneOf(name('dtype'), given['dtype'], dtypes);
  if (format === 'gguf') {
    for (const option of ['scheme', 'groupSize', 'range']) {
      if (given[option] !== undefined) {
        throw new InvalidArgumentError(
          name(option),
          `Expected no ${name(option)} for gguf: its block types have their own.`,
        );
      }
    }
  }
  checkCompressed(given, name, format);
  const { dtype } = completed({ ...(given as LayerSpec), format });
  if (format === 'bitsandbytes' && dtype === 'int8') checkLlmInt8(given, name);
  checkGranularity(given, name, format, dtype);
  if (given['scheme'] !== undefined) validate.oneOf(name('scheme'), given['scheme'], ['symmetric', 'asymmetric']);
  if (given['groupSize'] !== undefined && given['groupSize'] !== null)
    validate.integer(name('groupSize'), given['groupSize'], 1);
  return format;
}

/** LLM.int8() has one way of quantizing weights. */
function checkLlmInt8(given: Record<string, unknown>, name: (option: string) => string): void {
  const usual: Record<string, unknown> = {
    scheme: 'symmetric',
    granularity: 'per-channel',
    groupSize: null,
    nested: false,
    range: 'minmax',
  };
  for (const [option, value] of Object.entries(usual)) {
    if (given[option] === undefined || given[option] === value) continue;
    const message = `Expected no ${name(option)} for int8 of bitsandbytes, LLM.int8(), which has a scale for each row, its largest magnitude.`;
    throw new InvalidArgumentError(name(option), message);
  }
}

/** How codes are stored and what becomes of activations: with compressed-tensors, and what goes with the dtype. */
function checkCompressed(
  given: Record<string, unknown>,
  name: (option: string) => string,
  format: CheckpointFormat,
): void {
  for (const option of ['layout', 'activations']) {
    if (given[option] === undefined || format === 'compressed-tensors') continue;
    const message = `Expected ${name(option)} with format: 'compressed-tensors' only.`;
    throw new InvalidArgumentError(name(option), message);
  }
  const { layout, activations } = given;
  if (layout !== undefined) validate.oneOf(name('layout'), layout, CODE_LAYOUTS);
  if (activations !== undefined) validate.oneOf(name('activations'), activations, ACTIVATIONS);
  const { dtype } = completed({ ...(given as LayerSpec), format });
  if (layout !== undefined) {
    const choices: readonly CodeLayout[] = /^int\d$/.test(dtype)
      ? ['pack-quantized', 'int-quantized', 'naive-quantized']
      : dtype === 'float8_e4m3fn'
        ? ['float-quantized', 'naive-quantized']
        : [];
    if (!choices.includes(layout as CodeLayout)) {
      const expected = choices.length === 0 ? `no ${name('layout')}` : `${name('layout')} ${choices.join(' or ')}`;
      throw new InvalidArgumentError(name('layout'), `Expected ${expected} for ${dtype} but received ${layout}.`);
    }
  }
  if (activations === undefined || format === 'gguf') return;
  const choices = activationsOf(dtype as QuantDtype);
  if (!choices.includes(activations as ActivationDtype)) {
    throw new InvalidArgumentError(
      name('activations'),
      `Expected ${name('activations')} ${choices.join(' or ')} for ${dtype} but received ${activations}.`,
    );
  }
  if (inputKindOf(activations) !== null) checkStatic(given as LayerSpec, name);
}

/** Engines multiply static activations by bytes with one scale for each output or all of them. */
function checkStatic(given: LayerSpec, name: (option: string) => string): void {
  const { layout, scheme, granularity } = completed({ ...given, format: 'compressed-tensors' });
  const wrong: [string, unknown, string, boolean][] = [
    ['layout', layout, 'codes in bytes (int-quantized)', layout === 'pack-quantized'],
    ['scheme', scheme, "'symmetric'", scheme !== 'symmetric'],
    ['granularity', granularity, "'per-channel'", granularity !== 'per-channel' && granularity !== 'per-tensor'],
  ];
  for (const [option, value, expected, isWrong] of wrong) {
    if (isWrong) throw invalidArgument(name(option), `${expected} with ${given.activations} activations`, value);
  }
}

/** What shares a scale must be what the format and the dtype can hold. */
function checkGranularity(
  given: Record<string, unknown>,
  name: (option: string) => string,
  format: CheckpointFormat,
  dtype: CheckpointDtype,
): void {
  const isInteger = /^int\d$/.test(dtype);
  const isTable = dtype === 'nf4' || dtype === 'fp4';
  const choices: readonly Granularity[] = isInteger
    ? ['per-group', 'per-channel']
    : isTable
      ? ['per-group']
      : dtype === 'float8_e4m3fn'
        ? ['per-tensor', 'per-channel', 'per-block']
        : [];
  const { granularity, groupSize, scheme } = given;
  if (granularity !== undefined) {
    if (choices.length === 0) {
      const what = format === 'gguf' ? 'gguf' : dtype;
      throw new InvalidArgumentError(
        name('granularity'),
        `Expected no ${name('granularity')}: ${what} has blocks of its own.`,
      );
    }
    validate.oneOf(name('granularity'), granularity, choices);
    if (typeof groupSize === 'number' && granularity !== 'per-group') {
      throw new InvalidArgumentError(
        name('groupSize'),
        `Expected ${name('granularity')} 'per-group' together with groupSize.`,
      );
    }
  }
  if (format === 'bitsandbytes' && groupSize !== undefined && dtype !== 'int8') {
    if (!BLOCK_SIZES.includes(groupSize as number)) {
      throw invalidArgument(name('groupSize'), `one of ${BLOCK_SIZES.join(', ')}`, groupSize);
    }
  }
  if (validate.boolean(name('nested'), given['nested'], false) && format !== 'bitsandbytes') {
    throw new InvalidArgumentError(name('nested'), `Expected ${name('nested')} with format: 'bitsandbytes' only.`);
  }
  if (isInteger || isTable || format === 'gguf') return;
  if (typeof groupSize === 'number') {
    throw new InvalidArgumentError(name('groupSize'), `Expected no ${name('groupSize')} for ${dtype}.`);
  }
  if (scheme === 'asymmetric') throw invalidArgument(name('scheme'), `'symmetric' for ${dtype}`, scheme);
}

function checkPattern(name: string, pattern: unknown): void {
  if (!(pattern instanceof RegExp) || pattern.global || pattern.sticky) {
    throw new InvalidArgumentError(name, `Expected ${name} to be a RegExp without the flags g and y.`);
  }
}

/** @internal Checks what is said about quantizing. */
export function checkSpec(given: Record<string, unknown>): void {
  const format = checkLayer(given, '');
  validate.boolean('requantize', given['requantize'], false);
  checkMethod(given);
  for (const name of ['include', 'exclude'] as const) if (given[name] !== undefined) checkPattern(name, given[name]);
  const { layers, imatrix } = given;
  if (imatrix !== undefined) {
    if (format !== 'gguf') throw new InvalidArgumentError('imatrix', "Expected imatrix with format: 'gguf' only.");
    if (typeof imatrix !== 'string') checkImatrix('imatrix', imatrix);
  }
  if (layers === undefined) return;
  if (!Array.isArray(layers)) throw invalidArgument('layers', 'an array', layers);
  layers.forEach((layer: unknown, i) => {
    const { match, spec } = validate.options<{ match: unknown; spec: unknown }>(
      `layers[${i}]`,
      layer,
      new Set(['match', 'spec']),
    );
    checkPattern(`layers[${i}].match`, match);
    if (spec === 'float') return;
    const options = validate.options<Record<string, unknown>>(`layers[${i}].spec`, spec, new Set(LAYER_OPTIONS));
    checkLayer(options, `layers[${i}].spec.`, format);
  });
}
