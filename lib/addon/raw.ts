/**
 * The raw surface of the native addon, as native/node exports it: types only.
 *
 * @module
 */

/** A float array as the addon takes it: float16 and bfloat16 as bit patterns. */
export type RawFloats = Float32Array | Uint16Array;

/** The same for casts: floats of eight bits and fewer in bytes. */
export type RawAnyFloats = RawFloats | Uint8Array;

/** A packed weight of the addon: see native/node/weights.h. Nothing but the addon can make one. */
export interface RawWeight {
  readonly packedWeight: never;
}

/** Memory of a device: see native/node/device.h. Nothing but the addon can make one. */
export interface RawMemory {
  readonly deviceMemory: never;
}

/** What is uploaded and downloaded. */
export type RawArray = Float32Array | Uint16Array | Uint8Array | Int8Array | Int32Array;

/** Tensors. The numbers of a `record` are listed in native/node/tensor_calls.cc. */
interface RawTensorCalls {
  cast: [input: RawAnyFloats, from: number, out: RawAnyFloats, to: number, count: number, saturate: boolean];
  quantizeAffine: [
    record: Float64Array,
    input: RawFloats,
    scales: Float32Array,
    zeroPoints: Int32Array | null,
    out: Uint8Array,
  ];
  dequantizeAffine: [
    record: Float64Array,
    data: Uint8Array,
    scales: Float32Array,
    zeroPoints: Int32Array | null,
    out: RawFloats,
  ];
  quantizeCodebook: [
    record: Float64Array,
    input: RawFloats,
    scales: Float32Array,
    globalScale: Float32Array,
    codes: Uint8Array,
  ];
  dequantizeCodebook: [record: Float64Array, codes: Uint8Array, scales: Float32Array, out: RawFloats];
  unpackCodes: [
    data: Uint8Array,
    bits: number,
    signed: boolean,
    rows: number,
    columns: number,
    out: Int8Array | Uint8Array,
  ];
  quantizeBlocks: [
    input: Float32Array,
    type: number,
    rowLength: number,
    importance: Float32Array | null,
    out: Uint8Array,
  ];
  dequantizeBlocks: [data: Uint8Array, type: number, out: Float32Array];
  compare: [reference: Float32Array, other: Float32Array, sums: Float64Array];
}

/** Rows of a weight, and of what was made of it. The numbers of a `record` are listed in native/node/compare_calls.cc. */
interface RawCompareCalls {
  compareRowsFloats: [record: Float64Array, reference: RawFloats, sums: Float64Array, other: RawFloats];
  compareRowsAffine: [
    record: Float64Array,
    reference: RawFloats,
    sums: Float64Array,
    data: Uint8Array,
    scales: Float32Array,
    zeroPoints: Int32Array | null,
  ];
  compareRowsCodebook: [
    record: Float64Array,
    reference: RawFloats,
    sums: Float64Array,
    data: Uint8Array,
    scales: Float32Array,
  ];
  compareRowsBlocks: [record: Float64Array, reference: RawFloats, sums: Float64Array, data: Uint8Array];
}

/** Training and ranges. The numbers of a `record` are listed in native/node/training_calls.cc. */
interface RawTrainingCalls {
  fakeQuantizeIntegers: [
    record: Float64Array,
    input: Float32Array,
    scales: Float32Array,
    zeroPoints: Int32Array | null,
    out: Float32Array,
    mask: Uint8Array,
  ];
  fakeQuantizeScaled: [
    record: Float64Array,
    input: Float32Array,
    scales: Float32Array,
    out: Float32Array,
    mask: Uint8Array,
  ];
  fakeQuantizeBlocks: [record: Float64Array, input: Float32Array, out: Float32Array, mask: Uint8Array];
  straightThrough: [gradient: Float32Array, mask: Uint8Array, out: Float32Array];
  fakeQuantizeGradients: [
    record: Float64Array,
    gradient: Float32Array,
    input: Float32Array,
    scales: Float32Array,
    zeroPoints: Int32Array | null,
    out: Float32Array,
    outScales: Float32Array,
    outZeroPoints: Float32Array,
  ];
  observeRanges: [record: Float64Array, input: Float32Array, min: Float32Array, max: Float32Array];
  observeHistogram: [input: Float32Array, range: Float32Array, exponent: Int32Array, counts: Float64Array];
  observeCounts: [record: Float64Array, input: Float32Array, exponents: Int32Array, counts: Float64Array];
}

