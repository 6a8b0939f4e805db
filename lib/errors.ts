/**
 * The errors that lowbit throws. Every one is a {@link LowbitError} with a stable `code`; the message says what was
 * expected, what came, and where there is one, the remedy.
 *
 * @module
 */

/** Codes of {@link InvalidArgumentError}. */
export type ArgumentErrorCode = 'INVALID_ARGUMENT';

/** Codes of {@link CheckpointError}: one for each way in which a file can be wrong. */
export type CheckpointErrorCode =
  | 'SAFETENSORS_TOO_SMALL'
  | 'SAFETENSORS_HEADER_TOO_LARGE'
  | 'SAFETENSORS_HEADER_LENGTH'
  | 'SAFETENSORS_HEADER_START'
  | 'SAFETENSORS_INVALID_UTF8'
  | 'SAFETENSORS_INVALID_JSON'
  | 'SAFETENSORS_DUPLICATE_KEY'
  | 'SAFETENSORS_MISSING_FIELD'
  | 'SAFETENSORS_UNKNOWN_DTYPE'
  | 'SAFETENSORS_INVALID_SHAPE'
  | 'SAFETENSORS_INVALID_OFFSETS'
  | 'SAFETENSORS_INVALID_METADATA'
  | 'SAFETENSORS_REVERSED_OFFSETS'
  | 'SAFETENSORS_HOLE'
  | 'SAFETENSORS_OVERLAP'
  | 'SAFETENSORS_SIZE_OVERFLOW'
  | 'SAFETENSORS_MISALIGNED'
  | 'SAFETENSORS_SIZE_MISMATCH'
  | 'SAFETENSORS_TRUNCATED'
  | 'SAFETENSORS_TRAILING_DATA'
  | 'GGUF_TOO_SMALL'
  | 'GGUF_MAGIC'
  | 'GGUF_BIG_ENDIAN'
  | 'GGUF_VERSION'
  | 'GGUF_COUNT'
  | 'GGUF_HEADER_TRUNCATED'
  | 'GGUF_HEADER_TOO_LARGE'
  | 'GGUF_STRING_LENGTH'
  | 'GGUF_INVALID_UTF8'
  | 'GGUF_EMPTY_KEY'
  | 'GGUF_DUPLICATE_KEY'
  | 'GGUF_VALUE_TYPE'
  | 'GGUF_NESTED_ARRAY'
  | 'GGUF_ARRAY_LENGTH'
  | 'GGUF_ALIGNMENT'
  | 'GGUF_METADATA_TYPE'
  | 'GGUF_DUPLICATE_TENSOR'
  | 'GGUF_DIMENSIONS'
  | 'GGUF_TENSOR_TYPE'
  | 'GGUF_ROW_LENGTH'
  | 'GGUF_SIZE_OVERFLOW'
  | 'GGUF_OFFSET'
  | 'GGUF_TRUNCATED'
  | 'GGUF_SPLIT_INVALID'
  | 'GGUF_SPLIT_NOT_FIRST'
  | 'GGUF_SPLIT_MISSING'
  | 'GGUF_TENSOR_NAME'
  | 'GGUF_TYPE_NOT_DECODABLE'
  | 'GGUF_UNKNOWN_ARCHITECTURE'
  | 'GGUF_UNSUPPORTED_MODEL'
  | 'GGUF_UNSUPPORTED_TOKENIZER'
  | 'TOKENIZER_INVALID'
  | 'TOKENIZER_MISSING'
  | 'TOKENIZER_MISMATCH'
  | 'MODEL_UNSUPPORTED'
  | 'MODEL_WEIGHT_MISSING'
  | 'MODEL_WEIGHT_SHAPE'
  | 'IMATRIX_INVALID'
  | 'IMATRIX_TRUNCATED'
  | 'IMATRIX_MISMATCH'
  | 'IMATRIX_REQUIRED'
  | 'INDEX_INVALID'
  | 'INDEX_MISSING_SHARD'
  | 'INDEX_MISSING_TENSOR'
  | 'INDEX_DUPLICATE_TENSOR'
  | 'CONFIG_INVALID'
  | 'INPUT_CHANGED'
  | 'PLAN_INVALID'
  | 'LAYOUT_INVALID'
  | 'LAYOUT_AMBIGUOUS'
  | 'LAYOUT_UNSUPPORTED'
  | 'ZERO_POINT_OUT_OF_RANGE'
  | 'LAYOUT_MISSING_PART'
  | 'LAYOUT_DTYPE'
  | 'LAYOUT_SHAPE'
  | 'LAYOUT_SCALE'
  | 'NOT_A_CHECKPOINT'
  | 'ALREADY_QUANTIZED'
  | 'NOTHING_TO_QUANTIZE'
  | 'UNSUPPORTED_PLAN'
  | 'FILE_NOT_FOUND'
  | 'FILE_TRUNCATED'
  | 'READ_FAILED';

