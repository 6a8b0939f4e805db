/** Statistics of activations, computed in float64 in the plainest way. */
import type { InputStatistics } from '../../lib/methods/input-statistics.js';

export function statisticsOf(x: Float32Array, columns: number): InputStatistics {
  const rows = x.length / columns;
  const gram = new Float64Array(columns * columns);
  const [absMax, squares, magnitudes] = [
    new Float32Array(columns),
    new Float64Array(columns),
    new Float64Array(columns),
  ];
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < columns; i++) {
      const a = x[row * columns + i] as number;
      absMax[i] = Math.max(absMax[i] as number, Math.abs(a));
      (squares[i] as number) += a * a;
      (magnitudes[i] as number) += Math.abs(a);
      for (let j = 0; j < columns; j++) (gram[i * columns + j] as number) += a * (x[row * columns + j] as number);
    }
  }
  const range = { min: Math.min(0, ...x), max: Math.max(0, ...x) };
  return {
    columns,
    rows,
    gram: Float32Array.from(gram),
    absMax,
    sumOfSquares: squares,
    sumOfMagnitudes: magnitudes,
    sample: x,
    range: () => range,
  };
}

/** Σ (x·aᵀ − x·bᵀ)² over all rows of x and of the weights, in float64. */
export function outputError(x: Float32Array, a: Float32Array, b: Float32Array, columns: number): number {
  let error = 0;
  for (let t = 0; t < x.length; t += columns) {
    for (let n = 0; n < a.length; n += columns) {
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += (x[t + k] as number) * ((a[n + k] as number) - (b[n + k] as number));
      error += sum * sum;
    }
  }
  return error;
}