/** Signs and ternary digits. */
interface RawBitsCalls {
  xorCounts: [
    a: Uint8Array,
    b: Uint8Array,
    m: number,
    n: number,
    columns: number,
    kind: number,
    out: Int32Array | Uint32Array,
  ];
  packBits: [input: RawFloats | Int8Array, type: number, rows: number, columns: number, out: Uint8Array];
  unpackBits: [data: Uint8Array, rows: number, columns: number, floats: boolean, out: Int8Array | Float32Array];
  packTernary: [digits: Int8Array, rows: number, columns: number, packing: number, out: Uint8Array];
  unpackTernary: [packed: Uint8Array, rows: number, columns: number, packing: number, out: Int8Array];
  packTernaryWeight: [handle: RawWeight, data: Uint8Array, rows: number, columns: number];
  ternaryMatmul: [a: Int8Array, w: RawWeight, m: number, out: Int32Array];
}

/** Codes of files, put into another order. The numbers of a `record` are listed in native/node/repack_calls.cc. */
interface RawRepackCalls {
  transposeWords: [record: Float64Array, input: Uint32Array, out: Uint32Array];
  awqToRows: [record: Float64Array, input: Uint32Array, out: Uint32Array];
  rowsToAwq: [record: Float64Array, input: Uint32Array, out: Uint32Array];
  selectCodes: [record: Float64Array, input: Uint32Array, order: Int32Array, out: Uint32Array];
  moveFields: [
    data: Uint8Array,
    inStride: number,
    out: Uint8Array,
    outStride: number,
    rows: number,
    columns: number,
    bits: number,
    flip: boolean,
  ];
  unpackFields: [
    data: Uint8Array,
    inStride: number,
    rows: number,
    columns: number,
    bits: number,
    perWord: number,
    offset: number,
    out: Uint8Array,
  ];
  gatherFields: [data: Uint8Array, rows: number, columns: number, bits: number, order: Int32Array, out: Uint8Array];
  swapNibbles: [data: Uint8Array, out: Uint8Array];
  dequantizeLlmInt8: [codes: Uint8Array, absmax: Float32Array, rows: number, columns: number, out: Float32Array];
}

