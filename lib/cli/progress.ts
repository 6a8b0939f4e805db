/**
 * Progress on standard error: a bar on a terminal, plain lines otherwise.
 *
 * @module
 */
import { Presets, SingleBar } from 'cli-progress';
import type { EvaluationProgress } from '../evaluate/evaluate-model.js';
import type { Progress } from '../pipeline/run.js';
import { bytes, duration } from './format.js';

const STAGES: Readonly<Record<Progress['stage'], string>> = {
  calibrate: 'calibrated',
  write: 'written',
  verify: 'verified',
};

export interface ProgressDisplay<P> {
  update(progress: P): void;
  /** Leaves the terminal ready for other output. */
  stop(): void;
}

/** Reads a stream's properties of a terminal, so that tests can stand in for one. */
type Stream = NodeJS.WritableStream & { isTTY?: boolean };

/** How much is done of how much, and what is said about it. */
interface State {
  /** What is being done; another stage begins with nothing done. */
  readonly stage: string;
  readonly done: number;
  readonly total: number;
  /** What a bar has to its right, and a line after its percentage; `seconds` of this stage. */
  text(seconds: number): string;
  /** What is in work, for bars. */
  readonly current: string;
}

type Describe<P> = (progress: P) => State;

/** Of a run over tensors. */
export function progressDisplay(stream: Stream): ProgressDisplay<Progress> {
  return displayOf(stream, ({ stage, bytes: done, totalBytes, tensors, totalTensors, tensor }) => ({
    stage: STAGES[stage],
    done,
    total: totalBytes,
    text: (seconds) =>
      stage === 'calibrate'
        ? `${tensors} of ${totalTensors} blocks`
        : `${tensors} of ${totalTensors} tensors, ${bytes(done / seconds)}/s`,
    current: tensor,
  }));
}

/** Of the evaluation of a model. */
export function evaluationDisplay(stream: Stream): ProgressDisplay<EvaluationProgress> {
  return displayOf(stream, ({ model, windows, totalWindows, perplexity }) => ({
    stage: 'evaluated',
    done: windows,
    total: totalWindows,
    text: () => `${windows} of ${totalWindows} windows, perplexity ${perplexity.toFixed(4)}`,
    current: model,
  }));
}

function displayOf<P>(stream: Stream, describe: Describe<P>): ProgressDisplay<P> {
  return stream.isTTY === true ? bar(stream, describe) : lines(stream, describe);
}

/** Seconds since the current stage began. */
class StageClock {
  private start = performance.now();
  private stage: string | null = null;

  /** Whether that is another stage than the last time. */
  enter(stage: string): boolean {
    if (stage === this.stage) return false;
    this.stage = stage;
    this.start = performance.now();
    return true;
  }

  get seconds(): number {
    return Math.max(1, performance.now() - this.start) / 1000;
  }
}

function bar<P>(stream: Stream, describe: Describe<P>): ProgressDisplay<P> {
  const clock = new StageClock();
  let started = false;
  const single = new SingleBar(
    {
      format: '{stage} {bar} {percentage} % | {text} | {eta_formatted} left | {current}',
      stream,
      hideCursor: true,
      clearOnComplete: true,
      etaBuffer: 50,
    },
    Presets.shades_classic,
  );
  return {
    update(progress) {
      const { stage, done, total, text, current } = describe(progress);
      const isNew = clock.enter(stage);
      const payload = { stage, text: text(clock.seconds), current };
      if (isNew) single.start(total, done, payload);
      else single.update(done, payload);
      started = true;
    },
    stop() {
      if (started) single.stop();
    },
  };
}

/** A line for every tenth of the work. */
function lines<P>(stream: Stream, describe: Describe<P>): ProgressDisplay<P> {
  const clock = new StageClock();
  let shown = 0;
  return {
    update(progress) {
      const { stage, done, total, text } = describe(progress);
      if (clock.enter(stage)) shown = 0;
      const tenth = Math.floor((10 * done) / Math.max(1, total));
      if (tenth <= shown) return;
      shown = tenth;
      const { seconds } = clock;
      const left = done < total ? `, about ${duration((seconds * (total - done)) / done)} left` : '';
      stream.write(`${stage}: ${10 * tenth} %, ${text(seconds)}${left}\n`);
    },
    stop() {},
  };
}
