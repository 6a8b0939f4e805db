/**
 * Where calls compute.
 *
 * @module
 */
import type { RawError } from '../addon.js';
import { DeviceError, InvalidArgumentError, invalidArgument } from '../errors.js';

/** Where a call computes: on the processor, or on a GPU; `'cuda'` is `'cuda:0'`. */
export type Device = 'cpu' | 'cuda' | `cuda:${number}`;

/** @internal The processor, among the numbers of devices. */
export const CPU = -1;

/** @internal `cpu` or `cuda:<n>`. */
export function deviceName(index: number): 'cpu' | `cuda:${number}` {
  return index === CPU ? 'cpu' : `cuda:${index}`;
}

/** @internal The number of a device, or {@link CPU}. Whether there is such a device shows when it is used. */
export function deviceIndex(argument: string, value: unknown): number {
  if (value === 'cpu') return CPU;
  if (value === 'cuda') return 0;
  const number = typeof value === 'string' ? /^cuda:(0|[1-9]\d{0,8})$/.exec(value)?.[1] : undefined;
  if (number === undefined) throw invalidArgument(argument, "'cpu', 'cuda' or 'cuda:<n>'", value);
  return Number(number);
}

/** @internal An argument that is somewhere already. */
export interface Placed {
  readonly argument: string;
  readonly index: number;
}

/** @internal Where a call computes: where its arguments are, which the option must not contradict; else what that says. */
export function placeOf(option: unknown, placed: readonly (Placed | undefined)[]): number {
  const chosen = option === undefined ? undefined : deviceIndex('device', option);
  let first: Placed | undefined = chosen === undefined ? undefined : { argument: 'device', index: chosen };
  for (const place of placed) {
    if (place === undefined) continue;
    first ??= place;
    if (place.index !== first.index) throw differentDevices(first, place);
  }
  return first?.index ?? CPU;
}

/** @internal */
export function differentDevices(first: Placed, other: Placed): InvalidArgumentError {
  const where = first.argument === 'device' ? 'as device says' : `as ${first.argument} is`;
  return new InvalidArgumentError(
    other.argument,
    `Expected ${other.argument} on ${deviceName(first.index)}, ${where}, but it is on ${deviceName(other.index)}. ` +
      'Download it and upload it there, or pack it there.',
  );
}

/** @internal An option that the kernels of a device do not have. */
export function unsupported(argument: string, expected: string, index: number, cause?: unknown): DeviceError {
  const device = deviceName(index);
  const remedy = "Use device 'cpu', or download what is on the device.";
  return new DeviceError('DEVICE_UNSUPPORTED', `Expected ${expected} on ${device}. ${remedy}`, {
    device,
    argument,
    cause,
  });
}

/** @internal */
export function isUnsupported(error: unknown): boolean {
  return (error as Partial<RawError>).code === 'DEVICE_UNSUPPORTED';
}