/** Codes of {@link OutputError}. */
export type OutputErrorCode =
  | 'OUTPUT_EXISTS'
  | 'OUTPUT_BUSY'
  | 'UNFINISHED_WORK'
  | 'DISK_FULL'
  | 'PERMISSION_DENIED'
  | 'WRITE_FAILED'
  | 'VERIFICATION_FAILED'
  | 'BELOW_THRESHOLD';

/** Codes of {@link PackedFileError}: one for each way in which the file of a packed weight can be wrong. */
export type PackedFileErrorCode =
  | 'PACKED_NOT_A_PACKED_WEIGHT'
  | 'PACKED_VERSION'
  | 'PACKED_DAMAGED'
  | 'PACKED_TRUNCATED'
  | 'FILE_NOT_FOUND'
  | 'READ_FAILED';

/** Codes of {@link CalibrationError}. */
export type CalibrationErrorCode =
  | 'CALIBRATION_TEXT_TOO_SHORT'
  | 'CALIBRATION_OVERFLOW'
  | 'VOCABULARY_MISMATCH'
  | 'STATISTICS_INVALID'
  | 'STATISTICS_MISMATCH'
  | 'STATISTICS_OVERLAP'
  | 'STATISTICS_MISSING';

/** Codes of {@link AddonError}. */
export type AddonErrorCode = 'ADDON_NOT_FOUND' | 'INVALID_ENVIRONMENT' | 'INTERNAL';

/** What can be wrong with a device. */
export type DeviceErrorCode = 'NO_DEVICE' | 'DEVICE_LOST' | 'DEVICE_UNSUPPORTED' | 'DEVICE_FAILED';

/** Every code that a {@link LowbitError} can carry. */
export type ErrorCode =
  | ArgumentErrorCode
  | 'NON_FINITE'
  | 'SCALE_OVERFLOW'
  | 'OUT_OF_MEMORY'
  | CheckpointErrorCode
  | PackedFileErrorCode
  | OutputErrorCode
  | CalibrationErrorCode
  | DeviceErrorCode
  | AddonErrorCode;

/** The base of every error that lowbit throws on purpose. */
export class LowbitError extends Error {
  /** Stable across versions; compare with this rather than with the message. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An argument or option has the wrong type, value or size, or does not go with another one. */
export class InvalidArgumentError extends LowbitError {
  /** The argument or option concerned. */
  readonly argument: string;

  constructor(argument: string, message: string, options?: { cause?: unknown }) {
    super('INVALID_ARGUMENT', message, options);
    this.argument = argument;
  }
}

/** A tensor holds NaN or infinity where finite numbers are needed. */
export class NonFiniteError extends LowbitError {
  /** Position of the first such element in row-major order. */
  readonly index: number;
  /** What stands there: NaN, Infinity or -Infinity. */
  readonly value: number;
  /** Name of the tensor, where it has one. */
  readonly tensor: string | undefined;

  constructor(message: string, index: number, value: number, tensor?: string) {
    super('NON_FINITE', message);
    this.index = index;
    this.value = value;
    this.tensor = tensor;
  }
}

/** A scale is too large for the requested `scaleDtype`. */
export class ScaleOverflowError extends LowbitError {
  /** Position of the first such scale in `scales`. */
  readonly index: number;
  /** Name of the tensor, where it has one. */
  readonly tensor: string | undefined;

  constructor(message: string, index: number, tensor?: string) {
    super('SCALE_OVERFLOW', message);
    this.index = index;
    this.tensor = tensor;
  }
}

/** There is not enough memory for a result, a packed weight or what a call needs in between. */
export class OutOfMemoryError extends LowbitError {
  declare readonly code: 'OUT_OF_MEMORY';
  /** The device whose memory it is, such as `'cuda:0'`; undefined for the processor's. */
  readonly device: string | undefined;
  /** How many bytes of the device were asked for, where that is known. */
  readonly bytes: number | undefined;

