/**
 * GGUF: headers, split models, and models as weights. Valid files of random content, in which counts, lengths, types,
 * dimensions, offsets and bytes are replaced, items repeated or left out, and the end cut off.
 */
import { Finding } from '../engine.mjs';
import { fileAt, ROOT, setFiles } from '../memory.mjs';
import { randomBytes } from '../random.mjs';
import { checkWeights } from '../weights.mjs';

const LARGE = [
  ...[0n, 1n, 2n, 4n, 5n, 31n, 32n, 63n, 64n, 65n, 255n, 256n, 65535n, 65536n, 100_001n, 10_000_001n, 2n ** 31n],
  ...[2n ** 32n - 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 61n, 2n ** 62n, 2n ** 63n, 2n ** 64n - 1n],
  2n ** 64n / 88n,
];
const STEPS = [-33n, -32n, -8n, -1n, 1n, 2n, 8n, 31n, 32n, 33n];

/** Types of tensors: number, and the elements and bytes of a block. */
const TENSOR_TYPES = [
  ...[
    [0, 1, 4],
    [1, 1, 2],
    [2, 32, 18],
    [3, 32, 20],
    [8, 32, 34],
    [12, 256, 144],
    [14, 256, 210],
    [16, 256, 66],
  ],
  ...[
    [24, 1, 1],
    [27, 1, 8],
    [30, 1, 2],
    [35, 256, 66],
    [39, 32, 17],
    [40, 64, 36],
    [42, 64, 18],
  ],
];
const SCALAR_BYTES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const KEYS = ['general.', 'llama.', 'ä.', 'tokenizer.ggml.'];
const WORDS = ['', 'text', '漢字', 'llama', 'x'.repeat(90), '__proto__', 'general.alignment'];

/** A header that knows where its numbers and items are. */
class Header {
  static buffer = Buffer.alloc(1 << 16);
  at = 0;
  /** Position and size of each number, alternately. */
  numbers = [];
  /** Beginnings of pairs and tensors. */
  items = [];

  number(size, value) {
    const { buffer } = Header;
    this.numbers.push(this.at, size);
    if (size === 8) {
      buffer.writeUInt32LE(value >>> 0, this.at);
      buffer.writeUInt32LE(Math.floor(value / 2 ** 32), this.at + 4);
    } else if (size === 4) buffer.writeUInt32LE(value >>> 0, this.at);
    else buffer.writeUInt8(value & 255, this.at);
    this.at += size;
  }

  bytes(bytes) {
    Header.buffer.set(bytes, this.at);
    this.at += bytes.length;
  }

  string(text) {
    this.number(8, 0);
    const length = Header.buffer.write(text, this.at);
    Header.buffer.writeUInt32LE(length, this.at - 8);
    this.at += length;
  }

  item() {
    this.items.push(this.at);
  }

  pair(key, type, value) {
    this.item();
    this.string(key);
    this.number(4, type);
    value();
  }

  tensor(name, dims, type, offset) {
    this.item();
    this.string(name);
    this.number(4, dims.length);
    for (const dim of dims) this.number(8, dim);
    this.number(4, type);
    this.number(8, offset);
  }

  /** One change. */
  change(random) {
    const { buffer } = Header;
    const kind = random.below(8);
    if (kind < 4) {
      const which = 2 * random.below(this.numbers.length / 2);
      const [at, size] = [this.numbers[which], this.numbers[which + 1]];
      if (at + size > this.at) return;
      const old = size === 8 ? buffer.readBigUInt64LE(at) : BigInt(size === 4 ? buffer.readUInt32LE(at) : buffer[at]);
      const value = BigInt.asUintN(8 * size, kind === 3 ? old + random.pick(STEPS) : random.pick(LARGE));
      if (size === 8) buffer.writeBigUInt64LE(value, at);
      else if (size === 4) buffer.writeUInt32LE(Number(value), at);
      else buffer[at] = Number(value);
    } else if (kind === 4) {
      buffer[random.below(this.at)] ^= 1 << random.below(8);
    } else if (kind === 5) {
      buffer[random.below(this.at)] = random.pick([0, 1, 8, 9, 0x7f, 0x80, 0xff, random.below(256)]);
    } else if (this.items.length > 0) {
      // An item comes twice, or not at all; the numbers after it have moved, so they are left alone.
      const which = random.below(this.items.length);
      const begin = this.items[which];
      const end = this.items[which + 1] ?? this.at;
      if (kind === 6) {
        buffer.copy(buffer, end, begin, this.at);
        this.at += end - begin;
      } else {
        buffer.copy(buffer, begin, end, this.at);
        this.at -= end - begin;
      }
      this.numbers.length = Math.max(
        2,
        2 * Math.floor(this.numbers.findIndex((x, i) => i % 2 === 0 && x >= begin) / 2),
      );
      this.items.length = which;
    }
  }

