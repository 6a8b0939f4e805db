import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import puppeteer, { type Browser, type Page } from 'puppeteer-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { safetensors, temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';

const root = temporaryFolder();
const MAIN = join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const LLAMA = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
const BROWSER = ['/usr/bin/chromium-headless-shell', '/usr/bin/chromium'].find((path) => existsSync(path));
const report = join(root, 'report.html');

function run(...args: string[]): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' });
  return { status, stderr };
}

beforeAll(() => {
  const quantized = join(root, 'quantized');
  execFileSync(process.execPath, [MAIN, 'quantize', LLAMA, '-g', '32', '-q', '-o', quantized]);
  expect(run('verify', LLAMA, quantized, '-q', '--html', report, '--min-sqnr', '19').status).toBe(5);
});

describe('the page of lowbit verify', () => {
  it('is one file that loads nothing, and appears complete or not at all', () => {
    const page = readFileSync(report, 'utf8');
    expect(page).not.toMatch(/(?:src|href)\s*=\s*["']?(?:https?:|\/\/)/);
    expect(page).not.toMatch(/@import|url\(/);
    expect(readdirSync(root).filter((name) => name.includes('partial'))).toEqual([]);
    const { status, stderr } = run('verify', LLAMA, LLAMA, '-q', '--html', join(root, 'absent', 'report.html'));
    expect(status).toBe(4);
    expect(stderr).toContain("can't be written");
  });

  it('shows names of tensors as text, whatever they hold', () => {
    const evil = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">.weight';
    const folder = join(root, 'evil');
    mkdirSync(folder);
    const data = { dtype: 'F32', shape: [8, 32], data: normal(256, 1) };
    writeFileSync(join(folder, 'a.safetensors'), safetensors({ [evil]: data }));
    writeFileSync(join(folder, 'b.safetensors'), safetensors({ [evil]: { ...data, data: normal(256, 2) } }));
    const page = join(root, 'evil.html');
    expect(
      run('verify', join(folder, 'a.safetensors'), join(folder, 'b.safetensors'), '-q', '--html', page).status,
    ).toBe(0);
    const text = readFileSync(page, 'utf8');
    expect(text).not.toContain('<script>window.hacked');
    expect(text).not.toContain('<img src=x');
    expect(text).toContain('&lt;img src=x');
  });
});

describe.skipIf(BROWSER === undefined)('in a browser (Debian: chromium-headless-shell)', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await puppeteer.launch({ executablePath: BROWSER as string, args: ['--no-sandbox'] });
  });
  afterAll(async () => browser.close());

  async function open(path: string, width: number, height: number): Promise<{ page: Page; errors: string[] }> {
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    page.on('request', (request) => {
      if (!/^(file|data):/.test(request.url())) errors.push(`loads ${request.url()}`);
    });
    await page.setViewport({ width, height });
    await page.goto(pathToFileURL(path).href, { waitUntil: 'load' });
    return { page, errors };
  }

  /** How many pixels of a chart are as blue or green as its points. (Scripts are text: they run in the page.) */
  const coloured = (page: Page, id: string) =>
    page.evaluate(`(() => {
      const canvas = document.querySelector('#${id} canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 0; i < data.length; i += 4) {
        const [r, g, b, a] = data.subarray(i, i + 4);
        if (a > 200 && (b > r + 60 || g > r + 60)) count++;
      }
      return count;
    })()`) as Promise<number>;

  /** Noise of the tensors, in the order of the table. */
  const noise = (page: Page) =>
    page.evaluate(
      `[...document.querySelectorAll('table.sortable tbody tr')].map((row) => Number(row.children[4].dataset.sort))`,
    ) as Promise<number[]>;

  it('draws both charts and lists every tensor that changed', async () => {
    const { page, errors } = await open(report, 1200, 900);
    expect(await coloured(page, 'sqnr')).toBeGreaterThan(42 * 10);
    expect(await coloured(page, 'size')).toBeGreaterThan(42 * 5);
    expect(await noise(page)).toHaveLength(42);
    expect(await page.$eval('ul.bad', (list) => list.textContent)).toContain('down_proj');
    expect(errors).toEqual([]);
    await page.close();
  });

  it('sorts by a column that is clicked, up and down', async () => {
    const { page } = await open(report, 1200, 900);
    const before = await noise(page);
    await page.click('table.sortable th:nth-child(5)');
    const up = [...before].sort((a, b) => a - b);
    await expect.poll(() => noise(page)).toEqual(up);
    await page.click('table.sortable th:nth-child(5)');
    await expect.poll(() => noise(page)).toEqual([...up].reverse());
    await page.close();
  });

  it('fits a phone: nothing but the table is wider than the screen', async () => {
    const { page, errors } = await open(report, 390, 844);
    const widths = (await page.evaluate('[document.documentElement.scrollWidth, innerWidth]')) as number[];
    expect(widths[0]).toBeLessThanOrEqual(widths[1] ?? 0);
    expect(await coloured(page, 'sqnr')).toBeGreaterThan(100);
    expect(errors).toEqual([]);
    await page.close();
  });

  it('runs nothing that a name of a tensor holds', async () => {
    const { page, errors } = await open(join(root, 'evil.html'), 800, 600);
    expect(await page.evaluate('window.hacked')).toBeUndefined();
    expect(errors).toEqual([]);
    await page.close();
  });
});
