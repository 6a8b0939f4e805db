/**
 * Everything in memory: files below {@link ROOT} are in a map, and the addon works on this thread, so that a case takes
 * microseconds. Must be loaded before the package.
 */
import { createRequire, syncBuiltinESMExports } from 'node:module';

const require = createRequire(import.meta.url);

/** What lies below it is in memory. */
export const ROOT = '/in-memory';

/** Path → bytes. */
const files = new Map();

/** Replaces all files. */
export function setFiles(entries) {
  files.clear();
  for (const [name, content] of Object.entries(entries)) {
    files.set(`${ROOT}/${name}`, typeof content === 'string' ? Buffer.from(content) : content);
  }
}

/** A file that was written. */
export const fileAt = (name) => files.get(`${ROOT}/${name}`);

const isOurs = (path) => typeof path === 'string' && (path === ROOT || path.startsWith(`${ROOT}/`));
const isFolder = (path) => path === ROOT;

function failure(code, path) {
  return Object.assign(new Error(`${code}: no such file or directory, ${path}`), { code });
}

function bytesOf(path) {
  const bytes = files.get(path);
  if (bytes === undefined) throw failure(isFolder(path) ? 'EISDIR' : 'ENOENT', path);
  return bytes;
}

/** An open file, with what the package uses of one. */
class MemoryHandle {
  fd = -1;

  constructor(path) {
    this.path = path;
  }

  async stat() {
    return statusOf(this.path);
  }

  async read(into, offset, length, position) {
    const bytes = files.get(this.path);
    const end = Math.min(bytes.length, position + length);
    const bytesRead = Math.max(0, end - position);
    if (bytesRead > 0) into.set(bytes.subarray(position, end), offset);
    return { bytesRead, buffer: into };
  }

  async write(from, offset = 0, length = from.length - offset, position = 0) {
    const bytes = files.get(this.path);
    const larger = Buffer.alloc(Math.max(bytes.length, position + length));
    larger.set(bytes);
    larger.set(from.subarray(offset, offset + length), position);
    files.set(this.path, larger);
    return { bytesWritten: length };
  }

  async truncate(length) {
    if (length > 2 ** 26) throw new Error(`a file of ${length} bytes`);
    const bytes = Buffer.alloc(length);
    bytes.set(files.get(this.path).subarray(0, length));
    files.set(this.path, bytes);
  }

  async appendFile(text) {
    files.set(this.path, Buffer.concat([files.get(this.path), Buffer.from(text)]));
  }

  async sync() {}
  async datasync() {}
  async close() {}
}

function statusOf(path) {
  const size = isFolder(path) ? 0 : bytesOf(path).length;
  return { size, isDirectory: () => isFolder(path), isFile: () => !isFolder(path) };
}

const OURS = {
  async readFile(path, encoding) {
    const bytes = bytesOf(path);
    return encoding === 'utf8' ? bytes.toString('utf8') : bytes;
  },
  async writeFile(path, content) {
    files.set(path, Buffer.from(content));
  },
  async stat(path) {
    return statusOf(path);
  },
  async readdir(path) {
    const prefix = `${path}/`;
    return [...files.keys()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  },
  async rename(from, to) {
    files.set(to, bytesOf(from));
    files.delete(from);
  },
  async rm(path) {
    files.delete(path);
  },
  async open(path, flags) {
    if (flags !== 'r' && !files.has(path)) files.set(path, Buffer.alloc(0));
    if (flags === 'w') files.set(path, Buffer.alloc(0));
    bytesOf(path);
    return new MemoryHandle(path);
  },
};

function patch(module, name, ours) {
  const theirs = module[name];
  module[name] = (path, ...rest) => (isOurs(path) ? ours(path, ...rest) : theirs(path, ...rest));
}

const promises = require('node:fs/promises');
for (const [name, ours] of Object.entries(OURS)) patch(promises, name, ours);
patch(require('node:fs'), 'existsSync', (path) => isFolder(path) || files.has(path));
syncBuiltinESMExports();

/** Bytes that were asked for since {@link resetAllocations}: what a file claims must not be allocated before it is checked. */
let allocated = 0;
export const allocations = () => allocated;
export const resetAllocations = () => {
  allocated = 0;
};

/** Counts what is allocated: buffers and typed arrays by their length. */
function countAllocations() {
  const names = ['Int8', 'Uint8', 'Int16', 'Uint16', 'Int32', 'Uint32', 'Float32', 'Float64', 'BigInt64', 'BigUint64'];
  for (const name of ['ArrayBuffer', 'SharedArrayBuffer', ...names.map((name) => `${name}Array`)]) {
    const Type = globalThis[name];
    const width = Type.BYTES_PER_ELEMENT ?? 1;
    const Counting = new Proxy(Type, {
      construct(target, args, newTarget) {
        const [length] = args;
        if (typeof length === 'number') allocated += width * length;
        return Reflect.construct(target, args, newTarget === Counting ? target : newTarget);
      },
    });
    globalThis[name] = Counting;
  }
  const { alloc } = Buffer;
  Buffer.alloc = (length, ...rest) => {
    allocated += length;
    return alloc(length, ...rest);
  };
}

/** The built package, its addon on this thread. */
export function loadPackage() {
  countAllocations();
  const dist = (path) => require(`../../dist/${path}.js`);
  const { addon } = dist('addon');
  for (const name of Object.keys(addon)) {
    if (!name.endsWith('Async')) continue;
    const here = addon[name.slice(0, -'Async'.length)];
    addon[name] = (...args) => {
      const done = args.pop();
      here(...args);
      done();
      return 0;
    };
  }
  // It would read from a descriptor.
  addon.readStrided = undefined;
  return dist;
}

/** A checkpoint of tensors: name → dtype, shape, data. */
export function memoryCheckpoint(tensors, config, folder = ROOT) {
  const stored = new Map();
  for (const [name, { dtype, shape, data }] of tensors) stored.set(name, new MemoryTensor(name, dtype, shape, data));
  return {
    path: folder ?? `${ROOT}/model.safetensors`,
    folder,
    container: 'safetensors',
    gguf: null,
    files: [],
    tensors: stored,
    config,
    close: async () => {},
  };
}

const DONE = Promise.resolve();

class MemoryTensor {
  path = `${ROOT}/model.safetensors`;
  position = 0;

  constructor(name, dtype, shape, data) {
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
    this.data = data;
    this.bytes = data.length;
  }

  read(begin, into) {
    const end = begin + into.length;
    if (!(begin >= 0 && end <= this.bytes)) throw new Error(`reads bytes ${begin} to ${end} of ${this.bytes}`);
    into.set(this.data.subarray(begin, end));
    return DONE;
  }
}
