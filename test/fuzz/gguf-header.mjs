/**
 * A structure-aware fuzzer of the GGUF header parser: valid headers of random content, in which counts, lengths, types,
 * dimensions, offsets and bytes are replaced, items repeated or left out, and the end cut off.
 *
 * `node test/fuzz/gguf-header.mjs [millions] [seed]` fuzzes the built package; the tests run a few thousand cases.
 */
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

/** mulberry32: the same cases for the same seed. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const LARGE = [
  0n,
  1n,
  2n,
  4n,
  5n,
  31n,
  32n,
  63n,
  64n,
  65n,
  255n,
  256n,
  65535n,
  65536n,
  100_001n,
  10_000_001n,
  2n ** 31n,
];
LARGE.push(
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 61n,
  2n ** 62n,
  2n ** 63n,
  2n ** 64n - 1n,
  2n ** 64n / 88n,
);

/** Types of tensors and the elements and bytes of their blocks: what the fuzzer makes valid headers of. */
const TENSOR_TYPES = [
  [0, 1, 4],
  [1, 1, 2],
  [2, 32, 18],
  [8, 32, 34],
  [12, 256, 144],
  [14, 256, 210],
  [16, 256, 66],
  [24, 1, 1],
  [30, 1, 2],
  [40, 64, 36],
  [42, 64, 18],
];
const SCALAR_BYTES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };

/** One case: the bytes of the header's beginning, and how long the file says it is. */
function makeCase(next) {
  const pick = (list) => list[Math.floor(next() * list.length)];
  const below = (n) => Math.floor(next() * n);
  const number = (size, value) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
    return { number: true, bytes: bytes.subarray(0, size) };
  };
  const raw = (bytes) => ({ number: false, bytes });
  const string = (text) => [number(8, Buffer.byteLength(text)), raw(Buffer.from(text))];
  const random = (size) => raw(Buffer.from(Array.from({ length: size }, () => below(256))));

  const alignment = pick([32, 32, 32, 8, 64, 4096]);
  const items = [];
  const pairs = below(6);
  for (let i = 0; i < pairs; i++) {
    const key = string(`${pick(['general.', 'llama.', 'ä.', 'tokenizer.ggml.'])}${i}`);
    const type = pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    if (type === 8) items.push([...key, number(4, 8), ...string(pick(['', 'text', '漢字'.repeat(below(20))]))]);
    else if (type === 9) {
      const element = pick([0, 4, 6, 7, 8, 10, 12]);
      const count = below(12);
      const content =
        element === 8
          ? Array.from({ length: count }, (_, j) => string(`t${j}`)).flat()
          : [random(count * SCALAR_BYTES[element])];
      items.push([...key, number(4, 9), number(4, element), number(8, count), ...content]);
    } else items.push([...key, number(4, type), random(SCALAR_BYTES[type])]);
  }
  if (alignment !== 32) items.push([...string('general.alignment'), number(4, 4), number(4, alignment)]);
  const pairCount = items.length;
  let offset = 0;
  const tensorCount = below(6);
  for (let i = 0; i < tensorCount; i++) {
    const [type, length, blockBytes] = pick(TENSOR_TYPES);
    const dims = [length * (1 + below(3)), ...Array.from({ length: below(4) }, () => 1 + below(4))];
    items.push([
      ...string(`blk.${i}.weight`),
      number(4, dims.length),
      ...dims.map((dim) => number(8, dim)),
      number(4, type),
      number(8, offset),
    ]);
    const bytes = (dims.reduce((a, b) => a * b, 1) / length) * blockBytes;
    offset = Math.ceil((offset + bytes) / alignment) * alignment;
  }
  const head = [raw(Buffer.from('GGUF')), number(4, pick([2, 3, 3, 3])), number(8, tensorCount), number(8, pairCount)];
  const mutations = pick([0, 1, 1, 1, 2, 2, 3, 5]);
  const isValid = mutations === 0;
  for (let i = 0; i < mutations; i++) {
    const all = [head, ...items].flat();
    const numbers = all.filter((field) => field.number);
    switch (below(7)) {
      case 0:
      case 1:
      case 2: {
        const field = pick(numbers);
        field.bytes = number(field.bytes.length, pick(LARGE)).bytes;
        break;
      }
      case 3: {
        const field = pick(numbers);
        const step = BigInt(pick([-33, -32, -8, -1, 1, 2, 8, 31, 32, 33]));
        const value = field.bytes.length === 8 ? field.bytes.readBigUInt64LE() : BigInt(field.bytes.readUInt32LE());
        field.bytes = number(field.bytes.length, value + step).bytes;
        break;
      }
      case 4: {
        const field = pick(all.filter(({ bytes }) => bytes.length > 0));
        field.bytes = Buffer.from(field.bytes);
        field.bytes[below(field.bytes.length)] ^= 1 << below(8);
        break;
      }
      case 5:
        if (items.length > 0)
          items.splice(
            below(items.length),
            below(2),
            pick(items).map((field) => ({ ...field })),
          );
        break;
      default:
        if (items.length > 0) items.splice(below(items.length), 1);
    }
  }
  const header = Buffer.concat([head, ...items].flat().map(({ bytes }) => bytes));
  const whole = Math.ceil(header.length / alignment) * alignment + offset;
  const fileBytes = isValid ? whole : pick([whole, whole, whole, whole + below(100), below(whole + 1), header.length]);
  return { header, fileBytes, isValid };
}

