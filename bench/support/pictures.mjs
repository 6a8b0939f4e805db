/** Pictures of the formats as SVG: where the bits of a block lie, and what quantizing costs. */

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

// Told apart also by those who see few colours: Okabe and Ito's.
const COLOURS = { scale: '#e69f00', offset: '#cc79a7', codes: '#56b4e9', 'high bits': '#009e73', sums: '#bbbbbb' };

function svg(width, height, title, parts) {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" fill="#222222">`,
    `  <title>${escaped(title)}</title>`,
    `  <rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...parts.map((part) => `  ${part}`),
    '</svg>\n',
  ].join('\n');
}

function legend(entries, x, y) {
  return entries.flatMap(([name, colour], i) => {
    const left = x + 120 * i;
    return [
      `<rect x="${left}" y="${y - 10}" width="12" height="12" fill="${colour}"/>`,
      `<text x="${left + 18}" y="${y}">${escaped(name)}</text>`,
    ];
  });
}

/**
 * One bar for each block, its fields as wide as they have bits.
 *
 * @param blocks `{ name, fields: [[role, label, bits], …] }`
 */
export function layoutPicture(title, blocks) {
  const [left, width, rowHeight, top] = [90, 700, 34, 70];
  const parts = [
    `<text x="16" y="26" font-size="15" font-weight="600">${escaped(title)}</text>`,
    ...legend(Object.entries(COLOURS), 16, 52),
  ];
  blocks.forEach(({ name, fields }, row) => {
    const y = top + row * rowHeight;
    const total = fields.reduce((sum, [, , bits]) => sum + bits, 0);
    parts.push(`<text x="${left - 8}" y="${y + 16}" text-anchor="end" font-weight="600">${escaped(name)}</text>`);
    let x = left;
    for (const [role, label, bits] of fields) {
      const w = (bits / total) * width;
      parts.push(
        `<rect x="${x.toFixed(1)}" y="${y}" width="${w.toFixed(1)}" height="24" fill="${COLOURS[role]}" stroke="#ffffff"><title>${escaped(label)}, ${bits} bits</title></rect>`,
      );
      if (w > 6.2 * label.length) {
        parts.push(`<text x="${(x + w / 2).toFixed(1)}" y="${y + 16}" text-anchor="middle">${escaped(label)}</text>`);
      }
      x += w;
    }
    parts.push(`<text x="${left + width + 10}" y="${y + 16}">${total / 8} bytes</text>`);
  });
  return svg(left + width + 90, top + blocks.length * rowHeight + 10, title, parts);
}

/**
 * Two bars for each format.
 *
 * @param rows `{ name, bits, values: [first, second] }`
 */
export function barPicture(title, series, rows) {
  const [left, width, rowHeight, top] = [260, 500, 30, 70];
  const colours = ['#0072b2', '#d55e00'];
  const highest = Math.max(...rows.flatMap(({ values }) => values));
  const scale = (value) => (Math.max(0, value) / highest) * width;
  const parts = [
    `<text x="16" y="26" font-size="15" font-weight="600">${escaped(title)}</text>`,
    ...legend(
      series.map((name, i) => [name, colours[i]]),
      16,
      52,
    ),
  ];
  rows.forEach(({ name, bits, values }, row) => {
    const y = top + row * rowHeight;
    parts.push(`<text x="${left - 46}" y="${y + 17}" text-anchor="end" font-weight="600">${escaped(name)}</text>`);
    parts.push(`<text x="${left - 8}" y="${y + 17}" text-anchor="end" fill="#777777">${bits.toFixed(2)}</text>`);
    values.forEach((value, i) => {
      parts.push(
        `<rect x="${left}" y="${y + 2 + 11 * i}" width="${scale(value).toFixed(1)}" height="10" fill="${colours[i]}"/>`,
        `<text x="${(left + scale(value) + 6).toFixed(1)}" y="${y + 11 + 11 * i}" font-size="10">${value.toFixed(1)}</text>`,
      );
    });
  });
  return svg(left + width + 50, top + rows.length * rowHeight + 10, title, parts);
}
