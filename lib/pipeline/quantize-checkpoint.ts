/**
 * Quantizing a checkpoint: plan, then a stream of row blocks from the input files through the kernels into the output
 * files. Memory is bounded by a few blocks, whatever the size of the checkpoint or of its largest tensor.
 *
 * @module
 */
import { cp, readdir } from 'node:fs/promises';
import { basename, extname, join, resolve, sep } from 'node:path';
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import { packCodes, packedNames, packShape, packZeroPoints } from '../checkpoint/compressed-tensors.js';
import { OutputFolder } from '../checkpoint/output.js';
import { SafetensorsWriter, tensorBytes } from '../checkpoint/safetensors-writer.js';
import { Scratch } from '../checkpoint/scratch.js';
import type { StoredTensor } from '../checkpoint/stored-tensor.js';
import { InvalidArgumentError, NonFiniteError, OutputError, outputError, ScaleOverflowError } from '../errors.js';
import { castTensorAsync } from '../tensor/cast.js';
import {
  addSums,
  type Comparison,
  type ComparisonSums,
  compareSumsAsync,
  comparisonOf,
  noSums,
} from '../tensor/compare.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import { quantizeTensorAsync } from '../tensor/quantize.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { type FilePlan, type Plan, planQuantization, type QuantizationSpec, type QuantizedEntry } from './plan.js';

/** How far a run is. */
export interface Progress {
  /** The tensor that was worked on last. */
  readonly tensor: string;
  /** Bytes of input done, and in all. */
  readonly bytes: number;
  readonly totalBytes: number;
  /** Quantized tensors done, and in all. */
  readonly tensors: number;
  readonly totalTensors: number;
}

/** What became of a tensor. */
export interface TensorReport extends Comparison {
  readonly name: string;
  readonly shape: readonly number[];
  /** Bits per weight in the file, scales and zero points included. */
  readonly bitsPerWeight: number;
  readonly inputBytes: number;
  readonly outputBytes: number;
}

/** What a run did. */
export interface QuantizationReport {
  readonly input: string;
  readonly output: string;
  /** Quantized tensors, in the order of the input. */
  readonly tensors: readonly TensorReport[];
  /** Tensors that were copied unchanged. */
  readonly copied: readonly string[];
  /** Files of the input folder that were not taken over: weights in other formats. */
  readonly leftOut: readonly string[];
  /** Bits per weight over all quantized tensors. */
  readonly bitsPerWeight: number;
  /** Bytes of all tensors before and after. */
  readonly inputBytes: number;
  readonly outputBytes: number;
  /** Name of the quantized tensor with the lowest SQNR. */
  readonly worstTensor: string;
  readonly seconds: number;
}

/** Options of {@link quantizeCheckpoint}. */
export interface QuantizeCheckpointOptions extends QuantizationSpec {
  /** The folder to create. */
  readonly output: string;
  /** Whether to replace `output` if it exists. Default false. */
  readonly overwrite?: boolean;
  /** Called after each block of rows. */
  readonly onProgress?: (progress: Progress) => void;
  /** Ends the run early; nothing is left behind. */
  readonly signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'dtype',
  'scheme',
  'groupSize',
  'range',
  'include',
  'exclude',
  'output',
  'overwrite',
  'onProgress',
  'signal',
]);

/** Blocks have about this many elements: enough to keep all threads busy, little enough to stay within 64 MB. */
const BLOCK_ELEMENTS = 1 << 20;

/** Blocks under way at once: one is read or written while the other is quantized. */
const SLOTS = 2;

/** Weights in formats that the result would contradict. */
const OTHER_WEIGHTS = new Set([
  '.safetensors',
  '.bin',
  '.pt',
  '.pth',
  '.ckpt',
  '.h5',
  '.msgpack',
  '.gguf',
  '.onnx',
  '.ot',
]);

