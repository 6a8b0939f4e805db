/**
 * Memory that is used again for one block of rows after the other: fresh pages cost more than the arithmetic on them.
 *
 * @module
 */

/** Named buffers; shared memory, so that asynchronous calls need no copies. */
export class Scratch {
  private readonly buffers = new Map<string, SharedArrayBuffer>();

  /** Bytes that it holds. */
  get byteLength(): number {
    let bytes = 0;
    for (const buffer of this.buffers.values()) bytes += buffer.byteLength;
    return bytes;
  }

  /** `length` bytes under a name; what a caller left there before is no longer its own. */
  bytes(name: string, length: number): Uint8Array<SharedArrayBuffer> {
    let buffer = this.buffers.get(name);
    if (buffer === undefined || buffer.byteLength < length) {
      buffer = new SharedArrayBuffer(length);
      this.buffers.set(name, buffer);
    }
    return new Uint8Array(buffer, 0, length);
  }

  floats(name: string, length: number): Float32Array {
    return new Float32Array(this.bytes(name, 4 * length).buffer, 0, length);
  }

  halves(name: string, length: number): Uint16Array {
    return new Uint16Array(this.bytes(name, 2 * length).buffer, 0, length);
  }

  integers(name: string, length: number): Int32Array {
    return new Int32Array(this.bytes(name, 4 * length).buffer, 0, length);
  }
}
