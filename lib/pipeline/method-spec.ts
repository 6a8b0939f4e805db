/**
 * Methods that decide codes by what a weight's inputs are like: what people say about them.
 *
 * @module
 */
import type { QuantizationMethod, QuantizeModelOptions } from '../calibration/quantize-work.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import type { RangeOfInputs } from '../methods/input-statistics.js';
import * as validate from '../validate.js';
import { hasStaticActivations } from './static-activations.js';

/**
 * How weights are rounded.
 *
 * | method | |
 * | --- | --- |
 * | `rtn` | each weight to the nearest code; nothing but the weights is looked at |
 * | `gptq` | errors are made up for by the columns that follow; see {@link gptq} |
 * | `awq` | inputs are scaled so that errors fall where they matter less, and weights clipped; see {@link awqScales} |
 * | `awq-gptq` | the scales of `awq`, then `gptq` |
 * | `smoothquant` | outliers of activations move into the weights, for int8 activations; see {@link smoothQuantScales} |
 * | `hqq` | zero points are searched for, without calibration; asymmetric; see {@link hqq} |
 */
export type CheckpointMethod = Exclude<QuantizationMethod, 'llm-int8'>;

/** What a model is calibrated with: a text, or statistics that `lowbit calibrate` made. */
export interface CalibrationSpec {
  /** Paths of text files. */
  readonly text?: readonly string[];
  /** The path of a statistics file. */
  readonly statistics?: string;
  /** Windows of text. Default: 128, or as many as there are. */
  readonly windows?: number;
  /** Tokens of a window. Default: 512, or as many as the model has positions. */
  readonly windowLength?: number;
  /** Decides which windows are taken. Default 0. */
  readonly seed?: number;
  /** See {@link quantizeModel}. Default: `'sequential'` with text, `'parallel'` with statistics. */
  readonly mode?: 'sequential' | 'parallel';
}

/** What {@link quantizeCheckpoint} takes of methods. */
export interface MethodSpec {
  /** Default `'rtn'`. */
  readonly method?: CheckpointMethod;
  /** For `gptq`, `awq`, `awq-gptq`, `smoothquant`, and for static activations. */
  readonly calibration?: CalibrationSpec;
  /** With static activations: how their ranges are found; see {@link Observer}. Default `'minmax'`. */
  readonly activationRange?: RangeOfInputs;
  /** Options of {@link gptq}. */
  readonly gptq?: QuantizeModelOptions['gptq'];
  /** See {@link quantizeModel}. */
  readonly awq?: QuantizeModelOptions['awq'];
  /** See {@link quantizeModel}. */
  readonly smoothquant?: QuantizeModelOptions['smoothquant'];
}

/** @internal */
export const METHOD_SPEC_OPTIONS = ['method', 'calibration', 'activationRange', 'gptq', 'awq', 'smoothquant'] as const;

/** @internal */
export const METHODS: readonly CheckpointMethod[] = ['rtn', 'gptq', 'awq', 'awq-gptq', 'smoothquant', 'hqq'];

const CALIBRATION_OPTIONS = new Set(['text', 'statistics', 'windows', 'windowLength', 'seed', 'mode']);

/** @internal Whether a model has to be run, or its blocks taken apart, to quantize it. */
export function usesModel(spec: MethodSpec & Parameters<typeof hasStaticActivations>[0]): boolean {
  return (spec.method ?? 'rtn') !== 'rtn' || hasStaticActivations(spec);
}

