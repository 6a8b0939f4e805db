/**
 * The end of a decoder: the last norm and the output layer.
 *
 * @module
 */
import { storedBytes, type Weight } from '../checkpoint/weight.js';
import { roundedInputs } from '../tensor/input-quantization.js';
import type { BlockContext } from './block.js';
import { linearOfRows, type PackedLinear } from './linear-layer.js';
import { rmsNorm } from './operations.js';
import { Remembered } from './remembered.js';

/** Stored bytes of the rows that are read, and without a place in memory multiplied, at a time. */
const PART_BYTES = 32 * 2 ** 20;

/** Rows of the output layer. */
interface Part {
  readonly begin: number;
  readonly layer: PackedLinear;
}

/** Turns hidden states into logits. */
export class Head {
  private readonly norm = new Remembered(() => this.context.weights.vector(this.context.weights.norm));
  private readonly input = new Remembered(async () => (await this.weight.input?.read()) ?? null);
  private readonly kept = new Remembered(() => this.openAll());

  constructor(
    private readonly context: BlockContext,
    /** Whether the weights stay in memory; else only a part of them ever is there. */
    private readonly keeps: boolean,
    private readonly partBytes: number = PART_BYTES,
  ) {}

  /**
   * @param hidden - `[rows, hiddenSize]`; normalized in place.
   * @param out - `[rows, vocabSize]`
   */
  async forward(hidden: Float32Array, out: Float32Array): Promise<Float32Array> {
    const { config } = this.context;
    rmsNorm(hidden, await this.norm.get(), config.rmsNormEps, hidden);
    const input = this.context.quantizesInputs ? await this.input.get() : null;
    if (input !== null) hidden.set(roundedInputs(hidden, input));
    if (this.keeps) {
      for (const part of await this.kept.get()) this.multiply(part, hidden, out);
      return out;
    }
    for (const begin of this.begins()) {
      const part = await this.open(begin);
      try {
        this.multiply(part, hidden, out);
      } finally {
        part.layer.dispose();
      }
    }
    return out;
  }

  private get weight(): Weight {
    const { weights } = this.context;
    weights.requireHead();
    return weights.head as Weight;
  }

  private get partRows(): number {
    const head = this.weight;
    const step = 16 * head.rowStep;
    return Math.max(1, Math.floor(this.partBytes / ((storedBytes(head) / head.rows) * step))) * step;
  }

  private begins(): number[] {
    const { partRows } = this;
    return Array.from({ length: Math.ceil(this.weight.rows / partRows) }, (_, i) => i * partRows);
  }

  private async open(begin: number): Promise<Part> {
    const { computeDtype, loader } = this.context;
    const head = this.weight;
    const end = Math.min(head.rows, begin + this.partRows);
    return { begin, layer: await loader.run((scratch) => linearOfRows(head, begin, end, null, computeDtype, scratch)) };
  }

  private async openAll(): Promise<Part[]> {
    const parts: Part[] = [];
    try {
      for (const begin of this.begins()) parts.push(await this.open(begin));
      return parts;
    } catch (error) {
      for (const { layer } of parts) layer.dispose();
      throw error;
    }
  }

  private multiply({ begin, layer }: Part, hidden: Float32Array, out: Float32Array): void {
    const { vocabSize } = this.context.config;
    const rows = out.length / vocabSize;
    if (rows === 1) {
      layer.forward(hidden, out.subarray(begin, begin + layer.rows));
      return;
    }
    const part = layer.forward(hidden);
    for (let row = 0; row < rows; row++) {
      out.set(part.subarray(row * layer.rows, (row + 1) * layer.rows), row * vocabSize + begin);
    }
  }

  async close(): Promise<void> {
    await this.kept.current?.then(
      (parts) => {
        for (const { layer } of parts) layer.dispose();
      },
      () => undefined,
    );
  }
}
