/**
 * Whether anything of a spec has static activations, whose scales calibration finds.
 *
 * @module
 */
import { inputKindOf } from '../tensor/input-quantization.js';

/** The part of a spec that says so. It may be unchecked. */
interface Said {
  readonly activations?: unknown;
  readonly layers?: unknown;
}

/** Whether layers have static activations, all or some. */
export function hasStaticActivations({ activations, layers }: Said): boolean {
  const others = Array.isArray(layers)
    ? layers.map((layer) => (layer as { spec?: Said } | null)?.spec?.activations)
    : [];
  return [activations, ...others].some((name) => inputKindOf(name) !== null);
}