function checkCalibration(method: CheckpointMethod, isStatic: boolean, value: unknown): void {
  const takes = method !== 'rtn' && method !== 'hqq';
  const needs = takes || isStatic;
  if (value === undefined) {
    if (!needs) return;
    const message = `Expected calibration for ${takes ? method : 'static activations'}: { text: [path, …] } (--text), or { statistics: path } (--statistics).`;
    throw new InvalidArgumentError('calibration', message);
  }
  if (!needs)
    throw new InvalidArgumentError(
      'calibration',
      `Expected no calibration for ${method}, which looks at weights only.`,
    );
  const given = validate.options<Record<string, unknown>>('calibration', value, CALIBRATION_OPTIONS);
  const { text, statistics } = given;
  if ((text === undefined) === (statistics === undefined)) {
    throw new InvalidArgumentError('calibration', 'Expected calibration to have either text or statistics.');
  }
  if (
    text !== undefined &&
    !(Array.isArray(text) && text.length > 0 && text.every((path) => typeof path === 'string'))
  ) {
    throw invalidArgument('calibration.text', 'an array of paths', text);
  }
  if (statistics !== undefined && typeof statistics !== 'string') {
    throw invalidArgument('calibration.statistics', 'a path', statistics);
  }
  for (const name of ['windows', 'windowLength'] as const) {
    if (given[name] !== undefined) validate.integer(`calibration.${name}`, given[name], 1);
  }
  if (given['seed'] !== undefined) validate.integer('calibration.seed', given['seed'], 0);
  if (given['mode'] !== undefined) validate.oneOf('calibration.mode', given['mode'], ['sequential', 'parallel']);
  for (const name of ['windows', 'windowLength', 'seed'] as const) {
    if (statistics !== undefined && given[name] !== undefined) {
      throw new InvalidArgumentError(
        `calibration.${name}`,
        `Expected no calibration.${name} with statistics, which have their own.`,
      );
    }
  }
}

const ACTIVATION_RANGES = ['minmax', 'mse', 'entropy'] as const;

function checkActivationRange(isStatic: boolean, value: unknown): void {
  if (value === undefined) return;
  if (!isStatic) {
    throw new InvalidArgumentError('activationRange', 'Expected activationRange with static activations only.');
  }
  if (typeof value !== 'object' || value === null) {
    validate.oneOf('activationRange', value, ACTIVATION_RANGES);
    return;
  }
  const { percentile } = validate.options<{ percentile: unknown }>('activationRange', value, new Set(['percentile']));
  if (typeof percentile !== 'number' || !(percentile > 50 && percentile <= 100)) {
    throw invalidArgument('activationRange.percentile', 'a number greater than 50 and at most 100', percentile);
  }
}

/** @internal Checks what is said about the method. */
export function checkMethod(given: Record<string, unknown>): void {
  const method = given['method'] === undefined ? 'rtn' : validate.oneOf('method', given['method'], METHODS);
  const isStatic = hasStaticActivations(given);
  checkCalibration(method, isStatic, given['calibration']);
  checkActivationRange(isStatic, given['activationRange']);
  if (isStatic && method === 'hqq') {
    const message = 'Expected no static activations with hqq, whose zero points engines do not multiply them with.';
    throw new InvalidArgumentError('activations', message);
  }
  const users = { gptq: ['gptq', 'awq-gptq'], awq: ['awq', 'awq-gptq'], smoothquant: ['smoothquant'] } as const;
  for (const [name, methods] of Object.entries(users)) {
    if (given[name] === undefined || (methods as readonly string[]).includes(method)) continue;
    throw new InvalidArgumentError(name, `Expected ${name} with method ${methods.join(' or ')} only.`);
  }
  const { range } = given;
  if (method === 'hqq' && range !== undefined) {
    throw new InvalidArgumentError('range', 'Expected no range for hqq, which searches for zero points itself.');
  }
  if ((method === 'gptq' || method === 'awq-gptq') && typeof range === 'object') {
    throw invalidArgument('range', `minmax or mse with ${method}`, range);
  }
  if (method !== 'rtn' && given['format'] === 'gguf') {
    const message =
      `Expected method 'rtn' for gguf but received ${method}: its blocks have searches of their own. ` +
      'Give them an importance matrix instead (lowbit calibrate --imatrix, then quantize --imatrix).';
    throw new InvalidArgumentError('method', message);
  }
  if (method !== 'rtn' && given['requantize'] === true) {
    throw new InvalidArgumentError(
      'requantize',
      `Expected no requantize with ${method}, which starts from a float model.`,
    );
  }
}
