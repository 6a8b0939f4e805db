/**
 * What the configuration of a GPTQ or AWQ checkpoint says: `quantization_config` of config.json, quantize_config.json
 * (AutoGPTQ, GPTQModel) or quant_config.json (AutoAWQ, llm-awq), in that order, with the names that older tools used.
 *
 * Sources: ModelCloud/GPTQModel, gptqmodel/quantization/config.py; AutoGPTQ/AutoGPTQ, auto_gptq/quantization/config.py;
 * casper-hansen/AutoAWQ, awq/models/_config.py.
 *
 * @module
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError, describe } from '../../errors.js';
import type { Checkpoint, Json } from '../checkpoint.js';
import { readError } from '../file.js';

/** What was found; undefined is what it does not say. */
export interface IntegerConfig {
  /** Where it stands, for messages. */
  readonly source: string;
  readonly path: string;
  /** `gptq`, `awq`, or another one, in lower case. */
  readonly method: string | undefined;
  readonly bits: number | undefined;
  /** −1: one group for a whole row. */
  readonly groupSize: number | undefined;
  /** Whether there are no zero points but the middle. */
  readonly symmetric: boolean | undefined;
  readonly actOrder: boolean | undefined;
  /** `checkpoint_format`, `format` or `version`, in lower case: `gptq`, `gptq_v2`, `gemm`, `marlin`. */
  readonly format: string | undefined;
  /** Tools that made it: `gptqmodel:1.4.0`. */
  readonly tools: readonly string[];
  /** Other widths and group sizes that single layers may have (GPTQModel's `dynamic`). */
  readonly otherBits: ReadonlySet<number>;
  readonly otherGroupSizes: ReadonlySet<number>;
}

const FILES = ['quantize_config.json', 'quant_config.json'] as const;

/** Larger ones are no configurations. */
const MOST_BYTES = 16 << 20;

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A configuration in a file of its own, or null if there is no such file. */
async function readConfigFile(path: string): Promise<Json | null> {
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > MOST_BYTES) {
      const message = `${path} has ${size} bytes; a quantization config has at most ${MOST_BYTES}.`;
      throw new CheckpointError('CONFIG_INVALID', message, { path });
    }
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (cause instanceof CheckpointError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw readError(path, cause);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError('CONFIG_INVALID', `${path} is not valid JSON: ${(cause as Error).message}.`, {
      path,
      cause,
    });
  }
  if (isObject(value)) return value;
  throw new CheckpointError('CONFIG_INVALID', `Expected ${path} to hold a JSON object.`, { path });
}

/** The first of some synonyms that is there, with its name; null counts as absent. */
function firstOf(json: Json, names: readonly string[]): { name: string; value: unknown } | undefined {
  for (const name of names) {
    const value = Object.hasOwn(json, name) ? json[name] : undefined;
    if (value !== undefined && value !== null) return { name, value };
  }
  return undefined;
}

/** Reads fields of one object, with errors that name them. */
class Fields {
  constructor(
    private readonly json: Json,
    private readonly path: string,
    private readonly source: string,
  ) {}

