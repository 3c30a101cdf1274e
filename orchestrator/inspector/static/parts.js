/**
 * The parts that every view is made of: panels, badges, authors, scores, moments, bars, and lists that come in pages.
 *
 * Invariant: colour is never alone: a word or a number stands beside it. A list holds what was loaded, in chunks, each refreshed
 * only while it is seen.
 */
import { useContext, useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { ago, clock, count, moment, NONE, percent, score, words } from './figures.js';
import { get, onTick, Run, steady } from './server.js';
import { html, Line } from './text.js';

/** A part of a view under a heading. */
export function Panel({ title, note, children, wide, id, test }) {
  return html`<section class=${wide ? 'panel wide' : 'panel'} aria-labelledby=${id} data-test=${test}>
    <h2 id=${id}>${title}${note && html` <span class="note">${note}</span>`}</h2>${children}
  </section>`;
}

/** A state or a verdict, as a word with its colour. */
export const Badge = ({ of, test }) => html`<span class=${`badge is-${of ?? 'none'}`} data-test=${test} data-state=${of}>${of ? words(of) : 'no verdict yet'}</span>`;

/** The place of an author in the palette: by the order of the teachers. */
export function useAuthors() {
  const run = useContext(Run);
  const names = run.agents.filter((each) => each.role === 'teacher').map((each) => each.name).join('\n');
  return useMemo(() => {
    const order = new Map(names.split('\n').map((name, at) => [name, at % 8]));
    return (name) => order.get(name) ?? 8;
  }, [names]);
}

/** An author by name, with its colour. */
export function Author({ name }) {
  const place = useAuthors();
  return html`<span class="author"><span class=${`swatch a${place(name)}`} aria-hidden="true"></span>${name}</span>`;
}

export const Authors = ({ names }) => html`<span class="authors">${names.map((name) => html`<${Author} name=${name} />`)}</span>`;

/** The shade of a score: 0 to 5. */
export const shade = (value) => value === null || value === undefined ? 'none' : Math.min(5, Math.floor(6 * value));

export const Score = ({ value }) => html`<span class=${`score s${shade(value)}`}>${score(value)}</span>`;

/** How long ago something was, told anew every second. */
export function Ago({ at, never = NONE }) {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) again((n) => n + 1); }, at && clock() - at > 300 ? 30000 : 1000);
    return () => clearInterval(timer);
  }, [at]);
  if (at === null || at === undefined) return never;
  return html`<time datetime=${new Date(1000 * at).toISOString()} title=${moment(at)}>${ago(at)}</time>`;
}

/** Names with counts, as bars of shares; `to`: where each leads. */
export function Bars({ of, order, to, empty, colour = () => '', test }) {
  const names = Object.keys(of);
  if (order) names.sort((a, b) => (order.indexOf(a) + 99) % 99 - (order.indexOf(b) + 99) % 99);
  else names.sort((a, b) => of[b] - of[a]);
  const total = names.reduce((sum, name) => sum + of[name], 0), most = Math.max(...Object.values(of), 1);
  if (!names.length) return html`<p class="quiet">${empty}</p>`;
  return html`<ul class="bars" data-test=${test}>${names.map((name) => html`<li key=${name}>
    <span class="name">${to ? html`<a href=${to(name)}>${words(name)}</a>` : words(name)}</span>
    <span class="track" aria-hidden="true"><span class=${`fill ${colour(name)}`} style=${{ width: `${100 * of[name] / most}%` }}></span></span>
    <span class="figure">${count(of[name])}</span><span class="share">${percent(of[name] / total)}</span>
  </li>`)}</ul>`;
}

/** A name and what it is, in a list of such. */
export const Fact = ({ name, children, title, wide }) => html`<div title=${title} class=${wide ? 'wide' : undefined}><dt>${name}</dt><dd>${children}</dd></div>`;

