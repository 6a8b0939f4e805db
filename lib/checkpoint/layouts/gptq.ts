/**
 * Weights that GPTQ's tools wrote: AutoGPTQ, GPTQModel, AutoRound and others. For a linear layer with weight [N, K], codes of
 * b bits (2, 3, 4, 8) and G groups along K:
 *
 * | tensor | dtype | shape | content |
 * | --- | --- | --- | --- |
 * | `<layer>.qweight` | int32 | [K·b/32, N] | codes, packed along K, the first in the low bits |
 * | `<layer>.qzeros` | int32 | [G, N·b/32] | zero points, packed along N; version 1: less one |
 * | `<layer>.scales` | float | [G, N] | |
 * | `<layer>.g_idx` | int32 | [K] | the group of every input |
 *
 * A weight is `scale · (code − zero)`, rounded to the dtype of the scales.
 *
 * Sources: AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda.py; ModelCloud/GPTQModel,
 * gptqmodel/nn_modules/qlinear/__init__.py and gptqmodel/utils/model.py.
 *
 * @module
 */
import type { LargeFloatDtype } from '../../dtype.js';
import { CheckpointError } from '../../errors.js';
import { dequantizeTensorAsync } from '../../tensor/dequantize.js';
import type { QuantizedTensor } from '../../tensor/quantized-tensor.js';
import type { Checkpoint } from '../checkpoint.js';
import { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { RowBlock, Weight } from '../weight.js';
import { zeroPointsOf } from './gptq-version.js';
import { commonDivisor, type GroupArrangement, type GroupOrder, readGroupOrder } from './group-index.js';
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
import { CODE_DTYPES, type CodeBits, codeBitsOf, selectCodes, transposeWords } from './repack.js';
import { readColumns } from './strips.js';
import { type GptqVersion, unpackZeroPoints, type ZeroPointForm } from './zero-points.js';

/** Options of gptqReader. */
export interface GptqReaderOptions {
  /** Which version the zero points are, whatever config and data say. */
  readonly gptqVersion?: GptqVersion;
}

/** A layer whose shapes agree. */
interface GptqLayer extends PackedLayer {
  readonly qzeros: StoredTensor;
  readonly bits: CodeBits;
  /** Inputs, K. */
  readonly columns: number;
  readonly groupSize: number | null;
  readonly arrangement: GroupArrangement;
}

/** Blocks of rows begin at multiples of this: there their zero points begin on a word, whatever their width. */
const ROW_STEP = 32;

const FORMATS: ReadonlySet<string> = new Set(['gptq', 'gptq_v2']);

/** The width of codes, from the shapes: N channels have N · bits / 32 words of zero points. */
function bitsOf(layer: PackedLayer, qzeros: StoredTensor, config: IntegerConfig | null): CodeBits {
  const { rows, groups } = layer;
  const [zeroGroups, zeroWords = 0] = qzeros.shape;
  const bits = codeBitsOf((zeroWords * 32) / rows);
  if (bits === null || zeroGroups !== groups) {
    const said = codeBitsOf(config?.bits);
    const words = said === null ? 'N · bits / 32' : (rows * said) / 32;
    const expected = `expected [${groups}, ${words}] for scales ${shapeText(layer.scales.shape)}`;
    throw layoutError(qzeros, `has shape ${shapeText(qzeros.shape)}; ${expected}`);
  }
  if (config?.bits !== undefined && config.bits !== bits && !config.otherBits.has(bits)) {
    throw layoutError(
      qzeros,
      `has shape ${shapeText(qzeros.shape)}, which is ${bits} bits; ${config.source} says ${config.bits}`,
    );
  }
  return bits;
}

/** Checks the parts of a layer against each other. */
async function gptqLayer(layer: PackedLayer, config: IntegerConfig | null, scratch: Scratch): Promise<GptqLayer> {
  const { qweight, qzeros, groupIndex, rows, groups } = layer;
  if (qzeros === undefined) throw layoutError(qweight, `has no "${layer.layer}.qzeros" beside it`);
  const bits = bitsOf(layer, qzeros, config);
  const [wordRows = 0, width] = qweight.shape;
  const columns = (wordRows * 32) / bits;
  if (width !== rows || columns === 0 || !Number.isInteger(columns)) {
    const multiple = bits === 3 ? ', the first a multiple of 3' : '';
    const expected = `expected [K · ${bits} / 32, ${rows}]${multiple}`;
    throw layoutError(qweight, `has shape ${shapeText(qweight.shape)}; ${expected}`);
  }
  const groupSize = groupSizeOf(layer, columns, config);
  let arrangement: GroupArrangement = 'in-order';
  if (groupIndex !== undefined) {
    if (groupIndex.shape[0] !== columns) {
      throw layoutError(groupIndex, `has shape ${shapeText(groupIndex.shape)}; expected [${columns}]`);
    }
    ({ arrangement } = await readGroupOrder(groupIndex, columns, groups, groupSize, scratch));
  } else if (config?.actOrder === true && groups > 1) {
    throw layoutError(qweight, `has no "${layer.layer}.g_idx" beside it, which desc_act of ${config.source} needs`);
  }
  return { ...layer, qzeros, bits, columns, groupSize, arrangement };
}

/** A weight of this layout. */
class GptqWeight implements Weight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly rows: number;
  readonly columns: number;
  readonly dtype: LargeFloatDtype;
  readonly encoding: Weight['encoding'];
  readonly rowStep = ROW_STEP;

  constructor(
    private readonly layer: GptqLayer,
    private readonly form: ZeroPointForm,
    private readonly symmetric: boolean,
    readonly parts: readonly StoredTensor[],
  ) {
    this.name = `${layer.layer}.weight`;
    this.rows = layer.rows;
    this.columns = layer.columns;
    this.shape = [layer.rows, layer.columns];
    this.dtype = layer.dtype;
    const traits = [form === 'v2' ? 'v2' : 'v1', symmetric ? 'symmetric' : 'asymmetric'];
    if (layer.arrangement !== 'in-order') traits.push('act-order');
    this.encoding = { format: 'gptq', dtype: `int${layer.bits}`, groupSize: layer.groupSize, traits };
  }

  async read(begin: number, end: number, scratch: Scratch): Promise<RowBlock> {
    const whole = begin % ROW_STEP === 0 && (end % ROW_STEP === 0 || end === this.rows);
    if (!whole || begin < 0 || begin >= end || end > this.rows) {
      throw new RangeError(`rows ${begin} to ${end} of ${this.rows} are no block of ${this.name}`);
    }
    const { bits, groups, groupSize, groupIndex, arrangement } = this.layer;
    const rows = end - begin;
    const order =
      groupIndex === undefined || arrangement === 'in-order'
        ? null
        : await readGroupOrder(groupIndex, this.columns, groups, groupSize, scratch);
    if (order !== null && order.arrangement !== arrangement) {
      throw layoutError(groupIndex as StoredTensor, 'changed since the checkpoint was opened');
    }
    const data = await this.codes(begin, end, order, scratch);
    const scales = await readScales(this.layer, begin, end, scratch);
    const zeroPoints = await this.zeroPoints(begin, end, scratch);
    const middle = 2 ** (bits - 1);
    const symmetric = this.symmetric && zeroPoints.every((zero) => zero === middle);
    const tensor: QuantizedTensor = {
      dtype: CODE_DTYPES[bits],
      shape: [rows, this.columns],
      scheme: symmetric ? 'symmetric' : 'asymmetric',
      ...(groupSize === null ? { granularity: 'per-channel', axis: 0 } : { granularity: 'per-group', groupSize }),
      data,
      scales,
      zeroPoints,
    };
    if (order !== null && arrangement === 'irregular') return this.floats(tensor, order, scratch);
    return { kind: 'quantized', tensor, order: order === null ? null : order.order };
  }

  /** Rows of codes, their columns sorted by group. */
  private async codes(begin: number, end: number, order: GroupOrder | null, scratch: Scratch): Promise<Uint8Array> {
    const { qweight, bits, rows, columns } = this.layer;
    const width = end - begin;
    const wordRows = (columns * bits) / 32;
    const count = wordRows * width;
    const strip = scratch.bytes('strip', 4 * count);
    await readColumns(qweight, wordRows, 4 * rows, 4 * begin, 4 * width, strip);
    let words = new Uint32Array(strip.buffer, 0, count);
    if (order !== null) {
      const sorted = new Uint32Array(scratch.bytes('sorted', 4 * count).buffer, 0, count);
      await selectCodes(words, bits, order.order, width, sorted);
      words = sorted;
    }
    const out = scratch.bytes('codes', 4 * count);
    await transposeWords(words, wordRows, width, new Uint32Array(out.buffer, 0, count));
    return out;
  }

  private async zeroPoints(begin: number, end: number, scratch: Scratch): Promise<Int32Array> {
    const { qzeros, bits, rows, groups } = this.layer;
    const width = end - begin;
    const bytes = (width * bits) / 8;
    const words = scratch.bytes('storedZeroPoints', groups * bytes);
    await readColumns(qzeros, groups, (rows * bits) / 8, (begin * bits) / 8, bytes, words);
    const out = scratch.integers('zeroPoints', groups * width);
    unpackZeroPoints(new Uint32Array(words.buffer, 0, words.length / 4), groups, width, bits, this.form, out);
    return out;
  }

  /** Groups of several sizes: every group is taken for several of their largest common size, which repeat its scale. */
  private async floats(
    sorted: QuantizedTensor,
    { order, counts }: GroupOrder,
    scratch: Scratch,
  ): Promise<RowBlock & { kind: 'float' }> {
    const { groups } = this.layer;
    const [rows = 0, columns = 0] = sorted.shape;
    const groupSize = commonDivisor(counts);
    const pieces = columns / groupSize;
    const scales = scratch.floats('pieceScales', rows * pieces);
    const zeroPoints = scratch.integers('pieceZeroPoints', rows * pieces);
    for (let row = 0, at = 0; row < rows; row++) {
      for (let group = 0; group < groups; group++) {
        const from = row * groups + group;
        const to = at + (counts[group] as number) / groupSize;
        scales.fill(sorted.scales[from] as number, at, to);
        zeroPoints.fill((sorted.zeroPoints as Int32Array)[from] as number, at, to);
        at = to;
      }
    }
    const { dtype, shape, data } = sorted;
    const tensor: QuantizedTensor = {
      dtype,
      shape,
      scheme: 'asymmetric',
      granularity: 'per-group',
      groupSize,
      data,
      scales,
      zeroPoints,
    };
    const count = rows * columns;
    const wide = this.dtype === 'float32';
    const values = wide ? scratch.floats('sortedFloats', count) : scratch.halves('sortedFloats', count);
    const out = wide ? scratch.floats('input', count) : scratch.halves('input', count);
    await dequantizeTensorAsync(tensor, { dtype: this.dtype, out: values });
    for (let at = 0; at < count; at += columns) {
      for (let i = 0; i < columns; i++) out[at + (order[i] as number)] = values[at + i] as number;
    }
    return { kind: 'float', dtype: this.dtype, data: out };
  }
}