/** Rows `begin` … `end` of a tensor, or the bytes of a copied one. */
interface Block {
  readonly entry: QuantizedEntry | null;
  readonly tensor: StoredTensor;
  readonly writer: SafetensorsWriter;
  readonly begin: number;
  readonly end: number;
  readonly index: number;
}

/** What the blocks of one quantized tensor leave. */
interface Gathered {
  readonly entry: QuantizedEntry;
  readonly writer: SafetensorsWriter;
  readonly sums: ComparisonSums[];
  readonly zeroPoints: Int32Array | null;
  blocksLeft: number;
}

class Run {
  private readonly stop = new AbortController();
  private readonly gathered = new Map<QuantizedEntry, Gathered>();
  private readonly reports = new Map<QuantizedEntry, TensorReport>();
  private bytesDone = 0;
  private readonly totalTensors: number;

  constructor(
    private readonly plan: Plan,
    private readonly folder: OutputFolder,
    private readonly onProgress: ((progress: Progress) => void) | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.totalTensors = plan.files.reduce((sum, file) => sum + file.quantized.length, 0);
    signal?.addEventListener('abort', () => this.stop.abort(signal.reason), { signal: this.stop.signal });
    if (signal?.aborted) this.stop.abort(signal.reason);
  }

  /** Writes all safetensors files; returns the reports in the order of the plan. */
  async run(): Promise<TensorReport[]> {
    const writers: SafetensorsWriter[] = [];
    try {
      for (const file of this.plan.files) {
        const writer = await SafetensorsWriter.create(this.folder.file(file.name), file.outputs, file.metadata);
        writers.push(writer);
        await this.writeFile(file, writer);
        await writer.finish();
        writers.pop();
      }
    } finally {
      await Promise.all(writers.map((writer) => writer.abandon()));
    }
    return this.plan.files.flatMap((file) => file.quantized.map((entry) => this.reports.get(entry) as TensorReport));
  }

  private async writeFile(file: FilePlan, writer: SafetensorsWriter): Promise<void> {
    const blocks = this.blocksOf(file, writer);
    const work = async () => {
      const slot = new Scratch();
      for (const block of blocks) {
        this.stop.signal.throwIfAborted();
        await (block.entry === null ? this.copy(block, slot) : this.quantize(block, block.entry, slot));
      }
    };
    const results = await Promise.allSettled(
      Array.from({ length: SLOTS }, () =>
        work().catch((error: unknown) => {
          this.stop.abort(error); // the first failure ends the others
          throw error;
        }),
      ),
    );
    if (results.some(({ status }) => status === 'rejected')) throw this.stop.signal.reason;
  }

  /** The work on a file, in the order of the input, so that it is read from front to back. */
  private *blocksOf(file: FilePlan, writer: SafetensorsWriter): Generator<Block> {
    const entries = new Map(file.quantized.map((entry) => [entry.tensor, entry]));
    const tensors = [...entries.keys(), ...file.copied].sort((a, b) => a.position - b.position);
    for (const tensor of tensors) {
      const entry = entries.get(tensor) ?? null;
      const length = entry === null ? tensor.bytes : entry.rows;
      const step =
        entry === null ? 4 * BLOCK_ELEMENTS : Math.max(1, Math.floor(BLOCK_ELEMENTS / Math.max(1, entry.columns)));
      const count = Math.max(1, Math.ceil(length / step));
      if (entry !== null) {
        const groups = this.plan.scheme.groupSize === null ? 1 : entry.columns / this.plan.scheme.groupSize;
        const zeroPoints = this.plan.scheme.scheme === 'asymmetric' ? new Int32Array(entry.rows * groups) : null;
        this.gathered.set(entry, { entry, writer, sums: new Array(count), zeroPoints, blocksLeft: count });
      }
      for (let index = 0; index < count; index++) {
        yield { entry, tensor, writer, begin: index * step, end: Math.min(length, (index + 1) * step), index };
      }
    }
  }

