/**
 * Memory that is used again for one block of rows after the other: fresh pages cost more than the arithmetic on them.
 *
 * @module
 */

const PAGE_BYTES = 4096;

/** Where memory of V8 begins in its page, if it has one to itself. */
const OFFSET_IN_PAGE = 16;

/**
 * Where in a buffer that begins with a page data should lie that are read from a position of a file: half a page away from
 * where they lie in theirs. Processors copy three to six times slower to places that follow the source's by a few bytes, pages
 * left aside: they take loads for loads of what was stored just before.
 *
 * @returns A multiple of 16, less than a page.
 */
export function pageOffsetFor(position: number): number {
  const away = 64 * ((Math.floor(position / 64) + PAGE_BYTES / 128) % (PAGE_BYTES / 64));
  return (away + PAGE_BYTES - OFFSET_IN_PAGE) % PAGE_BYTES;
}

/** A buffer of its own for so many bytes at any {@link pageOffsetFor}. */
export function sharedPages(length: number): SharedArrayBuffer {
  return new SharedArrayBuffer(length + PAGE_BYTES);
}

/** Named buffers; shared memory, so that asynchronous calls need no copies. */
export class Scratch {
  private readonly buffers = new Map<string, SharedArrayBuffer>();

  /** Bytes that it holds. */
  get byteLength(): number {
    let bytes = 0;
    for (const buffer of this.buffers.values()) bytes += buffer.byteLength;
    return bytes;
  }

  /**
   * `length` bytes under a name; what a caller left there before is no longer its own.
   *
   * @param position - Of a file, for bytes that are read from there: they then lie where that is fast, at a multiple of 16.
   */
  bytes(name: string, length: number, position?: number): Uint8Array<SharedArrayBuffer> {
    const begin = position === undefined ? 0 : pageOffsetFor(position);
    let buffer = this.buffers.get(name);
    if (buffer === undefined || buffer.byteLength < begin + length) {
      buffer = position === undefined ? new SharedArrayBuffer(length) : sharedPages(length);
      this.buffers.set(name, buffer);
    }
    return new Uint8Array(buffer, begin, length);
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
