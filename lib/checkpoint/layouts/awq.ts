/**
 * Weights that AutoAWQ wrote, in the "gemm" layout. For a linear layer with weight [N, K] and G groups along K:
 *
 * | tensor | dtype | shape | content |
 * | --- | --- | --- | --- |
 * | `<layer>.qweight` | int32 | [K, N/8] | codes of 4 bits, packed along N in the order 0, 2, 4, 6, 1, 3, 5, 7 |
 * | `<layer>.qzeros` | int32 | [G, N/8] | zero points, likewise |
 * | `<layer>.scales` | float | [G, N] | |
 *
 * A weight is `scale · (code − zero)`, rounded to the dtype of the scales. Without zero points (`zero_point: false`) the
 * zero is 8.
 *
 * Source: casper-hansen/AutoAWQ, awq/modules/linear/gemm.py and awq/utils/packing_utils.py.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { CheckpointError } from '../../errors.js';
import type { QuantizedTensor } from '../../tensor/quantized-tensor.js';
import type { Checkpoint } from '../checkpoint.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { RowBlock, Weight } from '../weight.js';
import { type IntegerConfig, integerConfigOf, mayBeAny } from './integer-config.js';
import type { LayoutReader } from './layout.js';
import {
  groupSizeOf,
  layoutError,
  type PackedLayer,
  packedLayersOf,
  readScales,
  shapeText,
  takeLayer,
} from './packed-layers.js';
import { awqToRows } from './repack.js';
import { readColumns } from './strips.js';
import { unpackAwqZeroPoints } from './zero-points.js';

/** A layer whose shapes agree. */
interface AwqLayer extends PackedLayer {
  /** Inputs, K. */
  readonly columns: number;
  readonly groupSize: number | null;
}

/** Channels in a word. */
const PER_WORD = 8;

/** The zero point of what has none. */
const MIDDLE = 8;

/** Checks the parts of a layer against each other. */
function awqLayer(layer: PackedLayer, config: IntegerConfig | null): AwqLayer {
  const { qweight, qzeros, rows, groups } = layer;
  if (qzeros === undefined && config?.symmetric !== true) {
    throw layoutError(qweight, `has no "${layer.layer}.qzeros" beside it, and no config says "zero_point": false`);
  }
  const [columns = 0, words] = qweight.shape;
  if (rows % PER_WORD !== 0 || words !== rows / PER_WORD || columns === 0 || columns % PER_WORD !== 0) {
    const expected = `expected [K, N / 8] for scales ${shapeText(layer.scales.shape)}, K and N multiples of 8`;
    throw layoutError(qweight, `has shape ${shapeText(qweight.shape)}; ${expected}`);
  }
  if (qzeros !== undefined && (qzeros.shape[0] !== groups || qzeros.shape[1] !== words)) {
    throw layoutError(qzeros, `has shape ${shapeText(qzeros.shape)}; expected [${groups}, ${words}]`);
  }
  if (layer.groupIndex !== undefined) {
    throw layoutError(layer.groupIndex, 'orders the inputs of a layer of AWQ, which has no such order');
  }
  return { ...layer, columns, groupSize: groupSizeOf(layer, columns, config) };
}

