/**
 * `lowbit eval`
 *
 * @module
 */
import { Command, InvalidArgumentError as InvalidOption } from 'commander';
import { readText } from '../checkpoint/text.js';
import { ACTIVATIONS, type Activations } from '../evaluate/activations.js';
import { checkpointSize } from '../evaluate/checkpoint-size.js';
import { evaluateModel } from '../evaluate/evaluate-model.js';
import type { ComputeDtype } from '../matmul/linear.js';
import { openModel } from '../model/model.js';
import { evaluationPage } from './evaluation-page.js';
import { type EvaluatedModel, type EvaluationReport, evaluationTable } from './evaluation-table.js';
import { judge } from './judgement.js';
import {
  applyCommonOptions,
  type CommonFlags,
  interruptible,
  oneOf,
  positiveInteger,
  readingOf,
  withCommonOptions,
} from './options.js';
import { evaluationDisplay } from './progress.js';

interface Flags extends CommonFlags {
  text: string;
  against?: string;
  tokenizer?: string;
  maxLoss?: number;
  windowLength?: number;
  maxWindows?: number;
  seed?: number;
  computeDtype?: ComputeDtype;
  activations?: Activations;
  residentBlocks?: 'all' | 'one';
  html?: string;
}

/** `2%`: a fraction of the original's perplexity. */
function percentage(text: string): number {
  const [, digits] = /^\s*(\d+(?:\.\d+)?)\s*%\s*$/.exec(text) ?? [];
  if (digits === undefined) throw new InvalidOption('Expected a percentage such as 2%.');
  return Number(digits) / 100;
}

function seed(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value >= 2 ** 32) throw new InvalidOption('Expected an integer from 0 to 4294967295.');
  return value;
}

async function evaluate(models: readonly string[], flags: Flags, signal: AbortSignal): Promise<EvaluationReport> {
  const isTalking = flags.quiet !== true && flags.json !== true;
  const { against: originalPath, maxLoss, computeDtype, activations } = flags;
  const text = await readText(flags.text);
  const reading = readingOf(flags);
  const original = originalPath === undefined ? null : await openModel(originalPath, { ...reading, signal });
  try {
    const evaluations: EvaluatedModel[] = [];
    for (const model of models) {
      if (isTalking) console.error(model);
      const display = isTalking ? evaluationDisplay(process.stderr) : null;
      const evaluation = await evaluateModel(model, {
        ...reading,
        text,
        ...(original === null ? {} : { against: original }),
        ...(flags.tokenizer === undefined ? {} : { tokenizer: flags.tokenizer }),
        ...(flags.windowLength === undefined ? {} : { windowLength: flags.windowLength }),
        ...(flags.maxWindows === undefined ? {} : { maxWindows: flags.maxWindows }),
        ...(flags.seed === undefined ? {} : { seed: flags.seed }),
        ...(computeDtype === undefined ? {} : { computeDtype }),
        ...(activations === undefined ? {} : { activations }),
        ...(flags.residentBlocks === undefined ? {} : { residentBlocks: flags.residentBlocks }),
        signal,
        onProgress: (progress) => display?.update(progress),
      }).finally(() => display?.stop());
      const loss = evaluation.against?.perplexityChange.value;
      evaluations.push({ ...evaluation, passed: maxLoss === undefined || loss === undefined ? null : loss <= maxLoss });
    }
    return {
      text: flags.text,
      maxLoss: maxLoss ?? null,
      original:
        originalPath === undefined ? null : { model: originalPath, ...(await checkpointSize(originalPath, reading)) },
      models: evaluations,
    };
  } finally {
    await original?.close();
  }
}

/** What falls short of the threshold. */
function failures({ models, maxLoss }: EvaluationReport): string[] {
  return models.flatMap(({ model, passed, against }) => {
    if (passed !== false || against === null || maxLoss === null) return [];
    const { value } = against.perplexityChange;
    return [
      `${model}: its perplexity is ${(100 * value).toFixed(2)} % above the original's, more than ${100 * maxLoss} %`,
    ];
  });
}

async function run(models: string[], flags: Flags, command: Command): Promise<void> {
  if (flags.maxLoss !== undefined && flags.against === undefined) {
    command.error('error: --max-loss needs --against <original>');
  }
  applyCommonOptions(flags);
  const report = await interruptible((signal) => evaluate(models, flags, signal));
  await judge(report, failures(report), flags, { page: evaluationPage, table: evaluationTable });
}

export function evalCommand(): Command {
  return withCommonOptions(
    new Command('eval')
      .description('Measure how well models predict a text, and how far they are from their original.')
      .argument('<models...>', 'Hugging Face folders or GGUF files, in any format that lowbit reads')
      .requiredOption('--text <file>', 'what they predict: a file in UTF-8')
      .option('--tokenizer <model>', 'a model whose tokenizer is used (default: its own, or else the original’s)')
      .option('--against <original>', 'the model they were made from')
      .option(
        '--max-loss <percent>',
        'fail if the perplexity is more than this above the original’s, for example 2%',
        percentage,
      )
      .option(
        '--window-length <n>',
        'tokens of a window (default: what the model takes, at most 2048)',
        positiveInteger,
      )
      .option('--max-windows <n>', 'windows to evaluate, evenly spaced over the text (default: all)', positiveInteger)
      .option('--seed <n>', 'draw these windows at random', seed)
      .option(
        '--compute-dtype <dtype>',
        'float32 (default), int16 or int8: in what quantized weights compute',
        oneOf('float32', 'int16', 'int8'),
      )
      .option(
        '--activations <kind>',
        'stored (default): quantized where the model has static scales for them; float32; int8-dynamic: rounded for each token, as in W8A8',
        oneOf(...ACTIVATIONS),
      )
      .option('--resident-blocks <which>', 'all (default) or one: how many blocks stay in memory', oneOf('all', 'one'))
      .option('--html <file>', 'write a page with charts and a table that sorts'),
  )
    .addHelpText(
      'after',
      `
Windows follow one another without overlap; each begins with what the tokenizer puts before a text. All tokens are scored given
those before them in their window. The rest of the text, which fills no window, is left out.

Exit codes: 0 done, 1 fault of lowbit, 2 wrong arguments, 3 a model or the text can't be read, 4 the page can't be written,
5 a perplexity is above --max-loss, 130 interrupted.

Example:
  lowbit eval Llama-3.2-1B-int4 Llama-3.2-1B-Q4_K_M.gguf --text wiki.test.raw --against Llama-3.2-1B --max-loss 2%`,
    )
    .action(run);
}
