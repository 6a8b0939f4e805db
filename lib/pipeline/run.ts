/**
 * Running a plan: a stream of blocks from the input through the kernels into the output files, every finished unit noted in
 * the journal.
 *
 * @module
 */
import { addon } from '../addon.js';
import type { Piece } from '../checkpoint/layouts/layout.js';
import type { Output } from '../checkpoint/output.js';
import { pageOffsetFor, Scratch, sharedPages } from '../checkpoint/scratch.js';
import type { TensorFile } from '../checkpoint/tensor-file.js';
import { storedBytes } from '../checkpoint/weight.js';
import { NonFiniteError, ScaleOverflowError } from '../errors.js';
import { Gathered } from './gathered.js';
import type { Entry, Journal } from './journal.js';
import { blockRows, type MemoryPlan, outputBytesOf } from './memory.js';
import type { Task, TaskKind } from './task.js';
import { inParallel } from './workers.js';

/** How far a run is. */
export interface Progress {
  /** What is being done: a method runs the model, weights are written, then all are compared with the original. */
  readonly stage: 'calibrate' | 'write' | 'verify';
  /** The tensor that was worked on last. */
  readonly tensor: string;
  /** Bytes of input done, and in all. */
  readonly bytes: number;
  readonly totalBytes: number;
  /** Weights done, and in all. */
  readonly tensors: number;
  readonly totalTensors: number;
}

/** What a weight was written as. */
export interface WrittenTensor {
  readonly name: string;
  /** What was done with it. */
  readonly kind: TaskKind;
  readonly shape: readonly number[];
  /** Its type before and after. */
  readonly from: string;
  readonly to: string;
  /** Bits per weight in the file, scales and zero points included, but not its shape. */
  readonly bitsPerWeight: number;
  /** What is stored for it before and after, in bytes. */
  readonly inputBytes: number;
  readonly outputBytes: number;
}

/** A file of the result, and what goes into it. */
export interface FilePlan {
  readonly name: string;
  readonly tasks: readonly Task[];
  /** Begins it, or opens what is there of it. */
  open(path: string): Promise<TensorFile>;
}

/** Whether what a journal reports can be of this work: what is reported must not depend on what somebody wrote there. */
function isReport(value: unknown, { weight, kind, as }: Task): value is WrittenTensor {
  const report = value as Partial<WrittenTensor> | null;
  return (
    report?.name === weight.name &&
    report.kind === kind &&
    report.to === as &&
    report.from === weight.encoding.dtype &&
    JSON.stringify(report.shape) === JSON.stringify(weight.shape) &&
    [report.bitsPerWeight, report.inputBytes, report.outputBytes].every(Number.isFinite)
  );
}

/** A unit under way. */
interface Unit {
  readonly task: Task;
  readonly file: OpenFile;
  readonly prepared: Promise<void> | null;
  /** Null where blocks are written as they come. */
  readonly gathered: Gathered | null;
  blocksLeft: number;
  bytesLeft: number;
}

interface OpenFile {
  readonly writer: TensorFile;
  unitsLeft: number;
}

interface Block {
  readonly unit: Unit;
  readonly begin: number;
  readonly end: number;
}

/** Finished units wait this long, in milliseconds, for others that are flushed to disk with them. */
const FLUSH_INTERVAL = 1000;

/** Bytes that are read back at once for their checksum. */
const CHECKSUM_BYTES = 2 ** 20;

export class Run {
  private readonly stop = new AbortController();
  private readonly reports = new Map<string, WrittenTensor>();
  private waiting: { entry: Entry; file: OpenFile }[] = [];
  private lastFlush = performance.now();
  private flushing: Promise<void> = Promise.resolve();
  private readonly unused: Uint8Array[] = [];
  private bytesDone = 0;
  private readonly totalBytes: number;
  private readonly totalTensors: number;

