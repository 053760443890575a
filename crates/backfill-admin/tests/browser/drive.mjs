// Drives the page; ends with 1 and a reason if a promise does not hold.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';

const require = createRequire(`${process.env.BROWSER_DIR}/package.json`);
const { chromium } = require('playwright-core');
const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');
const root = process.argv[2];
const pages = ['overview', 'jobs', 'jobs?q=state%3Adead', 'jobs?q=stat%3Adead', 'jobs/1', 'queues', 'tasks', 'workers', 'crontabs', 'doctor'];

// No sandbox, since tests may run as root in a container.
const browser = await chromium.launch({ executablePath: process.env.BROWSER, args: ['--no-sandbox', '--disable-gpu'] });
const step = (name) => console.log(`step: ${name}`);

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.troubles = [];
  page.on('console', (message) => { if (message.type() === 'error') page.troubles.push(message.text()); });
  page.on('pageerror', (error) => page.troubles.push(String(error)));
  page.on('request', (request) => { if (!request.url().startsWith(root)) page.troubles.push(`asks ${request.url()}`); });
  return page;
}
// The browser asks for an icon and logs that there is none; that, and refused searches, are answers.
const real = (troubles) => troubles.filter((text) => !/favicon|status of 40[0-9]/.test(text));

try {
  step('no page breaks the rules of accessibility, in light, dark, and on a narrow screen; nothing hostile runs');
  for (const options of [{ colorScheme: 'light' }, { colorScheme: 'dark' }, { viewport: { width: 320, height: 700 } }]) {
    const page = await open({ ...options, bypassCSP: true });
    for (const path of pages) {
      await page.goto(`${root}/${path}`);
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }));
      assert.deepEqual(violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.html).join(' ')}`), [], `${path} ${JSON.stringify(options)}`);
      const sideways = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(sideways <= 0, `${path} scrolls sideways by ${sideways} at ${JSON.stringify(options)}`);
      assert.equal(await page.evaluate(() => window.hurt), undefined, path);
    }
    await page.context().close();
  }

  step('the policy for what may run is never broken');
  const strict = await open();
  for (const path of pages) {
    await strict.goto(`${root}/${path}`);
    await strict.waitForSelector('#live:not([hidden])');
    assert.equal(await strict.evaluate(() => window.hurt), undefined, path);
  }
  assert.deepEqual(real(strict.troubles), []);

  step('by keys alone: search, open a job, run it, go back, delete another');
  const page = strict;
  await page.goto(`${root}/overview`);
  await page.keyboard.press('g');
  await page.keyboard.press('j');
  await page.waitForURL(/\/jobs$/);
  await page.keyboard.press('/');
  await page.keyboard.type('state:dead');
  await page.keyboard.press('Enter');
  await page.waitForURL(/q=state%3Adead/);
  assert.equal(await page.locator('table.rows tbody tr').count(), 3);
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForURL(/\/jobs\/\d+$/);
  assert.ok(!(await page.content()).includes('geheim'), 'a redacted value is not there');
  await focus(page, 'Run now');
  await page.keyboard.press('Enter');
  await page.waitForURL(/done=run/);
  assert.match(await page.locator('.said').textContent(), /1 job is to run/);
  await page.goto(`${root}/jobs?q=state%3Adead`);
  assert.equal(await page.locator('table.rows tbody tr').count(), 2);
  await page.keyboard.press('j');
  await page.keyboard.press('x');
  assert.equal(await page.locator('input[type=checkbox]:checked').count(), 1);
  await focus(page, 'With the ticked jobs…');
  await page.keyboard.press('Enter');
  await focus(page, 'Delete');
  await page.keyboard.press('Enter');
  await page.waitForURL(/done=delete/);
  assert.match(await page.locator('.said').textContent(), /1 job is deleted/);
  assert.match(page.url(), /q=state%3Adead/, 'the filter survives the action');

  step('a page is kept up to date, and what somebody does on it is not touched');
  await page.goto(`${root}/jobs`);
  const first = page.locator('table.rows tbody tr').first();
  const before = await first.getAttribute('id');
  await page.locator('table.rows tbody tr').nth(2).locator('input').check();
  await page.fill('#q', 'half a thou');
  console.log('add one');
  // Three refreshes would have come.
  await page.waitForTimeout(6_500);
  assert.equal(await first.getAttribute('id'), before, 'nothing moves while a row is ticked');
  assert.equal(await page.inputValue('#q'), 'half a thou');
  await page.fill('#q', '');
  await page.locator('table.rows tbody tr').nth(2).locator('input').uncheck();
  await page.evaluate(() => document.activeElement.blur());
  await page.waitForFunction(() => document.querySelector('table.rows tbody tr')?.textContent.includes('just added'));
  assert.equal(await page.inputValue('#q'), '');
  await page.keyboard.press('r');
  assert.equal(await page.locator('#live').getAttribute('aria-pressed'), 'false');
  assert.deepEqual(real(page.troubles), []);

  step('without scripts everything works but live updates');
  const plain = await open({ javaScriptEnabled: false });
  await plain.goto(`${root}/jobs`);
  await plain.getByRole('link', { name: 'go on' }).click();
  await plain.waitForURL(/after=/);
  assert.ok(await plain.locator('table.rows tbody tr').count() > 10);
  await plain.goto(root);
  assert.match(plain.url(), /overview$/);
  console.log('all is well');
} catch (error) {
  console.log(error.stack ?? String(error));
  process.exitCode = 1;
} finally {
  await browser.close();
}

// Presses Tab until this is focused.
async function focus(page, name) {
  for (let presses = 0; presses < 400; presses += 1) {
    await page.keyboard.press('Tab');
    const here = await page.evaluate(() => document.activeElement?.textContent?.trim());
    if (here === name) return;
  }
  assert.fail(`${name} cannot be reached by Tab`);
}