  private async copy({ tensor, writer, begin, end }: Block, slot: Scratch): Promise<void> {
    const data = slot.bytes('input', end - begin);
    await tensor.read(begin, data);
    await writer.write(tensor.name, begin, data);
    this.report(tensor, data.length);
  }

  private async quantize(block: Block, entry: QuantizedEntry, slot: Scratch): Promise<void> {
    const { tensor, writer, begin, end, index } = block;
    const { columns, inputDtype } = entry;
    const { scheme, range } = this.plan;
    const { signal } = this.stop;
    const rows = end - begin;
    const count = rows * columns;
    const elementBytes = inputDtype === 'float32' ? 4 : 2;
    const data = slot.bytes('input', count * elementBytes);
    await tensor.read(begin * columns * elementBytes, data);
    const input = inputDtype === 'float32' ? slot.floats('input', count) : slot.halves('input', count);

    const groups = scheme.groupSize === null ? 1 : columns / scheme.groupSize;
    const common = {
      dtype: scheme.bits === 4 ? 'int4' : 'int8',
      shape: [rows, columns],
      scheme: scheme.scheme,
      data: slot.bytes('codes', rows * Math.ceil((columns * scheme.bits) / 8)),
      scales: slot.floats('scales', rows * groups),
      zeroPoints: scheme.scheme === 'asymmetric' ? slot.integers('zeroPoints', rows * groups) : null,
    } as const;
    const out: QuantizedTensor<'int4' | 'int8'> =
      scheme.groupSize === null
        ? { ...common, granularity: 'per-channel', axis: 0 }
        : { ...common, granularity: 'per-group', groupSize: scheme.groupSize };
    const { axis, groupSize, granularity } = out;
    const options = {
      dtype: out.dtype,
      shape: out.shape,
      scheme: out.scheme,
      range,
      scaleDtype: inputDtype,
      out,
      signal,
    };
    const where = granularity === 'per-group' ? { granularity, groupSize } : { granularity, axis };
    try {
      // The combination is checked at run time: TypeScript can't follow it through the spread.
      await quantizeTensorAsync(input, { ...options, ...where, inputDtype } as never);
    } catch (error) {
      throw named(error, tensor.name, begin, columns, groups);
    }
    const sums = await this.compare(out, input, inputDtype, slot);
    const gathered = this.gathered.get(entry) as Gathered;
    gathered.sums[index] = sums;
    if (out.zeroPoints !== null) gathered.zeroPoints?.set(out.zeroPoints, begin * groups);

    const names = packedNames(tensor.name);
    const rowWords = Math.ceil((columns * scheme.bits) / 32);
    await writer.write(names.packed, begin * rowWords * 4, packCodes(out, scheme.bits));
    const scaleBits = await castTensorAsync(out.scales, { from: 'float32', to: inputDtype, signal });
    const scaleBytes = new Uint8Array(scaleBits.buffer, scaleBits.byteOffset, scaleBits.byteLength);
    await writer.write(names.scale, begin * groups * elementBytes, scaleBytes);
    if (--gathered.blocksLeft === 0) await this.finishTensor(gathered, groups);
    this.report(tensor, data.length);
  }

  /** What quantizing these rows cost. */
  private async compare(
    out: QuantizedTensor,
    input: Float32Array | Uint16Array,
    inputDtype: 'float32' | 'float16' | 'bfloat16',
    slot: Scratch,
  ): Promise<ComparisonSums> {
    const { signal } = this.stop;
    const back = await dequantizeTensorAsync(out, { out: slot.floats('back', input.length), signal });
    const reference =
      input instanceof Float32Array
        ? input
        : await castTensorAsync(input, {
            from: inputDtype,
            to: 'float32',
            out: slot.floats('reference', input.length),
            signal,
          });
    return compareSumsAsync(reference, back, signal);
  }

