/**
 * The only file that loads the native addon, and the one typed description of its raw surface. Everything else in lib/
 * calls {@link addon} and knows nothing of a binary.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import bindings from 'bindings';
import nodeGypBuild from 'node-gyp-build';
import { AddonError, DeviceError, InvalidArgumentError, OutOfMemoryError } from './errors.js';

/** A float array as the addon takes it: float16 and bfloat16 as bit patterns. */
export type RawFloats = Float32Array | Uint16Array;

/** The same for casts: floats of eight bits and fewer in bytes. */
export type RawAnyFloats = RawFloats | Uint8Array;

type CastArguments = [
  input: RawAnyFloats,
  from: number,
  out: RawAnyFloats,
  to: number,
  count: number,
  saturate: boolean,
];
/** The numbers of `record` are listed in native/node/tensor_calls.cc. */
type QuantizeArguments = [
  record: Float64Array,
  input: RawFloats,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  out: Uint8Array,
];
type DequantizeArguments = [
  record: Float64Array,
  data: Uint8Array,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  out: RawFloats,
];
/** The numbers of `record` are listed in native/node/tensor_calls.cc. */
type QuantizeCodebookArguments = [
  record: Float64Array,
  input: RawFloats,
  scales: Float32Array,
  globalScale: Float32Array,
  codes: Uint8Array,
];
type DequantizeCodebookArguments = [record: Float64Array, codes: Uint8Array, scales: Float32Array, out: RawFloats];
type NestScalesArguments = [scales: Float32Array, codes: Uint8Array, absmax: Float32Array, offset: Float32Array];
type UnpackArguments = [
  data: Uint8Array,
  bits: number,
  signed: boolean,
  rows: number,
  columns: number,
  out: Int8Array | Uint8Array,
];
type QuantizeBlocksArguments = [
  input: Float32Array,
  type: number,
  rowLength: number,
  importance: Float32Array | null,
  out: Uint8Array,
];
type DequantizeBlocksArguments = [data: Uint8Array, type: number, out: Float32Array];
/** The numbers of `record`s are listed in native/node/training_calls.cc. */
type FakeQuantizeIntegersArguments = [
  record: Float64Array,
  input: Float32Array,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  out: Float32Array,
  mask: Uint8Array,
];
type FakeQuantizeScaledArguments = [
  record: Float64Array,
  input: Float32Array,
  scales: Float32Array,
  out: Float32Array,
  mask: Uint8Array,
];
type FakeQuantizeBlocksArguments = [record: Float64Array, input: Float32Array, out: Float32Array, mask: Uint8Array];
type StraightThroughArguments = [gradient: Float32Array, mask: Uint8Array, out: Float32Array];
type FakeQuantizeGradientsArguments = [
  record: Float64Array,
  gradient: Float32Array,
  input: Float32Array,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  out: Float32Array,
  outScales: Float32Array,
  outZeroPoints: Float32Array,
];
type ObserveRangesArguments = [record: Float64Array, input: Float32Array, min: Float32Array, max: Float32Array];
type ObserveHistogramArguments = [input: Float32Array, range: Float32Array, exponent: Int32Array, counts: Float64Array];
type ObserveCountsArguments = [record: Float64Array, input: Float32Array, exponents: Int32Array, counts: Float64Array];
type XorCountsArguments = [
  a: Uint8Array,
  b: Uint8Array,
  m: number,
  n: number,
  columns: number,
  kind: number,
  out: Int32Array | Uint32Array,
];
type PackBitsArguments = [input: RawFloats | Int8Array, type: number, rows: number, columns: number, out: Uint8Array];
type UnpackBitsArguments = [
  data: Uint8Array,
  rows: number,
  columns: number,
  floats: boolean,
  out: Int8Array | Float32Array,
];
type PackTernaryArguments = [digits: Int8Array, rows: number, columns: number, packing: number, out: Uint8Array];
type UnpackTernaryArguments = [packed: Uint8Array, rows: number, columns: number, packing: number, out: Int8Array];
/** The numbers of `record`s are listed in native/node/repack_calls.cc. */
type RepackArguments = [record: Float64Array, input: Uint32Array, out: Uint32Array];
type SelectCodesArguments = [record: Float64Array, input: Uint32Array, order: Int32Array, out: Uint32Array];
type MoveFieldsArguments = [
  data: Uint8Array,
  inStride: number,
  out: Uint8Array,
  outStride: number,
  rows: number,
  columns: number,
  bits: number,
  flip: boolean,
];
type UnpackFieldsArguments = [
  data: Uint8Array,
  inStride: number,
  rows: number,
  columns: number,
  bits: number,
  perWord: number,
  offset: number,
  out: Uint8Array,
];
type GatherFieldsArguments = [
  data: Uint8Array,
  rows: number,
  columns: number,
  bits: number,
  order: Int32Array,
  out: Uint8Array,
];
type SwapNibblesArguments = [data: Uint8Array, out: Uint8Array];
type DequantizeLlmInt8Arguments = [
  codes: Uint8Array,
  absmax: Float32Array,
  rows: number,
  columns: number,
  out: Float32Array,
];
type RmsNormArguments = [x: Float32Array, weight: Float32Array, epsilon: number, out: Float32Array];
/** The numbers of `record` are listed in native/node/decoder_calls.cc. */
type AttentionArguments = [
  record: Float64Array,
  queries: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  queryNorm: Float32Array | null,
  keyNorm: Float32Array | null,
  angles: Float32Array,
  cachedKeys: Float32Array,
  cachedValues: Float32Array,
  out: Float32Array,
];
type CompareArguments = [reference: Float32Array, other: Float32Array, sums: Float64Array];
/** The numbers of `record`s are listed in native/node/compare_calls.cc. */
type CompareRowsFloatsArguments = [record: Float64Array, reference: RawFloats, sums: Float64Array, other: RawFloats];
type CompareRowsAffineArguments = [
  record: Float64Array,
  reference: RawFloats,
  sums: Float64Array,
  data: Uint8Array,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
];
type CompareRowsCodebookArguments = [
  record: Float64Array,
  reference: RawFloats,
  sums: Float64Array,
  data: Uint8Array,
  scales: Float32Array,
];
type CompareRowsBlocksArguments = [record: Float64Array, reference: RawFloats, sums: Float64Array, data: Uint8Array];
type LogitStatisticsArguments = [
  logits: Float32Array,
  reference: Float32Array | null,
  targets: Int32Array,
  vocabulary: number,
  statistics: Float64Array,
  largest: Int32Array,
];

