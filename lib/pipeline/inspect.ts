/**
 * What a checkpoint is: from its headers alone, or with statistics of its weights.
 *
 * @module
 */
import { openCheckpoint } from '../checkpoint/checkpoint.js';
import { floatsOf } from '../checkpoint/floats.js';
import { Scratch } from '../checkpoint/scratch.js';
import { type Encoding, storedBytes, type Weight, type WeightFormat } from '../checkpoint/weight.js';
import { checkReadingOptions, READING_OPTIONS, type ReadingOptions, weightsOf } from '../checkpoint/weights.js';
import { InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';

/** Options of {@link inspectCheckpoint}. */
export interface InspectOptions extends ReadingOptions {
  /** Whether the weights are read for {@link WeightStatistics}. Default false: only headers are read. */
  readonly statistics?: boolean;
  /** Ends the reading early. */
  readonly signal?: AbortSignal;
}

/** The values of a weight, dequantized. */
export interface WeightStatistics {
  /** The largest magnitude, and the root of the mean square. */
  readonly maxAbs: number;
  readonly rms: number;
  /** Elements whose magnitude is more than six times the root mean square: what a scale has to stretch for. */
  readonly outliers: number;
  /** NaN and infinities, which do not count above. */
  readonly nonFinite: number;
  /** Smallest and largest scale of a quantized weight, where it has separate ones. */
  readonly scales: { readonly lowest: number; readonly highest: number } | null;
}

/** A weight of a checkpoint. */
export interface InspectedWeight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly format: WeightFormat;
  /** `bfloat16`, `int4`, `q4_k` */
  readonly dtype: string;
  /** Elements of a row that share a scale; null without groups. */
  readonly groupSize: number | null;
  /** What else tells it from others of its format, in words: `asymmetric`, `act-order`. */
  readonly traits: readonly string[];
  /** Everything that is stored for it, in bytes. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
  /** Null unless they were asked for. */
  readonly statistics: WeightStatistics | null;
}

/** What {@link inspectCheckpoint} found. */
export interface Inspection {
  readonly path: string;
  readonly container: 'safetensors' | 'gguf';
  /** `model_type` of config.json, or the architecture of a GGUF file. */
  readonly architecture: string | null;
  /** Each way in which weights are stored, with how many: `gptq v1, int4, groups of 128`. */
  readonly encodings: readonly { readonly description: string; readonly weights: number; readonly bytes: number }[];
  /** In the order of the files. */
  readonly weights: readonly InspectedWeight[];
  /** Elements of all weights, and the bytes that are stored for them. */
  readonly parameters: number;
  readonly bytes: number;
  readonly bitsPerWeight: number;
}

/** Elements of a block. */
const BLOCK_ELEMENTS = 2 ** 20;

/** Magnitudes past so many root mean squares are outliers. */
const OUTLIER = 6;

/** How a weight is stored, in words. */
function describeEncoding({ encoding }: Weight): string {
  const { format, dtype, groupSize, traits } = encoding;
  const parts = [
    format === 'float' || format === 'other' ? dtype : `${format} ${dtype}`,
    ...(groupSize === null ? [] : [`groups of ${groupSize}`]),
    ...traits,
  ];
  return parts.join(', ');
}

