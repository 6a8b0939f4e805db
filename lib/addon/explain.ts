/**
 * What the addon throws, as errors of ours.
 *
 * @module
 */
import { AddonError, DeviceError, InvalidArgumentError, OutOfMemoryError } from '../errors.js';
import type { RawError } from './raw.js';

/** What the addon threw as an error of ours; `argument` is the one that it is about where it does not say. */
export function explain(error: unknown, argument: string): unknown {
  const { code, message, argument: named = argument } = error as Partial<RawError>;
  switch (code) {
    case 'INVALID_ARGUMENT':
      return new InvalidArgumentError(named, String(message), { cause: error });
    case 'OUT_OF_MEMORY':
      return new OutOfMemoryError('There is not enough memory for this call.', { cause: error });
    case 'INTERNAL':
      return new AddonError('INTERNAL', `The native addon failed: ${message}.`, { cause: error });
    case 'NO_DEVICE':
    case 'DEVICE_OUT_OF_MEMORY':
    case 'DEVICE_LOST':
    case 'DEVICE_UNSUPPORTED':
    case 'DEVICE_FAILED':
      return explainDevice(error as RawError);
    default:
      return error;
  }
}

function explainDevice(cause: RawError): Error {
  const { code, message, device: index = 0, bytes = 0 } = cause;
  const device = `cuda:${index}`;
  switch (code) {
    case 'NO_DEVICE': {
      const reason = message.replace(/\.?$/, '.');
      const remedy = "capabilities().cuda says which devices there are; device 'cpu' is always there.";
      return new DeviceError('NO_DEVICE', `The device ${device} can't be used. ${reason} ${remedy}`, { device, cause });
    }
    case 'DEVICE_OUT_OF_MEMORY': {
      const asked = bytes === 0 ? 'what a call needs in between' : `${bytes} bytes more`;
      const remedy = 'Dispose of tensors and packed weights that are not needed any more, or divide the work.';
      const details = { device, bytes: bytes === 0 ? undefined : bytes, cause };
      return new OutOfMemoryError(`There is not enough memory on ${device} for ${asked}. ${remedy}`, details);
    }
    case 'DEVICE_LOST': {
      const remedy = 'Nothing can be computed on it in this process any more: restart the process.';
      return new DeviceError('DEVICE_LOST', `The device ${device} was lost (${message}). ${remedy}`, { device, cause });
    }
    case 'DEVICE_UNSUPPORTED': {
      const remedy = "Use device 'cpu'.";
      return new DeviceError('DEVICE_UNSUPPORTED', `The device ${device} does not support this call. ${remedy}`, {
        device,
        cause,
      });
    }
    default:
      return new DeviceError('DEVICE_FAILED', `The device ${device} failed: ${message}.`, { device, cause });
  }
}
