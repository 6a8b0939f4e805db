/** Reading test/vectors. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export const VECTORS = join(__dirname, '..', 'vectors');

/** An array as the JSON files hold it. */
export interface EncodedArray {
  dtype: string;
  shape: number[];
  b64: string;
}

const CONSTRUCTORS = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float16: Uint16Array,
} as const;

function bytesOf(b64: string): ArrayBuffer {
  const buffer = Buffer.from(b64, 'base64');
  return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength) as ArrayBuffer;
}

/** The elements as plain numbers; 4-bit types are packed, the first in the low nibble. */
export function numbers({ dtype, shape, b64 }: EncodedArray): number[] {
  const bytes = bytesOf(b64);
  if (dtype === 'int4' || dtype === 'uint4') {
    const packed = new Uint8Array(bytes);
    const count = shape.reduce((a, b) => a * b, 1);
    return Array.from({ length: count }, (_, i) => {
      const nibble = ((packed[i >> 1] as number) >> (4 * (i % 2))) & 15;
      return dtype === 'int4' && nibble > 7 ? nibble - 16 : nibble;
    });
  }
  const ArrayType = CONSTRUCTORS[dtype as keyof typeof CONSTRUCTORS];
  if (ArrayType === undefined) throw new Error(`unknown dtype ${dtype}`);
  return Array.from(new ArrayType(bytes) as ArrayLike<number | bigint>, Number);
}

export function float32(array: EncodedArray): Float32Array {
  return new Float32Array(bytesOf(array.b64));
}

export function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(VECTORS, ...path), 'utf8')) as T;
}

export function readUint16(...path: string[]): Uint16Array {
  const file = readFileSync(join(VECTORS, ...path));
  return new Uint16Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
}

/** A single-purpose graph that ONNX Runtime ran. */
export interface OrtCase {
  id: string;
  nodes: { op: string; attrs?: Record<string, number> }[];
  inputs: Record<string, EncodedArray>;
  initializers: Record<string, EncodedArray>;
  outputs: Record<string, EncodedArray>;
}

export function ortCases(pattern: RegExp): OrtCase[] {
  const { cases } = readJson<{ cases: OrtCase[] }>('onnx', 'ort_cases.json');
  return cases.filter(({ id }) => pattern.test(id));
}
