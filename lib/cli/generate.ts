/**
 * `lowbit generate`
 *
 * @module
 */
import { Command, InvalidArgumentError as InvalidOption, Option } from 'commander';
import type { ComputeDtype } from '../matmul/linear.js';
import type { Generation } from '../model/generate.js';
import { openModel } from '../model/model.js';
import {
  applyCommonOptions,
  type CommonFlags,
  interruptible,
  number,
  positiveInteger,
  readingOf,
  toJson,
  withCommonOptions,
} from './options.js';

interface Flags extends CommonFlags {
  prompt: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  seed?: number;
  stop?: string[];
  computeDtype: ComputeDtype;
  lowMemory?: boolean;
}

function seed(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32) {
    throw new InvalidOption('Expected an integer from 0 to 4294967295.');
  }
  return value;
}

function speedOf({ tokens, promptTokens, promptSeconds, tokenSeconds }: Generation): string {
  const rate = (count: number, seconds: number) => (seconds > 0 ? (count / seconds).toFixed(1) : '–');
  const prompt = `prompt ${promptTokens} tokens, ${rate(promptTokens, promptSeconds)} per second`;
  return `${prompt}; then ${tokens.length}, ${rate(tokens.length - 1, tokenSeconds)} per second`;
}

async function run(path: string, flags: Flags): Promise<void> {
  applyCommonOptions(flags);
  const shows = flags.json !== true && flags.quiet !== true;
  await interruptible(async (signal) => {
    const model = await openModel(path, {
      ...readingOf(flags),
      computeDtype: flags.computeDtype,
      residentBlocks: flags.lowMemory === true ? 'one' : 'all',
      signal,
    });
    try {
      if (shows) process.stdout.write(flags.prompt);
      const { prompt, maxTokens, temperature, topK, topP, stop } = flags;
      const result = await model.generate(prompt, {
        maxTokens,
        temperature,
        ...(topK === undefined ? {} : { topK }),
        ...(topP === undefined ? {} : { topP }),
        ...(flags.seed === undefined ? {} : { seed: flags.seed }),
        ...(stop === undefined ? {} : { stop }),
        signal,
        onToken: (_, text) => {
          if (shows) process.stdout.write(text);
        },
      });
      if (flags.json === true) {
        const { tokens, ...rest } = result;
        console.log(toJson({ ...rest, tokens: Array.from(tokens) }));
      } else if (shows) {
        process.stdout.write('\n');
        console.error(speedOf(result));
      } else {
        console.log(result.text);
      }
    } finally {
      await model.close();
    }
  });
}

export function generateCommand(): Command {
  return withCommonOptions(
    new Command('generate')
      .description('Continue a text with a model, float or quantized: a look at what quantization made of it.')
      .argument('<model>', 'a Hugging Face folder or a GGUF file: Llama, Mistral, Qwen2, Qwen3')
      .requiredOption('-p, --prompt <text>', 'what is continued')
      .option('-n, --max-tokens <n>', 'how many tokens at most', positiveInteger, 128)
      .option('--temperature <t>', '0: always the most likely token', number, 0)
      .option('--top-k <n>', 'only so many of the most likely tokens', positiveInteger)
      .option('--top-p <p>', 'only the most likely tokens that together have this probability', number)
      .option('--seed <n>', 'the same seed chooses the same tokens', seed)
      .option('--stop <text...>', 'texts that end the generation')
      .addOption(
        new Option('--compute-dtype <dtype>', 'in what quantized weights compute')
          .choices(['float32', 'int16', 'int8'])
          .default('int8'),
      )
      .option('--low-memory', "hold one block's weights in memory at a time: slow, for models larger than the memory"),
  )
    .addHelpText(
      'after',
      `
With --quiet only the continuation is printed, without the prompt.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 the model can't be read or run, 130 interrupted.

Example:
  lowbit generate Llama-3.2-1B-int4 --prompt "The capital of France is" --max-tokens 32`,
    )
    .action(run);
}
