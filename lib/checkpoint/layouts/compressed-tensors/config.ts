/**
 * The `quantization_config` of compressed-tensors: which layers are quantized, and how. Field names and their defaults are
 * those of vllm-project/compressed-tensors ac8e2ba8, src/compressed_tensors/quantization (quant_args.py, quant_config.py);
 * older spellings are read as well.
 *
 * @module
 */
import { join } from 'node:path';
import { CheckpointError, describe } from '../../../errors.js';
import type { InputKind } from '../../../tensor/input-quantization.js';
import type { Checkpoint, Json } from '../../checkpoint.js';
import { quantizationConfigOf } from '../parts.js';

/** How a scale is shared. */
export type Strategy = 'tensor' | 'channel' | 'group' | 'block' | 'tensor_group';

/** `weights` of a config group. */
export interface WeightArguments {
  readonly bits: number;
  readonly type: 'int' | 'float';
  readonly symmetric: boolean;
  readonly strategy: Strategy;
  readonly groupSize: number | null;
  readonly blockShape: readonly [number, number] | null;
  /** Whether groups are formed in another order of the columns (`weight_g_idx`). */
  readonly reordered: boolean;
}

/** Some layers that are quantized alike. */
export interface ConfigGroup {
  readonly targets: readonly string[];
  /** Null: only activations are quantized. */
  readonly weights: WeightArguments | null;
  readonly format: string | null;
  /** Static activations of eight bits with one scale; null for all others. */
  readonly input: InputKind | null;
  /** What else is said of these layers, in words. */
  readonly traits: readonly string[];
}

/** A whole config. */
export interface CompressedConfig {
  /** Of config.json. */
  readonly path: string;
  /** Of the package that wrote it. */
  readonly version: string | null;
  readonly groups: readonly ConfigGroup[];
}

/** Formats whose weights are read. */
export const FORMATS = [
  'naive-quantized',
  'int-quantized',
  'float-quantized',
  'pack-quantized',
  'nvfp4-pack-quantized',
  'mxfp4-pack-quantized',
  'mxfp8-quantized',
] as const;

/** Formats that say nothing of weights, or leave it to the groups. */
const NEUTRAL_FORMATS: ReadonlySet<string> = new Set(['dense', 'mixed-precision']);

const STRATEGIES: ReadonlySet<string> = new Set(['tensor', 'channel', 'group', 'block', 'tensor_group']);

/** Reads the fields of one file, and says where they are when they are wrong. */
class Fields {
  constructor(private readonly path: string) {}

