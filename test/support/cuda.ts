/**
 * Devices for tests of what calls do with them. By default the module whose kernels run on the processor: `npm test` builds it
 * first; by hand: `cmake -S . -B build-cuda -DLOWBIT_BUILD_ADDON=OFF -DLOWBIT_BUILD_TESTS=ON && cmake --build build-cuda --target
 * lowbit_cuda_emulated`. With LOWBIT_CUDA_REAL=1 the installed module and a GPU.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { capabilities } from '../../lib/index.js';

const isReal = process.env['LOWBIT_CUDA_REAL'] === '1';

/** Where the emulated module is built: `npm test` names it. */
export const emulatedModule =
  process.env['LOWBIT_CUDA_EMULATED'] ?? join(__dirname, '..', '..', 'build-cuda', 'lowbit_cuda_emulated.so');

/** Whether tests compute in the emulated module, whose devices fail when they are told to and count every byte. */
export const hasEmulatedModule = !isReal && existsSync(emulatedModule);

/** What a process needs to have the same devices. */
export const deviceEnvironment: Readonly<Record<string, string>> = hasEmulatedModule
  ? { LOWBIT_CUDA_MODULE: emulatedModule, LOWBIT_EMULATED_DEVICES: '2' }
  : {};

// The module is opened when a device is first asked for: not here, so that a test can say more of the emulated ones before.
Object.assign(process.env, deviceEnvironment);

const { devices, reason } = isReal
  ? capabilities().cuda
  : { devices: hasEmulatedModule ? [0, 1] : [], reason: `${emulatedModule} has not been built` };

/** Whether there is a device, emulated or real. */
export const hasDevice = devices.length > 0;

/** Whether there are two, for tests that move between them. */
export const hasTwoDevices = devices.length > 1;

/** Another device than the first, where there is one. */
export const otherDevice = hasTwoDevices ? 'cuda:1' : 'cuda:0';

if (!hasDevice) console.log(`skipped: tests of devices, as ${isReal ? `LOWBIT_CUDA_REAL=1 but: ${reason}` : reason}`);
else if (!hasTwoDevices) console.log('skipped: tests of two devices, as there is one');

/**
 * Bytes of a device that are free. Of a GPU 0: other processes use it as well, and CUDA's pool takes pieces of many megabytes, so
 * that what a call loses can't be told there.
 */
export function freeBytes(about: typeof capabilities, index = 0): number {
  if (!hasEmulatedModule) return 0;
  const { devices, reason } = about().cuda;
  const device = devices[index];
  if (device === undefined) throw new Error(`There is no device ${index}: ${reason}`);
  return device.freeBytes;
}
