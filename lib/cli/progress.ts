/**
 * Progress on standard error: a bar on a terminal, plain lines otherwise.
 *
 * @module
 */
import { Presets, SingleBar } from 'cli-progress';
import type { EvaluationProgress } from '../evaluate/evaluate-model.js';
import type { Progress } from '../pipeline/run.js';
import { bytes, duration } from './format.js';

export interface ProgressDisplay<P> {
  update(progress: P): void;
  /** Leaves the terminal ready for other output. */
  stop(): void;
}

/** Reads a stream's properties of a terminal, so that tests can stand in for one. */
type Stream = NodeJS.WritableStream & { isTTY?: boolean };

/** How much is done of how much, and what is said about it. */
interface State {
  readonly done: number;
  readonly total: number;
  /** What a bar has to its right, and a line after its percentage. */
  readonly text: string;
  /** What is in work, for bars. */
  readonly current: string;
}

type Describe<P> = (progress: P, seconds: number) => State;

/** Of a run over tensors. */
export function progressDisplay(stream: Stream): ProgressDisplay<Progress> {
  return displayOf(stream, ({ bytes: done, totalBytes, tensors, totalTensors, tensor }, seconds) => ({
    done,
    total: totalBytes,
    text: `${tensors} of ${totalTensors} tensors, ${bytes(done / seconds)}/s`,
    current: tensor,
  }));
}

/** Of the evaluation of a model. */
export function evaluationDisplay(stream: Stream): ProgressDisplay<EvaluationProgress> {
  return displayOf(stream, ({ model, windows, totalWindows, perplexity }) => ({
    done: windows,
    total: totalWindows,
    text: `${windows} of ${totalWindows} windows, perplexity ${perplexity.toFixed(4)}`,
    current: model,
  }));
}

function displayOf<P>(stream: Stream, describe: Describe<P>): ProgressDisplay<P> {
  return stream.isTTY === true ? bar(stream, describe) : lines(stream, describe);
}

function secondsSince(start: number): number {
  return Math.max(1, performance.now() - start) / 1000;
}

function bar<P>(stream: Stream, describe: Describe<P>): ProgressDisplay<P> {
  const start = performance.now();
  let started = false;
  const single = new SingleBar(
    {
      format: '{bar} {percentage} % | {text} | {eta_formatted} left | {current}',
      stream,
      hideCursor: true,
      clearOnComplete: true,
      etaBuffer: 50,
    },
    Presets.shades_classic,
  );
  return {
    update(progress) {
      const { done, total, text, current } = describe(progress, secondsSince(start));
      if (!started) single.start(total, done, { text, current });
      else single.update(done, { text, current });
      started = true;
    },
    stop() {
      if (started) single.stop();
    },
  };
}

/** A line for every tenth of the work. */
function lines<P>(stream: Stream, describe: Describe<P>): ProgressDisplay<P> {
  const start = performance.now();
  let shown = 0;
  return {
    update(progress) {
      const seconds = secondsSince(start);
      const { done, total, text } = describe(progress, seconds);
      const tenth = Math.floor((10 * done) / Math.max(1, total));
      if (tenth <= shown) return;
      shown = tenth;
      const left = done < total ? `, about ${duration((seconds * (total - done)) / done)} left` : '';
      stream.write(`${10 * tenth} %: ${text}${left}\n`);
    },
    stop() {},
  };
}