  get result() {
    return Buffer.from(Header.buffer.subarray(0, this.at));
  }
}

function scalar(header, random, type) {
  if (type === 4 || type === 0) header.number(SCALAR_BYTES[type], random.below(300));
  else header.bytes(randomBytes(random, SCALAR_BYTES[type]));
}

function randomPair(header, random, key) {
  const type = random.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 11, 12]);
  header.pair(key, type, () => {
    if (type === 8) header.string(random.pick(WORDS));
    else if (type === 9) {
      const element = random.pick([0, 2, 4, 6, 7, 8, 8, 10, 12]);
      const count = random.below(6);
      header.number(4, element);
      header.number(8, count);
      for (let i = 0; i < count; i++) {
        if (element === 8) header.string(random.pick(WORDS));
        else header.bytes(randomBytes(random, SCALAR_BYTES[element]));
      }
    } else scalar(header, random, type);
  });
}

/** The beginning of a file, and how long the file says it is; what follows is zeros. */
function makeHeader(random) {
  const header = new Header();
  const alignment = random.pick([32, 32, 32, 8, 64, 4096]);
  const pairs = random.below(5);
  const tensors = random.below(5);
  header.bytes(Buffer.from('GGUF'));
  header.number(4, random.pick([2, 3, 3, 3]));
  header.number(8, tensors);
  header.number(8, pairs + (alignment === 32 ? 0 : 1));
  for (let i = 0; i < pairs; i++) randomPair(header, random, `${random.pick(KEYS)}${i}`);
  if (alignment !== 32) header.pair('general.alignment', 4, () => header.number(4, alignment));
  let offset = 0;
  for (let i = 0; i < tensors; i++) {
    const [type, length, blockBytes] = random.pick(TENSOR_TYPES);
    const dims = [length * (1 + random.below(3))];
    for (let axes = random.below(4); axes > 0; axes--) dims.push(1 + random.below(4));
    header.tensor(`blk.${i}.weight`, dims, type, offset);
    const bytes = (dims.reduce((a, b) => a * b, 1) / length) * blockBytes;
    offset = Math.ceil((offset + bytes) / alignment) * alignment;
  }
  const changes = random.pick([0, 1, 1, 1, 1, 2, 2, 3, 5]);
  for (let i = 0; i < changes; i++) header.change(random);
  const bytes = header.result;
  const whole = Math.ceil(bytes.length / alignment) * alignment + offset;
  const lengths = [whole, whole, whole, whole + random.below(100), random.below(whole + 1), bytes.length];
  return {
    header: bytes,
    fileBytes: changes === 0 ? whole : random.pick(lengths),
    piece: 1 + random.below(60),
    valid: changes === 0,
  };
}

/** What must hold of a header that was taken. */
function checkHeader({ alignment, dataPosition, tensors }, fileBytes) {
  if (dataPosition % alignment !== 0) throw new Finding('the data are not aligned');
  let position = dataPosition;
  for (const [name, tensor] of tensors) {
    if (tensor.name !== name || tensor.position !== position) throw new Finding(`${name} is at ${tensor.position}`);
    if (!tensor.shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0)) throw new Finding(`shape of ${name}`);
    if (!Number.isSafeInteger(tensor.bytes) || tensor.bytes < 0) throw new Finding(`bytes of ${name}`);
    if (position + tensor.bytes > fileBytes) throw new Finding(`${name} ends after the file`);
    position += Math.ceil(tensor.bytes / alignment) * alignment;
  }
}

