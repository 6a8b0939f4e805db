/**
 * Carrying out a plan: the result under its name, complete, or what is done kept for the next run.
 *
 * @module
 */
import { stat } from 'node:fs/promises';
import { basename, resolve, sep } from 'node:path';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { readError } from '../checkpoint/file.js';
import { hashFiles } from '../checkpoint/file-hash.js';
import { Output } from '../checkpoint/output.js';
import { checkReadingOptions, READING_OPTIONS, type ReadingOptions } from '../checkpoint/weights.js';
import {
  CheckpointError,
  InvalidArgumentError,
  invalidArgument,
  NonFiniteError,
  OutputError,
  ScaleOverflowError,
} from '../errors.js';
import { capabilities } from '../runtime.js';
import { comparisonOf, noSums } from '../tensor/compare.js';
import * as validate from '../validate.js';
import type { RowComparison, TensorComparison } from './compare-weights.js';
import { hashOf, type InputIdentity, Journal } from './journal.js';
import { MANIFEST_NAME, manifestText } from './manifest.js';
import { planMemory } from './memory.js';
import type { PartSummary } from './method-parts.js';
import { copyOtherFiles } from './other-files.js';
import { type Plan, tasksOf } from './plan.js';
import { verifyResult } from './read-back.js';
import { type Progress, Run, type WrittenTensor } from './run.js';
import type { Task } from './task.js';

/** What is known before the work begins. */
export interface RunStart {
  /** The most bytes of memory that the process will take. */
  readonly peakBytes: number;
  /** Bytes of the result. */
  readonly outputBytes: number;
  /** Whether it goes on where another run ended. */
  readonly continued: boolean;
}

/** What became of a weight. How far it is from the original is read back from the result; null without `verify`. */
export interface TensorReport extends WrittenTensor {
  /** Signal to quantization noise in decibels; Infinity if nothing was lost. */
  readonly sqnrDb: number | null;
  /** Cosine similarity, −1 to 1. */
  readonly cosine: number | null;
  /** Mean squared error. */
  readonly mse: number | null;
  /** The largest error. */
  readonly maxAbs: number | null;
  /** The three rows with the lowest SQNR; none if nothing was lost. */
  readonly worstRows: readonly RowComparison[] | null;
  /** With a method: the squared error of the layer's outputs, in parts of their squares, on the calibration text. */
  readonly relativeError?: number | null;
  /** What did not go as asked, in sentences. */
  readonly warnings?: readonly string[];
}

/** How a plan is carried out. */
export interface RunOptions extends ReadingOptions {
  /** The folder to create; for `gguf` the file, whose name ends in `.gguf`. */
  readonly output: string;
  /** Whether to replace `output` if it exists. Default false. */
  readonly overwrite?: boolean;
  /** Whether to throw away what an unfinished run left. Default false: it is continued. */
  readonly restart?: boolean;
  /** The most bytes of memory that the process may take. Default: what is fast, some 200 MB. */
  readonly maxMemory?: number;
  /** Whether the manifest holds the SHA-256 of the input files, which reads them once more. Default true. */
  readonly hashInputs?: boolean;
  /**
   * Whether the result is read back and compared with the input before it gets its name; what can't be read, lacks a weight or
   * holds other values than it must never appears. Default true.
   */
  readonly verify?: boolean;
  /** The lowest signal to quantization noise, in decibels, that a changed tensor may have; below it, no result appears. */
  readonly minSqnr?: number;
  /** The lowest cosine similarity that a changed tensor may have. */
  readonly minCosine?: number;
  /** Called after each block of rows, first of those that are written, then of those that are verified. */
  readonly onProgress?: (progress: Progress) => void;
  /** Called before the work begins. */
  readonly onStart?: (start: RunStart) => void;
  /** Ends the run early; the same call continues it. */
  readonly signal?: AbortSignal;
}

/** What a run did. */
export interface RunReport {
  /** The paths of both. */
  readonly input: string;
  readonly output: string;
  /** Weights that were quantized (or repacked, or cast), in the order of the input. */
  readonly tensors: readonly TensorReport[];
  /** Names of the weights that were copied unchanged. */
  readonly copied: readonly string[];
  /** Files of the input folder that were not taken over: weights in other formats. */
  readonly leftOut: readonly string[];
  /** What the result lacks or does otherwise than the input, in sentences: what a GGUF file does not tell of a tokenizer. */
  readonly warnings: readonly string[];
  /** Bits per weight over all of `tensors`. */
  readonly bitsPerWeight: number;
  /** Bytes of all tensors before and after. */
  readonly inputBytes: number;
  readonly outputBytes: number;
  /** Name of the weight with the lowest SQNR; empty without `verify`. */
  readonly worstTensor: string;
  /** Whether the result was read back and compared. */
  readonly verified: boolean;
  /** What this call took. */
  readonly seconds: number;
}

