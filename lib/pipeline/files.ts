/**
 * The files of a result: which unit of work goes where.
 *
 * @module
 */
import { basename } from 'node:path';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import type { SafetensorsDtype } from '../checkpoint/safetensors.js';
import { safetensorsFileBytes, type TensorSpec, writeSafetensors } from '../checkpoint/safetensors-writer.js';
import { CheckpointError } from '../errors.js';
import type { FilePlan } from './run.js';
import type { OutputTensor, Task } from './task.js';

/** A file of the result, with what it will take on disk. */
export interface SizedFile extends FilePlan {
  readonly bytes: number;
}

/** A checkpoint may already have a tensor of the name that a quantized one gets. */
function checkNames(outputs: readonly OutputTensor[], path: string): void {
  const seen = new Set<string>();
  for (const { name } of outputs) {
    if (seen.has(name)) {
      const message = `${path} already holds a tensor ${JSON.stringify(name)}, a name that quantizing needs.`;
      throw new CheckpointError('UNSUPPORTED_PLAN', message, { path, tensor: name });
    }
    seen.add(name);
  }
}

/** safetensors files that divide the work as the input's files do. */
export function safetensorsFiles(checkpoint: Checkpoint, tasks: readonly Task[]): SizedFile[] {
  checkNames(
    tasks.flatMap((task) => task.outputs),
    checkpoint.path,
  );
  const byPath = new Map<string, Task[]>();
  for (const task of tasks) {
    const path = task.weight.parts[0]?.path ?? checkpoint.path;
    const own = byPath.get(path);
    if (own === undefined) byPath.set(path, [task]);
    else own.push(task);
  }
  return checkpoint.files.flatMap((file): SizedFile[] => {
    const own = byPath.get(file.path) ?? [];
    if (own.length === 0 && checkpoint.files.length > 1) return [];
    const isShard = checkpoint.folder !== null && file.path.endsWith('.safetensors');
    const specs = own.flatMap(({ outputs }) =>
      outputs.map(({ name, dtype, shape }): TensorSpec => ({ name, dtype: dtype as SafetensorsDtype, shape })),
    );
    const metadata = new Map([['format', 'pt'], ...file.metadata]);
    return [
      {
        name: isShard ? basename(file.path) : 'model.safetensors',
        tasks: own,
        bytes: safetensorsFileBytes(specs, metadata),
        open: (path) => writeSafetensors(path, specs, metadata),
      },
    ];
  });
}

/** model.safetensors.index.json of a result of several files. */
export function indexOf(files: readonly FilePlan[]): string {
  const weightMap: Record<string, string> = {};
  let total = 0;
  for (const file of files) {
    for (const { name, bytes } of file.tasks.flatMap((task) => task.outputs)) {
      weightMap[name] = file.name;
      total += bytes;
    }
  }
  const sorted = Object.fromEntries(Object.entries(weightMap).sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify({ metadata: { total_size: total }, weight_map: sorted }, null, 2)}\n`;
}