/** A packed weight of the addon: see native/node/weights.h. Nothing but the addon can make one. */
export interface RawWeight {
  readonly packedWeight: never;
}

/** The numbers of `record`s are listed in native/node/matmul_calls.cc. */
/** The numbers of `record` are listed in native/node/matmul_calls.cc. */
type PackCodebookArguments = [record: Float64Array, handle: RawWeight, data: Uint8Array, scales: Float32Array];
type PackBlocksArguments = [handle: RawWeight, data: Uint8Array, type: number, rows: number, columns: number];
type PackCodesArguments = [
  record: Float64Array,
  handle: RawWeight,
  data: Uint8Array,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
];
type PackFloatsArguments = [handle: RawWeight, weights: RawFloats, type: number, rows: number, columns: number];
type PackIntegersArguments = [handle: RawWeight, b: Int8Array | Uint8Array, k: number, n: number];
type LinearArguments = [
  record: Float64Array,
  x: Float32Array,
  weight: RawWeight,
  bias: Float32Array | null,
  gate: RawWeight | null,
  gateBias: Float32Array | null,
  out: Float32Array,
];
type MatmulIntegerArguments = [
  record: Float64Array,
  a: Int8Array | Uint8Array,
  b: Int8Array | Uint8Array | RawWeight,
  aZeroPoints: Int32Array | null,
  bZeroPoints: Int32Array | null,
  scales: Float32Array | null,
  out: Int32Array | Int8Array | Uint8Array,
];
type DynamicQuantizeMatmulArguments = [
  record: Float64Array,
  x: Float32Array,
  b: Int8Array | Uint8Array | RawWeight,
  bZeroPoints: Int32Array | null,
  bScales: Float32Array,
  bias: Float32Array | null,
  out: Float32Array,
];
type PackTernaryWeightArguments = [handle: RawWeight, data: Uint8Array, rows: number, columns: number];
type TernaryMatmulArguments = [a: Int8Array, w: RawWeight, m: number, out: Int32Array];
type PackIntegerRowsArguments = [handle: RawWeight, codes: Int8Array, rows: number, columns: number];
type QuantizeLlmInt8Arguments = [
  input: RawFloats,
  type: number,
  rows: number,
  columns: number,
  threshold: number,
  outlier: Uint8Array,
  codes: Int8Array,
  absmax: Float32Array,
];
type LlmInt8LinearArguments = [
  x: Float32Array,
  codes: RawWeight,
  absmax: Float32Array,
  kept: RawWeight | null,
  keptColumns: Int32Array,
  threshold: number,
  bias: Float32Array | null,
  out: Float32Array,
];
/** The numbers of `record` are listed in native/node/method_calls.cc. */
type GptqArguments = [
  record: Float64Array,
  weight: Float32Array,
  gram: Float32Array | null,
  order: Int32Array | null,
  groups: Int32Array,
  factors: Float32Array,
  importance: Float32Array | null,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  codes: Uint8Array,
  result: Float64Array,
];
type HqqArguments = [
  record: Float64Array,
  weight: Float32Array,
  scales: Float32Array,
  zeros: Float32Array,
  codes: Uint8Array,
];
type GramArguments = [x: Float32Array, k: number, adds: boolean, out: Float32Array];
type PackedBytesArguments = [handle: RawWeight, offset: number, out: Uint8Array];
type LoadPackedArguments = [handle: RawWeight, path: string, verify: boolean, problem: Uint8Array];

