/**
 * Whether there is a device, before work begins that is going to need it.
 *
 * @module
 */
import { addon, explain } from '../addon.js';
import { CPU, deviceIndex } from './device.js';

/**
 * @internal The number of a device that can be used, or {@link CPU}, also for undefined.
 *
 * @throws {@link InvalidArgumentError}; {@link DeviceError} `NO_DEVICE`.
 */
export function usableDevice(argument: string, value: unknown): number {
  const index = value === undefined ? CPU : deviceIndex(argument, value);
  if (index === CPU) return CPU;
  const nothing = addon.createMemory(index, 0);
  try {
    addon.upload(nothing, new Uint8Array(0));
  } catch (error) {
    throw explain(error, argument);
  } finally {
    addon.disposeMemory(nothing);
  }
  return index;
}
