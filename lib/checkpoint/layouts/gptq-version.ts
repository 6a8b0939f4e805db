/**
 * Whether the zero points of a GPTQ checkpoint are those of version 1 (`zero − 1`) or 2 (`zero`). Configurations say so, but
 * models that are labelled wrongly exist (vLLM pull requests 26092 and 38966), and with the other reading every weight is off
 * by one step. So the data are asked as well:
 *
 * - Symmetric weights have nothing but the middle, 2^(bits−1), as their zero point: one reading gives just that.
 * - Otherwise, weights lie around 0, so the mean of the codes of a channel is near that of its zero points: with the right
 *   reading, the mean of their differences over many channels is 0, and that of their squares much smaller than with another
 *   one.
 *
 * For three bits there is a third reading: see {@link ZeroPointForm}.
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
import { type GptqVersion, unpackZeroPoints, type ZeroPointForm } from './zero-points.js';

/** A layer, as far as it is needed here. */
export interface SampledLayer {
  readonly qweight: StoredTensor;
  readonly qzeros: StoredTensor;
  readonly bits: CodeBits;
  readonly rows: number;
  readonly columns: number;
  readonly groups: number;
  readonly groupSize: number | null;
  /** The group of every input, where it does not follow from the group size. */
  readonly mixedGroups: StoredTensor | null;
}

const MOST_LAYERS = 8;
const MOST_CHANNELS = 256;
const MOST_INPUTS = 512;

/** Fewer channels have too uncertain a mean. */
const ENOUGH_CHANNELS = 256;

/** Fewer stored zero points that happen to be alike prove nothing of a checkpoint that does not say it is symmetric. */
const ENOUGH_ALIKE = 64;

/** What some stored zero points look like. */
export interface VersionEvidence {
  readonly form: ZeroPointForm | null;
  /** Whether all of them are the middle. */
  readonly symmetric: boolean;
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

/** Mean codes of the first inputs, for some channels; none if there are too few inputs. */
async function meanCodes(
  { qweight, bits, rows }: SampledLayer,
  channels: number,
  inputs: number,
  scratch: Scratch,
): Promise<Float64Array> {
  if (inputs === 0) return new Float64Array(0);
  const wordRows = (inputs * bits) / 32;
  const strip = scratch.bytes('strip', 4 * wordRows * channels);
  await readColumns(qweight, wordRows, 4 * rows, 0, 4 * channels, strip);
  const sums = sumsOfCodes(new Uint32Array(strip.buffer, 0, strip.length / 4), channels, bits, inputs);
  return sums.map((sum) => sum / inputs);
}

/** Which part of the first inputs belongs to each group. */
async function groupShares(
  { groups, groupSize, columns, mixedGroups }: SampledLayer,
  inputs: number,
  scratch: Scratch,
): Promise<Float64Array> {
  const index = scratch.integers('groupIndex', inputs);
  if (mixedGroups !== null) await mixedGroups.read(0, scratch.bytes('groupIndex', 4 * inputs));
  else for (let i = 0; i < inputs; i++) index[i] = Math.floor(i / (groupSize ?? columns));
  const shares = new Float64Array(groups);
  for (const group of index) shares[group] = (shares[group] as number) + 1 / inputs;
  return shares;
}

/** One reading of the zero points: how they lie to the codes. */
class Reading {
  private middles = 0;
  private count = 0;
  private sum = 0;
  private squares = 0;

  constructor(readonly form: ZeroPointForm) {}

  addZeroPoints(zeroPoints: Int32Array, bits: CodeBits): void {
    for (const zero of zeroPoints) if (zero === 2 ** (bits - 1)) this.middles++;
  }

  addChannel(difference: number): void {
    this.count++;
    this.sum += difference;
    this.squares += difference * difference;
  }

  allAre(count: number): boolean {
    return count > 0 && this.middles === count;
  }

  get mean(): number {
    return this.sum / this.count;
  }

  get meanSquare(): number {
    return this.squares / this.count;
  }

  /** Whether the mean is known well enough, and is 0. */
  get fits(): boolean {
    const error = Math.sqrt(Math.max(0, this.meanSquare - this.mean * this.mean) / this.count);
    return this.count >= ENOUGH_CHANNELS && error < 0.05 && Math.abs(this.mean) < 0.25;
  }
}

/** Some zero points, and the codes of their groups. */
class Sample {
  private fields = 0;
  private readonly readings: readonly Reading[];

  constructor(threeBits: boolean) {
    const forms: ZeroPointForm[] = threeBits ? ['v1', 'v1-words', 'v2'] : ['v1', 'v2'];
    this.readings = forms.map((form) => new Reading(form));
  }

