/**
 * Statistics in a file: a safetensors container with float64 sums, from which they are added to exactly.
 *
 * @module
 */
import type { Output } from '../checkpoint/output.js';
import { SafetensorsFile } from '../checkpoint/safetensors.js';
import { safetensorsFileBytes, type TensorSpec, writeSafetensors } from '../checkpoint/safetensors-writer.js';
import type { StoredTensor } from '../checkpoint/stored-tensor.js';
import type { TensorFile } from '../checkpoint/tensor-file.js';
import { CalibrationError, CheckpointError, LowbitError } from '../errors.js';
import { BINS, type InputStatistics } from '../methods/input-statistics.js';
import { Observer } from '../observe/observer.js';
import { checkSums, type ExactSums, triangleLength } from './exact-sums.js';
import { InputAccumulator } from './input-accumulator.js';
import type { SampledRow } from './sampled-rows.js';
import type { WindowPlace, WindowSelection, WindowText } from './windows.js';

/** What statistics are of. Those of equal `model`, `inputs`, `windowLength` and `prefix` can be added. */
export interface StatisticsHeader {
  /** SHA-256 of the model: of its config and weights. */
  readonly model: string;
  /** Names of the inputs, in the order of computation, and their channels. */
  readonly inputs: readonly { readonly name: string; readonly columns: number }[];
  /** Whether xᵀ·x is there: for GPTQ, AWQ. */
  readonly gram: boolean;
  /** Tokens of a window, and those that each begins with. */
  readonly windowLength: number;
  readonly prefix: readonly number[];
  /** What the windows were cut from, in the order of their hashes. */
  readonly texts: readonly WindowText[];
  /** How they were chosen; several where files were merged that chose differently. */
  readonly selections: readonly WindowSelection[];
  /** The windows that were seen, in order. */
  readonly places: readonly WindowPlace[];
  /** Where the rows of the samples come from. */
  readonly sample: readonly SampledRow[];
}

const FORMAT = 'lowbit.statistics';
const VERSION = '1';
const FILE = 'statistics.safetensors';

/** Sums are below this, so that they are finite in float32 too. */
const LARGEST_SUM = 2 ** 127;

/** The most rows of a sample. */
export const SAMPLE_ROWS = 256;

interface Part {
  readonly name: string;
  readonly dtype: 'F64' | 'F32' | 'I32';
  readonly shape: readonly number[];
}

/** The tensors of an input. */
function partsOf(header: StatisticsHeader, { name, columns }: { name: string; columns: number }): Part[] {
  const triangle = [triangleLength(columns)];
  return [
    ...(header.gram
      ? [
          { name: `${name}.gram.high`, dtype: 'F64' as const, shape: triangle },
          { name: `${name}.gram.low`, dtype: 'F64' as const, shape: triangle },
        ]
      : []),
    { name: `${name}.squares.high`, dtype: 'F64', shape: [columns] },
    { name: `${name}.squares.low`, dtype: 'F64', shape: [columns] },
    { name: `${name}.magnitudes.high`, dtype: 'F64', shape: [columns] },
    { name: `${name}.magnitudes.low`, dtype: 'F64', shape: [columns] },
    { name: `${name}.histogram`, dtype: 'F64', shape: [BINS] },
    { name: `${name}.range`, dtype: 'F32', shape: [2] },
    { name: `${name}.absmax`, dtype: 'F32', shape: [columns] },
    { name: `${name}.sample`, dtype: 'F32', shape: [header.sample.length, columns] },
    { name: `${name}.exponent`, dtype: 'I32', shape: [1] },
  ];
}

function specsOf(header: StatisticsHeader): TensorSpec[] {
  return header.inputs.flatMap((input) => partsOf(header, input));
}

function metadataOf(header: StatisticsHeader): Map<string, string> {
  const { model, inputs, gram, windowLength, prefix, texts, selections, places, sample } = header;
  const starts = texts.map(({ sha256 }) => places.filter(({ text }) => text === sha256).map(({ start }) => start));
  const index = new Map(texts.map(({ sha256 }, i) => [sha256, i]));
  return new Map([
    ['format', FORMAT],
    ['version', VERSION],
    ['model', model],
    ['inputs', JSON.stringify(inputs.map(({ name, columns }) => [name, columns]))],
    ['gram', String(gram)],
    ['windowLength', String(windowLength)],
    ['prefix', JSON.stringify(prefix)],
    ['texts', JSON.stringify(texts)],
    ['selections', JSON.stringify(selections)],
    ['windows', JSON.stringify(starts)],
    ['sample', JSON.stringify(sample.map(({ text, start, position }) => [index.get(text), start, position]))],
  ]);
}

