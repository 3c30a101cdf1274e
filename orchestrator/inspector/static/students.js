/**
 * Students: what each was given and why, how it learns, whom it trusts, and whether it has become better.
 */
import { useContext, useEffect, useMemo, useState } from 'preact/hooks';
import { Curve } from './curves.js';
import { count, NONE, number, percent, rough, score, words } from './figures.js';
import { Author, Authors, Empty, Fact, Listing, Panel, useAuthors, usePages, Wrong } from './parts.js';
import { change, link } from './route.js';
import { get, onTick, query, Run, steady, useLive } from './server.js';
import { html, Line } from './text.js';
import { Gate } from './trajectories.js';

export default function Students(props) {
  return props.id ? html`<${OneStudent} key=${props.id} ...${props} />` : html`<${All} />`;
}

function All() {
  const run = useContext(Run);
  return html`<h1>Students</h1>
    ${run.students.length === 0 && html`<${Empty}>No students are configured in this run. With some, their losses, gates and accuracies appear here while they learn.<//>`}
    <div class="cards">${run.students.map((each) => html`<a class="student-card panel" href=${link('students', each.name)} data-test="student-card" data-id=${each.name}><h2>${each.name}</h2>
      <p class="quiet"><${Line} text=${each.model} /></p><p><b>${count(each.updates)}</b>${each.of ? ` of ${count(each.of)}` : ''} updates, <b>${count(each.routed)}</b> routed trajectories</p>
      ${each.of && html`<progress max=${each.of} value=${each.updates} aria-label="updates"></progress>`}
      <p class="quiet">${each.stopped ? html`<${Line} text=${each.stopped} />` : each.final ? html`done: <${Line} text=${each.final} />` : !each.updates ? 'has not begun' : run.state === 'running' ? 'learns' : 'has learnt'}</p></a>`)}</div>
    <${Accuracies} /><${Gates} />`;
}

/** Everything of a paged list, read on from where it was; growing lists only. */
function useAll(path, student) {
  const [found, set] = useState({ path: null, items: [], error: null });
  useEffect(() => {
    const stop = new AbortController();
    let items = [], after = null;
    const reader = steady(async () => {
      try {
        items = items.filter((each) => after !== null && each.update <= after); // the last page may have grown
        for (;;) {
          const page = await get(`${path}${path.includes('?') ? '&' : '?'}${after === null ? '' : `after=${after}`}`, stop.signal);
          items = items.concat(page.items);
          set({ path, items, error: null });
          if (page.next === null) break;
          after = page.next;
        }
      } catch (error) { if (!stop.signal.aborted) set((was) => ({ ...was, path, error })); }
    }, () => 3000);
    reader.soon();
    const off = onTick((tick) => { if (tick.reset || tick.students.includes(student)) reader.soon(); });
    return () => { stop.abort(); reader.stop(); off(); };
  }, [path]);
  return found.path === path ? found : { items: [], error: null, path: null };
}

const POINTS = 2000; // of a curve, at most

const GROUPS = [
  ['Losses', (name) => /^loss\b/i.test(name)],
  ['Peers', (name) => /^peers?\b/i.test(name)],
  ['Learning rate', (name) => /learning.rate|^lr$/i.test(name)],
  ['Gradient norm', (name) => /grad/i.test(name)],
];

/** Series of one picture must be of one size to be read together: each group is cut where the next is 30 times as large. */
function grouped(items) {
  const names = [...new Set(items.flatMap((each) => Object.keys(each.values)))], left = new Set(names), charts = [];
  const top = (name) => Math.max(...items.map((each) => Math.abs(each.values[name] ?? 0)));
  for (const [title, of] of GROUPS) {
    const own = names.filter((name) => left.has(name) && of(name)).map((name) => [name, top(name)]).sort((a, b) => b[1] - a[1]);
    const sizes = [];
    for (const [name, size] of own) {
      left.delete(name);
      if (!sizes.length || (size > 0 && size < sizes.at(-1)[0][1] / 30)) sizes.push([]);
      sizes.at(-1).push([name, size]);
    }
    for (const some of sizes) charts.push([some.length > 1 || sizes.length === 1 ? title : words(some[0][0]), some.map(([name]) => name)]);
  }
  for (const name of left) charts.push([words(name), [name]]);
  return charts;
}

/** Means over `num` updates around each, of what was measured there. */
function smoothed(values, num) {
  return values.map((value, at) => {
    if (value === null) return null;
    const some = values.slice(Math.max(0, at - Math.floor(num / 2)), at + Math.ceil(num / 2)).filter((each) => each !== null);
    return some.reduce((sum, each) => sum + each, 0) / some.length;
  });
}

function OneStudent({ id, params }) {
  const run = useContext(Run), about = run.students.find((each) => each.name === id);
  const place = useAuthors(), every = 2 ** Math.max(0, Math.ceil(Math.log2((about?.updates ?? 1) / POINTS)));
  const metrics = useAll(query(`students/${encodeURIComponent(id)}/metrics`, { limit: 500, every }), id), weights = useAll(`students/${encodeURIComponent(id)}/weights`, id);
  const [smooth, setSmooth] = useState(false), over = Math.max(3, Math.round(metrics.items.length / 20));
  const shown = (values) => smooth ? smoothed(values, over) : values;
  const charts = useMemo(() => {
    const x = metrics.items.map((each) => each.update);
    return grouped(metrics.items).map(([title, names]) => ({ title, x, series: names.map((name) => ({ name: words(name), values: shown(metrics.items.map((each) => each.values[name] ?? null)) })) }));
  }, [metrics.items, smooth]);
  const trust = useMemo(() => {
    const x = [...new Set(weights.items.map((each) => each.update))].sort((a, b) => a - b), at = new Map(x.map((update, place) => [update, place]));
    const by = (what) => {
      const series = {};
      for (const each of weights.items) (series[each.teacher] ??= x.map(() => null))[at.get(each.update)] = each[what];
      return Object.entries(series).sort(([a], [b]) => place(a) - place(b)).map(([name, values]) => ({ name, values: shown(values), colour: place(name) }));
    };
    return { x, alpha: by('alpha'), ce: by('cross_entropy') };
  }, [weights.items, place, smooth]);
  return html`<p class="crumbs"><a href="#/students">Students</a></p><h1>${id}</h1>
    ${about ? html`<dl class="facts"><${Fact} name="model" wide><${Line} text=${about.model} /><//><${Fact} name="updates">${count(about.updates)}${about.of ? html` <small>of ${count(about.of)}</small>` : ''}<//><${Fact} name="routed">${count(about.routed)}<//><${Fact} name="ends in" wide><${Line} text=${about.final} /><//>
      ${about.stopped && html`<${Fact} name="stopped"><span class="wrong"><${Line} text=${about.stopped} most=${1000} /></span><//>`}</dl>` : html`<p class="wrong">No student of this name is configured.</p>`}
    <${Wrong} error=${metrics.error} />
    <${Panel} id="learning" title="How it learns" note=${smooth ? `means of ${over} updates` : 'by update'}>${charts.length ? html`<p class="tools"><button type="button" class="small" aria-pressed=${smooth} onClick=${() => setSmooth(!smooth)}>smooth all curves</button></p><div class="curves">${charts.map((each) => html`<${Curve} key=${each.title} ...${each} />`)}</div>` : html`<${Empty}>Losses appear here after its first update.<//>`}<//>
    <${Panel} id="trust" title="Whom it trusts" note="mean alpha by teacher (COMPACT, Eq. 7)">${trust.x.length ? html`<div class="curves"><${Curve} title="alpha" x=${trust.x} series=${trust.alpha} digits=${score} /><${Curve} title="cross-entropy" x=${trust.x} series=${trust.ce} digits=${score} note="nats per token" /></div>` : html`<${Empty}>Weights appear here when it has reported on trajectories.<//>`}<//>
    <${Accuracies} of=${id} /><${Gates} of=${id} />
    <${Lessons} id=${id} params=${params} />`;
}

function Lessons({ id, params }) {
  const gate = params.get('gate');
  const pages = usePages(query(`students/${encodeURIComponent(id)}/lessons`, { gate }), { key: (item) => item.place, falling: true, concerns: (tick) => tick.kinds.route || tick.students.includes(id) });
  const measure = (name, label, show = rough) => ({ name: 'n measure', label, cell: (item) => show(item.assigned[name]) });
  return html`<${Panel} id="lessons" title="Lessons" note="what it was given, and what not, newest first" wide>
    <div class="filters"><label class="field">Gate<select value=${gate ?? ''} onChange=${(event) => change({ gate: event.target.value })} data-test="filter-gate"><option value="">both</option><option value="1">open</option><option value="0">shut</option></select></label></div>
    <${Listing} pages=${pages} kind="lessons" label="Lessons" test="lesson-row" id=${(item) => `${item.place}`} href=${(item) => link('trajectories', item.trajectory.id)} empty="Lessons appear here when the first accepted trajectory is routed." columns=${[
    { name: 'text', label: 'trajectory', cell: (item) => html`<${Line} text=${item.trajectory.opening} most=${160} />` },
    { name: 'gate', label: 'gate', cell: (item) => html`<${Gate} open=${item.assigned.gate} />` },
    measure('probability', 'probability', score), measure('round', 'round', count), measure('update', 'update', count), measure('cross_entropy', 'CE', score), measure('alpha', 'alpha', score),
    { name: 'teachers', label: 'teachers', cell: (item) => html`<${Authors} names=${item.trajectory.teachers} />` },
  ]} /><//>`;
}

const ROUNDS = 12; // that are shown at once

function Gates({ of }) {
  const { data, error } = useLive('gates', { concerns: (tick) => tick.kinds.route, every: 3000 }), [all, showAll] = useState(false);
  const rows = useMemo(() => (data ?? []).filter((each) => !of || each.student === of).sort((a, b) => b.round - a.round || a.student.localeCompare(b.student)), [data, of]);
  const share = (each) => each.open / Math.max(1, each.open + each.shut), styles = [...new Set(rows.map((each) => each.style))].sort(), last = rows[0]?.round ?? 0;
  const totals = styles.map((style) => rows.filter((each) => each.style === style).reduce((sum, each) => ({ ...sum, open: sum.open + each.open, shut: sum.shut + each.shut }), { student: of ?? 'all', style, open: 0, shut: 0 }));
  const curve = useMemo(() => {
    const x = [...new Set(rows.map((each) => each.round))].sort((a, b) => a - b), at = new Map(x.map((round, place) => [round, place]));
    return { x, series: styles.map((style) => {
      const open = x.map(() => 0), num = x.map(() => 0);
      for (const each of rows) if (each.style === style) { open[at.get(each.round)] += each.open; num[at.get(each.round)] += each.open + each.shut; }
      return { name: words(style), values: open.map((value, place) => num[place] ? value / num[place] : null) };
    }) };
  }, [rows]);
  const line = (each, round) => html`<tr>${!of && html`<th scope="row">${each.student}</th>`}<td class="n">${round}</td><td>${words(each.style)}</td><td class="n">${count(each.open)}</td><td class="n">${count(each.shut)}</td><td class="bar"><span class="track" aria-hidden="true"><span class="fill" style=${{ width: `${100 * share(each)}%` }}></span></span></td><td class="n">${percent(share(each))}</td></tr>`;
  const shown = all ? rows : rows.filter((each) => each.round > last - ROUNDS);
  return html`<${Panel} id="gates" title="Gates" note="by round and style, the latest first"><${Wrong} error=${error} />
    ${rows.length ? html`${curve.x.length > 2 && html`<div class="curves"><${Curve} title="Share of open gates" axis="round" x=${curve.x} series=${curve.series} digits=${percent} /></div>`}
      <div class="scroll" tabindex="0" role="group" aria-labelledby="gates"><table data-test="gates"><thead><tr>${!of && html`<th scope="col">student</th>`}<th scope="col" class="n">round</th><th scope="col">style</th><th scope="col" class="n">open</th><th scope="col" class="n">shut</th><th scope="col" colspan="2">open share</th></tr></thead>
      <tbody>${totals.map((each) => line(each, 'all'))}${shown.map((each) => line(each, count(each.round)))}</tbody></table></div>
      ${shown.length < rows.length && html`<button type="button" class="small" onClick=${() => showAll(true)}>show all rounds (${count(last + 1)})</button>`}`
    : html`<p class="quiet">Gates appear here when the first trajectories are routed.</p>`}<//>`;
}

const interval = (each, signed) => each ? `${signed && each.mean > 0 ? '+' : ''}${number(100 * each.mean, 1)} [${number(100 * each.low, 1)}, ${number(100 * each.high, 1)}]` : NONE;

/** A mean as a dot on its 95% interval; `from` and `to` are the ends of the scale. */
function Dots({ marks, from, to }) {
  const at = (value) => `${100 * (Math.min(to, Math.max(from, value)) - from) / (to - from)}%`;
  return html`<svg class="dots" width="100%" height=${8 + 14 * marks.length} aria-hidden="true">${from < 0 && html`<line class="zero" x1=${at(0)} x2=${at(0)} y1="0" y2="100%" />`}
    ${marks.map(({ each, kind }, row) => each && html`<g class=${kind}><line x1=${at(each.low)} x2=${at(each.high)} y1=${11 + 14 * row} y2=${11 + 14 * row} /><circle cx=${at(each.mean)} cy=${11 + 14 * row} r="4.5" /></g>`)}</svg>`;
}

function Accuracies({ of }) {
  const { data, error } = useLive('accuracy', { concerns: (tick) => tick.kinds.attempt, every: 5000 });
  const rows = data?.filter((each) => !of || each.model === of || each.role === 'teacher');
  const widest = Math.max(0.1, ...(rows ?? []).flatMap((each) => each.difference ? [Math.abs(each.difference.low), Math.abs(each.difference.high)] : []));
  return html`<${Panel} id="accuracy" title="Accuracy on held-out questions" note="in percent, with 95% intervals" wide><${Wrong} error=${error} />
    ${rows?.length ? html`<div class="scroll" tabindex="0" role="group" aria-labelledby="accuracy"><table data-test="accuracy"><thead><tr><th scope="col">model</th><th scope="col">set</th><th scope="col">answers</th><th scope="col">before (hollow) and after, 0 to 100</th><th scope="col" class="n">before</th><th scope="col" class="n">after</th><th scope="col">difference, paired</th><th scope="col" class="n">points</th><th scope="col" class="n">questions</th><th scope="col" class="n">samples</th></tr></thead>
      <tbody>${rows.map((each) => html`<tr><th scope="row">${each.role === 'teacher' ? html`<${Author} name=${each.model} />` : html`<a href=${link('students', each.model)}>${each.model}</a>`}<small>${each.role}${each.best ? ', best' : ''}</small></th><td>${each.set}</td><td>${each.answers}</td>
        <td class="bar wide-bar"><${Dots} from=${0} to=${1} marks=${[{ each: each.before, kind: 'before' }, { each: each.after, kind: 'after' }].filter((one) => one.each)} /></td><td class="n">${interval(each.before)}</td><td class="n">${interval(each.after)}</td>
        <td class="bar">${each.difference && html`<${Dots} from=${-widest} to=${widest} marks=${[{ each: each.difference, kind: 'after' }]} />`}</td><td class="n">${interval(each.difference, true)}</td><td class="n">${count((each.before ?? each.after)?.items)}</td><td class="n">${count((each.before ?? each.after)?.samples)}</td></tr>`)}</tbody></table></div>`
    : html`<p class="quiet">${data ? 'Accuracies appear here when held-out questions are answered; the part `evaluation` of the configuration says which.' : 'reading…'}</p>`}<//>`;
}
