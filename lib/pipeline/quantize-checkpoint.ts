/**
 * Quantizing a checkpoint: plan, run, publish.
 *
 * @module
 */
import { deviceFor } from '../calibration/quantize-work.js';
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import type { Weight } from '../checkpoint/weight.js';
import { checkReadingOptions, type ReadingOptions, weightsOf } from '../checkpoint/weights.js';
import type { Device } from '../device/device.js';
import { InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';
import { carryOut, checkRunOptions, RUN_OPTIONS, type RunOptions, type RunReport } from './carry-out.js';
import { checkSpec } from './check-spec.js';
import { asHuggingFace } from './hugging-face.js';
import { MethodWork } from './method-work.js';
import { type Plan, planQuantization, withTexts } from './plan.js';
import { planGgufQuantization } from './plan-gguf.js';
import { type QuantizationSpec, SPEC_OPTIONS } from './spec.js';

/** Options of {@link quantizeCheckpoint}. */
export interface QuantizeCheckpointOptions extends QuantizationSpec, RunOptions {
  /**
   * Where `gptq` and `awq-gptq` compute Gram matrices and codes, with the same result; all else is the processor's. Default
   * `'cpu'`.
   */
  readonly device?: Device;
}

/** What {@link quantizeCheckpoint} did. */
export type QuantizationReport = RunReport;

const OPTIONS: ReadonlySet<string> = new Set([...SPEC_OPTIONS, ...RUN_OPTIONS, 'device']);

/** @internal What a spec makes of a checkpoint. */
export async function planOfSpec(
  checkpoint: Checkpoint,
  weights: readonly Weight[],
  spec: QuantizationSpec & Pick<QuantizeCheckpointOptions, 'device'>,
  reading: ReadingOptions = {},
): Promise<Plan> {
  if (spec.format === 'gguf') {
    return planGgufQuantization(checkpoint, weights, spec, await MethodWork.of(checkpoint.path, spec, reading));
  }
  const model = await asHuggingFace(checkpoint, weights);
  const work = await MethodWork.of(checkpoint.path, spec, reading);
  return withTexts(planQuantization(model.checkpoint, model.weights, spec, work), model.texts, model.warnings);
}

/** @internal Checks the options of {@link quantizeCheckpoint}. */
export function checkOptions(optionsValue: unknown): QuantizeCheckpointOptions {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, OPTIONS) as Record<string, unknown>;
  checkRunOptions(given);
  checkSpec(given);
  const checked = given as unknown as QuantizeCheckpointOptions;
  deviceFor(checked);
  return checked;
}

/**
 * Quantizes the linear layers of a checkpoint and writes a Hugging Face folder that vLLM and transformers load (by default
 * int4 in the compressed-tensors layout), or a GGUF file for llama.cpp; see {@link CheckpointFormat}.
 *
 * What was written is read back and compared with the input before the folder gets its name: that is what the errors in the report
 * are. `minSqnr` and `minCosine` refuse a result that falls short, `verify: false` leaves all that out.
 *
 * The weights are streamed in blocks of rows: memory stays below `maxMemory`, whatever the size of the checkpoint. The folder
 * appears under its name when it is complete, or not at all; a run that was ended before is continued by the next one with the
 * same options. The result is the same, byte for byte, for any number of threads and any `maxMemory`.
 *
 * @param input - A `.safetensors` file, or a folder with one or several of them; float32, float16 or bfloat16.
 * @param options - At least `dtype` and `output`.
 * @returns What became of each tensor: sizes, SQNR, cosine similarity, errors.
 * @throws {@link CheckpointError} if the input can't be read or quantized as asked; {@link NonFiniteError} if a weight is NaN
 *   or infinite; {@link OutputError} if the result can't be written, `VERIFICATION_FAILED` if it is not what it should be,
 *   `BELOW_THRESHOLD` (the same call with other thresholds then ends the work); {@link InvalidArgumentError} for wrong options;
 *   {@link DeviceError} and {@link OutOfMemoryError} of a device; the signal's reason when it aborts.
 *
 * @example
 * ```ts
 * const report = await quantizeCheckpoint('Llama-3.2-1B', { dtype: 'int4', groupSize: 32, output: 'Llama-3.2-1B-int4' });
 * console.log(report.bitsPerWeight, report.worstTensor);
 * ```
 */
export async function quantizeCheckpoint(
  input: string,
  options: QuantizeCheckpointOptions,
): Promise<QuantizationReport> {
  if (typeof input !== 'string') throw new InvalidArgumentError('input', 'Expected input to be a path.');
  const checked = checkOptions(options);
  checked.signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(input);
  try {
    const reading = checkReadingOptions(checked);
    const plan = await planOfSpec(checkpoint, await weightsOf(checkpoint, reading), checked, reading);
    return await carryOut(input, checkpoint, plan, checked);
  } finally {
    await checkpoint.close();
  }
}