  constructor(
    private readonly files: readonly FilePlan[],
    private readonly memory: MemoryPlan,
    private readonly output: Output,
    private readonly journal: Journal,
    private readonly onProgress: ((progress: Progress) => void) | undefined,
    signal: AbortSignal | undefined,
  ) {
    const tasks = files.flatMap((file) => file.tasks);
    this.totalTensors = tasks.length;
    this.totalBytes = tasks.reduce((sum, { weight }) => sum + storedBytes(weight), 0);
    signal?.addEventListener('abort', () => this.stop.abort(signal.reason), { signal: this.stop.signal });
    if (signal?.aborted) this.stop.abort(signal.reason);
  }

  /** Does all the work that the journal does not say is done; returns the reports in the order of the plan. */
  async run(): Promise<WrittenTensor[]> {
    const open = new Set<OpenFile>();
    try {
      for (const file of this.files) await this.runFile(file, open);
      await this.flush(true);
    } finally {
      await this.flushing.catch(() => undefined);
      await Promise.all([...open].map(({ writer }) => writer.close()));
    }
    return this.files.flatMap((file) => file.tasks.map(({ weight }) => this.reports.get(weight.name) as WrittenTensor));
  }

  private async runFile(file: FilePlan, open: Set<OpenFile>): Promise<void> {
    const current: OpenFile = { writer: await file.open(this.output.file(file.name)), unitsLeft: file.tasks.length };
    open.add(current);
    try {
      await inParallel(this.blocksOf(file, current), this.memory.slots, this.stop, () => {
        const scratch = new Scratch();
        return (block) => this.do(block, scratch);
      });
    } catch (error) {
      await this.flush(true).catch(() => undefined);
      throw error;
    }
    await this.flush(true);
    open.delete(current);
    await current.writer.close();
  }

  /** The work on a file, in the order of the plan, without what is done. */
  private async *blocksOf(file: FilePlan, open: OpenFile): AsyncGenerator<Block> {
    for (const task of file.tasks) {
      this.stop.signal.throwIfAborted();
      if (await this.isDone(task, open)) continue;
      const rows = blockRows(task, this.memory.blockElements);
      const count = Math.max(1, Math.ceil(task.length / rows));
      const prepared = task.prepare?.(rows, new Scratch(), this.stop.signal) ?? null;
      prepared?.catch(() => undefined); // whoever takes the first block reports it
      const bytesLeft = outputBytesOf(task);
      const gathered = this.gathering(task);
      const unit: Unit = { task, file: open, prepared, gathered, blocksLeft: count, bytesLeft };
      for (let index = 0; index < count; index++) {
        yield { unit, begin: index * rows, end: Math.min(task.length, (index + 1) * rows) };
      }
    }
  }

  /** Memory in which a unit is gathered, if it is; that of units that are done is used again. */
  private gathering(task: Task): Gathered | null {
    const { gatherBytes } = this.memory;
    if (task.transposed !== true || outputBytesOf(task) > gatherBytes) return null;
    return new Gathered(task.outputs, this.unused.pop() ?? new Uint8Array(gatherBytes));
  }

  /** Whether the journal says so, and the bytes are those that it speaks of. */
  private async isDone(task: Task, file: OpenFile): Promise<boolean> {
    const entry = this.journal.done.get(task.weight.name);
    if (entry === undefined || !isReport(entry.report, task)) return false;
    if (entry.checksum !== (await this.checksum(task, file.writer))) return false;
    this.reports.set(task.weight.name, entry.report);
    this.progress(task, storedBytes(task.weight));
    return true;
  }

  /** The checksum of the tensors that a unit wrote, one after the other. */
  private async checksum(task: Task, writer: TensorFile): Promise<string> {
    const sums = new BigUint64Array(4);
    const largest = task.outputs.reduce((most, { bytes }) => Math.max(most, bytes), 0);
    const most = Math.min(CHECKSUM_BYTES, largest);
    const buffer = sharedPages(most);
    for (const { name, bytes } of task.outputs) {
      for (let begin = 0; begin < bytes; begin += most) {
        this.stop.signal.throwIfAborted();
        const length = Math.min(most, bytes - begin);
        const part = new Uint8Array(buffer, pageOffsetFor(writer.positionOf(name, begin, length)), length);
        await writer.read(name, begin, part);
        addon.checksum(part, sums);
      }
    }
    return Array.from(sums, (sum) => sum.toString(16).padStart(16, '0')).join('');
  }