/** Memory of a device: see native/node/device.h. Nothing but the addon can make one. */
export interface RawMemory {
  readonly deviceMemory: never;
}

/** What is uploaded and downloaded. */
export type RawArray = Float32Array | Uint16Array | Uint8Array | Int8Array | Int32Array;

/** A device, as the addon describes it. */
export interface RawDevice {
  index: number;
  name: string;
  computeCapability: string;
  memoryBytes: number;
  freeBytes: number;
  multiprocessors: number;
}

/**
 * Operations on a device. Where calls of the processor take arrays, these take memory; records are the same, but for those that
 * native/node/device_matmul_calls.cc lists.
 */
export interface RawDeviceCalls {
  upload: [memory: RawMemory, array: RawArray];
  download: [memory: RawMemory, offset: number, array: RawArray];
  copyMemory: [from: RawMemory, to: RawMemory];
  deviceCast: [input: RawMemory, from: number, out: RawMemory, to: number, count: number, saturate: boolean];
  deviceQuantizeAffine: [
    record: Float64Array,
    input: RawMemory,
    scales: RawMemory,
    zeroPoints: RawMemory | null,
    codes: RawMemory,
  ];
  deviceDequantizeAffine: [
    record: Float64Array,
    codes: RawMemory,
    scales: RawMemory,
    zeroPoints: RawMemory | null,
    out: RawMemory,
  ];
  deviceQuantizeCodebook: [
    record: Float64Array,
    input: RawMemory,
    scales: RawMemory,
    globalScale: RawMemory,
    codes: RawMemory,
  ];
  deviceDequantizeCodebook: [record: Float64Array, codes: RawMemory, scales: RawMemory, out: RawMemory];
  deviceNestScales: [scales: RawMemory, codes: RawMemory, absmax: RawMemory, offset: RawMemory];
  deviceQuantizeBlocks: [
    input: RawMemory,
    type: number,
    rowLength: number,
    importance: RawMemory | null,
    out: RawMemory,
  ];
  deviceDequantizeBlocks: [data: RawMemory, type: number, out: RawMemory];
  devicePackCodes: [
    record: Float64Array,
    handle: RawWeight,
    data: RawMemory,
    scales: RawMemory,
    zeroPoints: RawMemory | null,
  ];
  devicePackCodebook: [record: Float64Array, handle: RawWeight, data: RawMemory, scales: RawMemory];
  devicePackFloats: [handle: RawWeight, weights: RawMemory, type: number, rows: number, columns: number];
  devicePackIntegers: [handle: RawWeight, b: RawMemory, signed: boolean, k: number, n: number];
  deviceLinear: [
    record: Float64Array,
    x: RawMemory,
    weight: RawWeight,
    bias: RawMemory | null,
    gate: RawWeight | null,
    gateBias: RawMemory | null,
    out: RawMemory,
  ];
  deviceMatmulInteger: [
    record: Float64Array,
    a: RawMemory,
    b: RawMemory | RawWeight,
    aZeroPoints: RawMemory | null,
    bZeroPoints: RawMemory | null,
    out: RawMemory,
  ];
  deviceMatmulFloat8: [
    record: Float64Array,
    a: RawMemory,
    b: RawMemory,
    aScales: RawMemory,
    bScales: RawMemory,
    bias: RawMemory | null,
    out: RawMemory,
  ];
  deviceGram: [x: RawMemory, type: number, k: number, adds: boolean, out: RawMemory];
  deviceFakeQuantizeIntegers: [
    record: Float64Array,
    input: RawMemory,
    scales: RawMemory,
    zeroPoints: RawMemory | null,
    out: RawMemory,
    mask: RawMemory,
  ];
  deviceFakeQuantizeScaled: [
    record: Float64Array,
    input: RawMemory,
    scales: RawMemory,
    out: RawMemory,
    mask: RawMemory,
  ];
  deviceFakeQuantizeBlocks: [record: Float64Array, input: RawMemory, out: RawMemory, mask: RawMemory];
  deviceStraightThrough: [gradient: RawMemory, mask: RawMemory, out: RawMemory];
  deviceFakeQuantizeGradients: [
    record: Float64Array,
    gradient: RawMemory,
    input: RawMemory,
    scales: RawMemory,
    zeroPoints: RawMemory | null,
    out: RawMemory,
    outScales: RawMemory,
    outZeroPoints: RawMemory,
  ];
  deviceGptq: [
    record: Float64Array,
    weight: RawMemory,
    gram: RawMemory | null,
    order: Int32Array | null,
    groups: Int32Array,
    factors: Float32Array,
    importance: Float32Array | null,
    scales: RawMemory,
    zeroPoints: RawMemory | null,
    codes: RawMemory,
    result: Float64Array,
  ];
}

