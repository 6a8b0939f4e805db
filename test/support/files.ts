/** Temporary folders, and safetensors files written without lowbit's own writer. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** A folder that goes when the test file is done. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'lowbit-test-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface RawTensor {
  dtype: string;
  shape: number[];
  data: ArrayBufferView;
}

/** A header from its text, with its length before it. */
export function withLength(header: string | Buffer, data: Uint8Array = new Uint8Array(0)): Buffer {
  const text = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([prefix, text, data]);
}

/** A safetensors file of these tensors. */
export function safetensors(tensors: Record<string, RawTensor>, metadata?: Record<string, string>): Buffer {
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata };
  const parts: Uint8Array[] = [];
  let begin = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    header[name] = { dtype, shape, data_offsets: [begin, begin + bytes.length] };
    parts.push(bytes);
    begin += bytes.length;
  }
  return withLength(JSON.stringify(header), Buffer.concat(parts));
}

/** Reads a safetensors file without lowbit: name → dtype, shape, bytes. */
export function readSafetensors(file: Buffer): {
  metadata: Record<string, string>;
  tensors: Map<string, { dtype: string; shape: number[]; bytes: Buffer }>;
} {
  const length = Number(file.readBigUInt64LE());
  const { __metadata__: metadata = {}, ...entries } = JSON.parse(file.subarray(8, 8 + length).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  > & { __metadata__?: Record<string, string> };
  const tensors = new Map<string, { dtype: string; shape: number[]; bytes: Buffer }>();
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [begin, end],
    },
  ] of Object.entries(entries)) {
    tensors.set(name, { dtype, shape, bytes: Buffer.from(file.subarray(8 + length + begin, 8 + length + end)) });
  }
  return { metadata: metadata as Record<string, string>, tensors };
}

/** Writes a folder of files. */
export function writeFolder(folder: string, files: Record<string, string | Buffer | object>): string {
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(
      join(folder, name),
      typeof content === 'string' || Buffer.isBuffer(content) ? content : JSON.stringify(content),
    );
  }
  return folder;
}