  private async finishTensor({ entry, writer, sums, zeroPoints }: Gathered, groups: number): Promise<void> {
    const { tensor, rows, columns, outputs, outputBytes } = entry;
    const names = packedNames(tensor.name);
    await writer.write(names.shape, 0, packShape(rows, columns));
    if (zeroPoints !== null) {
      await writer.write(names.zeroPoint, 0, packZeroPoints(zeroPoints, rows, groups, this.plan.scheme.bits));
    }
    const total = noSums();
    for (const part of sums) addSums(total, part);
    const weightBytes = outputs.reduce(
      (sum, output) => sum + (output.name === names.shape ? 0 : tensorBytes(output)),
      0,
    );
    this.reports.set(entry, {
      name: tensor.name,
      shape: [rows, columns],
      bitsPerWeight: rows * columns === 0 ? 0 : (8 * weightBytes) / (rows * columns),
      inputBytes: tensor.bytes,
      outputBytes,
      ...comparisonOf(total),
    });
    this.gathered.delete(entry);
  }

  private report(tensor: StoredTensor, bytes: number): void {
    this.bytesDone += bytes;
    this.onProgress?.({
      tensor: tensor.name,
      bytes: this.bytesDone,
      totalBytes: this.plan.inputBytes,
      tensors: this.reports.size,
      totalTensors: this.totalTensors,
    });
  }
}

/** The error of a block in terms of its tensor. */
function named(error: unknown, tensor: string, firstRow: number, columns: number, groups: number): unknown {
  if (error instanceof NonFiniteError) {
    const index = firstRow * columns + error.index;
    const message =
      `Tensor ${tensor} holds ${error.value} at index ${index} (row ${Math.floor(index / columns)}, column ${index % columns}). ` +
      'The checkpoint is damaged or training diverged; leave the tensor out with --exclude to keep it in float.';
    return new NonFiniteError(message, index, error.value, tensor);
  }
  if (error instanceof ScaleOverflowError) {
    const index = firstRow * groups + error.index;
    const message = `A scale of tensor ${tensor} is too large for the checkpoint's own dtype. Leave the tensor out with --exclude.`;
    return new ScaleOverflowError(message, index, tensor);
  }
  return error;
}

/** Copies what belongs to the model besides weights: tokenizer, generation settings, templates, licence. */
async function copyOtherFiles(checkpoint: Checkpoint, output: OutputFolder): Promise<string[]> {
  const leftOut: string[] = [];
  if (checkpoint.folder === null) return leftOut;
  const source = checkpoint.folder;
  for (const name of (await readdir(source)).sort()) {
    if (name === 'config.json' || name.endsWith('.safetensors.index.json') || name.startsWith('.')) continue;
    if (OTHER_WEIGHTS.has(extname(name).toLowerCase())) {
      if (!checkpoint.files.some((file) => basename(file.path) === name)) leftOut.push(name);
      continue;
    }
    try {
      const isModel = (path: string) => !OTHER_WEIGHTS.has(extname(path).toLowerCase());
      await cp(join(source, name), output.file(name), { recursive: true, dereference: true, filter: isModel });
    } catch (cause) {
      throw outputError(join(output.path, name), cause);
    }
  }
  return leftOut;
}