type WithTwins<Calls extends Record<keyof Calls, unknown[]>> = {
  [Name in keyof Calls]: (...args: Calls[Name]) => void;
} & {
  [Name in keyof Calls as `${Name & string}Async`]: (...args: [...Calls[Name], Done]) => number;
};

/** Called when a job has ended: with an error that carries `code` and `index`, or with nothing. */
type Done = (error?: RawError) => void;

/** What the addon throws: see error_of() in native/node/arguments.cc. */
export interface RawError extends Error {
  code:
    | 'INVALID_ARGUMENT'
    | 'NON_FINITE'
    | 'SCALE_OVERFLOW'
    | 'INVALID_CODE'
    | 'NOT_POSITIVE_DEFINITE'
    | 'OUT_OF_MEMORY'
    | 'CANCELLED'
    | 'INTERNAL'
    | 'NO_DEVICE'
    | 'DEVICE_OUT_OF_MEMORY'
    | 'DEVICE_LOST'
    | 'DEVICE_UNSUPPORTED'
    | 'DEVICE_FAILED';
  index?: number;
  /** The argument that an INVALID_ARGUMENT is about, where it is about one. */
  argument?: string;
  /** The device that failed, and for one that is out of memory how many bytes were asked for (0: not known). */
  device?: number;
  bytes?: number;
}