/** @internal */
export const RUN_OPTIONS = [
  ...READING_OPTIONS,
  'output',
  'overwrite',
  'restart',
  'maxMemory',
  'hashInputs',
  'verify',
  'minSqnr',
  'minCosine',
  'onProgress',
  'onStart',
  'signal',
] as const;

/** @internal */
export function checkRunOptions(given: Record<string, unknown>): void {
  if (typeof given['output'] !== 'string' || given['output'] === '') {
    throw new InvalidArgumentError('output', 'Expected output to name the folder to create.');
  }
  for (const name of ['overwrite', 'restart', 'hashInputs']) validate.boolean(name, given[name], false);
  const verify = validate.boolean('verify', given['verify'], true);
  for (const name of ['minSqnr', 'minCosine']) {
    if (given[name] === undefined) continue;
    if (typeof given[name] !== 'number' || !Number.isFinite(given[name])) {
      throw invalidArgument(name, 'a finite number', given[name]);
    }
    if (!verify)
      throw new InvalidArgumentError(name, `Expected no ${name} with verify: false, which measures nothing.`);
  }
  if (given['maxMemory'] !== undefined) validate.integer('maxMemory', given['maxMemory'], 1);
  for (const name of ['onProgress', 'onStart']) {
    if (given[name] !== undefined && typeof given[name] !== 'function') {
      throw new InvalidArgumentError(name, `Expected ${name} to be a function.`);
    }
  }
  validate.abortSignal('signal', given['signal']);
  checkReadingOptions(given);
}

async function identityOf(path: string): Promise<InputIdentity> {
  try {
    const { size, mtimeNs } = await stat(path, { bigint: true });
    return { file: basename(path), bytes: Number(size), modified: String(mtimeNs) };
  } catch (cause) {
    throw readError(path, cause);
  }
}

/** Whether the same call can go on from where an error ended this one. */
function canContinue(error: unknown): boolean {
  if (error instanceof OutputError && error.code === 'VERIFICATION_FAILED') return false;
  const isFault = [CheckpointError, NonFiniteError, ScaleOverflowError].some((type) => error instanceof type);
  return !isFault || (error as CheckpointError).code === 'READ_FAILED';
}

/** @internal Does all that a plan says. */
export async function carryOut(
  input: string,
  checkpoint: Checkpoint,
  plan: Plan,
  options: RunOptions,
): Promise<RunReport> {
  const start = performance.now();
  const { output: path, signal } = options;
  if (`${resolve(path)}${sep}`.startsWith(`${resolve(checkpoint.folder ?? input)}${sep}`)) {
    const message = `Expected the output to lie outside the input, but ${path} is ${input} or inside it.`;
    throw new OutputError('OUTPUT_EXISTS', message, { path });
  }
  if (plan.isSingleFile && !path.toLowerCase().endsWith('.gguf')) {
    throw new InvalidArgumentError(
      'output',
      `Expected output to be a file whose name ends in .gguf but received ${path}.`,
    );
  }
  const tasks = tasksOf(plan);
  const tensors = tasks.reduce((sum, { weight, outputs }) => sum + weight.parts.length + 2 * outputs.length, 0);
  plan.method?.checkMemory(options.maxMemory);
  // What a method took may not have been given back when its results are written.
  const before = plan.method?.bytes ?? 0;
  const memory = planMemory(tasks, tensors, options.maxMemory === undefined ? undefined : options.maxMemory - before);
  const paths = checkpoint.files.map((file) => file.path);
  const inputs = await Promise.all(paths.map(identityOf));
  const { version } = capabilities();
  const output = await Output.open(path, {
    bytes: plan.fileBytes,
    overwrite: options.overwrite ?? false,
    restart: options.restart ?? false,
  });
  let hashing: ReturnType<typeof hashFiles> | null = null;
  const decided = hashOf([version, plan.decisions, options.gptqVersion ?? null]);
  const journal = await Journal.open(output, { plan: decided, inputs }).catch(async (error: unknown) => {
    await (output.continued ? output.leave() : output.discard());
    throw error;
  });
  try {
    options.onStart?.({
      peakBytes: before + memory.peakBytes,
      outputBytes: plan.fileBytes,
      continued: output.continued,
    });
    hashing = options.hashInputs === false ? null : hashFiles(paths);
    let written: WrittenTensor[];
    try {
      await plan.method?.produce(output.note('method'), plan.inputBytes, options);
      written = await new Run(plan.files, memory, output, journal, options.onProgress, signal).run();
    } finally {
      await journal.close();
    }
    const leftOut = plan.isSingleFile ? [] : await copyOtherFiles(checkpoint, output);
    for (const [name, text] of plan.texts) await output.writeText(name, text);
    const file = plan.isSingleFile ? (plan.files[0]?.name as string) : null;
    const comparisons =
      options.verify === false
        ? null
        : await verifyResult(
            path,
            file === null ? output.folder : output.file(file),
            tasks,
            memory,
            options,
            options.onProgress,
            signal,
          );
    const reports = await withNotes(tasks, withErrors(written, comparisons));
    const hashes = await hashing?.hashes;
    const manifest = {
      version,
      inputs: inputs.map(({ file, bytes }, i) => ({ file, bytes, sha256: hashes?.get(paths[i] as string) ?? null })),
      decisions: plan.decisions,
      tensors: reports.filter(({ kind }) => kind !== 'copied'),
    };
    await output.writeText(MANIFEST_NAME, manifestText(manifest));
    signal?.throwIfAborted();
    await output.publish(file === null ? undefined : { file, beside: MANIFEST_NAME });
    const verified = comparisons !== null;
    return summarize(input, path, plan, reports, leftOut, verified, (performance.now() - start) / 1000);
  } catch (error) {
    hashing?.stop();
    // What another process found worth keeping stays so, however early this one ends.
    const hasBegun = output.continued || journal.unitCount > 0 || plan.method?.begun === true;
    await (hasBegun && canContinue(error) ? output.leave() : output.discard());
    throw error;
  }
}

