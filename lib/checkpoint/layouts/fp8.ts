/**
 * Weights in FP8 that are not compressed-tensors': `<layer>.weight` F8_E4M3 or F8_E5M2 [N, K], and beside it
 *
 * | config.json | tensor | shape | what it is |
 * | --- | --- | --- | --- |
 * | `quant_method: "fp8"`, `weight_block_size` | `weight_scale_inv` F32 | [⌈N/128⌉, ⌈K/128⌉] | DeepSeek's blocks, multiplied despite the name |
 * | `quant_method: "fp8"` | `weight_scale` F32 | [] or [1] | of the whole tensor |
 * | `quant_method: "fbgemm_fp8"` | `weight_scale` F32 | [N, 1] | of each row |
 * | `quant_method: "modelopt"`, `quant_algo: "FP8"` | `weight_scale` F32 | [] | of the whole tensor |
 * | the same, `"NVFP4"` | `weight` U8 [N, K/2], `weight_scale` F8_E4M3 [N, K/16], `weight_scale_2` F32 [] | | both multiplied |
 *
 * Experts of a layer may lie in one tensor `<name>` [E, N, K], with `<name>_scale_inv` [E, N/128, ⌈K/128⌉].
 *
 * Sources: deepseek-ai/DeepSeek-V3, README_WEIGHTS.md and inference/kernel.py; huggingface/transformers,
 * integrations/finegrained_fp8.py and fbgemm_fp8.py; NVIDIA/TensorRT-Model-Optimizer, torch/quantization/qtensor.
 *
 * @module
 */
import { join } from 'node:path';
import { CheckpointError, describe } from '../../errors.js';
import type { Checkpoint, Json } from '../checkpoint.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { StoredInput, Weight } from '../weight.js';
import { floatDtypeOf } from './float.js';
import type { LayoutReader } from './layout.js';
import {
  activationParts,
  checkDtype,
  checkShape,
  elementCount,
  layoutError,
  matrixShape,
  modelDtypeOf,
  quantizationConfigOf,
  readNumber,
  requiredPart,
  SCALE_DTYPES,
  sameShape,
  shown,
  storedInput,
} from './parts.js';
import { checkScaleShape, type Sharing, scaledWeight, scaleGrid, sharingTraits, storedCodes } from './scaled-weight.js';

const CODES = new Map([
  ['F8_E4M3', 'float8_e4m3fn'],
  ['F8_E5M2', 'float8_e5m2'],
] as const);

/** What config.json says. */
interface Fp8Config {
  readonly blockShape: readonly [number, number] | null;
  readonly traits: readonly string[];
  /** Whether activations have one scale that is stored: they must have it, or may. */
  readonly staticInputs: 'required' | 'possible' | null;
}

/** Ways of quantizing of ModelOpt whose weights are what their codes and scales say. */
const MODELOPT_ALGORITHMS: readonly unknown[] = [
  undefined,
  null,
  'FP8',
  'FP8_PER_CHANNEL_PER_TOKEN',
  'NVFP4',
  'MIXED_PRECISION',
];

function blockShapeOf(given: Json, path: string): readonly [number, number] | null {
  const value = given['weight_block_size'];
  if (value === undefined || value === null) return null;
  const dims = Array.isArray(value) ? (value as unknown[]) : [];
  if (
    dims.length === 2 &&
    dims.every((dim) => Number.isInteger(dim) && (dim as number) > 0 && (dim as number) < 2 ** 31)
  ) {
    return dims as [number, number];
  }
  const message = `Expected weight_block_size of ${path} to be two numbers, [rows, columns], but it is ${describe(value)}.`;
  throw new CheckpointError('CONFIG_INVALID', message, { path });
}

/** The part of config.json that is about FP8; null if it is about another layout, `undefined` if there is none. */
function fp8ConfigOf(checkpoint: Checkpoint): Fp8Config | null | undefined {
  const given = quantizationConfigOf(checkpoint);
  if (given === null) return undefined;
  const method = given['quant_method'];
  if (!['fp8', 'fbgemm_fp8', 'modelopt', 'modelopt_fp4'].includes(String(method))) return null;
  const path = join(checkpoint.folder ?? checkpoint.path, 'config.json');
  const algorithm = given['quant_algo'];
  if (!MODELOPT_ALGORITHMS.includes(algorithm)) {
    const message = `${path} says that weights are stored as ${describe(algorithm)} of ModelOpt, which lowbit does not read.`;
    throw new CheckpointError('LAYOUT_UNSUPPORTED', message, { path });
  }
  const scheme = given['activation_scheme'];
  return {
    blockShape: blockShapeOf(given, path),
    traits: typeof scheme === 'string' ? [`input ${scheme}`] : [],
    staticInputs: scheme === 'static' ? 'required' : algorithm === 'FP8' ? 'possible' : null,
  };
}