  constructor(message: string, details: { device?: string; bytes?: number | undefined; cause?: unknown } = {}) {
    super('OUT_OF_MEMORY', message, details.cause === undefined ? undefined : { cause: details.cause });
    this.device = details.device;
    this.bytes = details.bytes;
  }
}

/**
 * A device can't do what it was asked for. `NO_DEVICE`: there is none, or no driver or module for it;
 * `capabilities().cuda.reason` says why. `DEVICE_UNSUPPORTED`: this needs a newer device, or the processor.
 * `DEVICE_LOST`: it failed, and can't be used in this process any more. `DEVICE_FAILED`: anything else; the message has CUDA's
 * words.
 */
export class DeviceError extends LowbitError {
  declare readonly code: DeviceErrorCode;
  /** The device concerned, such as `'cuda:0'`. */
  readonly device: string;
  /** The argument or option that it does not support, where it is one. */
  readonly argument: string | undefined;

  constructor(
    code: DeviceErrorCode,
    message: string,
    details: { device: string; argument?: string | undefined; cause?: unknown },
  ) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.device = details.device;
    this.argument = details.argument;
  }
}

/** A checkpoint can't be read, or can't be quantized as asked. */
export class CheckpointError extends LowbitError {
  declare readonly code: CheckpointErrorCode;
  /** The file or folder concerned. */
  readonly path: string;
  /** The tensor concerned, where there is one. */
  readonly tensor: string | undefined;

  constructor(
    code: CheckpointErrorCode,
    message: string,
    details: { path: string; tensor?: string | undefined; cause?: unknown },
  ) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.path = details.path;
    this.tensor = details.tensor;
  }
}

/** The file of a packed weight can't be read, or is not what `savePacked` wrote. */
export class PackedFileError extends LowbitError {
  declare readonly code: PackedFileErrorCode;
  /** The file concerned. */
  readonly path: string;

  constructor(code: PackedFileErrorCode, message: string, details: { path: string; cause?: unknown }) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.path = details.path;
  }
}

/** A result can't be written, or is not what it should be. Nothing is left under its final name. */
export class OutputError extends LowbitError {
  declare readonly code: OutputErrorCode;
  /** The file or folder concerned. */
  readonly path: string;

  constructor(code: OutputErrorCode, message: string, details: { path: string; cause?: unknown }) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.path = details.path;
  }
}

/** A model can't be calibrated with what was given, or statistics don't fit what they are to be used for. */
export class CalibrationError extends LowbitError {
  declare readonly code: CalibrationErrorCode;
  /** The input of linear layers, or the weight, concerned, where there is one. */
  readonly layer: string | undefined;

  constructor(code: CalibrationErrorCode, message: string, details: { layer?: string; cause?: unknown } = {}) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.layer = details.layer;
  }
}

/** The native addon is missing, can't be loaded, or reports a state that should not occur. */
export class AddonError extends LowbitError {
  declare readonly code: AddonErrorCode;
}

/** A value as a message shows it: short, and telling strings from numbers. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}…` : value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return 'a function';
    case 'symbol':
      return 'a symbol';
    case 'object':
      return value === null ? 'null' : describeObject(value);
    default:
      return String(value);
  }
}

function describeObject(value: object): string {
  try {
    const name = Object.prototype.toString.call(value).slice(8, -1);
    const article = /^[AEIO]/.test(name) ? 'an' : 'a';
    if (ArrayBuffer.isView(value) || Array.isArray(value)) {
      const { length } = value as { length?: number };
      if (length !== undefined) return `${article} ${name} of length ${length}`;
    }
    return name === 'Object' ? 'an object' : `${article} ${name}`;
  } catch {
    return 'an object'; // a revoked proxy, or one whose traps throw
  }
}

/** The error of a failed system call on an output. */
export function outputError(path: string, cause: unknown): OutputError {
  if (cause instanceof OutputError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  const details = { path, cause };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new OutputError(
      'DISK_FULL',
      `The disk is full: ${path} can't be written. Make room and repeat it.`,
      details,
    );
  }
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    const remedy = 'Choose a folder you may write to.';
    return new OutputError('PERMISSION_DENIED', `${path} can't be written: ${message}. ${remedy}`, details);
  }
  return new OutputError('WRITE_FAILED', `${path} can't be written: ${message}.`, details);
}

/** `Expected … for … but received …` */
export function invalidArgument(argument: string, expected: string, received: unknown): InvalidArgumentError {
  return new InvalidArgumentError(argument, `Expected ${expected} for ${argument} but received ${describe(received)}.`);
}
