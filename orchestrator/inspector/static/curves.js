/**
 * Curves, by uPlot: what grew over time, and how a student's numbers went over its updates.
 *
 * Invariant: a legend of words and numbers stands beside every picture, and can be used from the keyboard; uPlot is loaded when
 * the first curve is to be drawn. Not covered: where the numbers come from.
 */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { brief, clock, count, number, rough, span } from './figures.js';
import { Panel } from './parts.js';
import { query, useLive } from './server.js';
import { html } from './text.js';

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const hours = (at) => new Date(1000 * at).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
const SPANS = [1, 2, 5, 10, 20, 30, 60, 120, 240, 480, 1440, 2880, 10080, 43200].map((minutes) => 60 * minutes);
const DASHES = [[], [6, 3], [2, 3], [10, 4, 2, 4]];

let loaded = null;
function library() {
  loaded ??= import('uplot').then((found) => {
    const sheet = Object.assign(document.createElement('link'), { rel: 'stylesheet', href: '/vendor/uplot.css' });
    document.head.append(sheet);
    return found.default;
  });
  return loaded;
}

/**
 * One picture. `x` and each of `series` ({name, values}) are arrays of one length, None where nothing was measured; `time`: x is
 * in seconds since the epoch, else `axis` names it. A series may name its `colour`, a place in the palette.
 */
export function Curve({ x, series, time = false, axis = 'update', title, height = 180, stepped = false, digits = rough, note }) {
  const place = useRef(null), plot = useRef(null);
  const [at, point] = useState(null), [hidden, hide] = useState([]);
  const names = series.map((each) => each.name).join('\n');
  useEffect(() => {
    let ended = false, watch;
    const draw = async () => {
      const Plot = await library();
      if (ended || !place.current) return;
      plot.current?.destroy();
      const wide = () => Math.max(200, place.current.clientWidth);
      const line = { stroke: () => css('--quiet'), grid: { stroke: css('--line'), width: 1 }, ticks: { stroke: css('--line'), width: 1 }, font: '11px system-ui' };
      plot.current = new Plot({
        width: wide(), height, legend: { show: false }, cursor: { y: false, points: { size: 6 } },
        scales: { x: { time } },
        axes: [{ ...line, space: 70, incrs: time ? SPANS : undefined, values: time ? (_, ticks) => ticks.map(hours) : (_, ticks) => ticks.map((tick) => Number.isInteger(tick) ? count(tick) : '') }, { ...line, size: 54, values: (_, ticks) => ticks.map(brief) }],
        series: [{}, ...series.map((each, place) => ({
          label: each.name, stroke: css(`--a${(each.colour ?? place % 8) % 9}`), width: 1.6, dash: DASHES[Math.floor(place / 8) % 4], show: !hidden.includes(each.name),
          spanGaps: true, points: { show: x.length < 3, size: 5 }, paths: stepped ? Plot.paths.stepped({ align: 1 }) : undefined,
        }))],
        hooks: { setCursor: [(self) => point(self.cursor.idx ?? null)] },
      }, [x, ...series.map((each) => each.values)], place.current);
      watch?.disconnect();
      watch = new ResizeObserver(() => place.current && plot.current?.setSize({ width: wide(), height }));
      watch.observe(place.current);
    };
    void draw();
    const dark = matchMedia('(prefers-color-scheme: dark)');
    addEventListener('theme', draw);
    dark.addEventListener('change', draw);
    return () => { ended = true; removeEventListener('theme', draw); dark.removeEventListener('change', draw); watch?.disconnect(); plot.current?.destroy(); plot.current = null; };
  }, [names, height, time, stepped]);
  useEffect(() => { plot.current?.setData([x, ...series.map((each) => each.values)]); }, [x, series]);
  const flip = (name, place) => {
    const shown = hidden.includes(name);
    hide(shown ? hidden.filter((each) => each !== name) : [...hidden, name]);
    plot.current?.setSeries(place + 1, { show: shown });
  };
  const which = at ?? x.length - 1;
  const where = x.length ? time ? hours(x[which]) : `${axis} ${count(x[which])}` : '';
  return html`<figure class="curve">
    <figcaption><b>${title}</b> ${note} <span class="quiet">${at === null ? 'latest' : 'at'} ${where}</span></figcaption>
    <div class="plot" ref=${place} role="img" aria-label=${`${title}; the latest values stand in the legend below`}></div>
    <ul class="legend">${series.map((each, place) => html`<li key=${each.name}><button type="button" class="key-button" aria-pressed=${!hidden.includes(each.name)} onClick=${() => flip(each.name, place)}>
      <span class=${`swatch a${(each.colour ?? place % 8) % 9}`} aria-hidden="true"></span>${each.name}</button> <b>${digits(each.values[which])}</b></li>`)}</ul>
  </figure>`;
}