/** How the shape of the scales can be understood; the first of those that mean the same. */
function possibleSharing(scale: StoredTensor, [rows, columns]: readonly [number, number], blocks: boolean): Sharing[] {
  if (elementCount(scale) === 1) return [{ granularity: 'per-tensor' }];
  const candidates: Sharing[] = [];
  const block: Sharing = { granularity: 'per-block', blockShape: [128, 128] };
  const grid = scaleGrid(rows, columns, block);
  const isBlocks = sameShape(scale.shape, [grid.scaleRows, grid.groups]);
  if (isBlocks) candidates.push(block);
  if (isBlocks && blocks) return candidates;
  const [first = 0, groups = 1] = scale.shape;
  if (scale.shape.length > 2 || first !== rows) return candidates;
  if (groups === 1) candidates.push({ granularity: 'per-channel' });
  else if (columns % groups === 0) {
    const groupSize = columns / groups;
    if (!(isBlocks && rows === 1 && groupSize === 128)) candidates.push({ granularity: 'per-group', groupSize });
  }
  return candidates;
}

function matrixSharing(
  codes: StoredTensor,
  scale: StoredTensor,
  config: Fp8Config | undefined,
): { shape: [number, number]; sharing: Sharing } {
  const shape = matrixShape(codes);
  return { shape, sharing: sharingOf(scale, shape, config, scale.name.endsWith('_inv')) };
}

function sharingOf(
  scale: StoredTensor,
  shape: readonly [number, number],
  config: Fp8Config | undefined,
  inverse: boolean,
): Sharing {
  const blockShape = config?.blockShape ?? null;
  // The one block of a small weight is a matrix as well.
  if (blockShape !== null && (elementCount(scale) !== 1 || (inverse && scale.shape.length === 2))) {
    const sharing: Sharing = { granularity: 'per-block', blockShape };
    // Some layers of a checkpoint of blocks may have scales of rows.
    if (inverse || !sameShape(scale.shape, [shape[0], 1])) {
      checkScaleShape(scale, scaleGrid(...shape, sharing));
      return sharing;
    }
  }
  const candidates = possibleSharing(scale, shape, inverse);
  const [only] = candidates;
  if (candidates.length === 1) return only as Sharing;
  const what = `its shape ${shown(scale.shape)} beside a weight of ${shown(shape)}`;
  if (candidates.length > 1) {
    const ways = candidates.map(({ granularity }) => granularity).join(' or ');
    throw layoutError(
      'LAYOUT_AMBIGUOUS',
      scale,
      `${what} can mean scales ${ways}: weight_block_size of config.json would tell`,
    );
  }
  throw layoutError(
    'LAYOUT_SHAPE',
    scale,
    `expected one scale, or those of rows, groups or blocks of 128 × 128, but ${what} fits none`,
  );
}

/** The experts of a layer in one tensor [E, N, K], with blocks of each: rows of all experts, if blocks end with them. */
function expertSharing(
  codes: StoredTensor,
  scale: StoredTensor,
  config: Fp8Config | undefined,
): { shape: [number, number]; sharing: Sharing } {
  const [experts = 0, rows = 0, columns = 0] = codes.shape;
  const blockShape = config?.blockShape ?? ([128, 128] as const);
  const [height, width] = blockShape;
  if (experts * rows * columns === 0 || rows % height !== 0) {
    const message = `expected experts whose rows are a multiple of the ${height} of a block, but it has the shape ${shown(codes.shape)}`;
    throw layoutError('LAYOUT_SHAPE', codes, message);
  }
  checkShape(scale, [experts, rows / height, Math.ceil(columns / width)]);
  return { shape: [experts * rows, columns], sharing: { granularity: 'per-block', blockShape } };
}

/** Static activations of a layer, which are E4M3 numbers of one scale. */
function inputOf(
  left: ReadonlyMap<string, StoredTensor>,
  layer: string,
  codes: StoredTensor,
  config: Fp8Config | undefined,
): StoredInput | null {
  const { staticInputs = null } = config ?? {};
  if (staticInputs === null || (staticInputs === 'possible' && !left.has(`${layer}.input_scale`))) return null;
  return storedInput(left, layer, { dtype: 'float8_e4m3fn', scheme: 'symmetric' }, codes);
}

