/** What must hold of the weights that a checkpoint has, whatever they are stored as. */
import { Finding } from './engine.mjs';

const isCount = (n) => Number.isSafeInteger(n) && n >= 0;

/** The values of a weight, in strips of about so many rows. */
async function valuesOf(dist, weight, strip) {
  const { Scratch } = dist('checkpoint/scratch');
  const { floatsOf } = dist('checkpoint/floats');
  const scratch = new Scratch();
  const { rows, columns } = weight;
  const step = weight.rowStep * Math.max(1, Math.floor(strip / weight.rowStep));
  const all = new Float32Array(rows * columns);
  for (let begin = 0; begin < rows; begin += step) {
    const end = Math.min(rows, begin + step);
    const count = (end - begin) * columns;
    const values = await floatsOf(await weight.read(begin, end, scratch), count, columns, scratch);
    if (values.length !== count) throw new Finding(`${weight.name} has ${values.length} values instead of ${count}`);
    all.set(values, begin * columns);
  }
  return all;
}

/** Static activations have a scale, and a zero point where they are asymmetric. */
async function checkInput({ name, input }) {
  if (input === undefined) return;
  const { dtype, scale, zeroPoint } = await input.read();
  const isScale = scale > 0 && Number.isFinite(scale) && Number.isFinite(Math.fround(1 / scale));
  const isZero =
    input.scheme === 'symmetric'
      ? zeroPoint === null
      : Number.isInteger(zeroPoint) && zeroPoint >= -128 && zeroPoint <= 127;
  if (dtype !== input.dtype || !isScale || !isZero) throw new Finding(`${name}: activations ${scale}, ${zeroPoint}`);
}

/**
 * Checks weights: each has the shape it says, all of its values can be read, in strips as well as at once, and every
 * tensor belongs to one of them.
 *
 * @param options - `strip` of rows; `tensors` of the checkpoint; `mayBeNaN`: whether codes can stand for NaN.
 */
export async function checkWeights(dist, weights, { strip, tensors, mayBeNaN = true }) {
  let parts = 0;
  for (const weight of weights) {
    const { name, shape, rows, columns, rowStep, encoding } = weight;
    if (typeof name !== 'string' || !isCount(rows) || !isCount(columns))
      throw new Finding(`${name}: ${rows} × ${columns}`);
    if (!shape.every(isCount) || shape.reduce((a, b) => a * b, 1) !== rows * columns) {
      throw new Finding(`${name}: [${shape}] and ${rows} × ${columns}`);
    }
    if (!isCount(rowStep) || rowStep === 0) throw new Finding(`${name}: steps of ${rowStep}`);
    const { groupSize } = encoding;
    if (groupSize !== null && (!isCount(groupSize) || groupSize === 0))
      throw new Finding(`${name}: groups of ${groupSize}`);
    for (const part of weight.parts) if (tensors.get(part.name) !== part) throw new Finding(`${name}: an unknown part`);
    parts += weight.parts.length;
    await checkInput(weight);
    if (weight.dtype === null) continue;
    if (rows * columns > 2 ** 18) throw new Finding(`${name}: ${rows} × ${columns} values`);
    const whole = await valuesOf(dist, weight, rows);
    const quantized = encoding.format !== 'float' && encoding.format !== 'other';
    if (!mayBeNaN && quantized && whole.some(Number.isNaN)) throw new Finding(`${name} has values that are NaN`);
    if (strip >= rows) continue;
    const inStrips = await valuesOf(dist, weight, strip);
    if (!Buffer.from(whole.buffer).equals(Buffer.from(inStrips.buffer))) throw new Finding(`${name} differs in strips`);
  }
  if (parts !== tensors.size) throw new Finding(`weights have ${parts} of ${tensors.size} tensors`);
}
