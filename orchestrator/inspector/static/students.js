/**
 * Students: what each was given and why, how it learns, whom it trusts, and whether it has become better.
 */
import { useContext, useEffect, useMemo, useState } from 'preact/hooks';
import { Curve } from './curves.js';
import { count, NONE, number, percent, plural, rough, score } from './figures.js';
import { Author, Authors, Badge, Choices, Empty, Fact, Listing, Panel, Score, usePages, Wrong } from './parts.js';
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
      <p class="quiet">${each.stopped ? html`<${Line} text=${each.stopped} />` : each.final ? html`done: <${Line} text=${each.final} />` : each.updates ? 'learns' : 'has not begun'}</p></a>`)}</div>
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
        for (;;) {
          const page = await get(`${path}${path.includes('?') ? '&' : '?'}${after === null ? '' : `after=${after}`}`, stop.signal);
          items = items.concat(page.items);
          if (page.next === null) break;
          after = page.next;
          set({ path, items, error: null });
        }
        set({ path, items: items.length ? items : [], error: null });
        if (after !== null || items.length) { // the last page may grow: read it again next time
          const kept = after === null ? 0 : items.findIndex((each) => each.update > after);
          items = kept < 0 ? items : items.slice(0, kept);
        }
      } catch (error) { if (!stop.signal.aborted) set((was) => ({ ...was, path, error })); }
    }, () => 3000);
    reader.soon();
    const off = onTick((tick) => { if (tick.reset || tick.students.includes(student)) reader.soon(); });
    return () => { stop.abort(); reader.stop(); off(); };
  }, [path]);
  return found.path === path ? found : { items: [], error: null, path: null };
}

const GROUPS = [
  ['Losses', (name) => /loss|cross.?entropy|\bce\b/i.test(name) && !/peer/i.test(name)],
  ['Peers', (name) => /peer/i.test(name)],
  ['Learning rate', (name) => /learning rate|^lr$/i.test(name)],
  ['Gradient norm', (name) => /grad/i.test(name)],
];

/** Series of one picture must be of one size to be read together; else each gets its own. */
function grouped(items) {
  const names = [...new Set(items.flatMap((each) => Object.keys(each.values)))], left = new Set(names), charts = [];
  for (const [title, of] of GROUPS) {
    const own = names.filter((name) => left.has(name) && of(name));
    own.forEach((name) => left.delete(name));
    if (!own.length) continue;
    const top = (name) => Math.max(...items.map((each) => Math.abs(each.values[name] ?? 0)));
    const alike = own.every((name) => top(name) <= 30 * Math.max(1e-9, Math.min(...own.map(top).filter(Boolean), Infinity)));
    if (alike || own.length === 1) charts.push([title, own]);
    else own.forEach((name) => charts.push([name, [name]]));
  }
  for (const name of left) charts.push([name, [name]]);
  return charts;
}

function OneStudent({ id, params }) {
  const run = useContext(Run), about = run.students.find((each) => each.name === id);
  const metrics = useAll(query(`students/${encodeURIComponent(id)}/metrics`, { limit: 500 }), id), weights = useAll(`students/${encodeURIComponent(id)}/weights`, id);
  const charts = useMemo(() => {
    const x = metrics.items.map((each) => each.update);
    return grouped(metrics.items).map(([title, names]) => ({ title, x, series: names.map((name) => ({ name, values: metrics.items.map((each) => each.values[name] ?? null) })) }));
  }, [metrics.items]);
  const trust = useMemo(() => {
    const x = [...new Set(weights.items.map((each) => each.update))].sort((a, b) => a - b), at = new Map(x.map((update, place) => [update, place]));
    const by = (what) => {
      const series = {};
      for (const each of weights.items) (series[each.teacher] ??= x.map(() => null))[at.get(each.update)] = each[what];
      return Object.entries(series).map(([name, values]) => ({ name, values }));
    };
    return { x, alpha: by('alpha'), ce: by('cross_entropy') };
  }, [weights.items]);
  return html`<p class="crumbs"><a href="#/students">Students</a></p><h1>${id}</h1>
    ${about ? html`<dl class="facts"><${Fact} name="model"><${Line} text=${about.model} /><//><${Fact} name="updates">${count(about.updates)}${about.of ? html` <small>of ${count(about.of)}</small>` : ''}<//><${Fact} name="routed">${count(about.routed)}<//><${Fact} name="ends in"><${Line} text=${about.final} /><//>
      ${about.stopped && html`<${Fact} name="stopped"><span class="wrong"><${Line} text=${about.stopped} most=${1000} /></span><//>`}</dl>` : html`<p class="wrong">No student of this name is configured.</p>`}
    <${Wrong} error=${metrics.error} />
    <${Panel} id="learning" title="How it learns" note="by update">${charts.length ? html`<div class="curves">${charts.map((each) => html`<${Curve} key=${each.title} ...${each} />`)}</div>` : html`<${Empty}>Losses appear here after its first update.<//>`}<//>
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

function Gates({ of }) {
  const { data, error } = useLive('gates', { concerns: (tick) => tick.kinds.route, every: 3000 }), rows = data?.filter((each) => !of || each.student === of);
  const share = (each) => each.open / Math.max(1, each.open + each.shut);
  return html`<${Panel} id="gates" title="Gates" note="by round and style"><${Wrong} error=${error} />
    ${rows?.length ? html`<div class="scroll" tabindex="0" role="region" aria-labelledby="gates"><table data-test="gates"><thead><tr>${!of && html`<th scope="col">student</th>`}<th scope="col" class="n">round</th><th scope="col">style</th><th scope="col" class="n">open</th><th scope="col" class="n">shut</th><th scope="col">open share</th><th scope="col" class="n"></th></tr></thead>
      <tbody>${rows.map((each) => html`<tr>${!of && html`<th scope="row"><a href=${link('students', each.student)}>${each.student}</a></th>`}<td class="n">${count(each.round)}</td><td>${each.style || 'search'}</td><td class="n">${count(each.open)}</td><td class="n">${count(each.shut)}</td><td class="bar"><span class="track" aria-hidden="true"><span class="fill" style=${{ width: `${100 * share(each)}%` }}></span></span></td><td class="n">${percent(share(each))}</td></tr>`)}</tbody></table></div>`
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
    ${rows?.length ? html`<div class="scroll" tabindex="0" role="region" aria-labelledby="accuracy"><table data-test="accuracy"><thead><tr><th scope="col">model</th><th scope="col">set</th><th scope="col">answers</th><th scope="col">before (hollow) and after, 0 to 100</th><th scope="col" class="n">before</th><th scope="col" class="n">after</th><th scope="col">difference, paired</th><th scope="col" class="n">points</th><th scope="col" class="n">questions</th><th scope="col" class="n">samples</th></tr></thead>
      <tbody>${rows.map((each) => html`<tr><th scope="row">${each.role === 'teacher' ? html`<${Author} name=${each.model} />` : html`<a href=${link('students', each.model)}>${each.model}</a>`}<small>${each.role}${each.best ? ', best' : ''}</small></th><td>${each.set}</td><td>${each.answers}</td>
        <td class="bar wide-bar"><${Dots} from=${0} to=${1} marks=${[{ each: each.before, kind: 'before' }, { each: each.after, kind: 'after' }].filter((one) => one.each)} /></td><td class="n">${interval(each.before)}</td><td class="n">${interval(each.after)}</td>
        <td class="bar">${each.difference && html`<${Dots} from=${-widest} to=${widest} marks=${[{ each: each.difference, kind: 'after' }]} />`}</td><td class="n">${interval(each.difference, true)}</td><td class="n">${count((each.before ?? each.after)?.items)}</td><td class="n">${count((each.before ?? each.after)?.samples)}</td></tr>`)}</tbody></table></div>`
    : html`<p class="quiet">${data ? 'Accuracies appear here when held-out questions are answered; the part `evaluation` of the configuration says which.' : 'reading…'}</p>`}<//>`;
}
