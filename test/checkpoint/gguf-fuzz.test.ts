import { expect, it } from 'vitest';
import { GgufHeaderParser } from '../../lib/checkpoint/gguf/gguf-header.js';

it('no header crashes the parser, is taken wrongly, or depends on how it is read', async () => {
  const { fuzz } = await import('../fuzz/gguf-header.mjs');
  const codes = fuzz(GgufHeaderParser, 1, 6000);
  expect(codes['taken']).toBeGreaterThan(500);
  // The cases reach the checks, not only the first of them.
  for (const code of [
    'GGUF_ALIGNMENT',
    'GGUF_ARRAY_LENGTH',
    'GGUF_BIG_ENDIAN',
    'GGUF_COUNT',
    'GGUF_DIMENSIONS',
    'GGUF_DUPLICATE_KEY',
    'GGUF_EMPTY_KEY',
    'GGUF_HEADER_TRUNCATED',
    'GGUF_INVALID_UTF8',
    'GGUF_MAGIC',
    'GGUF_OFFSET',
    'GGUF_ROW_LENGTH',
    'GGUF_SIZE_OVERFLOW',
    'GGUF_STRING_LENGTH',
    'GGUF_TENSOR_TYPE',
    'GGUF_TOO_SMALL',
    'GGUF_TRUNCATED',
    'GGUF_VALUE_TYPE',
    'GGUF_VERSION',
  ]) {
    expect(codes[code], code).toBeGreaterThan(0);
  }
});