/** model.safetensors.index.json of a sharded result. */
function indexOf(plan: Plan): string {
  const weightMap: Record<string, string> = {};
  for (const file of plan.files) for (const { name } of file.outputs) weightMap[name] = file.name;
  const sorted = Object.fromEntries(Object.entries(weightMap).sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify({ metadata: { total_size: plan.outputBytes }, weight_map: sorted }, null, 2)}\n`;
}

/** @internal Checks the options of {@link quantizeCheckpoint}. */
export function checkSpec(optionsValue: unknown): QuantizeCheckpointOptions {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, OPTIONS) as Record<string, unknown>;
  if (typeof given['output'] !== 'string' || given['output'] === '') {
    throw new InvalidArgumentError('output', 'Expected output to name the folder to create.');
  }
  validate.oneOf('dtype', given['dtype'], ['int4', 'int8']);
  if (given['scheme'] !== undefined) validate.oneOf('scheme', given['scheme'], ['symmetric', 'asymmetric']);
  if (given['groupSize'] !== undefined && given['groupSize'] !== null)
    validate.integer('groupSize', given['groupSize'], 1);
  validate.boolean('overwrite', given['overwrite'], false);
  for (const name of ['include', 'exclude'] as const) {
    const pattern = given[name];
    if (pattern !== undefined && (!(pattern instanceof RegExp) || pattern.global || pattern.sticky)) {
      throw new InvalidArgumentError(name, `Expected ${name} to be a RegExp without the flags g and y.`);
    }
  }
  if (given['onProgress'] !== undefined && typeof given['onProgress'] !== 'function') {
    throw new InvalidArgumentError('onProgress', 'Expected onProgress to be a function.');
  }
  validate.abortSignal('signal', given['signal']);
  return given as unknown as QuantizeCheckpointOptions;
}

/**
 * Quantizes the linear layers of a checkpoint to int4 or int8 and writes a Hugging Face folder in the compressed-tensors
 * layout (format "pack-quantized"), which vLLM and transformers load.
 *
 * The weights are streamed in blocks of rows: memory stays bounded whatever the size of the checkpoint. The folder appears
 * under its name when it is complete, or not at all.
 *
 * @param input - A `.safetensors` file, or a folder with one or several of them; float32, float16 or bfloat16.
 * @param options - At least `dtype` and `output`.
 * @returns What became of each tensor: sizes, SQNR, cosine similarity, errors.
 * @throws {@link CheckpointError} if the input can't be read or quantized as asked; {@link NonFiniteError} if a weight is NaN
 *   or infinite; {@link OutputError} if the result can't be written; {@link InvalidArgumentError} for wrong options; the
 *   signal's reason when it aborts.
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
  const checked = checkSpec(options);
  const start = performance.now();
  checked.signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(input);
  try {
    if (`${resolve(checked.output)}${sep}`.startsWith(`${resolve(checkpoint.folder ?? input)}${sep}`)) {
      const message = `Expected the output folder to lie outside the input, but ${checked.output} is ${input} or inside it.`;
      throw new OutputError('OUTPUT_EXISTS', message, { path: checked.output });
    }
    const plan = planQuantization(checkpoint, checked);
    const folder = await OutputFolder.create(checked.output, plan.fileBytes, checked.overwrite ?? false);
    try {
      const tensors = await new Run(plan, folder, checked.onProgress, checked.signal).run();
      const leftOut = await copyOtherFiles(checkpoint, folder);
      if (plan.files.length > 1) await folder.writeText('model.safetensors.index.json', indexOf(plan));
      await folder.writeText('config.json', `${JSON.stringify(plan.config, null, 2)}\n`);
      checked.signal?.throwIfAborted();
      await folder.publish();
      return summarize(input, checked.output, plan, tensors, leftOut, (performance.now() - start) / 1000);
    } catch (error) {
      await folder.discard();
      throw error;
    }
  } finally {
    await checkpoint.close();
  }
}

function summarize(
  input: string,
  output: string,
  plan: Plan,
  tensors: readonly TensorReport[],
  leftOut: readonly string[],
  seconds: number,
): QuantizationReport {
  let bits = 0;
  let weights = 0;
  for (const { bitsPerWeight, shape } of tensors) {
    const count = validate.product(shape);
    bits += bitsPerWeight * count;
    weights += count;
  }
  const worst = tensors.reduce((a, b) => (b.sqnrDb < a.sqnrDb ? b : a));
  return {
    input,
    output,
    tensors,
    copied: plan.files.flatMap((file) => file.copied.map(({ name }) => name)),
    leftOut,
    bitsPerWeight: weights === 0 ? 0 : bits / weights,
    inputBytes: plan.inputBytes,
    outputBytes: plan.outputBytes,
    worstTensor: worst.name,
    seconds,
  };
}