function bytesOf(array: Float64Array | Float32Array | Int32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** The arrays of an input, in the order of {@link partsOf}. */
function arraysOf(header: StatisticsHeader, input: InputAccumulator): (Float64Array | Float32Array | Int32Array)[] {
  const { squares, magnitudes, gram, absMax, observer, sample } = input;
  const { counts, exponents, min, max } = observer.toState();
  return [
    ...(header.gram && gram !== null ? [gram.high, gram.low] : []),
    squares.high,
    squares.low,
    magnitudes.high,
    magnitudes.low,
    Float64Array.from(counts),
    Float32Array.of(min[0] ?? 0, max[0] ?? 0),
    absMax,
    sample,
    Int32Array.of(exponents[0] ?? 0),
  ];
}

/** Writes a file of statistics, input after input in any order. It appears when it is complete, or not at all. */
export class StatisticsWriter {
  private constructor(
    private readonly header: StatisticsHeader,
    private readonly output: Output,
    private readonly file: TensorFile,
  ) {}

  /**
   * Begins the file of an output, or goes on with it.
   *
   * @throws {@link OutputError}
   */
  static async begin(output: Output, header: StatisticsHeader): Promise<StatisticsWriter> {
    return new StatisticsWriter(
      header,
      output,
      await writeSafetensors(output.file(FILE), specsOf(header), metadataOf(header)),
    );
  }

  async write(input: InputAccumulator): Promise<void> {
    const parts = partsOf(this.header, input);
    const arrays = arraysOf(this.header, input);
    for (const [i, { name }] of parts.entries()) await this.file.write(name, 0, bytesOf(arrays[i] as Float64Array));
  }

  /** Makes sure that what was written is on disk. */
  sync(): Promise<void> {
    return this.file.sync();
  }

  async publish(): Promise<void> {
    await this.file.close();
    await this.output.publish({ file: FILE });
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** How large the file of statistics will be. */
export function statisticsFileBytes(header: StatisticsHeader): number {
  return safetensorsFileBytes(specsOf(header), metadataOf(header));
}

// --- reading ---------------------------------------------------------------------------------------------------------

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isHash = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);

/** What is wrong with a file, before it is known what file it is. */
class Wrong extends Error {}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Wrong(what);
}

function headerOf(metadata: ReadonlyMap<string, string>): StatisticsHeader {
  check(metadata.get('format') === FORMAT, 'it is a safetensors file of something else');
  const version = metadata.get('version');
  check(version === VERSION, `its version is ${version}, and this lowbit reads version ${VERSION}`);
  const json = (key: string): unknown => {
    try {
      return JSON.parse(metadata.get(key) ?? '');
    } catch {
      throw new Wrong(`its ${key} is no JSON`);
    }
  };
  const list = (key: string): unknown[] => {
    const value = json(key);
    check(Array.isArray(value), `its ${key} is no list`);
    return value;
  };
  const model = metadata.get('model');
  check(isHash(model), 'its model is no SHA-256');
  const inputs = list('inputs').map((entry) => {
    const [name, columns] = Array.isArray(entry) ? entry : [];
    check(typeof name === 'string' && isCount(columns) && columns > 0, 'its inputs are not names and channels');
    return { name, columns };
  });
  check(new Set(inputs.map(({ name }) => name)).size === inputs.length, 'an input comes twice');
  const windowLength = json('windowLength');
  check(isCount(windowLength) && windowLength > 0, 'its windowLength is no length');
  const prefix = list('prefix');
  check(prefix.every(isCount), 'its prefix is no list of tokens');
  const texts = list('texts').map((entry) => {
    const { sha256, bytes, tokens } = (entry ?? {}) as Partial<WindowText>;
    check(isHash(sha256) && isCount(bytes) && isCount(tokens), 'its texts are not hashes and sizes');
    return { sha256, bytes, tokens };
  });
  const selections = list('selections').map((entry) => {
    const { seed, count } = (entry ?? {}) as Partial<WindowSelection>;
    check(isCount(seed) && isCount(count), 'its selections are not seeds and counts');
    return { seed, count };
  });
  const windows = list('windows');
  check(windows.length === texts.length, 'its windows are not those of its texts');
  const places = windows.flatMap((starts, i) => {
    check(Array.isArray(starts) && starts.every(isCount), 'its windows are no places');
    check(
      starts.every((start, j) => j === 0 || (starts[j - 1] as number) < start),
      'its windows are not in order',
    );
    return starts.map((start) => ({ text: (texts[i] as WindowText).sha256, start }));
  });
  const sample = list('sample').map((entry) => {
    const [text, start, position] = Array.isArray(entry) ? entry : [];
    check(isCount(text) && text < texts.length && isCount(start) && isCount(position), 'its sample is no list of rows');
    check(position < windowLength, 'a row of its sample lies outside its window');
    return { text: (texts[text] as WindowText).sha256, start, position };
  });
  check(sample.length <= SAMPLE_ROWS, 'its sample is too large');
  const gram = metadata.get('gram');
  check(gram === 'true' || gram === 'false', 'its gram is neither true nor false');
  return {
    model,
    inputs,
    gram: gram === 'true',
    windowLength,
    prefix: prefix as number[],
    texts,
    selections,
    places,
    sample,
  };
}

/** An open file of statistics. */
export class StatisticsFile {
  private constructor(
    readonly path: string,
    readonly header: StatisticsHeader,
    private readonly file: SafetensorsFile,
  ) {}

  /**
   * Opens a file that `lowbit calibrate` or {@link collectStatistics} wrote, and checks its header.
   *
   * @returns The file, open until {@link StatisticsFile.close}.
   * @throws {@link CheckpointError} for what is no safetensors file; {@link CalibrationError} `STATISTICS_INVALID`.
   */
  static async open(path: string): Promise<StatisticsFile> {
    const file = await SafetensorsFile.open(path);
    try {
      const header = headerOf(file.metadata);
      const parts = header.inputs.flatMap((input) => partsOf(header, input));
      check(parts.length === file.tensors.size, `it has ${file.tensors.size} tensors instead of ${parts.length}`);
      for (const { name, dtype, shape } of parts) {
        const tensor = file.tensors.get(name);
        check(tensor !== undefined, `${name} is missing`);
        const same = tensor.dtype === dtype && String(tensor.shape) === String(shape);
        check(same, `${name} is ${tensor.dtype} [${tensor.shape}] instead of ${dtype} [${shape}]`);
      }
      return new StatisticsFile(path, header, file);
    } catch (error) {
      await file.close();
      throw invalid(path, error);
    }
  }

  /** Names of its inputs, in the order of computation. */
  get names(): readonly string[] {
    return this.header.inputs.map(({ name }) => name);
  }

  /**
   * Reads the statistics of one input.
   *
   * @param name - One of `header.inputs`.
   * @returns Sums over all windows.
   * @throws {@link CalibrationError} `STATISTICS_MISSING` if it has none of that input, `STATISTICS_INVALID`.
   */
  async read(name: string): Promise<InputStatistics> {
    return (await this.accumulator(name)).finish();
  }

  /** @internal The same, to be added to. */
  async accumulator(name: string): Promise<InputAccumulator> {
    const { header, path } = this;
    const input = header.inputs.find((each) => each.name === name);
    if (input === undefined) {
      const message =
        `${path} has no statistics of the input ${name}, only of ${header.inputs[0]?.name} to ${header.inputs.at(-1)?.name}. ` +
        'Calibrate this model anew.';
      throw new CalibrationError('STATISTICS_MISSING', message, { layer: name });
    }
    const accumulator = new InputAccumulator(name, input.columns, {
      gram: header.gram,
      sampleRows: header.sample.length,
    });
    accumulator.windows = header.places.length;
    accumulator.rows = header.places.length * header.windowLength;
    try {
      const { gram, squares, magnitudes, absMax, sample } = accumulator;
      if (gram !== null) await this.readSums(gram, `${name}.gram`);
      await this.readSums(squares, `${name}.squares`);
      await this.readSums(magnitudes, `${name}.magnitudes`);
      const counts = await this.readInto(`${name}.histogram`, new Float64Array(BINS));
      const range = await this.readInto(`${name}.range`, new Float32Array(2));
      await this.readInto(`${name}.absmax`, absMax);
      await this.readInto(`${name}.sample`, sample);
      const exponent = await this.readInto(`${name}.exponent`, new Int32Array(1));
      const isSum = (x: number) => Math.abs(x) < LARGEST_SUM;
      for (const [what, sums] of Object.entries({ squares, magnitudes, ...(gram === null ? {} : { gram }) })) {
        check(sums.high.every(isSum) && sums.low.every(isSum), `${name}.${what} has numbers that are no sums`);
      }
      check(sample.every(Number.isFinite), `${name}.sample has numbers that are not finite`);
      for (const [what, values] of Object.entries({
        absmax: absMax,
        squares: squares.values(),
        magnitudes: magnitudes.values(),
      })) {
        check(
          values.every((x) => x >= 0 && x < Number.POSITIVE_INFINITY),
          `${name}.${what} has numbers that are no magnitudes`,
        );
      }
      if (accumulator.rows > 0) {
        accumulator.observer = Observer.fromState({
          ...new Observer({ method: 'mse', bins: BINS }).toState(),
          observed: accumulator.rows * input.columns,
          min: [range[0] as number],
          max: [range[1] as number],
          exponents: Array.from(exponent),
          counts: Array.from(counts),
        });
      }
      checkSums(name, squares, accumulator.windows);
    } catch (error) {
      throw invalid(path, error, name);
    }
    return accumulator;
  }

  private async readSums(sums: ExactSums, name: string): Promise<void> {
    await this.readInto(`${name}.high`, sums.high);
    await this.readInto(`${name}.low`, sums.low);
  }

  private async readInto<T extends Float64Array | Float32Array | Int32Array>(name: string, array: T): Promise<T> {
    await (this.file.tensors.get(name) as StoredTensor).read(0, bytesOf(array));
    return array;
  }

  /** Closes the file. */
  async close(): Promise<void> {
    await this.file.close();
  }
}

function invalid(path: string, error: unknown, layer?: string): unknown {
  if (error instanceof CheckpointError || error instanceof CalibrationError) return error;
  if (!(error instanceof Wrong || error instanceof LowbitError)) return error;
  const message = `${path} is no file of statistics that lowbit calibrate wrote: ${error.message}.`;
  return new CalibrationError('STATISTICS_INVALID', message, {
    ...(layer === undefined ? {} : { layer }),
    cause: error,
  });
}