/** The result of parseSafetensorsHeader: a fault, or the tensors in the order of their data. */
export type RawSafetensorsHeader =
  | {
      fault: 0;
      names: string[];
      dtypes: Uint8Array;
      ranks: Uint32Array;
      dims: Float64Array;
      offsets: Float64Array;
      metadata: string[];
    }
  | { fault: number; tensor: string; position: number };

/** The functions that native/node exports. An `…Async` twin returns the number of its job. */
export interface RawAddon extends WithTwins<RawDeviceCalls> {
  configuration(): { isa: string; isas: string[]; error?: string };
  threads(): number;
  setThreads(n: number): void;
  cancel(job: number): void;
  cast(...args: CastArguments): void;
  castAsync(...args: [...CastArguments, Done]): number;
  quantizeAffine(...args: QuantizeArguments): void;
  quantizeAffineAsync(...args: [...QuantizeArguments, Done]): number;
  dequantizeAffine(...args: DequantizeArguments): void;
  dequantizeAffineAsync(...args: [...DequantizeArguments, Done]): number;
  quantizeCodebook(...args: QuantizeCodebookArguments): void;
  quantizeCodebookAsync(...args: [...QuantizeCodebookArguments, Done]): number;
  dequantizeCodebook(...args: DequantizeCodebookArguments): void;
  dequantizeCodebookAsync(...args: [...DequantizeCodebookArguments, Done]): number;
  nestScales(...args: NestScalesArguments): void;
  unpackCodes(...args: UnpackArguments): void;
  unpackCodesAsync(...args: [...UnpackArguments, Done]): number;
  compare(...args: CompareArguments): void;
  compareAsync(...args: [...CompareArguments, Done]): number;
  compareRowsFloats(...args: CompareRowsFloatsArguments): void;
  compareRowsFloatsAsync(...args: [...CompareRowsFloatsArguments, Done]): number;
  compareRowsAffine(...args: CompareRowsAffineArguments): void;
  compareRowsAffineAsync(...args: [...CompareRowsAffineArguments, Done]): number;
  compareRowsCodebook(...args: CompareRowsCodebookArguments): void;
  compareRowsCodebookAsync(...args: [...CompareRowsCodebookArguments, Done]): number;
  compareRowsBlocks(...args: CompareRowsBlocksArguments): void;
  compareRowsBlocksAsync(...args: [...CompareRowsBlocksArguments, Done]): number;
  /** Adds bytes to a checksum of 256 bits: Fletcher's sums of the fourth order. `state` is zeros at first. */
  checksum(data: Uint8Array, state: BigUint64Array): void;
  logitStatistics(...args: LogitStatisticsArguments): void;
  logitStatisticsAsync(...args: [...LogitStatisticsArguments, Done]): number;
  rmsNorm(...args: RmsNormArguments): void;
  rmsNormAsync(...args: [...RmsNormArguments, Done]): number;
  attention(...args: AttentionArguments): void;
  attentionAsync(...args: [...AttentionArguments, Done]): number;
  quantizeBlocks(...args: QuantizeBlocksArguments): void;
  quantizeBlocksAsync(...args: [...QuantizeBlocksArguments, Done]): number;
  dequantizeBlocks(...args: DequantizeBlocksArguments): void;
  dequantizeBlocksAsync(...args: [...DequantizeBlocksArguments, Done]): number;
  fakeQuantizeIntegers(...args: FakeQuantizeIntegersArguments): void;
  fakeQuantizeIntegersAsync(...args: [...FakeQuantizeIntegersArguments, Done]): number;
  fakeQuantizeScaled(...args: FakeQuantizeScaledArguments): void;
  fakeQuantizeScaledAsync(...args: [...FakeQuantizeScaledArguments, Done]): number;
  fakeQuantizeBlocks(...args: FakeQuantizeBlocksArguments): void;
  fakeQuantizeBlocksAsync(...args: [...FakeQuantizeBlocksArguments, Done]): number;
  straightThrough(...args: StraightThroughArguments): void;
  straightThroughAsync(...args: [...StraightThroughArguments, Done]): number;
  fakeQuantizeGradients(...args: FakeQuantizeGradientsArguments): void;
  fakeQuantizeGradientsAsync(...args: [...FakeQuantizeGradientsArguments, Done]): number;
  observeRanges(...args: ObserveRangesArguments): void;
  observeRangesAsync(...args: [...ObserveRangesArguments, Done]): number;
  observeHistogram(...args: ObserveHistogramArguments): void;
  observeHistogramAsync(...args: [...ObserveHistogramArguments, Done]): number;
  observeCounts(...args: ObserveCountsArguments): void;
  observeCountsAsync(...args: [...ObserveCountsArguments, Done]): number;
  xorCounts(...args: XorCountsArguments): void;
  xorCountsAsync(...args: [...XorCountsArguments, Done]): number;
  packBits(...args: PackBitsArguments): void;
  packBitsAsync(...args: [...PackBitsArguments, Done]): number;
  unpackBits(...args: UnpackBitsArguments): void;
  unpackBitsAsync(...args: [...UnpackBitsArguments, Done]): number;
  packTernary(...args: PackTernaryArguments): void;
  packTernaryAsync(...args: [...PackTernaryArguments, Done]): number;
  unpackTernary(...args: UnpackTernaryArguments): void;
  unpackTernaryAsync(...args: [...UnpackTernaryArguments, Done]): number;
  moveFields(...args: MoveFieldsArguments): void;
  moveFieldsAsync(...args: [...MoveFieldsArguments, Done]): number;
  unpackFields(...args: UnpackFieldsArguments): void;
  unpackFieldsAsync(...args: [...UnpackFieldsArguments, Done]): number;
  gatherFields(...args: GatherFieldsArguments): void;
  gatherFieldsAsync(...args: [...GatherFieldsArguments, Done]): number;
  swapNibbles(...args: SwapNibblesArguments): void;
  swapNibblesAsync(...args: [...SwapNibblesArguments, Done]): number;
  dequantizeLlmInt8(...args: DequantizeLlmInt8Arguments): void;
  dequantizeLlmInt8Async(...args: [...DequantizeLlmInt8Arguments, Done]): number;
  packTernaryWeight(...args: PackTernaryWeightArguments): void;
  packTernaryWeightAsync(...args: [...PackTernaryWeightArguments, Done]): number;
  ternaryMatmul(...args: TernaryMatmulArguments): void;
  ternaryMatmulAsync(...args: [...TernaryMatmulArguments, Done]): number;
  packIntegerRows(...args: PackIntegerRowsArguments): void;
  packIntegerRowsAsync(...args: [...PackIntegerRowsArguments, Done]): number;
  quantizeLlmInt8(...args: QuantizeLlmInt8Arguments): void;
  quantizeLlmInt8Async(...args: [...QuantizeLlmInt8Arguments, Done]): number;
  llmInt8Linear(...args: LlmInt8LinearArguments): void;
  llmInt8LinearAsync(...args: [...LlmInt8LinearArguments, Done]): number;
  /** Opens the CUDA module. `reason` says why there are no devices, or what one of them is not fit for. */
  cudaDevices(): { reason?: string; devices: RawDevice[] };
  /** Memory that is there from the first call on that writes it. */
  createMemory(device: number, bytes: number): RawMemory;
  shareMemory(handle: RawMemory): RawMemory;
  describeMemory(handle: RawMemory): Float64Array;
  disposeMemory(handle: RawMemory): void;
  /** What calls check of the parameters of quantized tensors, for those that go to a device. */
  checkParameters(
    scales: Float32Array,
    zeroPoints: Int32Array | null,
    positive: boolean,
    lowest: number,
    highest: number,
    prefix: string,
  ): void;
  /** Whether a device packs such codes as they are; the record is that of packCodes or packCodebook. */
  deviceCanPack(record: Float64Array, codebook: boolean): boolean;
  createWeight(): RawWeight;
  shareWeight(handle: RawWeight): RawWeight;
  describeWeight(handle: RawWeight): Float64Array;
  disposeWeight(handle: RawWeight): void;
  packCodes(...args: PackCodesArguments): void;
  packCodesAsync(...args: [...PackCodesArguments, Done]): number;
  packCodebook(...args: PackCodebookArguments): void;
  packCodebookAsync(...args: [...PackCodebookArguments, Done]): number;
  packBlocks(...args: PackBlocksArguments): void;
  packBlocksAsync(...args: [...PackBlocksArguments, Done]): number;
  packFloats(...args: PackFloatsArguments): void;
  packFloatsAsync(...args: [...PackFloatsArguments, Done]): number;
  packIntegers(...args: PackIntegersArguments): void;
  packIntegersAsync(...args: [...PackIntegersArguments, Done]): number;
  linear(...args: LinearArguments): void;
  linearAsync(...args: [...LinearArguments, Done]): number;
  matmulInteger(...args: MatmulIntegerArguments): void;
  matmulIntegerAsync(...args: [...MatmulIntegerArguments, Done]): number;
  dynamicQuantizeMatmul(...args: DynamicQuantizeMatmulArguments): void;
  dynamicQuantizeMatmulAsync(...args: [...DynamicQuantizeMatmulArguments, Done]): number;
  gram(...args: GramArguments): void;
  gramAsync(...args: [...GramArguments, Done]): number;
  gptqAsync(...args: [...GptqArguments, Done]): number;
  hqqAsync(...args: [...HqqArguments, Done]): number;
  packedBytes(...args: PackedBytesArguments): void;
  packedBytesAsync(...args: [...PackedBytesArguments, Done]): number;
  loadPacked(...args: LoadPackedArguments): void;
  loadPackedAsync(...args: [...LoadPackedArguments, Done]): number;
  transposeWords(...args: RepackArguments): void;
  transposeWordsAsync(...args: [...RepackArguments, Done]): number;
  awqToRows(...args: RepackArguments): void;
  awqToRowsAsync(...args: [...RepackArguments, Done]): number;
  rowsToAwq(...args: RepackArguments): void;
  rowsToAwqAsync(...args: [...RepackArguments, Done]): number;
  selectCodes(...args: SelectCodesArguments): void;
  selectCodesAsync(...args: [...SelectCodesArguments, Done]): number;
  /**
   * Reads pieces of a file `stride` bytes apart, `rows` of them, into `into`; absent on Windows. `whole`: the other bytes
   * between them are going to be read as well. `done` gets 0, the number of a system error, or −1 where the file ended.
   */
  readStrided?(
    fd: number,
    position: number,
    stride: number,
    rows: number,
    into: Uint8Array,
    whole: boolean,
    done: (problem: number) => void,
  ): void;
  parseSafetensorsHeader(header: Uint8Array, dataBytes: number): RawSafetensorsHeader;
}

