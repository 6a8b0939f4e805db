/**
 * A tensor seen along one axis.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import * as validate from '../validate.js';

/** @internal Where channels lie: Channels in native/core/channels.h. */
export interface Channels {
  readonly shape: readonly number[];
  /** Undefined for a tensor as a whole. */
  readonly axis: number | undefined;
  readonly blocks: number;
  readonly count: number;
  readonly inner: number;
  readonly elementCount: number;
}

/** @internal The shape of an input, checked; `usual` if none is given. */
export function shapeFrom(
  given: Partial<Record<string, unknown>>,
  length: number,
  usual: readonly number[] = [length],
): readonly number[] {
  const shape = given['shape'] === undefined ? usual : validate.shape('shape', given['shape']);
  if (validate.product(shape) !== length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the input, ${length}, but it has ${validate.product(shape)}.`,
    );
  }
  return shape;
}

/** @internal From the options `granularity` and `axis`. */
export function channelsFrom(given: Partial<Record<string, unknown>>, shape: readonly number[]): Channels {
  const granularity =
    given['granularity'] === undefined
      ? 'per-tensor'
      : validate.oneOf('granularity', given['granularity'], ['per-tensor', 'per-channel']);
  const elementCount = validate.product(shape);
  if (granularity === 'per-tensor') {
    if (given['axis'] !== undefined) {
      throw new InvalidArgumentError('axis', "Expected granularity: 'per-channel' together with axis.");
    }
    return { shape, axis: undefined, blocks: 1, count: 1, inner: elementCount, elementCount };
  }
  if (shape.length === 0) throw invalidArgument('shape', 'at least one axis for per-channel granularity', shape);
  let axis = validate.integer('axis', given['axis'] === undefined ? 0 : given['axis'], -shape.length, shape.length - 1);
  if (axis < 0) axis += shape.length;
  return {
    shape,
    axis,
    blocks: validate.product(shape, 0, axis),
    count: shape[axis] as number,
    inner: validate.product(shape, axis + 1),
    elementCount,
  };
}

/** @internal The integer nearest to x, ties to the even one. */
export function roundHalfEven(x: number): number {
  const rounded = Math.round(x); // ties go up
  return rounded - x === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
