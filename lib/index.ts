/**
 * lowbit: low-bit quantization for Node.js at native speed.
 *
 * @packageDocumentation
 */

export {
  type CalibrationProgress,
  type CollectOptions,
  type CollectReport,
  collectStatistics,
} from './calibration/collect.js';
export { importanceMatrixOf } from './calibration/imatrix.js';
export { type MergeOptions, type MergeReport, mergeStatistics } from './calibration/merge.js';
export {
  type BlocksPart,
  type FloatPart,
  layerOfPart,
  type ModelPart,
  type QuantizedPart,
} from './calibration/model-part.js';
export { quantizeModel } from './calibration/quantize-model.js';
export type { LayerActivations, QuantizationMethod, QuantizeModelOptions } from './calibration/quantize-work.js';
export type { SampledRow } from './calibration/sampled-rows.js';
export { StatisticsFile, type StatisticsHeader } from './calibration/statistics-file.js';
export {
  type CalibrationWindows,
  cutIntoWindows,
  type WindowOptions,
  type WindowPlace,
  type WindowSelection,
  type WindowText,
  type WindowTokenizer,
} from './calibration/windows.js';
export {
  type ImportanceEntry,
  type ImportanceMatrix,
  importanceOf,
  readImatrix,
  writeImatrix,
} from './checkpoint/gguf/imatrix.js';
export type { GgufRecipe } from './checkpoint/gguf/recipes.js';
export type { ActivationDtype } from './checkpoint/layouts/compressed-tensors/writer.js';
export type { GptqReaderOptions } from './checkpoint/layouts/gptq.js';
export type { GptqVersion } from './checkpoint/layouts/zero-points.js';
export type { WeightFormat } from './checkpoint/weight.js';
export type { ReadingOptions } from './checkpoint/weights.js';
export type { Device } from './device/device.js';
export {
  type DeviceArrayOf,
  type DeviceDtype,
  type DeviceInputOf,
  DeviceTensor,
  type DtypeOfArray,
  type TransferAsyncOptions,
  type UploadOptions,
} from './device/device-tensor.js';
export type {
  CodebookDtype,
  Float16ArrayLike,
  FloatDtype,
  IntDtype,
  LargeFloatDtype,
  QuantDtype,
  SignedIntDtype,
  SmallFloatDtype,
  UnsignedIntDtype,
} from './dtype.js';
export {
  AddonError,
  type AddonErrorCode,
  type ArgumentErrorCode,
  CalibrationError,
  type CalibrationErrorCode,
  CheckpointError,
  type CheckpointErrorCode,
  DeviceError,
  type DeviceErrorCode,
  type ErrorCode,
  InvalidArgumentError,
  LowbitError,
  NonFiniteError,
  OutOfMemoryError,
  OutputError,
  type OutputErrorCode,
  PackedFileError,
  type PackedFileErrorCode,
  ScaleOverflowError,
} from './errors.js';
export type { Activations, EvaluatedActivations } from './evaluate/activations.js';
export type { CheckpointSize } from './evaluate/checkpoint-size.js';
export type { Estimate } from './evaluate/estimate.js';
export { type EvaluateOptions, type EvaluationProgress, evaluateModel } from './evaluate/evaluate-model.js';
export type { Distance, Evaluation, Quality } from './evaluate/evaluation.js';
export {
  type BinaryMatmulOptions,
  binaryMatmul,
  binaryMatmulAsync,
  type HammingDistanceOptions,
  type HammingDistanceRowsOptions,
  hammingDistance,
  hammingDistanceAsync,
  hammingDistanceRows,
  hammingDistanceRowsAsync,
} from './matmul/binary.js';
export {
  type DeviceMatmulFloat8Options,
  type MatmulFloat8Options,
  matmulFloat8,
  matmulFloat8Async,
} from './matmul/float8.js';
export {
  type DeviceGramOptions,
  type GramAsyncOptions,
  type GramOptions,
  gram,
  gramAsync,
} from './matmul/gram.js';
export {
  type DeviceMatmulIntegerOptions,
  type MatmulIntegerOptions,
  matmulInteger,
  matmulIntegerAsync,
} from './matmul/integer.js';
export type { IntegerMatrix, ProductSize } from './matmul/integer-product.js';
export {
  type Activation,
  type ComputeDtype,
  type DeviceLinearOptions,
  type LinearAsyncOptions,
  type LinearOptions,
  linear,
  linearAsync,
} from './matmul/linear.js';
export type { LinearLayer } from './matmul/linear-layer.js';
export { type LlmInt8LinearOptions, llmInt8Linear, llmInt8LinearAsync } from './matmul/llm-int8.js';
export {
  type LlmInt8Matrix,
  type QuantizeLlmInt8Options,
  quantizeLlmInt8,
  quantizeLlmInt8Async,
} from './matmul/llm-int8-matrix.js';
export { LlmInt8Weight, prepackLlmInt8, prepackLlmInt8Async } from './matmul/llm-int8-weight.js';
export {
  type LoadPackedAsyncOptions,
  type LoadPackedOptions,
  loadPacked,
  loadPackedAsync,
  savePacked,
  savePackedAsync,
} from './matmul/packed-file.js';
export { PackedWeight, type WeightKind } from './matmul/packed-weight.js';
export {
  type DevicePrepackOptions,
  type PrepackAsyncOptions,
  type PrepackFloatOptions,
  type PrepackIntegerOptions,
  type PrepackOptions,
  prepack,
  prepackAsync,
  prepackInteger,
  prepackIntegerAsync,
} from './matmul/prepack.js';
export {
  type PrepackBlocksAsyncOptions,
  type PrepackBlocksOptions,
  prepackBlocks,
  prepackBlocksAsync,
} from './matmul/prepack-blocks.js';
export {
  type DynamicQuantizeMatmulOptions,
  dynamicQuantizeMatmul,
  dynamicQuantizeMatmulAsync,
  type IntegerArrayOf,
  type QuantizedMatmulOptions,
  quantizedMatmul,
  quantizedMatmulAsync,
} from './matmul/quantized-matmul.js';
export {
  type PrepackTernaryOptions,
  prepackTernary,
  prepackTernaryAsync,
  type TernaryMatmulOptions,
  ternaryMatmul,
  ternaryMatmulAsync,
} from './matmul/ternary.js';
export {
  type AwqClip,
  type AwqClipOptions,
  type AwqScaleOptions,
  type AwqScales,
  type AwqScaling,
  awqClip,
  awqScales,
} from './methods/awq.js';
export { type GptqOptions, type GptqResult, gptq } from './methods/gptq.js';
export { type HqqOptions, type HqqResult, hqq } from './methods/hqq.js';
export type { InputStatistics, RangeOfInputs } from './methods/input-statistics.js';
export { type Int8LayerOptions, int8Layer } from './methods/int8-layers.js';
export { type LayerError, layerError } from './methods/layer-error.js';
export type { BlockSettings, LinearWeight, WeightSettings } from './methods/linear-weight.js';
export type { InputSums, MethodOptions, MethodResult } from './methods/method.js';
export type { GptqChoices } from './methods/quantize-weight.js';
export { type RtnOptions, rtn } from './methods/rtn.js';
export {
  type ActivationScales,
  type SmoothQuantOptions,
  type SmoothQuantScales,
  searchSmoothQuant,
  smoothQuantScales,
} from './methods/smoothquant.js';
export type { Convention } from './methods/sweep.js';
export type { BlockForwardOptions, DecoderBlock } from './model/block.js';
export type { DecoderArchitecture, DecoderConfig } from './model/config.js';
export type { InputName, LinearName, NormName, WeightPrefix } from './model/decoder-weights.js';
export type { GenerateOptions, Generation } from './model/generate.js';
export { type DecoderModel, type LogitsOptions, type OpenModelOptions, openModel } from './model/model.js';
export type { RopeScaling } from './model/rope.js';
export type { SamplingOptions } from './model/sampler.js';
export type { Tokenizer } from './model/tokenizer.js';
export {
  type EntropyOptions,
  entropyRange,
  type Histogram,
  type HistogramRangeOptions,
  histogramRange,
  type MseOptions,
  mseRange,
  percentileRange,
  type ValueRange,
} from './observe/histogram.js';
export {
  type ObserveAsyncOptions,
  type ObservedHistogram,
  type ObserveOptions,
  Observer,
  type ParametersOptions,
} from './observe/observer.js';
export { type PytorchParametersOptions, pytorchParameters, type QuantizationParameters } from './observe/parameters.js';
export type { ObserverMethod, ObserverOptions, ObserverState } from './observe/state.js';
export type { RunOptions, RunReport, RunStart, TensorReport } from './pipeline/carry-out.js';
export type { RowComparison, TensorComparison } from './pipeline/compare-weights.js';
export { type ConvertCheckpointOptions, convertCheckpoint } from './pipeline/convert-checkpoint.js';
export {
  type InspectedWeight,
  type Inspection,
  type InspectOptions,
  inspectCheckpoint,
  type WeightStatistics,
} from './pipeline/inspect.js';
export type { CalibrationSpec, CheckpointMethod, MethodSpec } from './pipeline/method-spec.js';
export {
  type QuantizationReport,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
} from './pipeline/quantize-checkpoint.js';
export type { Progress, WrittenTensor } from './pipeline/run.js';
export type { Selection } from './pipeline/selection.js';
export type {
  CheckpointDtype,
  CheckpointFormat,
  CodeLayout,
  LayerOverride,
  LayerSpec,
  QuantizationSpec,
} from './pipeline/spec.js';
export type { RangeMethod, TaskKind } from './pipeline/task.js';
export {
  type VerificationReport,
  type VerifyOptions,
  verifyCheckpoint,
} from './pipeline/verify.js';
export {
  type Capabilities,
  type CudaCapabilities,
  type CudaDevice,
  capabilities,
  setNumThreads,
} from './runtime.js';
export {
  type PackBitsOptions,
  packBits,
  packBitsAsync,
  type SignArrayOf,
  type SignInput,
  type UnpackBitsOptions,
  unpackBits,
  unpackBitsAsync,
} from './tensor/bits.js';
export {
  type DequantizeBlocksAsyncOptions,
  type DequantizeBlocksOptions,
  type DeviceDequantizeBlocksOptions,
  type DeviceQuantizeBlocksOptions,
  dequantizeBlocks,
  dequantizeBlocksAsync,
  type GgufType,
  type QuantizeBlocksAsyncOptions,
  type QuantizeBlocksOptions,
  quantizeBlocks,
  quantizeBlocksAsync,
} from './tensor/blocks.js';
export {
  type CastAsyncOptions,
  type CastOptions,
  castTensor,
  castTensorAsync,
  type DeviceCastOptions,
  type FloatArrayOf,
  type FloatInputOf,
} from './tensor/cast.js';
export { type Comparison, compareTensors, compareTensorsAsync } from './tensor/compare.js';
export {
  type DequantizeAsyncOptions,
  type DequantizeOptions,
  type DeviceDequantizeOptions,
  dequantizeTensor,
  dequantizeTensorAsync,
} from './tensor/dequantize.js';
export {
  type BlockFloatDtype,
  type DeviceFakeQuantizeBackwardOptions,
  type DeviceFakeQuantized,
  type DeviceFakeQuantizeOptions,
  type FakeQuantizeAsyncOptions,
  type FakeQuantizeBackwardAsyncOptions,
  type FakeQuantizeBackwardOptions,
  type FakeQuantized,
  type FakeQuantizeFormat,
  type FakeQuantizeOptions,
  fakeQuantize,
  fakeQuantizeAsync,
  fakeQuantizeBackward,
  fakeQuantizeBackwardAsync,
} from './tensor/fake-quantize.js';
export type { StaticActivations } from './tensor/input-quantization.js';
export {
  type DeviceLearnedQuantizeBackwardOptions,
  type DeviceQuantizerGradients,
  type LearnedQuantizeBackwardAsyncOptions,
  type LearnedQuantizeBackwardOptions,
  learnedQuantizeBackward,
  learnedQuantizeBackwardAsync,
  type QuantizerGradients,
} from './tensor/learned-quantize.js';
export {
  type DeviceQuantizeOptions,
  type GlobalScaleOptions,
  type GranularityOptions,
  type InputOptions,
  type NestedOptions,
  type QuantizeAsyncOptions,
  type QuantizeInput,
  type QuantizeOptions,
  quantizeTensor,
  quantizeTensorAsync,
  type RangeOptions,
  type SchemeOptions,
} from './tensor/quantize.js';
export {
  type DeviceNestedScales,
  type DeviceQuantizedTensor,
  type Granularity,
  type NestedScales,
  type QuantizedTensor,
  type Scheme,
  sizeOf,
  type TensorSize,
  unpackCodes,
} from './tensor/quantized-tensor.js';
export type { ChannelOptions, IntegerRangeOptions } from './tensor/quantizer-options.js';
export {
  type PackTernaryOptions,
  packTernary,
  packTernaryAsync,
  type TernaryPacking,
  type UnpackTernaryOptions,
  unpackTernary,
  unpackTernaryAsync,
} from './tensor/ternary-digits.js';
