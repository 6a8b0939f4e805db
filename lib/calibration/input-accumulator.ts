/**
 * What is known of the activations that linear layers read, in a fixed amount of memory, exact under any division of the windows.
 *
 * @module
 */
import type { Device } from '../device/device.js';
import { InvalidArgumentError, NonFiniteError } from '../errors.js';
import { gramAsync } from '../matmul/gram.js';
import { BINS, type InputStatistics, rangeOf } from '../methods/input-statistics.js';
import { Observer } from '../observe/observer.js';
import { checkSums, ExactSums, triangleLength } from './exact-sums.js';

/** Collects {@link InputStatistics} window by window. */
export class InputAccumulator {
  rows = 0;
  windows = 0;
  readonly absMax: Float32Array;
  readonly squares: ExactSums;
  readonly magnitudes: ExactSums;
  readonly gram: ExactSums | null;
  observer = new Observer({ method: 'mse', bins: BINS });
  /** Rows of the sample that came, by their place in it. */
  readonly sample: Float32Array;
  private readonly device: Device;

  constructor(
    /** `layers.3.mlp.down_proj` */
    readonly name: string,
    readonly columns: number,
    options: {
      readonly gram: boolean;
      readonly sampleRows: number;
      /** Where Gram matrices of windows are computed. Default `'cpu'`. */
      readonly device?: Device | undefined;
    },
  ) {
    this.device = options.device ?? 'cpu';
    this.absMax = new Float32Array(columns);
    this.squares = ExactSums.ofLength(columns);
    this.magnitudes = ExactSums.ofLength(columns);
    this.gram = options.gram ? ExactSums.ofLength(triangleLength(columns)) : null;
    this.sample = new Float32Array(options.sampleRows * columns);
  }

  /**
   * Takes in the activations of one window.
   *
   * @param x - `[rows, K]`.
   * @param sampled - Position in the window → place in the sample.
   * @throws {@link NonFiniteError} for NaN or infinity; {@link CalibrationError} `CALIBRATION_OVERFLOW`.
   */
  async add(x: Float32Array, sampled: ReadonlyMap<number, number>, signal?: AbortSignal): Promise<void> {
    const { columns } = this;
    this.checkFinite(x);
    const options = signal === undefined ? {} : { signal };
    const partial = this.gram === null ? null : await gramAsync(x, { k: columns, device: this.device, ...options });
    await this.observer.observeAsync(x, options);
    const [squares, magnitudes] = [new Float64Array(columns), new Float64Array(columns)];
    for (let begin = 0; begin < x.length; begin += columns) {
      for (let k = 0; k < columns; k++) {
        const magnitude = Math.abs(x[begin + k] as number);
        (squares[k] as number) += magnitude * magnitude;
        (magnitudes[k] as number) += magnitude;
        if (magnitude > (this.absMax[k] as number)) this.absMax[k] = magnitude;
      }
    }
    for (let k = 0; k < columns; k++) {
      this.squares.add(k, squares[k] as number);
      this.magnitudes.add(k, magnitudes[k] as number);
    }
    if (partial !== null) this.gram?.addTriangle(partial, columns);
    for (const [position, place] of sampled) {
      this.sample.set(x.subarray(position * columns, (position + 1) * columns), place * columns);
    }
    this.rows += x.length / columns;
    this.windows++;
    checkSums(this.name, this.squares, this.windows);
  }

  private checkFinite(x: Float32Array): void {
    const at = x.findIndex((value) => !Number.isFinite(value));
    if (at === -1) return;
    const value = x[at] as number;
    const message =
      `The input of ${this.name} has ${value} in channel ${at % this.columns}, at token ${Math.floor(at / this.columns)} of a window: ` +
      'the weights before it are damaged, or they overflow in float32. lowbit inspect --statistics finds damaged weights.';
    throw new NonFiniteError(message, at, value, this.name);
  }

  /** Takes in what another accumulator has seen, all but the sample. */
  merge(other: InputAccumulator): void {
    if (other.columns !== this.columns || (other.gram === null) !== (this.gram === null)) {
      throw new InvalidArgumentError('other', `Expected statistics of the same kind for ${this.name}.`);
    }
    other.absMax.forEach((value, k) => {
      if (value > (this.absMax[k] as number)) this.absMax[k] = value;
    });
    this.squares.merge(other.squares);
    this.magnitudes.merge(other.magnitudes);
    if (other.gram !== null) this.gram?.merge(other.gram);
    this.observer.merge(other.observer);
    this.rows += other.rows;
    this.windows += other.windows;
    checkSums(this.name, this.squares, this.windows);
  }

  finish(): InputStatistics {
    const { columns, rows, absMax, sample, observer } = this;
    return {
      columns,
      rows,
      gram: this.gram?.matrix(columns) ?? null,
      absMax,
      sumOfSquares: this.squares.values(),
      sumOfMagnitudes: this.magnitudes.values(),
      sample,
      range: (method = 'minmax', scheme = 'symmetric') => rangeOf(observer, method, scheme),
    };
  }
}
