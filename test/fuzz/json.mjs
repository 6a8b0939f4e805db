/**
 * JSON that others could have written: values of all kinds, and valid values with a few changes.
 *
 * Values are made into text by {@link textOf}, as there is more in JSON texts than in what `JSON.stringify` writes: numbers
 * that overflow, −0, keys that come twice, nesting without end.
 */

/** Stands for literal text in what {@link textOf} makes. */
const raw = (text) => `@@${text}`;

const PROTOTYPE_NAMES = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'valueOf', 'length', 'then'];

const DEEP = raw(`${'['.repeat(3000)}${']'.repeat(3000)}`);

const ODD = [
  ...[null, true, false, 0, raw('-0'), 1, -1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 100, 127, 128, 255, 256, 4096],
  ...[0.5, 1.5, -0.5, 1e-300, raw('1e-400'), 1e9, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, -(2 ** 31)],
  ...[1e300, raw('1e999'), raw('-1e999'), raw('123456789012345678901234567890')],
  ...['', ' ', 'x', '0', '4', '-1', 'null', 'true', '\u0000', '\ud800', '\udc00x', '漢字', 'é', 'x'.repeat(300)],
  ...PROTOTYPE_NAMES,
  ...[[], [null], [0], [1, 2], [128, 128], [-1, 0.5], [[]], ['x'], {}, { x: 1 }, { ['__proto__']: { x: 1 } }],
];

/** Any value; `words` are those that mean something where it goes. */
export function oddValue(random, words = []) {
  if (words.length > 0 && random.once(3)) return random.pick(words);
  if (random.once(500)) return DEEP;
  return random.pick(ODD);
}

function oddKey(random, words) {
  const strings = words.filter((word) => typeof word === 'string');
  return strings.length > 0 && random.below(3) !== 0
    ? random.pick(strings)
    : random.pick(['', 'x', ...PROTOTYPE_NAMES]);
}

function nearby(random, value) {
  return random.pick([value + 1, value - 1, 2 * value, value / 2, -value, 0, value * 2 ** 31, String(value)]);
}

function changedText(random, text) {
  const at = random.below(text.length + 1);
  return random.pick([
    text.slice(0, at),
    text.slice(at),
    `${text}${text}`,
    `${text.slice(0, at)}${random.pick(['\ud800', '\u0000', ' ', 'x', '.', '/', '\\', '"', '漢'])}${text.slice(at)}`,
    text.toUpperCase(),
    text.toLowerCase(),
  ]);
}

function changedArray(random, list, words) {
  const copy = list.slice();
  const at = random.below(copy.length + 1);
  const kind = random.below(8);
  if (kind === 0 || copy.length === 0) copy.splice(at, 0, oddValue(random, words));
  else if (kind === 1) copy.splice(at, 1);
  else if (kind === 2) copy.splice(at, 0, random.pick(copy));
  else if (kind === 3) [copy[0], copy[copy.length - 1]] = [copy[copy.length - 1], copy[0]];
  else {
    const which = random.below(copy.length);
    copy[which] = changed(random, copy[which], words);
  }
  return copy;
}

function changedObject(random, object, words) {
  const keys = Object.keys(object);
  const kind = random.below(16);
  if (kind === 0 || keys.length === 0) return { ...object, [oddKey(random, words)]: oddValue(random, words) };
  const key = random.pick(keys);
  const { [key]: value, ...rest } = object;
  if (kind === 1) return rest;
  if (kind === 2) return { ...rest, [oddKey(random, words)]: value };
  if (kind === 3) return { ...object, [key]: object[random.pick(keys)] };
  return { ...object, [key]: changed(random, value, words) };
}

/** A value with one change somewhere in it. */
export function changed(random, value, words = []) {
  if (typeof value === 'object' && value !== null && random.below(12) !== 0) {
    return Array.isArray(value) ? changedArray(random, value, words) : changedObject(random, value, words);
  }
  if (typeof value === 'number' && random.once(3)) return nearby(random, value);
  if (typeof value === 'string' && !value.startsWith('@@') && random.once(4)) return changedText(random, value);
  return oddValue(random, words);
}

/** A value with so many changes; most often one. */
export function mutated(random, value, words = [], changes = random.pick([0, 1, 1, 1, 1, 2, 2, 3, 6])) {
  let result = value;
  for (let i = 0; i < changes; i++) result = changed(random, result, words);
  return result;
}

/** The text of a value. */
export function textOf(value) {
  const text = JSON.stringify(value) ?? 'null';
  return text.includes('@@') ? text.replace(/"@@([^"]*)"/g, '$1').replaceAll('@@', '') : text;
}

/** Text that is JSON no more, or hardly. */
export function brokenText(random, text) {
  const at = random.below(text.length + 1);
  switch (random.below(8)) {
    case 0:
      return text.slice(0, at);
    case 1:
      return (
        text.slice(0, at) +
        random.pick(['{', '}', '[', ']', ',', ':', '"', '\\', '\u0000', '\ud800', 'e', '-', 'NaN']) +
        text.slice(at)
      );
    case 2:
      return text.slice(0, at) + text.slice(at + 1 + random.below(3));
    case 3:
      return `\ufeff${text}`;
    case 4:
      return random.pick(['', ' ', 'null', '[]', '5', '"x"', '{', '{}', 'true', '[{}]', '\n']);
    case 5: {
      // An object whose first key comes again at its end.
      const key = /^\{("[^"\\]*"):/.exec(text)?.[1];
      return key === undefined || !text.endsWith('}') ? `${text}${text}` : `${text.slice(0, -1)},${key}:null}`;
    }
    case 6:
      return `${text}${random.pick([' ', '\n', '\n\n', 'x', '\u0000', text])}`;
    default:
      return text.replace(/"/, '\\"');
  }
}
