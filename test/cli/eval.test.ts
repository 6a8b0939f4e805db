import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import puppeteer, { type Browser, type Page } from 'puppeteer-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const repository = join(__dirname, '..', '..');
const MAIN = join(repository, 'dist', 'cli', 'main.js');
const LLAMA = join(repository, 'examples', 'shakespeare-llama');
const TEXT = join(repository, 'examples', 'text', 'sampled-eval.txt');
const BROWSER = ['/usr/bin/chromium-headless-shell', '/usr/bin/chromium'].find((path) => existsSync(path));
const int4 = join(root, 'int4');
const int2 = join(root, '<b>int2');
const gguf = join(root, 'model.gguf');
const page = join(root, 'report.html');
/** Two short windows are enough here: test/evaluate looks at the numbers. */
const short = ['--text', TEXT, '--window-length', '64', '--max-windows', '2'];

interface Result {
  status: number | null;
  stdout: string;
  stderr: string;
}

function run(...args: string[]): Result {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' });
  return { status, stdout, stderr };
}

let compared: Result;

beforeAll(() => {
  const quantize = (...args: string[]) => execFileSync(process.execPath, [MAIN, 'quantize', LLAMA, '-q', ...args]);
  quantize('-g', '32', '-o', int4);
  quantize('-d', 'int2', '-g', '128', '-o', int2);
  quantize('-f', 'gguf:q8_0', '-o', gguf);
  compared = run('eval', int4, int2, gguf, ...short, '--against', LLAMA, '--max-loss', '10%', '--html', page);
});

describe('lowbit eval', () => {
  it('compares models with their original in one table, and fails above a loss', () => {
    const { status, stdout, stderr } = compared;
    expect(stderr).toMatch(
      /Below the threshold:\n {2}.*int2: its perplexity is [\d.]+ % above the original's, more than 10 %/,
    );
    expect(stderr).toContain('100 %, 2 of 2 windows, perplexity');
    expect(status).toBe(5);
    // 4,718,592 weights of linear layers at 16, 4.5, 2.125 and 8.5 bits, and the rest
    const lines = stdout.split('\n').filter((line) => /[MGk]B/.test(line) && line.includes('│'));
    expect(lines.slice(0, 4).map((line) => line.split('│')[2]?.trim())).toEqual([
      '9.71 MB',
      '2.93 MB',
      '1.53 MB',
      '5.17 MB',
    ]);
    expect(stdout).toMatch(/int2 {2}\(above the limit\)/);
    expect(stdout).toContain('2 of 1036 windows of 64 tokens; 126 tokens scored, 126 B');
  });

  it('prints everything as JSON', () => {
    const { status, stdout, stderr } = run('eval', int4, ...short, '--against', LLAMA, '--max-loss', '50 %', '--json');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      text: TEXT,
      maxLoss: 0.5,
      failed: [],
      original: { model: LLAMA, bitsPerWeight: 16 },
    });
    const [model] = report.models;
    expect(model).toMatchObject({ model: int4, windows: 2, tokens: 126, passed: true, activations: 'float32' });
    expect(model.windowNats).toHaveLength(2);
    expect(model.perplexity.value).toBeCloseTo(Math.exp(model.natsPerToken.value), 10);
    expect(model.against.natsChange.value).toBeCloseTo(
      model.natsPerToken.value - model.against.original.natsPerToken.value,
      10,
    );
    expect(model.against.klDivergence.value).toBeGreaterThan(0);
  });

  it('needs no original, and takes other numbers', () => {
    const plain = JSON.parse(run('eval', int4, ...short, '--json', '--seed', '1').stdout).models[0];
    expect(plain).toMatchObject({ against: null, passed: null });
    const coarse = JSON.parse(
      run('eval', int4, ...short, '--json', '--seed', '1', '--activations', 'int8-dynamic').stdout,
    ).models[0];
    const whole = JSON.parse(run('eval', int4, ...short, '--json', '--seed', '1', '--compute-dtype', 'int8').stdout)
      .models[0];
    for (const { windowNats } of [coarse, whole]) {
      expect(windowNats).not.toEqual(plain.windowNats);
      expect(windowNats[0]).toBeCloseTo(plain.windowNats[0], 1);
    }
    const { stdout, stderr, status } = run('eval', int4, ...short, '-q');
    expect({ stdout, stderr, status }).toEqual({ stdout: '', stderr: '', status: 0 });
  });

  it('takes static activations as they are stored, and says so where models differ', () => {
    const [folder, html] = [join(root, 'static'), join(root, 'static.html')];
    const calibration = ['--text', join(repository, 'examples', 'text', 'sampled-calib.txt'), '--windows', '2'];
    execFileSync(process.execPath, [
      ...[MAIN, 'quantize', LLAMA, '-q', '--activations', 'int8-static', ...calibration, '--window-length', '64'],
      ...['-o', folder],
    ]);
    const both = run('eval', folder, int4, ...short, '--html', html);
    expect(both.stdout).toMatch(/bits\/weight\s*│\s*activations\s*│\s*perplexity/);
    expect(both.stdout).toMatch(/static\s*│[^│]*│[^│]*│\s*int8-static\s*│/);
    expect(both.stdout).toMatch(/int4\s*│[^│]*│[^│]*│\s*float32\s*│/);
    expect(readFileSync(html, 'utf8')).toContain('<td data-sort="int8-static">int8-static</td>');
    const alone = run('eval', folder, ...short);
    expect(alone.stdout).toMatch(/activations\s*│\s*int8-static/);
    const stored = JSON.parse(run('eval', folder, ...short, '--json').stdout).models[0];
    const float = JSON.parse(run('eval', folder, ...short, '--json', '--activations', 'float32').stdout).models[0];
    expect([stored.activations, float.activations]).toEqual(['int8-static', 'float32']);
    expect(float.windowNats).not.toEqual(stored.windowNats);
  });

  it('says what is wrong, with the status for it', () => {
    const empty = join(root, 'short.txt');
    writeFileSync(empty, 'To be');
    const binary = join(root, 'binary.txt');
    writeFileSync(binary, Buffer.from([0xff, 0xfe, 0x00]));
    for (const [args, status, message] of [
      [[int4], 2, /required option '--text <file>'/],
      [[int4, '--text', empty], 2, /fills a window, 255 tokens, but it has 5/],
      [[int4, '--text', binary], 2, /text in UTF-8/],
      [[int4, '--text', join(root, 'absent')], 3, /absent does not exist/],
      [[join(root, 'absent'), '--text', TEXT], 3, /FILE_NOT_FOUND/],
      [[int4, ...short, '--max-loss', '2%'], 2, /--max-loss needs --against/],
      [[int4, ...short, '--against', LLAMA, '--max-loss', '2'], 2, /percentage such as 2%/],
      [[int4, ...short, '--activations', 'int4'], 2, /float32 or int8-dynamic/],
      [[int4, ...short, '--seed', '-1'], 2, /integer from 0/],
      [
        [int4, '--text', TEXT, '--max-windows', '1', '--html', join(root, 'absent', 'page.html')],
        4,
        /can't be written/,
      ],
    ] as const) {
      const result = run('eval', ...args);
      expect(result.stderr).toMatch(message);
      expect(result.status).toBe(status);
    }
  });
});