const CHARTS = [
  ['Questions', { 'questions.solved': 'solved', 'questions.unsolved': 'unsolved' }],
  ['Trajectories', { 'trajectories.accepted': 'accepted', 'trajectories.wrong_answer': 'wrong answer', 'trajectories.unsound': 'unsound', 'trajectories.misleading': 'misleading', 'trajectories.duplicate': 'duplicate', 'trajectories.undecided': 'undecided' }],
  ['Tokens', { 'tokens.completion': 'completion', 'tokens.prompt': 'prompt', 'tokens.cached': 'cached' }],
];

/** The server cuts the time until now into so many spans; of a run that is over, most of that is empty. */
const points = (run) => run.finished_at ? 1000 : 300;

/** How the run's counts grew, from its begin until now. */
export function History({ run }) {
  const [pace, setPace] = useState(false);
  const failed = Object.keys(run.failures).map((kind) => [`failed.${kind}`, kind]);
  const charts = failed.length ? [...CHARTS, ['Failures', Object.fromEntries(failed)]] : CHARTS;
  const path = query('history', { name: charts.flatMap(([, names]) => Object.keys(names)), points: points(run) });
  const { data } = useLive(path, { every: 10000, poll: run.state === 'running' ? 60000 : 0 });
  const made = useMemo(() => data && tabled(data, run, pace), [data, pace]);
  const spans = made?.x.length ?? 0;
  return html`<${Panel} id="curves" title="Over time" test="curves">
    ${spans >= 2 && html`<div class="tools"><span class="switch"><button type="button" class="small" aria-pressed=${!pace} onClick=${() => setPace(false)}>in all</button><button type="button" class="small" aria-pressed=${pace} onClick=${() => setPace(true)}>per minute</button></span>
      <span class="quiet">each point is ${span(made.step)}</span></div>`}
    ${spans < 2 ? html`<p class="quiet">${data ? 'Curves appear here when the run has gone on for two minutes; counts are kept by the minute.' : 'reading…'}</p>`
    : html`<div class="curves">${charts.map(([title, names]) => {
      const series = Object.entries(names).filter(([name]) => made.by[name]).map(([name, label]) => ({ name: label, values: made.by[name] }));
      return series.length > 0 && html`<${Curve} key=${title} title=${title} time stepped=${pace} x=${made.x} series=${series} digits=${(value) => pace ? number(value, 1) : count(value)} />`;
    })}</div>`}
  <//>`;
}

/** Growth by span, as values at equally spaced times: their sums so far, or per minute. */
function tabled(lines, run, pace) {
  if (!lines.length) return null;
  const first = lines[0].time, end = 60 * Math.floor((run.finished_at ?? clock()) / 60);
  const whole = Math.floor(first / 60) - Math.floor(run.started_at / 60);
  const step = 60 * Math.max(1, Math.ceil((Math.floor(clock() / 60) - Math.floor(run.started_at / 60) + 1) / points(run)));
  const start = first - (step === 60 ? 60 * Math.max(0, whole) : 0), x = [];
  for (let at = start; at <= Math.max(end, lines.at(-1).time); at += step) x.push(at);
  const by = {};
  for (const { time, name, value } of lines) {
    by[name] ??= x.map(() => 0);
    const at = Math.round((time - start) / step);
    if (at >= 0 && at < x.length) by[name][at] += value;
  }
  for (const name of Object.keys(by)) {
    let sum = 0;
    by[name] = by[name].map((value) => pace ? 60 * value / step : (sum += value));
  }
  return { x, by, step };
}