  private fail(name: string, expected: string, value: unknown): never {
    const message = `Expected "${name}" of ${this.source} to be ${expected} but found ${describe(value)}.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path: this.path });
  }

  integer(names: readonly string[], lowest: number, highest: number): number | undefined {
    const found = firstOf(this.json, names);
    if (found === undefined) return undefined;
    const { name, value } = found;
    if (typeof value === 'number' && Number.isInteger(value) && value >= lowest && value <= highest) return value;
    return this.fail(name, `an integer from ${lowest} to ${highest}`, value);
  }

  /** −1 or a size. */
  groupSize(names: readonly string[]): number | undefined {
    const size = this.integer(names, -1, 2 ** 31 - 1);
    return size === 0 ? this.fail(names[0] as string, 'a size, or -1', 0) : size;
  }

  boolean(names: readonly string[]): boolean | undefined {
    const found = firstOf(this.json, names);
    if (found === undefined || typeof found.value === 'boolean') return found?.value as boolean | undefined;
    return this.fail(found.name, 'true or false', found.value);
  }

  word(names: readonly string[]): string | undefined {
    const found = firstOf(this.json, names);
    if (found === undefined) return undefined;
    // Old AWQ configs have the version as a number.
    if (typeof found.value === 'string' || typeof found.value === 'number') return String(found.value).toLowerCase();
    return this.fail(found.name, 'a string', found.value);
  }

  object(name: string): Json {
    const value = firstOf(this.json, [name])?.value;
    return value === undefined || isObject(value) ? (value ?? {}) : this.fail(name, 'an object', value);
  }
}

const BITS = ['bits', 'w_bit', 'wbits'];
const GROUP_SIZE = ['group_size', 'q_group_size', 'groupsize'];

function toolsOf(meta: Json): string[] {
  const { quantizer } = meta;
  return (Array.isArray(quantizer) ? quantizer : [quantizer]).filter((tool) => typeof tool === 'string');
}

/** Reads a configuration. */
function configFrom(json: Json, path: string, source: string): IntegerConfig {
  const fields = new Fields(json, path, source);
  const otherBits = new Set<number>();
  const otherGroupSizes = new Set<number>();
  // Which layers these are for is said by patterns; the shapes of their tensors say it as well, and can't run for ever.
  for (const [pattern, overrides] of Object.entries(fields.object('dynamic'))) {
    if (!isObject(overrides)) continue;
    const own = new Fields(overrides, path, `"dynamic"[${describe(pattern)}] of ${source}`);
    const bits = own.integer(BITS, 1, 32);
    if (bits !== undefined) otherBits.add(bits);
    const groupSize = own.groupSize(GROUP_SIZE);
    if (groupSize !== undefined) otherGroupSizes.add(groupSize);
  }
  const zeroPoint = fields.boolean(['zero_point']);
  const actOrder = fields.boolean(['desc_act']);
  // Files of their own name no method where the tool had only one: these fields tell them apart.
  const tool = actOrder !== undefined ? 'gptq' : zeroPoint !== undefined ? 'awq' : undefined;
  const marlin = fields.boolean(['is_marlin_format']) === true ? 'marlin' : undefined;
  return {
    source,
    path,
    method: fields.word(['quant_method']) ?? tool,
    bits: fields.integer(BITS, 1, 32),
    groupSize: fields.groupSize(GROUP_SIZE),
    symmetric: fields.boolean(['sym']) ?? (zeroPoint === undefined ? undefined : !zeroPoint),
    actOrder,
    format: marlin ?? fields.word(['checkpoint_format', 'format', 'version']),
    tools: toolsOf(fields.object('meta')),
    otherBits,
    otherGroupSizes,
  };
}

/**
 * The configuration of a checkpoint's integer weights, or null if it has none.
 *
 * @throws CheckpointError `CONFIG_INVALID`, `READ_FAILED`.
 */
export async function integerConfigOf(checkpoint: Checkpoint): Promise<IntegerConfig | null> {
  const { folder, config } = checkpoint;
  if (folder === null) return null;
  const inConfig = config?.['quantization_config'];
  if (inConfig !== undefined && inConfig !== null) {
    const path = join(folder, 'config.json');
    if (isObject(inConfig)) return configFrom(inConfig, path, `"quantization_config" of ${path}`);
    const message = `Expected "quantization_config" of ${path} to be an object but found ${describe(inConfig)}.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path });
  }
  for (const name of FILES) {
    const path = join(folder, name);
    const json = await readConfigFile(path);
    if (json !== null) return configFrom(json, path, path);
  }
  return null;
}

/** AutoRound writes the layouts of GPTQ and of AWQ under its own name. */
const METHODS_OF_ANY: ReadonlySet<string> = new Set(['auto-round', 'intel/auto-round']);

/** Whether a config, or none, leaves open which of GPTQ and AWQ the tensors are: their shapes tell. */
export function mayBeAny(config: IntegerConfig | null): boolean {
  return config?.method === undefined || METHODS_OF_ANY.has(config.method);
}