/**
 * Reads weights in GPTQ's layout, versions 1 and 2: those of a checkpoint whose config names it, and without a config those
 * whose tensors have its names and shapes.
 *
 * Reading w rows of a weight [N, K] needs 3 · w · K · bits / 8 bytes at most (two thirds of that without act-order), 16 · w · G
 * for scales and zero points, and 8 · K for act-order. Groups of unequal sizes, which no known tool writes, come as
 * floats: another w · K · 2 · (bytes of a float), and 8 · w · K / (their greatest common divisor).
 *
 * @throws CheckpointError from `claim`: `LAYOUT_INVALID`; `LAYOUT_UNSUPPORTED` for other packings (Marlin);
 *   `LAYOUT_AMBIGUOUS` if config and data disagree on the version, or neither tells; `CONFIG_INVALID`.
 */
export function gptqReader({ gptqVersion }: GptqReaderOptions = {}): LayoutReader {
  return {
    format: 'gptq',
    async claim(checkpoint: Checkpoint, left: Map<string, StoredTensor>): Promise<Weight[]> {
      const config = await integerConfigOf(checkpoint);
      const says = config?.method === 'gptq';
      if (!says && !mayBeAny(config)) return [];
      if (says && config?.format !== undefined && !FORMATS.has(config.format)) {
        const message = `${config.source} says checkpoint_format "${config.format}"; of GPTQ, lowbit reads "gptq" and "gptq_v2".`;
        throw new CheckpointError('LAYOUT_UNSUPPORTED', message, { path: config.path });
      }
      let found = packedLayersOf(left, says);
      // Without a config the shape tells: AWQ packs along the other axis.
      if (!says) found = found.filter(({ qweight, rows }) => qweight.shape[1] === rows);
      if (found.length === 0) return [];
      const scratch = new Scratch();
      const layers: GptqLayer[] = [];
      for (const layer of found) layers.push(await gptqLayer(layer, config, scratch));
      const samples = layers.map((layer) => ({
        ...layer,
        mixedGroups: layer.arrangement === 'in-order' ? null : (layer.groupIndex ?? null),
      }));
      const { form, symmetric } = await zeroPointsOf(checkpoint.path, config, samples, gptqVersion ?? null);
      return layers.map((layer) => new GptqWeight(layer, form, symmetric, takeLayer(left, layer)));
    },
  };
}