/** What went wrong with a request. */
export const Wrong = ({ error }) => error && html`<p class="wrong" role="alert" data-test="error">${error.message}</p>`;

/** What stands where there is nothing yet. */
export const Empty = ({ children }) => html`<p class="empty" data-test="empty">${children}</p>`;

/** While a first answer is waited for. */
export const Waiting = ({ of }) => of.error ? html`<${Wrong} error=${of.error} />` : html`<p class="quiet waiting">reading…</p>`;

const ROUNDS = 6, MANY = 1000; // requests of one refresh, at most; items after which a list begins anew

/**
 * A list that comes in pages: `key` is what a page's `next` counts, `falling`: from the highest down. Returns its chunks, and
 * `more` for the next `size` items: it goes on asking past empty pages until it has them, or none are left.
 */
export function usePages(path, { key, falling = false, concerns = () => false, size = 50 }) {
  const [, again] = useState(0);
  const state = useRef(null);
  if (state.current?.path !== path) state.current = { path, chunks: [], next: null, begun: false, busy: false, searched: 0, error: null };
  const list = state.current, tell = () => { if (state.current === list) again((n) => n + 1); };
  const at = (after, limit) => `${path}${path.includes('?') ? '&' : '?'}limit=${limit}${after === null ? '' : `&after=${after}`}`;

  const more = async () => {
    if (list.busy || (list.begun && list.next === null)) return;
    Object.assign(list, { busy: true, error: null, searched: 0 });
    tell();
    const chunk = { start: list.next, next: null, items: [] };
    try {
      do {
        const page = await get(at(list.next, size - chunk.items.length), list.stop?.signal);
        if (!list.begun || (page.items.length && !chunk.items.length)) list.chunks = [...list.chunks, chunk];
        chunk.items = [...chunk.items, ...page.items];
        chunk.next = list.next = page.next;
        list.begun = true;
        list.searched++;
        tell();
      } while (chunk.items.length < size && list.next !== null && state.current === list);
    } catch (error) { list.error = list.stop?.signal.aborted ? null : error; }
    list.busy = false;
    tell();
  };

  const reached = (place, end) => falling ? place <= end : place >= end;
  const refresh = async (chunk) => {
    const items = [];
    let after = chunk.start, rounds = 0;
    const enough = () => after === null || (chunk.next === null ? items.length >= chunk.items.length + size : reached(after, chunk.next));
    do {
      const page = await get(at(after, Math.min(500, chunk.items.length + size)), list.stop?.signal);
      items.push(...page.items);
      after = page.next;
    } while (!enough() && ++rounds < ROUNDS);
    chunk.stale = false;
    if (!enough()) return items.length > MANY ? begin() : undefined; // many new ones; or few hits, far apart: what was found stays
    if (chunk.next === null) chunk.next = after;
    chunk.items = items.filter((each) => chunk.next === null || !reached(key(each), chunk.next) || key(each) === chunk.next);
    list.next = list.chunks.at(-1).next;
    return tell();
  };
  const begin = () => { Object.assign(list, { chunks: [], next: null, begun: false }); return more(); };

  const asked = useRef(concerns);
  asked.current = concerns;
  const box = useRef(null);
  useEffect(() => {
    list.stop = new AbortController();
    void more();
    const reader = steady(async () => {
      if (list.busy) return;
      const stale = list.chunks.filter((each, place) => each.stale && seen(box.current, place)).slice(0, 2);
      for (const chunk of stale) await refresh(chunk);
      if (!list.chunks.length) await begin();
    }, () => 1000);
    const off = onTick((tick) => {
      if (!tick.reset && !asked.current(tick)) return;
      for (const chunk of list.chunks) chunk.stale = true;
      reader.soon();
    });
    const scrolled = () => { if (list.chunks.some((each) => each.stale)) reader.soon(); };
    addEventListener('scroll', scrolled, { passive: true });
    return () => { list.stop.abort(); reader.stop(); off(); removeEventListener('scroll', scrolled); };
  }, [path]);
  return { ...list, more, box };
}

