// Keeps a page up to date, and gives it keys. Without this file every page works, but for that.
//
// The page itself is asked for again, and what differs is changed in place. What a person has changed, opened, ticked or selected is not touched,
// and while there is any such thing nothing is asked for.
'use strict';
(() => {
  const every = 2000;
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy('backfill', { createHTML: (text) => text })
    : { createHTML: (text) => text };
  const main = document.querySelector('main');
  const button = document.getElementById('live');
  const clock = document.getElementById('clock');
  if (!main || !button) return;

  let live = true;
  try { live = localStorage.getItem('backfill.live') !== 'no'; } catch { /* It is live. */ }
  let asking = false;
  let at = 0;

  const isField = (node) => node instanceof Element && node.matches('input, select, textarea, [contenteditable]');
  const changed = () => [...main.querySelectorAll('input, select')].some((field) =>
    field.type === 'checkbox' ? field.checked !== field.defaultChecked
      : field.tagName === 'SELECT' ? [...field.options].some((option) => option.selected !== option.defaultSelected)
        : field.value !== field.defaultValue);
  const busy = () => document.hidden || isField(document.activeElement) || changed()
    || main.querySelector('details[open]') !== null || String(document.getSelection()) !== ''
    || main.querySelector('[data-still]') !== null;

  const show = (word) => {
    button.textContent = live ? `● ${word}` : '‖ stopped';
    button.setAttribute('aria-pressed', String(live));
  };

  const refresh = async () => {
    if (!live || asking || busy()) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: 'text/html' } });
      if (answer.ok && !busy()) {
        const page = new DOMParser().parseFromString(policy.createHTML(await answer.text()), 'text/html');
        const fresh = page.querySelector('main');
        // What an action has done is said once.
        if (fresh && !busy()) {
          window.Idiomorph.morph(main, fresh, { ignoreActiveValue: true });
          clock.textContent = page.getElementById('clock').textContent;
          mark();
        }
        show('live');
      } else if (!answer.ok) {
        show(`late: ${answer.status}`);
      }
    } catch {
      show('cannot be reached');
    } finally {
      asking = false;
    }
  };

  button.hidden = false;
  show('live');
  button.addEventListener('click', () => {
    live = !live;
    try { localStorage.setItem('backfill.live', live ? 'yes' : 'no'); } catch { /* It holds for this page. */ }
    show('live');
    refresh();
  });
  setInterval(refresh, every);
  document.addEventListener('visibilitychange', refresh);

  // Keys.
  const rows = () => [...main.querySelectorAll('table.rows tbody tr')];
  const mark = () => rows().forEach((row, place) => row.classList.toggle('here', place === at - 1));
  const move = (by) => {
    const all = rows();
    at = Math.min(Math.max(at + by, 1), all.length);
    mark();
    all[at - 1]?.scrollIntoView({ block: 'nearest' });
  };
  const places = { o: 'overview', j: 'jobs', q: 'queues', t: 'tasks', w: 'workers', c: 'crontabs', d: 'doctor' };
  let going = false;
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || isField(event.target)) return;
    const row = rows()[at - 1];
    if (going && event.key in places) {
      going = false;
      location.href = document.body.dataset.root + places[event.key];
      return;
    }
    going = false;
    switch (event.key) {
      case '/': (document.getElementById('q') ?? document.getElementById('find')).focus(); event.preventDefault(); break;
      case 'g': going = true; break;
      case 'j': move(1); break;
      case 'k': move(-1); break;
      case 'x': row?.querySelector('input[type=checkbox]')?.click(); break;
      case 'r': button.click(); break;
      case 'Enter':
        if (document.activeElement === document.body || document.activeElement === main) row?.querySelector('a')?.click();
        break;
    }
  });
})();