/** Reports with the errors that were measured. What has no original, such as numbers of a config, lost nothing. */
function withErrors(
  written: readonly WrittenTensor[],
  comparisons: readonly TensorComparison[] | null,
): TensorReport[] {
  if (comparisons === null) {
    return written.map((tensor) => ({
      ...tensor,
      sqnrDb: null,
      cosine: null,
      mse: null,
      maxAbs: null,
      worstRows: null,
    }));
  }
  const byName = new Map(comparisons.map((comparison) => [comparison.name, comparison]));
  const nothing = { ...comparisonOf(noSums()), worstRows: [] };
  return written.map((tensor) => {
    const { sqnrDb, cosine, mse, maxAbs, worstRows } = byName.get(tensor.name) ?? nothing;
    return { ...tensor, sqnrDb, cosine, mse, maxAbs, worstRows };
  });
}

/** With what a method noted about its weights. */
async function withNotes(tasks: readonly Task[], reports: readonly TensorReport[]): Promise<TensorReport[]> {
  const notes = new Map<string, PartSummary>();
  for (const { weight, notes: read } of tasks) {
    const found = await read?.();
    if (found != null) notes.set(weight.name, found);
  }
  return reports.map((report) => {
    const found = notes.get(report.name);
    return found === undefined ? report : { ...report, relativeError: found.relativeError, warnings: found.warnings };
  });
}

function summarize(
  input: string,
  output: string,
  plan: Plan,
  reports: readonly TensorReport[],
  leftOut: readonly string[],
  verified: boolean,
  seconds: number,
): RunReport {
  const tensors = reports.filter(({ kind }) => kind !== 'copied');
  let bits = 0;
  let weights = 0;
  for (const { bitsPerWeight, shape } of tensors) {
    const count = validate.product(shape);
    bits += bitsPerWeight * count;
    weights += count;
  }
  return {
    input,
    output,
    tensors,
    copied: reports.filter(({ kind }) => kind === 'copied').map(({ name }) => name),
    leftOut,
    warnings: [...(plan.warnings ?? []), ...tensors.flatMap(({ warnings = [] }) => warnings)],
    bitsPerWeight: weights === 0 ? 0 : bits / weights,
    inputBytes: plan.inputBytes,
    outputBytes: plan.outputBytes,
    worstTensor: verified ? (worstOf(tensors)?.name ?? '') : '',
    verified,
    seconds,
  };
}

function worstOf(tensors: readonly TensorReport[]): TensorReport | null {
  const of = ({ sqnrDb }: TensorReport) => sqnrDb ?? Number.POSITIVE_INFINITY;
  return tensors.reduce<TensorReport | null>((a, b) => (a === null || of(b) < of(a) ? b : a), null);
}