/** Parses a file of `fileBytes`, `header` and then zeros, in pieces. */
function parse(Parser, header, fileBytes, piece) {
  const parser = new Parser(`${ROOT}/model.gguf`, fileBytes);
  for (;;) {
    const begin = parser.received;
    const length = Math.min(Math.max(piece, parser.needed), fileBytes - begin);
    if (length <= 0) throw new Finding('it asks for bytes after the end');
    if (length > 2 ** 24) throw new Finding(`it asks for ${length} bytes`);
    const bytes = new Uint8Array(length);
    if (begin < header.length) bytes.set(header.subarray(begin, begin + length));
    const result = parser.push(bytes);
    if (result !== null) return result;
  }
}

const plain = (metadata) =>
  JSON.stringify([...metadata], (_, value) =>
    typeof value === 'bigint'
      ? `${value}n`
      : ArrayBuffer.isView(value)
        ? Buffer.from(value.buffer).toString('hex')
        : Object.is(value, -0)
          ? '-0'
          : typeof value === 'number' && !Number.isFinite(value)
            ? String(value)
            : value,
  );
const listed = (tensors) =>
  JSON.stringify([...tensors.values()].map(({ name, dtype, shape, bytes }) => [name, dtype, shape, bytes]));

const GGUF_HEADER = [
  ...[
    'ALIGNMENT',
    'ARRAY_LENGTH',
    'BIG_ENDIAN',
    'COUNT',
    'DIMENSIONS',
    'DUPLICATE_KEY',
    'DUPLICATE_TENSOR',
    'EMPTY_KEY',
  ],
  ...['HEADER_TRUNCATED', 'INVALID_UTF8', 'MAGIC', 'NESTED_ARRAY', 'OFFSET', 'ROW_LENGTH', 'SIZE_OVERFLOW'],
  ...['STRING_LENGTH', 'TENSOR_TYPE', 'TOO_SMALL', 'TRUNCATED', 'VALUE_TYPE', 'VERSION'],
].map((name) => `GGUF_${name}`);

