/**
 * Adding statistics of parts of a calibration.
 *
 * @module
 */
import { Output } from '../checkpoint/output.js';
import { CalibrationError, InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';
import { InputAccumulator } from './input-accumulator.js';
import { type SampledRow, sampleRows } from './sampled-rows.js';
import {
  SAMPLE_ROWS,
  StatisticsFile,
  type StatisticsHeader,
  StatisticsWriter,
  statisticsFileBytes,
} from './statistics-file.js';
import { comparePlaces, type WindowPlace, type WindowSelection } from './windows.js';

/** Options of {@link mergeStatistics}. */
export interface MergeOptions {
  /** The file to create. */
  output: string;
  /** Replaces a file that exists. Default false. */
  overwrite?: boolean;
  /** Ends the work early; no file is left. */
  signal?: AbortSignal;
}

/** What {@link mergeStatistics} did. */
export interface MergeReport {
  /** The file. */
  readonly output: string;
  /** How many were added. */
  readonly files: number;
  /** Windows of all of them, and their tokens. */
  readonly windows: number;
  readonly tokens: number;
}

const OPTIONS: ReadonlySet<string> = new Set(['output', 'overwrite', 'signal']);

/** What must be equal, and what is said if it is not. */
function checkSame(first: StatisticsFile, other: StatisticsFile): void {
  const [a, b] = [first.header, other.header];
  const differs =
    a.model !== b.model
      ? 'of another model'
      : String(a.inputs.map(({ name }) => name)) !== String(b.inputs.map(({ name }) => name))
        ? 'of other layers'
        : a.windowLength !== b.windowLength || String(a.prefix) !== String(b.prefix)
          ? 'of windows of another kind'
          : a.gram !== b.gram
            ? `${b.gram ? 'with' : 'without'} Gram matrices, unlike the first`
            : null;
  if (differs === null) return;
  const message = `${other.path} can't be added to ${first.path}: it holds statistics ${differs}.`;
  throw new CalibrationError('STATISTICS_MISMATCH', message);
}

function checkDisjoint(files: readonly StatisticsFile[]): void {
  const seen = new Map<string, string>();
  for (const { path, header } of files) {
    for (const { text, start } of header.places) {
      const key = `${text}:${start}`;
      const other = seen.get(key);
      if (other !== undefined) {
        const message =
          `${path} and ${other} both hold the window at token ${start} of the text ${text.slice(0, 12)}…: it would count twice. ` +
          'Merge each part once.';
        throw new CalibrationError('STATISTICS_OVERLAP', message);
      }
      seen.set(key, path);
    }
  }
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Map(values.map((value) => [JSON.stringify(value), value])).values()];
}

function compareSelections(a: WindowSelection, b: WindowSelection): number {
  return a.count - b.count || a.seed - b.seed;
}

function mergedHeader(files: readonly StatisticsFile[]): StatisticsHeader {
  const headers = files.map(({ header }) => header);
  const places: WindowPlace[] = headers.flatMap((header) => [...header.places]).sort(comparePlaces);
  const first = headers[0] as StatisticsHeader;
  return {
    ...first,
    texts: unique(headers.flatMap(({ texts }) => [...texts])).sort((a, b) => (a.sha256 < b.sha256 ? -1 : 1)),
    selections: unique(headers.flatMap(({ selections }) => [...selections])).sort(compareSelections),
    places,
    sample: sampleRows(places, first.windowLength, SAMPLE_ROWS),
  };
}

const keyOf = ({ text, start, position }: SampledRow) => `${text}:${start}:${position}`;

/**
 * Adds files of statistics of the same model over different windows. The result is, byte for byte, what one run over all of the
 * windows writes, however they were divided and in whatever order the files come.
 *
 * @param paths - At least one file that {@link collectStatistics} wrote.
 * @param options - At least `output`.
 * @returns What the file holds.
 * @throws {@link CalibrationError} `STATISTICS_MISMATCH` for another model or another kind of windows, `STATISTICS_OVERLAP` for
 *   windows that would count twice, `STATISTICS_INVALID`; {@link CheckpointError}; {@link OutputError}.
 */
export async function mergeStatistics(paths: readonly string[], options: MergeOptions): Promise<MergeReport> {
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const output = validate.path('output', given['output']);
  const overwrite = validate.boolean('overwrite', given['overwrite'], false);
  const signal = validate.abortSignal('signal', given['signal']);
  if (!Array.isArray(paths) || paths.length === 0) {
    throw new InvalidArgumentError('paths', 'Expected paths to be an array of at least one path.');
  }
  const files: StatisticsFile[] = [];
  try {
    for (const path of paths) files.push(await StatisticsFile.open(validate.path('paths', path)));
    const [first, ...others] = files as [StatisticsFile, ...StatisticsFile[]];
    for (const other of others) checkSame(first, other);
    checkDisjoint(files);
    const header = mergedHeader(files);
    const work = await Output.open(output, { bytes: statisticsFileBytes(header), overwrite, restart: true });
    let writer: StatisticsWriter | null = null;
    try {
      writer = await StatisticsWriter.begin(work, header);
      for (const { name, columns } of header.inputs) {
        signal?.throwIfAborted();
        await writer.write(await merged(files, header, name, columns));
      }
      await writer.publish();
    } catch (error) {
      await writer?.close();
      await work.discard();
      throw error;
    }
    const windows = header.places.length;
    return { output, files: files.length, windows, tokens: windows * header.windowLength };
  } finally {
    for (const file of files) await file.close();
  }
}

async function merged(
  files: readonly StatisticsFile[],
  header: StatisticsHeader,
  name: string,
  columns: number,
): Promise<InputAccumulator> {
  const total = new InputAccumulator(name, columns, { gram: header.gram, sampleRows: header.sample.length });
  const places = new Map(header.sample.map((row, place) => [keyOf(row), place]));
  for (const file of files) {
    const part = await file.accumulator(name);
    total.merge(part);
    for (const [i, row] of file.header.sample.entries()) {
      const place = places.get(keyOf(row));
      if (place !== undefined) total.sample.set(part.sample.subarray(i * columns, (i + 1) * columns), place * columns);
    }
  }
  return total;
}