  private async do({ unit, begin, end }: Block, scratch: Scratch): Promise<void> {
    const { task, file } = unit;
    const { signal } = this.stop;
    signal.throwIfAborted();
    await unit.prepared;
    let result: Awaited<ReturnType<Task['block']>>;
    try {
      result = await task.block(begin, end, scratch, signal);
    } catch (error) {
      throw named(error, task, begin);
    }
    for (const piece of result.pieces) {
      if (unit.gathered === null) await write(file.writer, piece);
      else unit.gathered.add(piece);
      unit.bytesLeft -= piece.data.length;
    }
    if (--unit.blocksLeft === 0) await this.finish(unit);
    this.progress(task, result.bytesRead);
  }

  private async finish({ task, file, gathered, bytesLeft }: Unit): Promise<void> {
    const { weight, kind, as } = task;
    if (bytesLeft !== 0) throw new RangeError(`${bytesLeft} bytes of ${weight.name} were not written`);
    if (gathered !== null) {
      for (const [name, bytes] of gathered.tensors) await file.writer.write(name, 0, bytes);
      this.unused.push(gathered.memory);
    }
    const outputBytes = outputBytesOf(task);
    const shapeBytes = task.outputs.reduce((sum, { dtype, bytes }) => sum + (dtype === 'I64' ? bytes : 0), 0);
    const count = weight.rows * weight.columns;
    const report: WrittenTensor = {
      name: weight.name,
      kind,
      shape: weight.shape,
      from: weight.encoding.dtype,
      to: as,
      bitsPerWeight: count === 0 ? 0 : (8 * (outputBytes - shapeBytes)) / count,
      inputBytes: storedBytes(weight),
      outputBytes,
    };
    const entry: Entry = { unit: weight.name, checksum: await this.checksum(task, file.writer), report };
    this.reports.set(weight.name, report);
    this.waiting.push({ entry, file });
    file.unitsLeft--;
    if (performance.now() - this.lastFlush > FLUSH_INTERVAL) await this.flush(false);
  }

  /** Brings finished units to disk, then into the journal. */
  private async flush(wait: boolean): Promise<void> {
    const ready = this.waiting;
    if (ready.length > 0) {
      this.waiting = [];
      this.lastFlush = performance.now();
      this.flushing = this.flushing.then(async () => {
        for (const file of new Set(ready.map((unit) => unit.file))) await file.writer.sync();
        await this.journal.append(ready.map(({ entry }) => entry));
      });
      this.flushing.catch((error: unknown) => this.stop.abort(error));
    }
    if (wait) await this.flushing;
  }

  private progress(task: Task, bytes: number): void {
    this.bytesDone += bytes;
    this.onProgress?.({
      stage: 'write',
      tensor: task.weight.name,
      bytes: Math.round(this.bytesDone),
      totalBytes: this.totalBytes,
      tensors: this.reports.size,
      totalTensors: this.totalTensors,
    });
  }
}

async function write(writer: TensorFile, { tensor, begin, data, rowBytes, stride }: Piece): Promise<void> {
  if (rowBytes === undefined || stride === undefined || rowBytes === stride) {
    await writer.write(tensor, begin, data);
    return;
  }
  for (let row = 0; row * rowBytes < data.length; row++) {
    await writer.write(tensor, begin + row * stride, data.subarray(row * rowBytes, (row + 1) * rowBytes));
  }
}

/** The error of a block in terms of its tensor. */
function named(error: unknown, { weight }: Task, firstRow: number): unknown {
  const { name, columns } = weight;
  if (error instanceof NonFiniteError) {
    const index = firstRow * columns + error.index;
    const message =
      `Tensor ${name} holds ${error.value} at index ${index} (row ${Math.floor(index / columns)}, column ${index % columns}). ` +
      'The checkpoint is damaged or training diverged; leave the tensor out with --exclude to keep it in float.';
    return new NonFiniteError(message, index, error.value, name);
  }
  if (error instanceof ScaleOverflowError) {
    const message = `A scale of tensor ${name} is too large for the type that stores it. Leave the tensor out with --exclude.`;
    return new ScaleOverflowError(message, error.index, name);
  }
  return error;
}