/** The package's root: the nearest folder above this file that holds CMakeLists.txt, in a checkout as in node_modules. */
export const packageRoot: string = (() => {
  const start = dirname(bindings.getFileName());
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'CMakeLists.txt'))) return folder;
    if (folder === dirname(folder)) {
      throw new AddonError('ADDON_NOT_FOUND', `lowbit is damaged: no CMakeLists.txt above ${start}. Install it again.`);
    }
  }
})();

function load(): RawAddon {
  const attempts: [string, () => unknown][] = [
    // build/Release, build/Debug, then prebuilds/<platform>-<arch>
    ['node-gyp-build', () => nodeGypBuild(packageRoot)],
    // build/lowbit.node: what a bare `cmake -B build` leaves, for example with sanitizers
    ['bindings', () => bindings({ bindings: 'lowbit', module_root: packageRoot })],
  ];
  const failures: string[] = [];
  const causes: unknown[] = [];
  for (const [name, attempt] of attempts) {
    try {
      return attempt() as RawAddon;
    } catch (error) {
      causes.push(error);
      failures.push(`${name}: ${String((error as Error).message).split('\n')[0]}`);
    }
  }
  throw new AddonError(
    'ADDON_NOT_FOUND',
    `No native addon for ${process.platform}-${process.arch} could be loaded (${failures.join('; ')}). ` +
      'Build it with `npm rebuild lowbit --build-from-source`; that needs CMake 3.18 or newer and a C++17 compiler.',
    { cause: new AggregateError(causes) },
  );
}