export function ggufHeader(dist) {
  const { GgufHeaderParser } = dist('checkpoint/gguf/gguf-header');
  const { writeGguf } = dist('checkpoint/gguf/gguf-writer');
  const { LowbitError } = dist('errors');

  /** What the writer makes of a header is that header again. */
  async function roundTrip({ metadata, tensors }) {
    setFiles({});
    const specs = [...tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
    await (await writeGguf(`${ROOT}/again.gguf`, specs, metadata)).close();
    const bytes = fileAt('again.gguf');
    const again = parse(GgufHeaderParser, bytes, bytes.length, 2 ** 16);
    if (plain(again.metadata) !== plain(metadata)) throw new Finding('the writer changes the metadata');
    if (listed(again.tensors) !== listed(tensors)) throw new Finding('the writer changes the tensors');
    return 'ok';
  }

  function attempt(header, fileBytes, piece) {
    try {
      return { header: parse(GgufHeaderParser, header, fileBytes, piece) };
    } catch (error) {
      if (error instanceof LowbitError) return { error };
      throw error;
    }
  }

  return {
    codes: new Set([...GGUF_HEADER, 'GGUF_HEADER_TOO_LARGE']),
    reaches: ['ok', ...GGUF_HEADER],
    enough: 50_000,
    generate: makeHeader,
    run({ header, fileBytes, piece, valid }) {
      const whole = attempt(header, fileBytes, 2 ** 16);
      const pieces = attempt(header, fileBytes, piece);
      if (whole.error?.code !== pieces.error?.code) {
        throw new Finding(`${whole.error?.code} as a whole, ${pieces.error?.code} in pieces`);
      }
      if (whole.error !== undefined) {
        if (valid) throw new Finding(`a valid header is refused: ${whole.error.message}`);
        throw whole.error;
      }
      checkHeader(whole.header, fileBytes);
      if (listed(whole.header.tensors) !== listed(pieces.header.tensors))
        throw new Finding('pieces change the tensors');
      let bytes = 0;
      for (const tensor of whole.header.tensors.values()) bytes += tensor.bytes;
      return piece % 4 === 0 && bytes < 2 ** 16 ? roundTrip(whole.header) : 'ok';
    },
  };
}

/** A whole file: a header with its data. */
export function makeFile(random, changes, build) {
  const header = new Header();
  header.bytes(Buffer.from('GGUF'));
  header.number(4, 3);
  const dataBytes = build(header);
  for (let i = 0; i < changes; i++) header.change(random);
  const bytes = header.result;
  const data = randomBytes(random, dataBytes + random.pick([0, 0, 0, 40]));
  return Buffer.concat([bytes, Buffer.alloc((32 - (bytes.length % 32)) % 32), data]);
}

function makePart(random, number, count, total, changes) {
  return makeFile(random, changes, (header) => {
    header.number(8, 2);
    const keys = [];
    if (number === 0) keys.push(['general.architecture', 8, () => header.string('llama')]);
    if (!random.once(12))
      keys.push(['split.no', 2, () => header.bytes(Buffer.from([random.once(20) ? random.below(5) : number, 0]))]);
    if (!random.once(12))
      keys.push([
        'split.count',
        2,
        () => header.bytes(Buffer.from([random.once(20) ? random.below(5) : count, random.once(200) ? 255 : 0])),
      ]);
    if (!random.once(4)) keys.push(['split.tensors.count', 5, () => header.number(4, total)]);
    if (random.once(20)) keys.push(['split.count ', 8, () => header.string('2')]);
    header.number(8, keys.length);
    for (const [key, type, value] of keys) header.pair(key, type, value);
    header.tensor(`blk.${random.once(20) ? 0 : number}.a`, [8], 0, 0);
    header.tensor(`blk.${number}.b`, [4, 3], 1, 32);
    return 64;
  });
}

const partName = (number, count) => `m-${String(number).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.gguf`;

function makeSplit(random) {
  const count = 1 + random.below(4);
  const files = {};
  for (let i = 0; i < count; i++) {
    if (random.once(30)) continue;
    const named = random.once(25) ? random.below(7) : i + 1;
    files[partName(named, random.once(60) ? random.below(100_000) : count)] = makePart(
      random,
      i,
      count,
      2 * count,
      random.once(4) ? 1 : 0,
    );
  }
  const names = Object.keys(files);
  if (random.once(20)) files['config.json'] = random.pick(['{}', '[]', '{', '{"model_type":5}']);
  const open = random.pick(['', '', partName(1, count), partName(1, count), ...names]);
  return { files, open };
}

/** All tensors can be read, and lie in their file. */
async function checkTensors(checkpoint) {
  for (const [name, tensor] of checkpoint.tensors) {
    if (tensor.name !== name) throw new Finding(`${name} is called ${tensor.name}`);
    await tensor.read(0, new Uint8Array(tensor.bytes));
  }
}

export function ggufSplit(dist) {
  const { openCheckpoint } = dist('checkpoint/checkpoint');
  const own = ['GGUF_SPLIT_INVALID', 'GGUF_SPLIT_NOT_FIRST', 'GGUF_SPLIT_MISSING', 'GGUF_METADATA_TYPE'];
  const codes = [...own, 'GGUF_DUPLICATE_TENSOR', 'NOT_A_CHECKPOINT', 'FILE_NOT_FOUND', 'CONFIG_INVALID'];
  return {
    codes: new Set([...codes, ...GGUF_HEADER]),
    reaches: ['ok', ...codes],
    enough: 20_000,
    generate: makeSplit,
    async run({ files, open }) {
      setFiles(files);
      const checkpoint = await openCheckpoint(open === '' ? ROOT : `${ROOT}/${open}`);
      await checkTensors(checkpoint);
      await checkpoint.close();
      return 'ok';
    },
  };
}

/** Tensors of a small decoder, some of which are left out. */
function makeModel(random) {
  const architecture = random.pick(['llama', 'llama', 'llama', 'qwen2', 'qwen3', 'gpt2', '']);
  const heads = random.pick([1, 2, 4]);
  const headsKv = random.pick([1, heads]);
  const layers = 1 + random.below(2);
  const hidden = 32;
  return {
    file: makeFile(random, random.pick([0, 0, 1, 1, 2]), (header) => {
      const tensors = [];
      const add = (name, dims, types) => {
        if (!random.once(16)) tensors.push([name, dims, random.pick(types)]);
      };
      const floats = [0, 1, 30];
      const blocks = [...floats, 2, 3, 8, 39, 24];
      add('token_embd.weight', [hidden, 5], blocks);
      for (let i = 0; i < layers; i++) {
        add(`blk.${i}.attn_q.weight`, [hidden, hidden], blocks);
        add(`blk.${i}.attn_k.weight`, [hidden, (hidden / heads) * headsKv], blocks);
        add(`blk.${i}.attn_q.bias`, [hidden], floats);
        add(`blk.${i}.attn_norm.weight`, [hidden], floats);
        add(`blk.${i}.ffn_up.weight`, [64, 3], [40]);
        add(`blk.${i}.ffn_up.scale`, [1], [0, 1]);
      }
      if (random.once(8)) add('rope_freqs.weight', [16], floats);
      if (random.once(8)) add('blk.0.attn_q', [hidden], floats);
      const keys = [];
      const key = (name, type, value) => {
        if (!random.once(16)) keys.push([name, type, value]);
      };
      const count = (value) => {
        if (random.once(12)) {
          // One for each layer.
          return [
            9,
            () => {
              header.number(4, 4);
              header.number(8, layers);
              for (let i = 0; i < layers; i++) header.number(4, value);
            },
          ];
        }
        return [4, () => header.number(4, value)];
      };
      key('general.architecture', 8, () => header.string(architecture));
      key(`${architecture}.block_count`, ...count(layers));
      key(`${architecture}.attention.head_count`, ...count(heads));
      key(`${architecture}.attention.head_count_kv`, ...count(headsKv));
      key(`${architecture}.rope.freq_base`, 6, () => header.bytes(randomBytes(random, 4)));
      if (random.once(4))
        key(`${architecture}.rope.scaling.type`, 8, () => header.string(random.pick(['linear', 'yarn', 'x'])));
      if (random.once(4)) key(`${architecture}.rope.scaling.factor`, 6, () => header.bytes(randomBytes(random, 4)));
      if (random.once(4)) key(`${architecture}.vocab_size`, ...count(random.below(9)));
      header.number(8, tensors.length);
      header.number(8, keys.length);
      for (const [name, type, value] of keys) header.pair(name, type, value);
      let offset = 0;
      for (const [name, dims, type] of tensors) {
        const [, length, blockBytes] = TENSOR_TYPES.find(([id]) => id === type);
        header.tensor(name, dims, type, offset);
        offset += Math.ceil(((dims.reduce((a, b) => a * b, 1) / length) * blockBytes) / 32) * 32;
      }
      return offset;
    }),
    strip: 1 + random.below(40),
  };
}

export function ggufModel(dist) {
  const { openCheckpoint } = dist('checkpoint/checkpoint');
  const { weightsOf } = dist('checkpoint/weights');
  const { configOfMetadata } = dist('checkpoint/gguf/config-of-metadata');
  const { LowbitError } = dist('errors');
  const codes = ['LAYOUT_INVALID', 'GGUF_METADATA_TYPE', 'GGUF_TYPE_NOT_DECODABLE'];
  return {
    codes: new Set([...codes, ...GGUF_HEADER]),
    reaches: ['ok', 'LAYOUT_INVALID', 'GGUF_METADATA_TYPE'],
    enough: 20_000,
    generate: makeModel,
    async run({ file, strip }) {
      setFiles({ 'model.gguf': file });
      const checkpoint = await openCheckpoint(`${ROOT}/model.gguf`);
      const weights = await weightsOf(checkpoint);
      await checkWeights(dist, weights, { strip, tensors: checkpoint.tensors });
      try {
        const shapes = new Map(weights.map(({ name, shape }) => [name, shape]));
        JSON.stringify(configOfMetadata(checkpoint.gguf, shapes, 'model.gguf'));
      } catch (error) {
        if (!(error instanceof LowbitError) || !['GGUF_UNSUPPORTED_MODEL', 'GGUF_METADATA_TYPE'].includes(error.code))
          throw error;
      }
      await checkpoint.close();
      return 'ok';
    },
  };
}
