/**
 * Whether the zero points of a GPTQ checkpoint are those of version 1 (`zero − 1`) or 2 (`zero`). Configurations say so, but
 * models that are labelled wrongly exist (vLLM pull requests 26092 and 38966), and with the other reading every weight is off
 * by one step. So the data are asked as well:
 *
 * - Symmetric weights have nothing but the middle, 2^(bits−1), as their zero point: it is stored in one of two ways.
 * - Otherwise, weights lie around 0, so the mean of `code − zero` over many groups is 0: with what is stored in place of the
 *   zero point it is about 1 for version 1 and about 0 for version 2.
 *
 * That a stored field is 2^bits − 1, which version 1 would read as 2^bits, decides nothing: it is how version 1 stores a zero
 * point of 0, and how version 2 stores the largest one.
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { IntegerConfig } from './integer-config.js';
import type { CodeBits } from './repack.js';
import { readColumns } from './strips.js';
import { type GptqVersion, unpackZeroPoints } from './zero-points.js';

/** A layer, as far as it is needed here. */
export interface SampledLayer {
  readonly qweight: StoredTensor;
  readonly qzeros: StoredTensor;
  readonly bits: CodeBits;
  readonly rows: number;
  readonly columns: number;
  /** Whether its first group is its first inputs; how many these are. */
  readonly inOrder: boolean;
  readonly firstGroup: number;
}

const MOST_LAYERS = 8;
const MOST_CHANNELS = 256;
const MOST_INPUTS = 512;

/** Fewer stored zero points that happen to be alike prove nothing of a checkpoint that does not say it is symmetric. */
const ENOUGH_ALIKE = 64;

/** What some stored zero points look like. */
export interface VersionEvidence {
  readonly version: GptqVersion | null;
  /** A clause for messages. */
  readonly words: string;
}

/** Codes of a strip of words [inputs · bits / 32, channels], added up along the inputs. */
function sumsOfCodes(strip: Uint32Array, channels: number, bits: CodeBits, inputs: number): Float64Array {
  const sums = new Float64Array(channels);
  const mask = 2 ** bits - 1;
  for (let i = 0; i < inputs; i++) {
    const shift = (i * bits) % 32;
    const row = ((i * bits - shift) / 32) * channels;
    for (let c = 0; c < channels; c++) {
      let code = (strip[row + c] as number) >>> shift;
      if (shift + bits > 32) code |= (strip[row + channels + c] as number) << (32 - shift);
      sums[c] = (sums[c] as number) + (code & mask);
    }
  }
  return sums;
}

/** Sums over the differences of mean codes and stored zero points, and what the latter are. */
class Sample {
  fields = 0;
  lowMiddles = 0;
  middles = 0;
  private count = 0;
  private sum = 0;
  private squares = 0;

  async add(layer: SampledLayer, scratch: Scratch): Promise<void> {
    const { qweight, qzeros, bits, rows, columns } = layer;
    const channels = Math.min(rows, MOST_CHANNELS);
    const zeroWords = scratch.bytes('input', (channels * bits) / 8);
    await qzeros.read(0, zeroWords);
    const stored = new Int32Array(channels);
    // Version 2 is what is stored.
    unpackZeroPoints(new Uint32Array(zeroWords.buffer, 0, zeroWords.length / 4), 1, channels, bits, 2, stored);
    const middle = 2 ** (bits - 1);
    for (const field of stored) {
      this.fields++;
      if (field === middle - 1) this.lowMiddles++;
      else if (field === middle) this.middles++;
    }
    if (!layer.inOrder) return;
    const inputs = Math.floor(Math.min(columns, layer.firstGroup, MOST_INPUTS) / 32) * 32;
    if (inputs === 0) return;
    const wordRows = (inputs * bits) / 32;
    const strip = scratch.bytes('strip', 4 * wordRows * channels);
    await readColumns(qweight, wordRows, 4 * rows, 0, 4 * channels, strip);
    const sums = sumsOfCodes(new Uint32Array(strip.buffer, 0, strip.length / 4), channels, bits, inputs);
    for (let c = 0; c < channels; c++) {
      const difference = (sums[c] as number) / inputs - (stored[c] as number);
      this.count++;
      this.sum += difference;
      this.squares += difference * difference;
    }
  }

  evidence(symmetric: boolean | undefined): VersionEvidence {
    const alike = symmetric === true || (symmetric === undefined && this.fields >= ENOUGH_ALIKE);
    if (alike && this.fields > 0 && (this.lowMiddles === this.fields || this.middles === this.fields)) {
      const version = this.middles === this.fields ? 2 : 1;
      const where = version === 2 ? 'the middle' : 'one below the middle';
      return {
        version,
        words: `all ${this.fields} stored zero points looked at are ${where}, as version ${version} has it`,
      };
    }
    const mean = this.sum / this.count;
    const deviation = Math.sqrt(Math.max(0, this.squares / this.count - mean * mean) / this.count);
    if (this.count < MOST_CHANNELS || deviation > 0.05) {
      return { version: null, words: `${this.count} groups were looked at, which is not enough to tell` };
    }
    const words = `codes lie ${mean.toFixed(2)} above the stored zero points on average (version 1: about 1, version 2: about 0)`;
    if (Math.abs(mean - 1) < 0.25) return { version: 1, words };
    if (Math.abs(mean) < 0.25) return { version: 2, words };
    return { version: null, words };
  }
}

/** What the stored zero points of some layers say. */
export async function versionEvidence(
  layers: readonly SampledLayer[],
  symmetric: boolean | undefined,
): Promise<VersionEvidence> {
  const scratch = new Scratch();
  const sample = new Sample();
  const step = Math.max(1, Math.floor(layers.length / MOST_LAYERS));
  for (let i = 0, taken = 0; i < layers.length && taken < MOST_LAYERS; i += step, taken++) {
    await sample.add(layers[i] as SampledLayer, scratch);
  }
  return sample.evidence(symmetric);
}

/** What a config says, or null. */
function declaredVersion(config: IntegerConfig | null): GptqVersion | null {
  switch (config?.format) {
    case 'gptq':
      return 1;
    case 'gptq_v2':
      return 2;
    default:
      return null;
  }
}

/**
 * The version of a checkpoint's zero points.
 *
 * @throws CheckpointError `LAYOUT_AMBIGUOUS` if config and data contradict each other, or neither decides.
 */
export async function gptqVersionOf(
  path: string,
  config: IntegerConfig | null,
  layers: readonly SampledLayer[],
): Promise<GptqVersion> {
  const declared = declaredVersion(config);
  const { version, words } = await versionEvidence(layers, config?.symmetric);
  const made = config !== null && config.tools.length > 0 ? ` It was made by ${config.tools.join(', ')}.` : '';
  const remedy =
    'Say which is right: gptqVersion 1 (zero points stored less one, checkpoint_format "gptq") or 2 ("gptq_v2").';
  if (declared !== null && version !== null && declared !== version) {
    const said = `${config?.source} says checkpoint_format "${config?.format}", version ${declared}, but ${words}.`;
    throw new CheckpointError('LAYOUT_AMBIGUOUS', `${said}${made} ${remedy}`, { path });
  }
  if (declared !== null) return declared;
  if (version !== null) return version;
  // Tools that write no format are older than version 2.
  if (config !== null && config.method === 'gptq') return 1;
  const message = `${path} does not say which version of GPTQ its zero points are, and ${words}.${made} ${remedy}`;
  throw new CheckpointError('LAYOUT_AMBIGUOUS', message, { path });
}