/** Packed weights and products. The numbers of a `record` are listed in native/node/matmul_calls.cc. */
interface RawMatmulCalls {
  packCodes: [
    record: Float64Array,
    handle: RawWeight,
    data: Uint8Array,
    scales: Float32Array,
    zeroPoints: Int32Array | null,
  ];
  packCodebook: [record: Float64Array, handle: RawWeight, data: Uint8Array, scales: Float32Array];
  packBlocks: [handle: RawWeight, data: Uint8Array, type: number, rows: number, columns: number];
  packFloats: [handle: RawWeight, weights: RawFloats, type: number, rows: number, columns: number];
  packIntegers: [handle: RawWeight, b: Int8Array | Uint8Array, k: number, n: number];
  packIntegerRows: [handle: RawWeight, codes: Int8Array, rows: number, columns: number];
  packedBytes: [handle: RawWeight, offset: number, out: Uint8Array];
  loadPacked: [handle: RawWeight, path: string, verify: boolean, problem: Uint8Array];
  linear: [
    record: Float64Array,
    x: Float32Array,
    weight: RawWeight,
    bias: Float32Array | null,
    gate: RawWeight | null,
    gateBias: Float32Array | null,
    out: Float32Array,
  ];
  matmulInteger: [
    record: Float64Array,
    a: Int8Array | Uint8Array,
    b: Int8Array | Uint8Array | RawWeight,
    aZeroPoints: Int32Array | null,
    bZeroPoints: Int32Array | null,
    scales: Float32Array | null,
    out: Int32Array | Int8Array | Uint8Array,
  ];
  dynamicQuantizeMatmul: [
    record: Float64Array,
    x: Float32Array,
    b: Int8Array | Uint8Array | RawWeight,
    bZeroPoints: Int32Array | null,
    bScales: Float32Array,
    bias: Float32Array | null,
    out: Float32Array,
  ];
  gram: [x: Float32Array, k: number, adds: boolean, out: Float32Array];
  quantizeLlmInt8: [
    input: RawFloats,
    type: number,
    rows: number,
    columns: number,
    threshold: number,
    outlier: Uint8Array,
    codes: Int8Array,
    absmax: Float32Array,
  ];
  llmInt8Linear: [
    x: Float32Array,
    codes: RawWeight,
    absmax: Float32Array,
    kept: RawWeight | null,
    keptColumns: Int32Array,
    threshold: number,
    bias: Float32Array | null,
    out: Float32Array,
  ];
}

/** What a decoder computes besides. The numbers of a `record` are listed in native/node/decoder_calls.cc. */
interface RawDecoderCalls {
  rmsNorm: [x: Float32Array, weight: Float32Array, epsilon: number, out: Float32Array];
  attention: [
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
  logitStatistics: [
    logits: Float32Array,
    reference: Float32Array | null,
    targets: Int32Array,
    vocabulary: number,
    statistics: Float64Array,
    largest: Int32Array,
  ];
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

/** Operations that there are off the event loop only. The numbers of a `record` are listed in native/node/method_calls.cc. */
interface RawMethodCalls {
  gptq: [
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
  hqq: [record: Float64Array, weight: Float32Array, scales: Float32Array, zeros: Float32Array, codes: Uint8Array];
}

/** Called when a job has ended: with an error that carries `code` and `index`, or with nothing. */
export type Done = (error?: RawError) => void;

/** Calls that return when they have ended. */
type Now<Calls extends Record<keyof Calls, unknown[]>> = {
  [Name in keyof Calls]: (...args: Calls[Name]) => void;
};

/** The same as jobs, `…Async`, which return the number of the job. */
type Later<Calls extends Record<keyof Calls, unknown[]>> = {
  [Name in keyof Calls as `${Name & string}Async`]: (...args: [...Calls[Name], Done]) => number;
};

type WithTwins<Calls extends Record<keyof Calls, unknown[]>> = Now<Calls> & Later<Calls>;

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

/** A device, as the addon describes it. */
export interface RawDevice {
  index: number;
  name: string;
  computeCapability: string;
  memoryBytes: number;
  freeBytes: number;
  multiprocessors: number;
}

/** Operations with a twin that runs off the event loop. */
interface RawCalls
  extends RawTensorCalls,
    RawCompareCalls,
    RawTrainingCalls,
    RawBitsCalls,
    RawRepackCalls,
    RawMatmulCalls,
    RawDecoderCalls,
    RawDeviceCalls {}

/** The functions that native/node exports. */
export interface RawAddon extends WithTwins<RawCalls>, Later<RawMethodCalls> {
  configuration(): { isa: string; isas: string[]; error?: string };
  threads(): number;
  setThreads(n: number): void;
  cancel(job: number): void;
  nestScales(scales: Float32Array, codes: Uint8Array, absmax: Float32Array, offset: Float32Array): void;
  /** Adds bytes to a checksum of 256 bits: Fletcher's sums of the fourth order. `state` is zeros at first. */
  checksum(data: Uint8Array, state: BigUint64Array): void;
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