  async add(layer: SampledLayer, scratch: Scratch): Promise<void> {
    const { qzeros, bits, rows, groups } = layer;
    const channels = Math.min(rows, MOST_CHANNELS);
    const bytes = (channels * bits) / 8;
    const zeroWords = scratch.bytes('storedZeroPoints', groups * bytes);
    await readColumns(qzeros, groups, (rows * bits) / 8, 0, bytes, zeroWords);
    const words = new Uint32Array(zeroWords.buffer, 0, zeroWords.length / 4);
    const inputs = Math.floor(Math.min(layer.columns, MOST_INPUTS) / 32) * 32;
    const means = await meanCodes(layer, channels, inputs, scratch);
    const shares = await groupShares(layer, inputs, scratch);
    const zeroPoints = scratch.integers('zeroPoints', groups * channels);
    this.fields += zeroPoints.length;
    for (const reading of this.readings) {
      unpackZeroPoints(words, groups, channels, bits, reading.form, zeroPoints);
      reading.addZeroPoints(zeroPoints, bits);
      for (let c = 0; c < means.length; c++) {
        let zero = 0;
        for (let g = 0; g < groups; g++) zero += (shares[g] as number) * (zeroPoints[c * groups + g] as number);
        reading.addChannel((means[c] as number) - zero);
      }
    }
  }

  evidence(symmetric: boolean | undefined): VersionEvidence {
    const middle = this.readings.find((reading) => reading.allAre(this.fields));
    if (middle !== undefined && (symmetric === true || (symmetric === undefined && this.fields >= ENOUGH_ALIKE))) {
      const words = `all ${this.fields} zero points looked at are the middle if read as version ${versionOf(middle.form)}`;
      return { form: middle.form, symmetric: true, words };
    }
    const [best, ...others] = [...this.readings].sort((a, b) => a.meanSquare - b.meanSquare) as [Reading, ...Reading[]];
    const clear = others.every((other) => other.meanSquare > best.meanSquare + 0.5);
    const means = this.readings
      .filter(({ form }) => form !== 'v1-words')
      .map(({ form, mean }) => `${mean.toFixed(2)} as version ${versionOf(form)}`);
    if (best.fits && clear) {
      const words = `codes less zero points, whose mean should be near 0, are on average ${means.join(', ')}`;
      return { form: best.form, symmetric: false, words };
    }
    return { form: null, symmetric: false, words: 'its data do not tell' };
  }
}

function versionOf(form: ZeroPointForm): GptqVersion {
  return form === 'v2' ? 2 : 1;
}

/** What the stored zero points of some layers say. */
async function versionEvidence(
  layers: readonly SampledLayer[],
  symmetric: boolean | undefined,
): Promise<VersionEvidence> {
  const scratch = new Scratch();
  const sample = new Sample(layers.some(({ bits }) => bits === 3));
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

/** A version as it is stored: for three bits, version 1 has two forms. */
function formOf(version: GptqVersion, evidence: VersionEvidence, config: IntegerConfig | null): ZeroPointForm {
  if (version === 2) return 'v2';
  if (evidence.form !== null && evidence.form !== 'v2') return evidence.form;
  return config?.tools.some((tool) => tool.toLowerCase().startsWith('gptqmodel')) ? 'v1-words' : 'v1';
}

/**
 * How the zero points of a checkpoint are stored, and whether they are all the middle.
 *
 * @param version - What the caller says it is; null: what config and data say.
 * @throws CheckpointError `LAYOUT_AMBIGUOUS` if config and data contradict each other, or neither decides.
 */
export async function zeroPointsOf(
  path: string,
  config: IntegerConfig | null,
  layers: readonly SampledLayer[],
  version: GptqVersion | null,
): Promise<{ form: ZeroPointForm; symmetric: boolean }> {
  const evidence = await versionEvidence(layers, config?.symmetric);
  const symmetric = config?.symmetric ?? evidence.symmetric;
  const decided = version ?? decide(path, config, evidence);
  return { form: formOf(decided, evidence, config), symmetric };
}

function decide(path: string, config: IntegerConfig | null, { form, words }: VersionEvidence): GptqVersion {
  const declared = declaredVersion(config);
  const found = form === null ? null : versionOf(form);
  const made = config !== null && config.tools.length > 0 ? ` It was made by ${config.tools.join(', ')}.` : '';
  const remedy =
    'Say which is right with gptqVersion, 1 (zero points stored less one) or 2, or in the config with checkpoint_format, "gptq" or "gptq_v2".';
  if (declared !== null && found !== null && declared !== found) {
    const said = `${config?.source} says checkpoint_format "${config?.format}", version ${declared}, but ${words}.`;
    throw new CheckpointError('LAYOUT_AMBIGUOUS', `${said}${made} ${remedy}`, { path });
  }
  const version = declared ?? found;
  if (version !== null) return version;
  // Tools that write no format are older than version 2.
  if (config?.method === 'gptq') return 1;
  const message = `${path} does not say which version of GPTQ its zero points are, and ${words}.${made} ${remedy}`;
  throw new CheckpointError('LAYOUT_AMBIGUOUS', message, { path });
}