/** The native addon. */
export const addon: RawAddon = load();

/** What the addon was built with and chose on this machine. */
export const configuration: { readonly isa: string; readonly isas: readonly string[] } = (() => {
  const { isa, isas, error } = addon.configuration();
  if (error !== undefined) throw new AddonError('INVALID_ENVIRONMENT', error);
  return { isa, isas };
})();

/** What the addon threw as an error of ours; `argument` is the one that it is about where it does not say. */
export function explain(error: unknown, argument: string): unknown {
  const { code, message, argument: named = argument } = error as Partial<RawError>;
  switch (code) {
    case 'INVALID_ARGUMENT':
      return new InvalidArgumentError(named, String(message), { cause: error });
    case 'OUT_OF_MEMORY':
      return new OutOfMemoryError('There is not enough memory for this call.', { cause: error });
    case 'INTERNAL':
      return new AddonError('INTERNAL', `The native addon failed: ${message}.`, { cause: error });
    case 'NO_DEVICE':
    case 'DEVICE_OUT_OF_MEMORY':
    case 'DEVICE_LOST':
    case 'DEVICE_UNSUPPORTED':
    case 'DEVICE_FAILED':
      return explainDevice(error as RawError);
    default:
      return error;
  }
}

function explainDevice(cause: RawError): Error {
  const { code, message, device: index = 0, bytes = 0 } = cause;
  const device = `cuda:${index}`;
  switch (code) {
    case 'NO_DEVICE': {
      const reason = message.replace(/\.?$/, '.');
      const remedy = "capabilities().cuda says which devices there are; device 'cpu' is always there.";
      return new DeviceError('NO_DEVICE', `The device ${device} can't be used. ${reason} ${remedy}`, { device, cause });
    }
    case 'DEVICE_OUT_OF_MEMORY': {
      const asked = bytes === 0 ? 'what a call needs in between' : `${bytes} bytes more`;
      const remedy = 'Dispose of tensors and packed weights that are not needed any more, or divide the work.';
      const details = { device, bytes: bytes === 0 ? undefined : bytes, cause };
      return new OutOfMemoryError(`There is not enough memory on ${device} for ${asked}. ${remedy}`, details);
    }
    case 'DEVICE_LOST': {
      const remedy = 'Nothing can be computed on it in this process any more: restart the process.';
      return new DeviceError('DEVICE_LOST', `The device ${device} was lost (${message}). ${remedy}`, { device, cause });
    }
    case 'DEVICE_UNSUPPORTED': {
      const remedy = "Use device 'cpu'.";
      return new DeviceError('DEVICE_UNSUPPORTED', `The device ${device} does not support this call. ${remedy}`, {
        device,
        cause,
      });
    }
    default:
      return new DeviceError('DEVICE_FAILED', `The device ${device} failed: ${message}.`, { device, cause });
  }
}

/**
 * Runs an `…Async` call of the addon as a promise that an AbortSignal can end. `explained` makes an error of ours out of
 * what the addon reports.
 */
export function runJob(
  start: (done: Done) => number,
  signal: AbortSignal | undefined,
  explained: (error: unknown) => unknown,
): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const cancel = () => addon.cancel(job);
    let job: number;
    try {
      job = start((error) => {
        signal?.removeEventListener('abort', cancel);
        if (error === undefined) resolve();
        else if (error.code === 'CANCELLED') reject(signal?.reason);
        else reject(explained(error));
      });
    } catch (error) {
      reject(explained(error));
      return;
    }
    signal?.addEventListener('abort', cancel);
  });
}