function fp8Weight(
  checkpoint: Checkpoint,
  left: ReadonlyMap<string, StoredTensor>,
  codes: StoredTensor,
  config: Fp8Config | undefined,
): Weight | null {
  const inverse = left.get(`${codes.name}_scale_inv`);
  const plain = left.get(`${codes.name}_scale`);
  if (inverse !== undefined && plain !== undefined) {
    throw layoutError('LAYOUT_INVALID', inverse, `expected no "${plain.name}" beside it: which of them counts?`);
  }
  const scale = inverse ?? plain;
  if (scale === undefined) {
    // FP8 numbers that are not scaled are no layout of quantized weights.
    if (config !== undefined) requiredPart(left, `${codes.name}_scale`, codes);
    return null;
  }
  const layer = codes.name.replace(/\.weight$/, '');
  refusePreScaled(left, layer);
  checkDtype(scale, [...SCALE_DTYPES, 'F8_E8M0']);
  const isExperts = codes.shape.length === 3 && scale.shape.length === 3;
  const { shape, sharing } = isExperts ? expertSharing(codes, scale, config) : matrixSharing(codes, scale, config);
  const dtype = CODES.get(codes.dtype as 'F8_E4M3') as 'float8_e4m3fn';
  const { groupSize, traits } = sharingTraits(sharing);
  const own = scale.dtype === 'F32' ? null : floatDtypeOf(scale);
  return scaledWeight({
    name: codes.name,
    shape,
    fullShape: codes.shape,
    dtype: own ?? modelDtypeOf(checkpoint) ?? 'bfloat16',
    encoding: { format: 'fp8', dtype, groupSize, traits: [...traits, ...(config?.traits ?? [])] },
    parts: [codes, scale, ...activationParts(left, layer)],
    input: isExperts ? null : inputOf(left, layer, codes, config),
    sharing,
    scale,
    signedScales: true,
    codes: storedCodes(codes, dtype, shape[1]),
    zeroPoints: null,
    order: null,
    bits: 8,
  });
}

/** Weights whose inputs are scaled first are not those of the float model. */
function refusePreScaled(left: ReadonlyMap<string, StoredTensor>, layer: string): void {
  const scale = left.get(`${layer}.pre_quant_scale`) ?? left.get(`${layer}.input_quantizer._pre_quant_scale`);
  if (scale === undefined) return;
  throw layoutError('LAYOUT_UNSUPPORTED', scale, 'expected no scales of inputs: the weight was multiplied with them');
}

async function modelOptNvfp4(
  checkpoint: Checkpoint,
  left: ReadonlyMap<string, StoredTensor>,
  second: StoredTensor,
  config: Fp8Config | undefined,
): Promise<Weight> {
  const layer = second.name.slice(0, -'.weight_scale_2'.length);
  const codes = requiredPart(left, `${layer}.weight`, second);
  const scale = requiredPart(left, `${layer}.weight_scale`, second);
  refusePreScaled(left, layer);
  checkDtype(codes, ['U8']);
  checkDtype(scale, ['F8_E4M3']);
  const [rows, width] = matrixShape(codes);
  const shape = [rows, 2 * width] as const;
  const sharing: Sharing = { granularity: 'per-group', groupSize: 16 };
  checkScaleShape(scale, scaleGrid(...shape, sharing));
  return scaledWeight({
    name: codes.name,
    shape,
    dtype: modelDtypeOf(checkpoint) ?? 'bfloat16',
    encoding: { format: 'fp8', dtype: 'nvfp4', groupSize: 16, traits: ['ModelOpt', ...(config?.traits ?? [])] },
    parts: [codes, scale, second, ...activationParts(left, layer)],
    input: null,
    sharing,
    scale,
    signedScales: false,
    global: { factor: await readNumber(second) },
    codes: storedCodes(codes, 'nvfp4', width),
    zeroPoints: null,
    order: null,
    bits: 4,
  });
}

/** Scales of weights that are not there. */
function refuseOrphans(left: ReadonlyMap<string, StoredTensor>): void {
  for (const tensor of left.values()) {
    const name = /^(.*\.weight|.*_proj)_scale(?:_inv)?$/.exec(tensor.name)?.[1];
    if (name === undefined) continue;
    const codes = requiredPart(left, name, tensor);
    checkDtype(codes, [...CODES.keys()]);
  }
}

/** The reader of FP8 weights. */
export const fp8Reader: LayoutReader = {
  format: 'fp8',

  async claim(checkpoint: Checkpoint, left: Map<string, StoredTensor>): Promise<Weight[]> {
    const config = fp8ConfigOf(checkpoint);
    if (config === null) return [];
    const weights: Weight[] = [];
    for (const tensor of [...left.values()]) {
      let weight: Weight | null = null;
      if (tensor.name.endsWith('.weight_scale_2')) weight = await modelOptNvfp4(checkpoint, left, tensor, config);
      else if (CODES.has(tensor.dtype as 'F8_E4M3') && !/_scale(?:_inv|_2)?$/.test(tensor.name)) {
        weight = fp8Weight(checkpoint, left, tensor, config);
      }
      if (weight === null) continue;
      for (const part of weight.parts) left.delete(part.name);
      weights.push(weight);
    }
    if (config !== undefined) refuseOrphans(left);
    return weights;
  },
};