describe('the page of lowbit eval', () => {
  it('is one file that loads nothing', () => {
    const text = readFileSync(page, 'utf8');
    expect(text).not.toMatch(/(?:src|href)\s*=\s*["']?(?:https?:|\/\/)/);
    expect(text).not.toMatch(/@import|url\(/);
    expect(text).not.toContain('<b>int2');
    expect(readdirSync(root).filter((name) => name.includes('partial'))).toEqual([]);
  });
});

describe.skipIf(BROWSER === undefined)('in a browser (Debian: chromium-headless-shell)', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await puppeteer.launch({ executablePath: BROWSER as string, args: ['--no-sandbox'] });
  });
  afterAll(async () => browser.close());

  async function open(width: number, height: number): Promise<{ page: Page; errors: string[] }> {
    const tab = await browser.newPage();
    const errors: string[] = [];
    tab.on('pageerror', (error) => errors.push(String(error)));
    tab.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    tab.on('request', (request) => {
      if (!/^(file|data):/.test(request.url())) errors.push(`loads ${request.url()}`);
    });
    await tab.setViewport({ width, height });
    await tab.goto(pathToFileURL(page).href, { waitUntil: 'load' });
    return { page: tab, errors };
  }

  /** Pixels of a chart that are blue (quantized models) and green (the original). */
  const coloured = (tab: Page, id: string) =>
    tab.evaluate(`(() => {
      const canvas = document.querySelector('#${id} canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let [blue, green] = [0, 0];
      for (let i = 0; i < data.length; i += 4) {
        const [r, g, b, a] = data.subarray(i, i + 4);
        if (a > 200 && b > r + 60 && b > g + 40) blue++;
        if (a > 200 && g > r + 60 && g > b + 20) green++;
      }
      return { blue, green };
    })()`) as Promise<{ blue: number; green: number }>;

  const column = (tab: Page, index: number) =>
    tab.evaluate(
      `[...document.querySelectorAll('table.sortable tbody tr')].map((row) => Number(row.children[${index}].dataset.sort))`,
    ) as Promise<number[]>;

  it('draws a point for every model in both charts, and lists them', async () => {
    const { page: tab, errors } = await open(1200, 900);
    for (const id of ['perplexity', 'divergence']) {
      const { blue, green } = await coloured(tab, id);
      expect(blue).toBeGreaterThan(3 * 30);
      expect(blue).toBeLessThan(3 * 150);
      expect(green).toBeGreaterThan(30);
    }
    expect(await column(tab, 1)).toHaveLength(4);
    expect(await tab.$eval('ul.bad', (list) => list.textContent)).toContain('<b>int2');
    expect(errors).toEqual([]);
    await tab.close();
  });

  it('sorts by a column that is clicked', async () => {
    const { page: tab } = await open(1200, 900);
    const sorted = [...(await column(tab, 3))].sort((a, b) => a - b);
    await tab.click('table.sortable th:nth-child(4)');
    await expect.poll(() => column(tab, 3)).toEqual(sorted);
    await tab.click('table.sortable th:nth-child(4)');
    await expect.poll(() => column(tab, 3)).toEqual([...sorted].reverse());
    await tab.close();
  });

  it('fits a phone', async () => {
    const { page: tab, errors } = await open(390, 844);
    const widths = (await tab.evaluate('[document.documentElement.scrollWidth, innerWidth]')) as number[];
    expect(widths[0]).toBeLessThanOrEqual(widths[1] ?? 0);
    expect((await coloured(tab, 'perplexity')).blue).toBeGreaterThan(60);
    expect(errors).toEqual([]);
    await tab.close();
  });
});