  fail(where: string, expected: string, value: unknown): never {
    const message = `Expected ${where} of ${this.path} to be ${expected} but it is ${describe(value)}.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path: this.path });
  }

  unsupported(what: string): never {
    const message = `${this.path} says that weights are stored as ${what}, which lowbit does not read.`;
    throw new CheckpointError('LAYOUT_UNSUPPORTED', message, { path: this.path });
  }

  object(where: string, value: unknown): Json {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) this.fail(where, 'an object', value);
    return value as Json;
  }

  string(where: string, value: unknown): string | null {
    if (value === undefined || value === null) return null;
    if (typeof value !== 'string') this.fail(where, 'a string', value);
    return value as string;
  }

  boolean(where: string, value: unknown, fallback: boolean): boolean {
    if (value === undefined || value === null) return fallback;
    if (typeof value !== 'boolean') this.fail(where, 'true or false', value);
    return value as boolean;
  }

  integer(where: string, value: unknown, lowest: number, highest: number): number {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < lowest || value > highest) {
      this.fail(where, `an integer from ${lowest} to ${highest}`, value);
    }
    return value as number;
  }

  strings(where: string, value: unknown): string[] {
    if (!Array.isArray(value) || value.some((item) => typeof item !== 'string')) {
      this.fail(where, 'an array of strings', value);
    }
    return value as string[];
  }

  format(where: string, value: unknown): string | null {
    const format = this.string(where, value);
    if (format === null || NEUTRAL_FORMATS.has(format) || (FORMATS as readonly string[]).includes(format))
      return format;
    return this.unsupported(JSON.stringify(format));
  }
}

/** The most that a dimension of a block or a group can be. */
const LARGEST = 2 ** 31 - 1;

function blockShapeOf(fields: Fields, where: string, value: unknown): readonly [number, number] | null {
  if (value === undefined || value === null) return null;
  // "128x128" before 2025
  const pair = typeof value === 'string' ? value.split('x').map(Number) : value;
  if (!Array.isArray(pair) || pair.length !== 2) fields.fail(where, 'two numbers, [rows, columns]', value);
  const [height, width] = pair as unknown[];
  return [fields.integer(where, height, 1, LARGEST), fields.integer(where, width, 1, LARGEST)];
}

function strategyOf(fields: Fields, where: string, given: Json, groupSize: number | null): Strategy {
  const strategy = fields.string(`${where}.strategy`, given['strategy'])?.toLowerCase() ?? null;
  if (strategy === null) {
    if (groupSize === null) return 'tensor';
    return groupSize === -1 ? 'channel' : 'group';
  }
  if (!STRATEGIES.has(strategy)) fields.fail(`${where}.strategy`, `one of ${[...STRATEGIES].join(', ')}`, strategy);
  return strategy as Strategy;
}

function weightArgumentsOf(fields: Fields, where: string, value: unknown): WeightArguments | null {
  if (value === undefined || value === null) return null;
  const given = fields.object(where, value);
  const type = fields.string(`${where}.type`, given['type'])?.toLowerCase() ?? 'int';
  if (type !== 'int' && type !== 'float') fields.fail(`${where}.type`, '"int" or "float"', type);
  const groupValue = given['group_size'];
  const groupSize = groupValue == null ? null : fields.integer(`${where}.group_size`, groupValue, -1, LARGEST);
  const strategy = strategyOf(fields, where, given, groupSize);
  const grouped = strategy === 'group' || strategy === 'tensor_group';
  if (grouped && (groupSize === null || groupSize < 1)) fields.fail(`${where}.group_size`, 'at least 1', groupValue);
  const blockShape = blockShapeOf(fields, `${where}.block_structure`, given['block_structure']);
  if (strategy === 'block' && blockShape === null) {
    fields.fail(`${where}.block_structure`, 'two numbers, [rows, columns]', given['block_structure']);
  }
  const order = given['actorder'];
  const known =
    order == null || typeof order === 'boolean' || ['group', 'dynamic', 'weight', 'static'].includes(String(order));
  if (!known) fields.fail(`${where}.actorder`, '"group", "weight" or null', order);
  return {
    bits: given['num_bits'] === undefined ? 8 : fields.integer(`${where}.num_bits`, given['num_bits'], 1, 16),
    type: type as 'int' | 'float',
    symmetric: fields.boolean(`${where}.symmetric`, given['symmetric'], true),
    strategy,
    groupSize: grouped ? groupSize : null,
    blockShape: strategy === 'block' ? blockShape : null,
    reordered: order === true || order === 'group' || order === 'dynamic',
  };
}

/** `input_activations` and the like, in a few words. */
function activationTrait(what: string, value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  const { num_bits: bits, type, strategy, dynamic, symmetric } = value as Json;
  const words = [
    what,
    `${type ?? 'int'}${bits ?? 8}`,
    strategy,
    dynamic === true || dynamic === 'local' ? 'dynamic' : 'static',
    symmetric === false ? 'asymmetric' : null,
  ];
  return [words.filter((word) => typeof word === 'string').join(' ')];
}

/** What `input_activations` says, if they have one scale that is stored. */
function inputOf(fields: Fields, where: string, value: unknown): InputKind | null {
  if (value === undefined || value === null) return null;
  const given = fields.object(where, value);
  const { dynamic = false, num_bits: bits = 8, group_size: groupSize } = given;
  const strategy =
    fields.string(`${where}.strategy`, given['strategy'])?.toLowerCase() ?? (groupSize == null ? 'tensor' : null);
  if (dynamic !== false || bits !== 8 || strategy !== 'tensor') return null;
  const type = fields.string(`${where}.type`, given['type'])?.toLowerCase() ?? 'int';
  if (type === 'float') return { dtype: 'float8_e4m3fn', scheme: 'symmetric' };
  if (type !== 'int') return null;
  const isSymmetric = fields.boolean(`${where}.symmetric`, given['symmetric'], true);
  return { dtype: 'int8', scheme: isSymmetric ? 'symmetric' : 'asymmetric' };
}

function groupOf(fields: Fields, where: string, value: unknown, common: string | null, traits: string[]): ConfigGroup {
  const given = fields.object(where, value);
  return {
    targets: fields.strings(`${where}.targets`, given['targets']),
    weights: weightArgumentsOf(fields, `${where}.weights`, given['weights']),
    format: fields.format(`${where}.format`, given['format']) ?? common,
    input: inputOf(fields, `${where}.input_activations`, given['input_activations']),
    traits: [
      ...activationTrait('input', given['input_activations']),
      ...activationTrait('output', given['output_activations']),
      ...traits,
    ],
  };
}

/** Sparse and rotated weights are not what the codes alone say. */
function checkSupported(fields: Fields, given: Json): void {
  const sparsity = given['sparsity_config'];
  if (typeof sparsity === 'object' && sparsity !== null) {
    const format = fields.string('sparsity_config.format', (sparsity as Json)['format']);
    if (format !== null && format !== 'dense') fields.unsupported(`${JSON.stringify(format)} (sparsity_config)`);
  }
  const transform = given['transform_config'];
  if (typeof transform === 'object' && transform !== null) {
    const groups = (transform as Json)['config_groups'];
    if (typeof groups === 'object' && groups !== null && Object.keys(groups).length > 0) {
      fields.unsupported('rotated (transform_config)');
    }
  }
}

/**
 * What config.json says of compressed-tensors weights; null if it says nothing of them.
 *
 * @throws CheckpointError `CONFIG_INVALID`; `LAYOUT_UNSUPPORTED` for sparse or rotated weights.
 */
export function compressedConfigOf(checkpoint: Checkpoint): CompressedConfig | null {
  const given = quantizationConfigOf(checkpoint);
  if (given === null) return null;
  const method = given['quant_method'];
  if (method !== undefined && method !== 'compressed-tensors' && method !== 'sparseml') return null;
  if (method === undefined && given['config_groups'] === undefined) return null;
  const path = join(checkpoint.folder ?? checkpoint.path, 'config.json');
  const fields = new Fields(path);
  checkSupported(fields, given);
  const common = fields.format('format', given['format']);
  const groups = fields.object('config_groups', given['config_groups'] ?? {});
  const traits = activationTrait('kv-cache', given['kv_cache_scheme']);
  return {
    path,
    version: fields.string('version', given['version']),
    groups: Object.entries(groups).map(([name, group]) =>
      groupOf(fields, `config_groups.${name}`, group, common, traits),
    ),
  };
}
