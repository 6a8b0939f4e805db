import { describe, expect, it } from 'vitest';
import {
  entropyRange,
  histogramRange,
  Observer,
  type ObserverMethod,
  percentileRange,
  pytorchParameters,
} from '../../lib/index.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface ObserverCase {
  op: string;
  observer: string;
  data: string;
  qscheme: string;
  reduce_range?: boolean;
  quant_min: number;
  quant_max: number;
  min_val: EncodedArray;
  max_val: EncodedArray;
  new_min: EncodedArray;
  new_max: EncodedArray;
  histogram: EncodedArray | null;
  scale: EncodedArray;
  zero_point: EncodedArray;
}

const torch = readJson<{ observer_batches: Record<string, EncodedArray[]>; cases: ObserverCase[] }>(
  'torch',
  'torch_cases.json',
);

function observerCases(...names: string[]): [string, ObserverCase][] {
  return torch.cases
    .filter(({ op, observer }) => op === 'observer' && names.includes(observer))
    .map((c) => [`${c.observer} ${c.data} ${c.qscheme.slice(6)} [${c.quant_min}, ${c.quant_max}]`, c]);
}

function schemeOf({ qscheme, quant_min, quant_max }: ObserverCase) {
  const scheme = qscheme.endsWith('symmetric') ? 'symmetric' : 'asymmetric';
  return { quantMin: quant_min, quantMax: quant_max, scheme } as const;
}

function expectParameters(min: Float32Array, max: Float32Array, c: ObserverCase): void {
  const { scales, zeroPoints } = pytorchParameters(min, max, schemeOf(c));
  expect(Array.from(scales)).toEqual(numbers(c.scale));
  expect(Array.from(zeroPoints)).toEqual(numbers(c.zero_point));
}

describe('ranges and parameters equal those of PyTorch', () => {
  const METHODS: Record<string, ObserverMethod> = { MinMax: 'minmax', MovingAverageMinMax: 'moving-average' };

  it.each(observerCases('MinMax', 'MovingAverageMinMax'))('%s', (_, c) => {
    const observer = new Observer({ method: METHODS[c.observer] as ObserverMethod });
    for (const batch of torch.observer_batches[c.data] as EncodedArray[]) observer.observe(float32(batch));
    const { min, max } = observer.range();
    expect([...min, ...max]).toEqual([...numbers(c.min_val), ...numbers(c.max_val)].map((v) => v + 0));
    expectParameters(min, max, c);
  });

  it.each(observerCases('PerChannelMinMax'))('%s', (_, c) => {
    const observer = new Observer({ method: 'minmax', granularity: 'per-channel' });
    for (const batch of torch.observer_batches[c.data] as EncodedArray[]) {
      observer.observe(float32(batch), { shape: batch.shape });
    }
    const { min, max } = observer.range();
    expectParameters(min, max, c);
  });

  // PyTorch's own histogram depends on the order of the batches; the search in it does not. The first case of each data
  // set holds the histogram.
  const histograms = new Map<string, EncodedArray>();
  for (const [, c] of observerCases('Histogram')) if (c.histogram !== null) histograms.set(c.data, c.histogram);

  it.each(observerCases('Histogram').filter(([, { data }]) => histograms.has(data)))('%s', (_, c) => {
    const counts = numbers(histograms.get(c.data) as EncodedArray);
    const [min = 0] = numbers(c.min_val);
    const [max = 0] = numbers(c.max_val);
    const width = Math.fround(Math.fround(max - min) / counts.length); // PyTorch computes edges in float32
    const edges = Float32Array.from({ length: counts.length + 1 }, (_, i) => min + Math.fround(width * i));
    const { min: newMin, max: newMax } = histogramRange({ counts, edges });
    expect([newMin, newMax]).toEqual([...numbers(c.new_min), ...numbers(c.new_max)]);
    expectParameters(new Float32Array([newMin]), new Float32Array([newMax]), c);
  });
});

describe('ranges equal those of TensorRT Model Optimizer', () => {
  interface CalibrationCase {
    op: string;
    data: string;
    num_bits: number;
    unsigned: boolean;
    stride: number;
    start_bin: number;
    percentile: number;
    hist: EncodedArray;
    edges: EncodedArray;
    amax: number;
  }
  const { cases } = readJson<{ cases: CalibrationCase[] }>('calibration', 'calibration.json');

  it.each(cases)('$op $data $percentile $stride', (c) => {
    const histogram = { counts: numbers(c.hist), edges: float32(c.edges) };
    const amax =
      c.op === 'percentile_amax'
        ? percentileRange(histogram, c.percentile)
        : entropyRange(histogram, {
            bits: c.num_bits,
            unsigned: c.unsigned,
            stride: c.stride,
            startBin: c.start_bin,
          });
    expect(amax).toBe(c.amax);
  });
});
