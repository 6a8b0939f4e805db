/** A line chart as SVG: a logarithmic x axis, a linear y axis from 0, and every curve's name at its end. */

const SIZE = { width: 860, height: 460 };
const PLOT = { left: 64, right: 610, top: 64, bottom: 408 };
const LABEL_HEIGHT = 16;
// Told apart also by those who see few colours: Okabe and Ito's, without the yellow.
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#000000', '#7a5195'];

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** A step between gridlines that people count in, for at most six of them. */
function niceStep(highest) {
  const magnitude = 10 ** Math.floor(Math.log10(highest / 6));
  return [1, 2, 5, 10].map((factor) => factor * magnitude).find((step) => highest / step <= 6);
}

/** Moves labels apart that would cover each other, and above the lower end of the plot; their order stays. */
function spread(labels) {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  let highest = 0;
  for (const label of sorted) {
    label.y = Math.max(label.y, highest);
    highest = label.y + LABEL_HEIGHT;
  }
  let lowest = PLOT.bottom;
  for (const label of sorted.reverse()) {
    label.y = Math.min(label.y, lowest);
    lowest = label.y - LABEL_HEIGHT;
  }
  return sorted;
}

/**
 * @param curves name → [x, y] points
 * @param limit points of a dashed curve, what is possible at most
 * @param strong whether the curve of this name is drawn thick
 */
export function lineChart({ title, x, y, curves, limit = [], strong = () => false }) {
  const lines = [...curves].map(([name, points], i) => ({ name, points, colour: COLOURS[i % COLOURS.length] }));
  if (limit.length > 0) lines.push({ name: 'limit of this machine', points: limit, colour: '#777777', dashed: true });
  const points = lines.flatMap((line) => line.points);
  const xs = [...new Set(points.map(([value]) => value))].sort((a, b) => a - b);
  const step = niceStep(Math.max(...points.map(([, value]) => value)));
  const highest = step * Math.ceil(Math.max(...points.map(([, value]) => value)) / step);
  const [from, to] = [Math.log2(xs[0]), Math.log2(xs.at(-1))];
  const px = (value) => PLOT.left + ((Math.log2(value) - from) / (to - from || 1)) * (PLOT.right - PLOT.left);
  const py = (value) => PLOT.bottom - (value / highest) * (PLOT.bottom - PLOT.top);

  const parts = [
    `<rect width="${SIZE.width}" height="${SIZE.height}" fill="#ffffff"/>`,
    `<text x="${PLOT.left}" y="26" font-size="15" font-weight="600">${escaped(title)}</text>`,
  ];
  for (let value = 0; value <= highest; value += step) {
    const at = py(value).toFixed(1);
    parts.push(`<line x1="${PLOT.left}" x2="${PLOT.right}" y1="${at}" y2="${at}" stroke="#dddddd"/>`);
    parts.push(`<text x="${PLOT.left - 8}" y="${at}" dy="4" text-anchor="end">${value}</text>`);
  }
  for (const value of xs) {
    parts.push(`<text x="${px(value).toFixed(1)}" y="${PLOT.bottom + 20}" text-anchor="middle">${value}</text>`);
  }
  const middle = (PLOT.left + PLOT.right) / 2;
  parts.push(`<text x="${middle}" y="${PLOT.bottom + 42}" text-anchor="middle">${escaped(x)}</text>`);
  parts.push(`<text x="${PLOT.left - 8}" y="${PLOT.top - 16}" text-anchor="end">${escaped(y)}</text>`);
  for (const { name, points: path, colour, dashed } of lines) {
    const drawn = path.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(' ');
    const style = `stroke-width="${strong(name) ? 2.5 : 1.5}"${dashed ? ' stroke-dasharray="6 4"' : ''}`;
    parts.push(`<polyline points="${drawn}" fill="none" stroke="${colour}" ${style}/>`);
    if (dashed) continue;
    for (const [a, b] of path) {
      parts.push(`<circle cx="${px(a).toFixed(1)}" cy="${py(b).toFixed(1)}" r="3" fill="${colour}"/>`);
    }
  }
  const labels = spread(lines.map(({ name, points: path, colour }) => ({ name, colour, y: py(path.at(-1)[1]) })));
  for (const { name, colour, y: at } of labels) {
    const weight = strong(name) ? ' font-weight="600"' : '';
    parts.push(
      `<text x="${PLOT.right + 10}" y="${at.toFixed(1)}" dy="4" fill="${colour}"${weight}>${escaped(name)}</text>`,
    );
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIZE.width} ${SIZE.height}" font-family="sans-serif" font-size="12" fill="#222222">`,
    '  <title>GOP/s of lowbit and its peers by the rows of x</title>',
    ...parts.map((part) => `  ${part}`),
    '</svg>\n',
  ].join('\n');
}
