/**
 * How texts are split into words before pairs of bytes are merged: llama.cpp's names for it, and the steps that Hugging
 * Face's pre-tokenizers take for the same.
 *
 * Source: llama.cpp, `src/llama-vocab.cpp` (2026): `tokenizer_pre` and the regular expressions.
 *
 * @module
 */
import type { Json } from '../checkpoint.js';

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORDS = '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+';
const REST = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
const CASED_REST = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const casedWords = (after: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${after}|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${after}`;
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)";

/** A way to split texts. */
export interface PreTokenizer {
  /** llama.cpp's name. */
  readonly name: string;
  /** Other names that llama.cpp has for the very same. */
  readonly aliases: readonly string[];
  /** Regular expressions that split one after the other what the ones before left. */
  readonly splits: readonly string[];
  /** Whether digits are split before all else. */
  readonly splitsDigits: boolean;
  /** Whether GPT-2's regular expression splits at last, which Hugging Face's ByteLevel has built in. */
  readonly splitsWords: boolean;
  /** Whether a word that is a token is taken whole, whatever the merges would make of it. */
  readonly ignoresMerges: boolean;
  /** Whether texts begin with the beginning-of-text token unless the metadata say otherwise. */
  readonly addsBos: boolean;
  /** How the family's own tokenizers normalize texts, which llama.cpp does not do. */
  readonly normalizer: 'NFC' | null;
}

const splitting = (name: string, splits: readonly string[], more: Partial<PreTokenizer> = {}): PreTokenizer => ({
  name,
  aliases: [],
  splits,
  splitsDigits: false,
  splitsWords: false,
  ignoresMerges: false,
  addsBos: false,
  normalizer: null,
  ...more,
});

const LLAMA3 = `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}|${REST}`;

const PRE_TOKENIZERS: readonly PreTokenizer[] = [
  splitting('llama-bpe', [LLAMA3], {
    aliases: ['llama3', 'llama-v3', 'falcon3', 'pixtral'],
    ignoresMerges: true,
    addsBos: true,
  }),
  splitting('qwen2', [`${CONTRACTIONS}|${WORDS}|\\p{N}|${REST}`], {
    aliases: ['deepseek-r1-qwen', 'megrez'],
    normalizer: 'NFC',
  }),
  splitting('tekken', [`${casedWords('')}|\\p{N}|${CASED_REST}`], { ignoresMerges: true, addsBos: true }),
  splitting('gpt-4o', [`${casedWords(`${CONTRACTIONS}?`)}|\\p{N}{1,3}|${CASED_REST}`], { aliases: ['llama4'] }),
  splitting('gpt-2', [], { aliases: ['mpt', 'olmo', 'phi-2'], splitsWords: true }),
  splitting('smollm', [], {
    aliases: ['starcoder', 'refact', 'codeshell'],
    splitsDigits: true,
    splitsWords: true,
  }),
  // What llama.cpp does where a file does not say.
  splitting('default', ['[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]']),
  // The words of Llama 3 without its way to take whole ones: the last one, as Llama 3 itself is found first.
  splitting('smaug-bpe', [LLAMA3], { aliases: ['dbrx'] }),
];

const BY_NAME = new Map(
  PRE_TOKENIZERS.flatMap((one) => [one.name, ...one.aliases].map((name) => [name, one] as const)),
);

/** The way of this name, or undefined. */
export function preTokenizerNamed(name: string): PreTokenizer | undefined {
  return BY_NAME.get(name);
}

/** Hugging Face's pre-tokenizer that splits in this way. */
export function preTokenizerJson({ splits, splitsDigits, splitsWords }: PreTokenizer): Json {
  const steps: Json[] = [
    ...(splitsDigits ? [{ type: 'Digits', individual_digits: true }] : []),
    ...splits.map((regex) => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false })),
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: splitsWords },
  ];
  return steps.length === 1 ? (steps[0] as Json) : { type: 'Sequence', pretokenizers: steps };
}

/**
 * llama.cpp's name for what the steps of a pre-tokenizer do, or undefined if it has none.
 *
 * @param steps - Those before the last, ByteLevel.
 * @param splitsWords - Whether ByteLevel splits with GPT-2's regular expression.
 */
export function preTokenizerNameOf(steps: readonly Json[], splitsWords: boolean): string | undefined {
  const [first, ...others] = steps;
  const splitsDigits = first?.['type'] === 'Digits' && first['individual_digits'] === true;
  const splits: string[] = [];
  for (const step of splitsDigits ? others : steps) {
    const pattern = step['pattern'];
    const regex = typeof pattern === 'object' && pattern !== null ? (pattern as Json)['Regex'] : undefined;
    const keepsAll =
      (step['behavior'] === 'Isolated' && step['invert'] === false) ||
      (step['behavior'] === 'Removed' && step['invert'] === true);
    if (step['type'] !== 'Split' || typeof regex !== 'string' || !keepsAll) return undefined;
    splits.push(regex);
  }
  return PRE_TOKENIZERS.find(
    (one) =>
      one.splitsDigits === splitsDigits &&
      one.splitsWords === splitsWords &&
      one.splits.length === splits.length &&
      one.splits.every((regex, i) => regex === splits[i]),
  )?.name;
}
