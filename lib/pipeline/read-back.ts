/**
 * Reading a result back before it gets its name: every weight through the reader of its layout, from the files and the config
 * alone, against the original.
 *
 * @module
 */
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js';
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import { weightsOf } from '../checkpoint/weights.js';
import { CheckpointError, NonFiniteError, OutputError } from '../errors.js';
import { compareWeights, type TensorComparison, type WeightPair } from './compare-weights.js';
import type { MemoryPlan } from './memory.js';
import type { Progress } from './run.js';
import type { Task, TaskKind } from './task.js';
import { sameShape } from './verify.js';

/** What a result must reach to get its name. */
export interface Thresholds {
  /** The lowest signal to quantization noise of a tensor, in decibels. */
  readonly minSqnr?: number | undefined;
  /** The lowest cosine similarity of a tensor. */
  readonly minCosine?: number | undefined;
}

/** Rows listed for each tensor. */
const WORST_ROWS = 3;

/** Tensors that a message names. */
const NAMED = 20;

function failed(path: string, what: string, cause?: unknown): OutputError {
  const message =
    `What was written for ${path} is not what it should be: ${what}. It was thrown away. ` +
    'If the disk and the input are sound, this is a fault of lowbit: please report it.';
  return new OutputError('VERIFICATION_FAILED', message, { path, cause });
}

/** Whether a weight's values must come back as they were. */
function isExact(kind: TaskKind): boolean {
  return kind === 'copied' || kind === 'repacked';
}

function checkTensor(path: string, task: Task, { name, identical, sqnrDb }: TensorComparison): void {
  const { kind } = task;
  const isMade = kind === 'quantized' && task.reference !== undefined;
  if ((isExact(kind) || isMade) && !identical)
    throw failed(path, `${name} was ${kind}, but other values are read back`);
  // The nearest code is never further away than the code of zero.
  if (kind === 'quantized' && sqnrDb < 0) throw failed(path, `${name} lies further from the original than zeros would`);
}

/** Scales of static activations must come back as they were. */
async function checkInput(path: string, task: Task, { name, input }: Weight): Promise<void> {
  if (task.input === undefined) return;
  const [expected, found] = [await task.input(), await input?.read()];
  const isSame =
    found?.dtype === expected.dtype && found.scale === expected.scale && found.zeroPoint === expected.zeroPoint;
  if (!isSame) throw failed(path, `the static activations of ${name} are not those that were written`);
}

/** A method's codes were read back as it made them: how far those are from the weight, it has measured. */
async function asMeasured(task: Task, comparison: TensorComparison): Promise<TensorComparison> {
  const { measured = null } = (await task.notes?.()) ?? {};
  if (measured === null) return comparison;
  const sqnrDb = measured.sqnrDb ?? Number.POSITIVE_INFINITY; // JSON has none
  return { ...comparison, ...measured, sqnrDb, identical: sqnrDb === Number.POSITIVE_INFINITY };
}

/** What falls short, one line for each. */
export function shortcomings(
  tensors: readonly { name: string; sqnrDb: number; cosine: number }[],
  { minSqnr, minCosine }: Thresholds,
): string[] {
  const found: string[] = [];
  for (const { name, sqnrDb, cosine } of tensors) {
    if (minSqnr !== undefined && sqnrDb < minSqnr) {
      found.push(`${name}: ${sqnrDb.toFixed(1)} dB < ${minSqnr.toFixed(1)} dB`);
    }
    if (minCosine !== undefined && cosine < minCosine) {
      found.push(`${name}: cosine ${cosine.toFixed(6)} < ${minCosine}`);
    }
  }
  return found;
}

function checkThresholds(path: string, tensors: readonly TensorComparison[], thresholds: Thresholds): void {
  const found = shortcomings(tensors, thresholds);
  if (found.length === 0) return;
  const rest = found.length > NAMED ? `\n  and ${found.length - NAMED} more` : '';
  const message =
    `${path} falls short of what was asked for:\n  ${found.slice(0, NAMED).join('\n  ')}${rest}\n` +
    'The work is kept: the same call with other thresholds ends it without doing it again, restart (--restart) begins anew.';
  throw new OutputError('BELOW_THRESHOLD', message, { path });
}

function pairsOf(path: string, tasks: readonly Task[], weights: readonly Weight[]): WeightPair[] {
  const byName = new Map(weights.map((weight) => [weight.name, weight]));
  return tasks.map(({ weight, reference = weight }) => {
    const quantized = byName.get(weight.name);
    if (quantized === undefined) throw failed(path, `${weight.name} is missing`);
    if (!sameShape(weight, quantized)) {
      throw failed(path, `${weight.name} has the shape [${quantized.shape}] instead of [${weight.shape}]`);
    }
    return { original: reference, quantized };
  });
}

/** Whether something that is not finite got into the result without reason; casts can overflow. */
function isFault(error: unknown, tasks: readonly Task[]): boolean {
  return error instanceof NonFiniteError && tasks.find(({ weight }) => weight.name === error.tensor)?.kind !== 'cast';
}

/**
 * Compares what lies in `written` with the weights it was made from.
 *
 * @param path - The name that it will have, for messages.
 * @returns A comparison for each task.
 * @throws {@link OutputError} `VERIFICATION_FAILED` if it can't be read, lacks a weight, or holds values that can't be right;
 *   `BELOW_THRESHOLD`.
 */
export async function verifyResult(
  path: string,
  written: string,
  tasks: readonly Task[],
  memory: MemoryPlan,
  thresholds: Thresholds,
  onProgress: ((progress: Progress) => void) | undefined,
  signal: AbortSignal | undefined,
): Promise<TensorComparison[]> {
  // Numbers that follow from a config are no weights of the original.
  const ours = tasks.filter(({ weight }) => weight.parts.length > 0);
  let result: Checkpoint | null = null;
  try {
    result = await openCheckpoint(written);
    const pairs = pairsOf(path, ours, await weightsOf(result));
    const totalBytes = ours.reduce((sum, { weight }) => sum + storedBytes(weight), 0);
    let bytes = 0;
    const compared = await compareWeights(pairs, {
      blockElements: memory.blockElements,
      slots: memory.slots,
      worstRows: WORST_ROWS,
      signal,
      onBlock: (weight, more, done) => {
        bytes += more;
        const [tensor, totalTensors] = [weight.name, ours.length];
        onProgress?.({ stage: 'verify', tensor, bytes: Math.round(bytes), totalBytes, tensors: done, totalTensors });
      },
    });
    for (const [i, comparison] of compared.entries()) {
      checkTensor(path, ours[i] as Task, comparison);
      await checkInput(path, ours[i] as Task, (pairs[i] as WeightPair).quantized);
    }
    const measured = await Promise.all(compared.map((comparison, i) => asMeasured(ours[i] as Task, comparison)));
    const changed = measured.filter((_, i) => ours[i]?.kind !== 'copied');
    checkThresholds(path, changed, thresholds);
    return measured;
  } catch (error) {
    const ofResult = error instanceof CheckpointError && error.path.startsWith(written);
    if (ofResult || isFault(error, ours)) throw failed(path, (error as Error).message, error);
    throw error;
  } finally {
    await result?.close();
  }
}