function seen(box, place) {
  const shown = box?.querySelector(`[data-chunk="${place}"]`)?.getBoundingClientRect();
  return shown ? shown.bottom >= 0 && shown.top <= innerHeight : place === 0;
}

/**
 * A list as a table: `columns` are {name, label, cell(item)}; `href(item)` is where a row leads, from its first cell. `test` is
 * the rows' hook, `kind` the class that sets the columns' widths.
 */
export function Listing({ pages, columns, href, id, kind, label, test, empty, current }) {
  const end = useRef(null), { more, busy, next, begun, chunks } = pages;
  useEffect(() => {
    if (!end.current || busy || next === null) return undefined;
    const watch = new IntersectionObserver(([each]) => each.isIntersecting && void more(), { rootMargin: '300px' });
    watch.observe(end.current);
    return () => watch.disconnect();
  }, [busy, next, chunks.length]);
  const num = chunks.reduce((sum, each) => sum + each.items.length, 0);
  return html`<div class="listing" ref=${pages.box}>
    ${num > 0 && html`<div class=${`table ${kind}`} role="table" aria-label=${label}>
      <div role="rowgroup" class="head"><div role="row">${columns.map((each) => html`<span role="columnheader" class=${each.name}>${each.label}</span>`)}</div></div>
      ${chunks.map((chunk, place) => html`<${Chunk} key=${chunk.start} ...${{ items: chunk.items, place, columns, href, id, test, current }} />`)}
    </div>`}
    <${Wrong} error=${pages.error} />
    ${begun && !busy && num === 0 && next === null && html`<${Empty}>${empty}<//>`}
    <div class="foot" ref=${end} aria-live="polite">
      ${busy && html`<span class="quiet waiting" data-test="searching">${pages.searched > 1 ? `searched further… ${pages.searched} pages, ${count(num)} found` : 'reading…'}</span>`}
      ${!busy && next !== null && begun && html`<button type="button" data-test="load-more" onClick=${more}>load more</button>`}
      ${!busy && next === null && num > 0 && html`<span class="quiet">${count(num)} shown; that is all</span>`}
    </div>
  </div>`;
}

function Chunk({ items, place, columns, href, id = (item) => item.id, test, current }) {
  const here = items.some((item) => id(item) === current) ? current : null;
  return useMemo(() => html`<div role="rowgroup" class="chunk" data-chunk=${place}>${items.map((item) => html`
    <div role="row" key=${id(item)} class=${id(item) === here ? 'row current' : 'row'} data-row data-test=${test} data-id=${id(item)} data-state=${item.state ?? item.outcome}>
      ${columns.map((each, at) => html`<span role="cell" class=${each.name} data-label=${each.label}>
        ${at === 0 && href?.(item) ? html`<a class="whole" href=${href(item)}>${each.cell(item)}</a>` : each.cell(item)}</span>`)}
    </div>`)}</div>`, [items, here, place]);
}

/** A text field of a filter, applied a moment after the last key. */
export function Search({ value, label, onChange, test = 'filter-text' }) {
  const timer = useRef(0);
  const later = (event) => {
    const text = event.target.value;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => onChange(text), 250);
  };
  return html`<label class="field">${label}<input type="search" maxlength="200" value=${value} onInput=${later} data-search data-test=${test} /></label>`;
}

/** Several of a few, as boxes to tick. */
export function Choices({ label, of, chosen, onChange, name }) {
  const flip = (each) => onChange(chosen.includes(each) ? chosen.filter((one) => one !== each) : [...chosen, each]);
  return html`<fieldset class="choices"><legend>${label}</legend>${of.map((each) => html`<label>
    <input type="checkbox" name=${name} checked=${chosen.includes(each)} onChange=${() => flip(each)} data-test=${`filter-${each}`} />${words(each)}</label>`)}</fieldset>`;
}

export { Line };
