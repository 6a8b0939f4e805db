import { describe, expect, it } from 'vitest';
import * as lowbit from '../../lib/index.js';
import { hasEmulatedModule } from '../support/cuda.js';
import { normal } from '../support/random.js';

const { DeviceTensor, capabilities, castTensor, castTensorAsync } = lowbit;

describe.skipIf(!hasEmulatedModule)('a device', () => {
  it('is listed with what it has', () => {
    const { cuda } = capabilities();
    expect(cuda.available).toBe(true);
    expect(cuda.devices).toHaveLength(2);
    expect(cuda.devices[1]).toMatchObject({
      index: 1,
      name: 'Emulated device',
      computeCapability: '8.0',
      multiprocessors: 4,
    });
  });
  it('casts', async () => {
    const x = normal(1000, 1);
    const expected = castTensor(x, { from: 'float32', to: 'float16' });
    expect(castTensor(x, { from: 'float32', to: 'float16', device: 'cuda' })).toEqual(expected);
    expect(await castTensorAsync(x, { from: 'float32', to: 'float16', device: 'cuda:1' })).toEqual(expected);
    const t = DeviceTensor.upload(x);
    const h = castTensor(t, { to: 'float16' });
    expect(h.download()).toEqual(expected);
  });
});
