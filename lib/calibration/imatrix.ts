/**
 * Statistics as an importance matrix of llama.cpp.
 *
 * @module
 */
import { type Architecture, architectureNamed, ggufNameOf } from '../checkpoint/gguf/architecture.js';
import type { ImportanceEntry, ImportanceMatrix } from '../checkpoint/gguf/imatrix.js';
import { invalidArgument } from '../errors.js';
import { INPUTS } from '../model/decoder-weights.js';
import { StatisticsFile } from './statistics-file.js';

/**
 * The mean squares of the inputs of all linear layers, as llama-imatrix collects them: for `writeImatrix`, and for quantizing to
 * GGUF blocks with an importance.
 *
 * @param file - From {@link StatisticsFile.open}.
 * @param datasets - Names of the texts, which statistics do not hold.
 * @returns An entry for each linear layer, with the sums of squares of its inputs, `[K]`.
 * @throws {@link CalibrationError} `STATISTICS_INVALID`.
 */
export async function importanceMatrixOf(
  file: StatisticsFile,
  datasets: readonly string[] = [],
): Promise<ImportanceMatrix> {
  if (!(file instanceof StatisticsFile)) throw invalidArgument('file', 'a StatisticsFile', file);
  const llama = architectureNamed('llama') as Architecture; // the others call these layers the same
  const entries = new Map<string, ImportanceEntry>();
  for (const name of file.names) {
    const [, block, input] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    const group = INPUTS.find((each) => each.name === input);
    if (group === undefined) continue;
    const { sumOfSquares, rows } = await file.read(name);
    const entry = { sums: Float32Array.from(sumOfSquares), counts: [rows] };
    for (const linear of group.linears) {
      entries.set(ggufNameOf(llama, `model.layers.${block}.${linear}.weight`) as string, entry);
    }
  }
  return { entries, datasets, chunkCount: file.header.places.length, chunkSize: file.header.windowLength };
}
