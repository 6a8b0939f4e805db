/**
 * Progress on standard error: a bar on a terminal, plain lines otherwise.
 *
 * @module
 */
import { Presets, SingleBar } from 'cli-progress';
import type { Progress } from '../pipeline/run.js';
import { bytes, duration } from './format.js';

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
  const start = performance.now();
  let started = false;
  const single = new SingleBar(
    {
      format: '{bar} {percentage} % | {tensors} tensors | {rate} | {eta_formatted} left | {tensor}',
      stream,
      hideCursor: true,
      clearOnComplete: true,
      etaBuffer: 50,
    },
    Presets.shades_classic,
  );
  return {
    update(progress) {
      const payload = {
        tensors: `${progress.tensors}/${progress.totalTensors}`,
        rate: `${bytes((1000 * progress.bytes) / Math.max(1, performance.now() - start))}/s`,
        tensor: progress.tensor,
      };
      if (!started) single.start(progress.totalBytes, progress.bytes, payload);
      else single.update(progress.bytes, payload);
      started = true;
    },
    stop() {
      if (started) single.stop();
    },
  };
}

/** A line for every tenth of the work. */
function lines(stream: Stream): ProgressDisplay {
  const start = performance.now();
  let shown = 0;
  return {
    update({ bytes: done, totalBytes, tensors, totalTensors }) {
      const tenth = Math.floor((10 * done) / Math.max(1, totalBytes));
      if (tenth <= shown) return;
      shown = tenth;
      const seconds = (performance.now() - start) / 1000;
      const left = done < totalBytes ? `, about ${duration((seconds * (totalBytes - done)) / done)} left` : '';
      stream.write(`${10 * tenth} %: ${tensors} of ${totalTensors} tensors, ${bytes(done / seconds)}/s${left}\n`);
    },
    stop() {},
  };
}
