/**
 * Progress on standard error: a bar on a terminal, plain lines otherwise.
 *
 * @module
 */
import { Presets, SingleBar } from 'cli-progress';
import type { Progress } from '../pipeline/run.js';
import { bytes, duration } from './format.js';

const STAGES: Readonly<Record<Progress['stage'], string>> = { write: 'written', verify: 'verified' };

export interface ProgressDisplay {
  update(progress: Progress): void;
  /** Leaves the terminal ready for other output. */
  stop(): void;
}

/** Reads a stream's properties of a terminal, so that tests can stand in for one. */
type Stream = NodeJS.WritableStream & { isTTY?: boolean };

export function progressDisplay(stream: Stream): ProgressDisplay {
  return stream.isTTY === true ? bar(stream) : lines(stream);
}

function bar(stream: Stream): ProgressDisplay {
  let start = performance.now();
  let stage: Progress['stage'] | null = null;
  const single = new SingleBar(
    {
      format: '{stage} {bar} {percentage} % | {tensors} tensors | {rate} | {eta_formatted} left | {tensor}',
      stream,
      hideCursor: true,
      clearOnComplete: true,
      etaBuffer: 50,
    },
    Presets.shades_classic,
  );
  return {
    update(progress) {
      const isNew = progress.stage !== stage;
      if (isNew) start = performance.now();
      const payload = {
        stage: STAGES[progress.stage],
        tensors: `${progress.tensors}/${progress.totalTensors}`,
        rate: `${bytes((1000 * progress.bytes) / Math.max(1, performance.now() - start))}/s`,
        tensor: progress.tensor,
      };
      if (isNew) single.start(progress.totalBytes, progress.bytes, payload);
      else single.update(progress.bytes, payload);
      stage = progress.stage;
    },
    stop() {
      if (stage !== null) single.stop();
    },
  };
}

/** A line for every tenth of the work. */
function lines(stream: Stream): ProgressDisplay {
  let start = performance.now();
  let shown = 0;
  let current: Progress['stage'] | null = null;
  return {
    update({ stage, bytes: done, totalBytes, tensors, totalTensors }) {
      if (stage !== current) {
        current = stage;
        start = performance.now();
        shown = 0;
      }
      const tenth = Math.floor((10 * done) / Math.max(1, totalBytes));
      if (tenth <= shown) return;
      shown = tenth;
      const seconds = (performance.now() - start) / 1000;
      const left = done < totalBytes ? `, about ${duration((seconds * (totalBytes - done)) / done)} left` : '';
      stream.write(
        `${STAGES[stage]}: ${10 * tenth} %, ${tensors} of ${totalTensors} tensors, ${bytes(done / seconds)}/s${left}\n`,
      );
    },
    stop() {},
  };
}