/** A weight of this layout. */
class AwqWeight implements Weight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly rows: number;
  readonly columns: number;
  readonly dtype: LargeFloatDtype;
  readonly encoding: Weight['encoding'];
  readonly rowStep = PER_WORD;

  constructor(
    private readonly layer: AwqLayer,
    private readonly symmetric: boolean,
    readonly parts: readonly StoredTensor[],
  ) {
    this.name = `${layer.layer}.weight`;
    this.rows = layer.rows;
    this.columns = layer.columns;
    this.shape = [layer.rows, layer.columns];
    this.dtype = layer.dtype;
    const traits = ['gemm', symmetric ? 'symmetric' : 'asymmetric'];
    this.encoding = { format: 'awq', dtype: 'int4', groupSize: layer.groupSize, traits };
  }

  async read(begin: number, end: number, scratch: Scratch): Promise<RowBlock> {
    if (begin % PER_WORD !== 0 || end % PER_WORD !== 0 || begin < 0 || begin >= end || end > this.rows) {
      throw new RangeError(`rows ${begin} to ${end} of ${this.rows} are no block of ${this.name}`);
    }
    const { qweight, rows, columns, groupSize } = this.layer;
    const words = (end - begin) / PER_WORD;
    const strip = scratch.bytes('strip', 4 * words * columns);
    await readColumns(qweight, columns, rows / 2, begin / 2, 4 * words, strip);
    const data = scratch.bytes('codes', strip.length);
    const count = words * columns;
    await awqToRows(
      new Uint32Array(strip.buffer, 0, count),
      columns / PER_WORD,
      words,
      new Uint32Array(data.buffer, 0, count),
    );
    const scales = await readScales(this.layer, begin, end, scratch);
    const zeroPoints = await this.zeroPoints(begin, end, scratch);
    const symmetric = this.symmetric && zeroPoints.every((zero) => zero === MIDDLE);
    const tensor: QuantizedTensor = {
      dtype: 'uint4',
      shape: [end - begin, columns],
      scheme: symmetric ? 'symmetric' : 'asymmetric',
      ...(groupSize === null ? { granularity: 'per-channel', axis: 0 } : { granularity: 'per-group', groupSize }),
      data,
      scales,
      zeroPoints,
    };
    return { kind: 'quantized', tensor, order: null };
  }

  private async zeroPoints(begin: number, end: number, scratch: Scratch): Promise<Int32Array> {
    const { qzeros, rows, groups } = this.layer;
    const out = scratch.integers('zeroPoints', groups * (end - begin));
    if (qzeros === undefined) return out.fill(MIDDLE);
    const words = scratch.bytes('storedZeroPoints', (groups * (end - begin)) / 2);
    await readColumns(qzeros, groups, rows / 2, begin / 2, (end - begin) / 2, words);
    unpackAwqZeroPoints(new Uint32Array(words.buffer, 0, words.length / 4), groups, end - begin, out);
    return out;
  }
}

/** Refuses what a config says and this file does not read. */
function checkConfig(config: IntegerConfig): void {
  if (config.format !== undefined && config.format !== 'gemm') {
    const message = `${config.source} says version "${config.format}"; of AWQ, lowbit reads "gemm".`;
    throw new CheckpointError('LAYOUT_UNSUPPORTED', message, { path: config.path });
  }
  if (config.bits !== undefined && config.bits !== 4) {
    const message = `${config.source} says ${config.bits} bits; AWQ's layout has 4.`;
    throw new CheckpointError('LAYOUT_UNSUPPORTED', message, { path: config.path });
  }
}

/**
 * Reads weights in AWQ's "gemm" layout: those of a checkpoint whose config names it, and without a config those whose tensors
 * have its names and shapes.
 *
 * Reading w rows of a weight [N, K] needs w · K bytes, and 16 · w · G for scales and zero points.
 *
 * @throws CheckpointError from `claim`: `LAYOUT_INVALID`; `LAYOUT_UNSUPPORTED` for the versions gemv, gemv_fast and marlin;
 *   `CONFIG_INVALID`.
 */
export const awqReader: LayoutReader = {
  format: 'awq',
  async claim(checkpoint: Checkpoint, left: Map<string, StoredTensor>): Promise<Weight[]> {
    const config = await integerConfigOf(checkpoint);
    const says = config?.method === 'awq';
    if (!says && !mayBeAny(config)) return [];
    if (config !== null && says) checkConfig(config);
    const found = packedLayersOf(left, says);
    if (config !== null && found.length > 0) checkConfig(config);
    return found.map((packed) => {
      const layer = awqLayer(packed, config);
      return new AwqWeight(layer, config?.symmetric ?? false, takeLayer(left, layer));
    });
  },
};
