/**
 * Which layers a config group is about. Targets are names of layers, `re:` and a regular expression that matches the
 * beginning of a name, or names of classes; the first count before the second, and those before the third
 * (vllm-project/compressed-tensors ac8e2ba8, src/compressed_tensors/utils/match.py).
 *
 * @module
 */
import { createContext, Script } from 'node:vm';
import { CheckpointError } from '../../../errors.js';
import type { CompressedConfig, ConfigGroup } from './config.js';

/** Expressions that together take longer than this over all names were made to. */
const TIMEOUT_MS = 2000;
const LONGEST_PATTERN = 10_000;

/** Those of `names` whose beginning a Python expression matches. It comes from a file: it must not run for ever. */
function matching(pattern: string, names: readonly string[], path: string, deadline: number): Set<string> {
  const fail = (why: string, cause?: unknown): never => {
    const message = `The target ${JSON.stringify(`re:${pattern.slice(0, 200)}`)} in ${path} ${why}.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path, cause });
  };
  if (pattern.length > LONGEST_PATTERN) fail(`is longer than ${LONGEST_PATTERN} characters`);
  const ignoresCase = pattern.startsWith('(?i)');
  const source = (ignoresCase ? pattern.slice(4) : pattern)
    .replaceAll('(?P<', '(?<')
    .replaceAll(/\\[AZ]/g, (anchor) => (anchor === '\\A' ? '^' : '$'));
  let expression: RegExp;
  try {
    expression = new RegExp(`^(?:${source})`, ignoresCase ? 'i' : '');
  } catch (cause) {
    return fail(`is no regular expression: ${(cause as Error).message}`, cause);
  }
  const context = createContext({ expression, names });
  try {
    const found = new Script('names.filter((name) => expression.test(name))').runInContext(context, {
      timeout: Math.max(1, Math.ceil(deadline - performance.now())),
    }) as string[];
    return new Set(found);
  } catch (cause) {
    return fail(`needs more than the ${TIMEOUT_MS} ms that matching the names of the layers may take`, cause);
  }
}

/** The groups that each layer may belong to: one by its name, else one by an expression, else all of classes. */
export function groupsOfLayers(config: CompressedConfig, layers: readonly string[]): Map<string, ConfigGroup[]> {
  const byName = new Map<string, ConfigGroup>();
  const byExpression = new Map<string, ConfigGroup>();
  const byClass: ConfigGroup[] = [];
  const known = new Set(layers);
  const deadline = performance.now() + TIMEOUT_MS;
  for (const group of config.groups) {
    if (group.weights === null) continue;
    let isClass = false;
    for (const target of group.targets) {
      if (target.startsWith('re:')) {
        for (const layer of matching(target.slice(3), layers, config.path, deadline)) {
          if (!byExpression.has(layer)) byExpression.set(layer, group);
        }
      } else if (known.has(target)) {
        if (!byName.has(target)) byName.set(target, group);
      } else if (/^[A-Z]\w*$/.test(target)) {
        isClass = true;
      }
    }
    if (isClass) byClass.push(group);
  }
  return new Map(
    layers.map((layer) => {
      const one = byName.get(layer) ?? byExpression.get(layer);
      return [layer, one === undefined ? byClass : [one]];
    }),
  );
}
