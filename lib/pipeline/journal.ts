/**
 * What of a run is done: a line for each unit of work, written when its bytes are on disk. A process that is killed at any
 * moment leaves a journal that another one continues from.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import type { Output } from '../checkpoint/output.js';
import { CheckpointError, OutputError, outputError } from '../errors.js';

/** An input file as it was when the run began. */
export interface InputIdentity {
  readonly file: string;
  readonly bytes: number;
  /** Nanoseconds, as a decimal number. */
  readonly modified: string;
}

/** What a journal is about. */
export interface Heading {
  /** SHA-256 of everything that decides the bytes of the result. */
  readonly plan: string;
  readonly inputs: readonly InputIdentity[];
}

/** A finished unit. */
export interface Entry {
  readonly unit: string;
  /** Of what it wrote. */
  readonly checksum: string;
  /** What is to be reported about it. */
  readonly report: unknown;
}

/** SHA-256 of a JSON value, in hexadecimal. */
export function hashOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}

const FILE = 'journal.jsonl';

/** Room that is given up when the disk is full, so that what is done can still be noted. */
const RESERVE = 'journal.reserve';
const RESERVE_BYTES = 2 ** 18;

/** Whole lines only: the last one may have been cut off. */
function linesOf(text: string): unknown[] {
  const lines: unknown[] = [];
  for (const line of text.slice(0, text.lastIndexOf('\n') + 1).split('\n')) {
    if (line === '') continue;
    try {
      lines.push(JSON.parse(line));
    } catch {
      // a line that a full disk cut off, or a page that never reached it: the others have checksums
    }
  }
  return lines;
}

function isHeading(value: unknown): value is Heading {
  const heading = value as Partial<Heading> | null;
  return typeof heading?.plan === 'string' && Array.isArray(heading.inputs) && heading.inputs.every(isInput);
}

function isInput(value: unknown): value is InputIdentity {
  const input = value as Partial<InputIdentity> | null;
  return typeof input?.file === 'string' && typeof input.bytes === 'number' && typeof input.modified === 'string';
}

function isEntry(value: unknown): value is Entry {
  const entry = value as Partial<Entry> | null;
  return typeof entry?.unit === 'string' && typeof entry.checksum === 'string' && 'report' in entry;
}

/** What another process left is continued only if it did the same with the same inputs. */
function checkHeading(output: Output, before: Heading, now: Heading): void {
  const remedy = 'Start over with restart (--restart), or choose another output.';
  for (const input of now.inputs) {
    const old = before.inputs.find(({ file }) => file === input.file);
    if (old !== undefined && (old.bytes !== input.bytes || old.modified !== input.modified)) {
      const message = `${input.file} was changed after the work on ${output.path} began: what is done no longer fits it. ${remedy}`;
      throw new CheckpointError('INPUT_CHANGED', message, { path: input.file });
    }
  }
  if (before.plan !== now.plan || before.inputs.length !== now.inputs.length) {
    const message =
      `${output.path} was begun by a run with other options, whose unfinished work lies in ${output.workPath}. ` +
      `The same options continue it. ${remedy}`;
    throw new OutputError('UNFINISHED_WORK', message, { path: output.path });
  }
}

/** The journal of an output. */
export class Journal {
  private readonly units: Set<string>;

  private constructor(
    /** What was done before, by the name of the unit. */
    readonly done: ReadonlyMap<string, Entry>,
    private readonly path: string,
    private readonly handle: FileHandle,
    private readonly reserve: string,
  ) {
    this.units = new Set(done.keys());
  }

  /** Units that it knows to be done. */
  get unitCount(): number {
    return this.units.size;
  }

  /**
   * Begins a journal, or takes up that of an output that is continued.
   *
   * @throws {@link CheckpointError} `INPUT_CHANGED`; {@link OutputError} `UNFINISHED_WORK` of a run with other options.
   */
  static async open(output: Output, heading: Heading): Promise<Journal> {
    const path = output.note(FILE);
    const done = new Map<string, Entry>();
    let begun = false; // whether what lies there belongs to this work
    if (output.continued) {
      const [first, ...entries] = linesOf(await readFile(path, 'utf8').catch(() => ''));
      if (isHeading(first)) {
        checkHeading(output, first, heading);
        begun = true;
        for (const entry of entries.filter(isEntry)) done.set(entry.unit, entry);
      }
    }
    if (!begun && output.continued) await rm(output.note('method'), { recursive: true, force: true });
    try {
      const reserve = output.note(RESERVE);
      await writeFile(reserve, Buffer.alloc(RESERVE_BYTES));
      const handle = await open(path, 'w');
      const journal = new Journal(done, path, handle, reserve);
      await journal.append([heading, ...(begun ? done.values() : [])]);
      return journal;
    } catch (cause) {
      throw outputError(path, cause);
    }
  }

  /** Notes finished units, whose bytes must be on disk already. */
  async append(lines: readonly (Entry | Heading)[]): Promise<void> {
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('');
    try {
      try {
        await this.handle.appendFile(text);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        await unlink(this.reserve);
        await this.handle.appendFile(`\n${text}`); // part of a line may be there; empty ones do not count
      }
      await this.handle.datasync();
      for (const line of lines) if ('unit' in line) this.units.add(line.unit);
    } catch (cause) {
      throw outputError(this.path, cause);
    }
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