/** What must hold of a header that was taken. */
function check(header, fileBytes) {
  const { alignment, dataPosition, tensors } = header;
  if (dataPosition % alignment !== 0) throw new Error('the data are not aligned');
  let position = dataPosition;
  for (const [name, tensor] of tensors) {
    if (tensor.name !== name || tensor.position !== position) throw new Error(`${name} is at ${tensor.position}`);
    if (!tensor.shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0)) throw new Error(`shape of ${name}`);
    if (!Number.isSafeInteger(tensor.bytes) || tensor.bytes < 0) throw new Error(`bytes of ${name}`);
    if (position + tensor.bytes > fileBytes) throw new Error(`${name} ends after the file`);
    position += Math.ceil(tensor.bytes / alignment) * alignment;
  }
}

/** Parses a case, in pieces of `piece` bytes, as a file of that many bytes followed by zeros would be. */
function outcome(Parser, { header, fileBytes }, piece) {
  try {
    const parser = new Parser('fuzzed.gguf', fileBytes);
    for (;;) {
      const begin = parser.received;
      const length = Math.min(Math.max(piece, parser.needed), fileBytes - begin);
      if (length <= 0) throw new Error('it asks for bytes after the end');
      const bytes = Buffer.alloc(length);
      if (begin < header.length) header.copy(bytes, 0, begin, Math.min(begin + length, header.length));
      const result = parser.push(bytes);
      if (result !== null) {
        check(result, fileBytes);
        return { code: 'taken', tensors: result.tensors.size };
      }
    }
  } catch (error) {
    if (error?.name === 'CheckpointError' && /^GGUF_[A-Z_]+[A-Z0-9]$/.test(error.code))
      return { code: error.code, tensors: 0 };
    throw error;
  }
}

/**
 * Runs cases; throws at the first that crashes the parser, is taken with contents that can't be, or whose result depends on
 * the pieces in which it is read.
 *
 * @returns How often each code came.
 */
export function fuzz(Parser, seed, count) {
  const next = generator(seed);
  const codes = {};
  for (let i = 0; i < count; i++) {
    const one = makeCase(next);
    const about = () => `seed ${seed}, case ${i}: ${one.header.toString('hex')} of ${one.fileBytes} bytes`;
    try {
      const whole = outcome(Parser, one, 2 ** 16);
      const pieces = outcome(Parser, one, 1 + (i % 40));
      if (whole.code !== pieces.code || whole.tensors !== pieces.tensors) {
        throw new Error(`${whole.code} as a whole, ${pieces.code} in pieces`);
      }
      if (one.isValid && whole.code !== 'taken') throw new Error(`a valid header is refused with ${whole.code}`);
      codes[whole.code] = (codes[whole.code] ?? 0) + 1;
    } catch (error) {
      throw new Error(`${about()}: ${error.message}`, { cause: error });
    }
  }
  return codes;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const built = '../../dist/checkpoint/gguf/gguf-header.js';
  const { GgufHeaderParser } = createRequire(import.meta.url)(built);
  const millions = Number(process.argv[2] ?? 1);
  const seed = Number(process.argv[3] ?? 1);
  const codes = {};
  const start = performance.now();
  for (let part = 0; part < millions * 10; part++) {
    for (const [code, times] of Object.entries(fuzz(GgufHeaderParser, seed + part, 100_000))) {
      codes[code] = (codes[code] ?? 0) + times;
    }
  }
  console.log(codes);
  console.log(`${millions} million cases, no finding, ${Math.round((performance.now() - start) / 1000)} s`);
}