/** Reads a weight twice: outliers are known only when the mean square is. */
async function statisticsOf(weight: Weight, signal: AbortSignal | undefined): Promise<WeightStatistics | null> {
  if (weight.dtype === null) return null;
  const { rows, columns, rowStep } = weight;
  const scratch = new Scratch();
  const block = rowStep * Math.max(1, Math.floor(BLOCK_ELEMENTS / Math.max(1, columns * rowStep)));
  const each = async (body: (value: number) => void, onScales?: (scales: Float32Array) => void) => {
    for (let begin = 0; begin < rows; begin += block) {
      signal?.throwIfAborted();
      const end = Math.min(rows, begin + block);
      const read = await weight.read(begin, end, scratch);
      if (read.kind === 'quantized') onScales?.(read.tensor.scales);
      for (const value of await floatsOf(read, (end - begin) * columns, columns, scratch, signal)) body(value);
    }
  };
  let [count, power, maxAbs, nonFinite, outliers] = [0, 0, 0, 0, 0];
  let [lowest, highest] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  await each(
    (value) => {
      if (!Number.isFinite(value)) {
        nonFinite++;
        return;
      }
      count++;
      power += value * value;
      if (Math.abs(value) > maxAbs) maxAbs = Math.abs(value);
    },
    (scales) => {
      for (const scale of scales) {
        if (scale < lowest) lowest = scale;
        if (scale > highest) highest = scale;
      }
    },
  );
  const rms = count === 0 ? 0 : Math.sqrt(power / count);
  if (maxAbs > OUTLIER * rms) {
    await each((value) => {
      if (Math.abs(value) > OUTLIER * rms && Number.isFinite(value)) outliers++;
    });
  }
  return { maxAbs, rms, outliers, nonFinite, scales: lowest > highest ? null : { lowest, highest } };
}

/**
 * Says what a checkpoint is: formats, types, sizes, and with `statistics` the range, outliers and scales of each weight.
 *
 * @param path - A safetensors or GGUF file, or a folder.
 * @param options - `statistics`, default false: whether weights are read, not headers alone.
 * @returns What is stored, weight by weight and in all.
 * @throws {@link CheckpointError} if it can't be read; {@link InvalidArgumentError}; the signal's reason when it aborts.
 *
 * @example
 * ```ts
 * const { encodings, bitsPerWeight } = await inspectCheckpoint('TheBloke_model-GPTQ');
 * ```
 */
export async function inspectCheckpoint(path: string, options: InspectOptions = {}): Promise<Inspection> {
  if (typeof path !== 'string') throw new InvalidArgumentError('path', 'Expected path to be a path.');
  const given = validate.options<InspectOptions>(
    'options',
    options,
    new Set([...READING_OPTIONS, 'statistics', 'signal']),
  );
  const withStatistics = validate.boolean('statistics', given.statistics, false);
  const signal = validate.abortSignal('signal', given.signal);
  const reading = checkReadingOptions(given);
  const checkpoint = await openCheckpoint(path);
  try {
    const weights: InspectedWeight[] = [];
    const encodings = new Map<string, { weights: number; bytes: number }>();
    const descriptions = new Map<Encoding, string>();
    const described = (weight: Weight) => {
      let description = descriptions.get(weight.encoding); // one object for many weights
      if (description === undefined) {
        description = describeEncoding(weight);
        descriptions.set(weight.encoding, description);
      }
      return description;
    };
    for (const weight of await weightsOf(checkpoint, reading)) {
      signal?.throwIfAborted();
      const { format, dtype, groupSize, traits } = weight.encoding;
      const bytes = storedBytes(weight);
      const count = weight.rows * weight.columns;
      const description = described(weight);
      const sum = encodings.get(description) ?? { weights: 0, bytes: 0 };
      sum.weights++;
      sum.bytes += bytes;
      encodings.set(description, sum);
      weights.push({
        name: weight.name,
        shape: weight.shape,
        format,
        dtype,
        groupSize,
        traits,
        bytes,
        bitsPerWeight: count === 0 ? 0 : (8 * bytes) / count,
        statistics: withStatistics ? await statisticsOf(weight, signal) : null,
      });
    }
    const parameters = weights.reduce((sum, { shape }) => sum + validate.product(shape), 0);
    const bytes = weights.reduce((sum, weight) => sum + weight.bytes, 0);
    const { container, gguf } = checkpoint;
    const type = checkpoint.config?.['model_type'] ?? gguf?.get('general.architecture')?.value;
    return {
      path,
      container,
      architecture: typeof type === 'string' ? type : null,
      encodings: [...encodings]
        .map(([description, sum]) => ({ description, ...sum }))
        .sort((a, b) => b.bytes - a.bytes),
      weights,
      parameters,
      bytes,
      bitsPerWeight: parameters === 0 ? 0 : (8 * bytes) / parameters,
    };
  } finally {
    await checkpoint.close();
  }
}
