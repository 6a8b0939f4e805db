#!/usr/bin/env node
/**
 * The command line: `lowbit <command>`.
 *
 * @module
 */
import { Command, CommanderError } from 'commander';
import { capabilities } from '../runtime.js';
import { calibrateCommand } from './calibrate.js';
import { convertCommand } from './convert.js';
import { evalCommand } from './eval.js';
import { EXIT, exitCodeOf, messageOf } from './exit-codes.js';
import { generateCommand } from './generate.js';
import { inspectCommand } from './inspect.js';
import { quantizeCommand } from './quantize.js';
import { verifyCommand } from './verify.js';

async function main(): Promise<number> {
  const program = new Command('lowbit')
    .description('Low-bit quantization at native speed.')
    .version(capabilities().version)
    .enablePositionalOptions() // so that options after `calibrate merge` are those of merge
    .addCommand(quantizeCommand())
    .addCommand(convertCommand())
    .addCommand(calibrateCommand())
    .addCommand(inspectCommand())
    .addCommand(verifyCommand())
    .addCommand(evalCommand())
    .addCommand(generateCommand())
    .configureHelp({ showGlobalOptions: true });
  for (const command of [program, ...program.commands, ...program.commands.flatMap(({ commands }) => commands)])
    command.exitOverride().showHelpAfterError('(--help shows the options)');
  try {
    await program.parseAsync();
    return Number(process.exitCode ?? EXIT.success);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.success : EXIT.usage;
    if (error instanceof Error && error.name === 'AbortError') {
      console.error('Interrupted. The same command goes on with what is done.');
      return EXIT.interrupted;
    }
    console.error(`lowbit: ${messageOf(error)}`);
    return exitCodeOf(error);
  }
}

main().then((code) => {
  process.exitCode = code;
});
