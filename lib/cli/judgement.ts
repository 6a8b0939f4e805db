/**
 * Reports that may fall short of what was asked for.
 *
 * @module
 */
import { EXIT } from './exit-codes.js';
import { type CommonFlags, toJson } from './options.js';
import { writePage } from './page.js';

/** A report in every form that the flags ask for. What falls short ends the process with a status of its own. */
export async function judge<R extends object>(
  report: R,
  failed: string[],
  { html, json, quiet }: CommonFlags & { html?: string },
  form: { readonly page: (report: R, failed: string[]) => string; readonly table: (report: R) => string },
): Promise<void> {
  if (html !== undefined) await writePage(html, form.page(report, failed));
  if (json === true) console.log(toJson({ ...report, failed }));
  else if (quiet !== true) console.log(form.table(report));
  if (failed.length === 0) return;
  console.error(`Below the threshold:\n  ${failed.join('\n  ')}`);
  process.exitCode = EXIT.quality;
}
