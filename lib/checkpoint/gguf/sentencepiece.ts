/**
 * Reading the vocabulary of a SentencePiece model (`tokenizer.model`), a protobuf message.
 *
 * Source: google/sentencepiece, `src/sentencepiece_model.proto`.
 *
 * @module
 */
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { CheckpointError } from '../../errors.js';

/** One piece of the vocabulary; its place is its id. */
export interface Piece {
  readonly text: string;
  readonly score: number;
  /** 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte: the numbers that GGUF uses too. */
  readonly type: number;
}

export interface SentencePieceModel {
  readonly pieces: readonly Piece[];
  /** Whether a space is put before a text. */
  readonly addsSpacePrefix: boolean;
  /** Whether pieces are merged pair by pair (BPE), rather than chosen by their probability (unigram). */
  readonly isBpe: boolean;
}

/** Calls `field` for each field of a message; what it does not read is skipped. */
function readMessage(
  bytes: Uint8Array,
  field: (number: number, wire: WireType, reader: BinaryReader) => boolean,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (!field(number, wire, reader)) reader.skip(wire, number);
  }
}

function readPiece(bytes: Uint8Array): Piece {
  let [text, score, type] = ['', 0, 1];
  readMessage(bytes, (number, wire, reader) => {
    if (number === 1 && wire === WireType.LengthDelimited) text = reader.string();
    else if (number === 2 && wire === WireType.Bit32) score = reader.float();
    else if (number === 3 && wire === WireType.Varint) type = reader.int32();
    else return false;
    return true;
  });
  return { text, score, type };
}

/** An integer or boolean field of a message, or `otherwise` if it has none. */
function readVarint(bytes: Uint8Array, wanted: number, otherwise: number): number {
  let value = otherwise;
  readMessage(bytes, (number, wire, reader) => {
    if (number !== wanted || wire !== WireType.Varint) return false;
    value = reader.int32();
    return true;
  });
  return value;
}

/**
 * Reads a SentencePiece model.
 *
 * @throws {@link CheckpointError} `TOKENIZER_INVALID` if the bytes are no such model.
 */
export function readSentencePiece(bytes: Uint8Array, path: string): SentencePieceModel {
  const pieces: Piece[] = [];
  let [addsSpacePrefix, modelType] = [true, 1];
  const invalid = (cause?: unknown): never => {
    const message = `${path} is not a SentencePiece model.`;
    throw new CheckpointError('TOKENIZER_INVALID', message, { path, cause });
  };
  try {
    readMessage(bytes, (number, wire, reader) => {
      if (wire !== WireType.LengthDelimited || number > 3) return false;
      const message = reader.bytes();
      if (number === 1) pieces.push(readPiece(message));
      // trainer_spec.model_type and normalizer_spec.add_dummy_prefix
      if (number === 2) modelType = readVarint(message, 3, 1);
      if (number === 3) addsSpacePrefix = readVarint(message, 3, 1) !== 0;
      return true;
    });
  } catch (cause) {
    return invalid(cause);
  }
  if (pieces.length === 0 || pieces.some(({ type }) => type < 1 || type > 6)) return invalid();
  return { pieces, addsSpacePrefix, isBpe: modelType === 2 };
}
