/**
 * The CUDA module whose kernels run on the processor, for tests of what calls do with a device. `npm test` builds it first; by
 * hand: `cmake -S . -B build-cuda -DLOWBIT_BUILD_ADDON=OFF -DLOWBIT_BUILD_TESTS=ON && cmake --build build-cuda --target
 * lowbit_cuda_emulated`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Where it is built: `npm test` names it. */
export const emulatedModule =
  process.env['LOWBIT_CUDA_EMULATED'] ?? join(__dirname, '..', '..', 'build-cuda', 'lowbit_cuda_emulated.so');

export const hasEmulatedModule = existsSync(emulatedModule);

if (hasEmulatedModule) {
  // The module is opened when a device is first asked for.
  process.env['LOWBIT_CUDA_MODULE'] = emulatedModule;
  process.env['LOWBIT_EMULATED_DEVICES'] = '2';
} else {
  console.log(`skipped: tests of devices, as ${emulatedModule} has not been built`);
}

/** Bytes of a device that are free. */
export function freeBytes(
  capabilities: () => { cuda: { reason?: string; devices: readonly { freeBytes: number }[] } },
  index = 0,
): number {
  const { devices, reason } = capabilities().cuda;
  const device = devices[index];
  if (device === undefined) throw new Error(`There is no device ${index}: ${reason}`);
  return device.freeBytes;
}
