/**
 * The run at a glance: is it going well, and if not, what holds it up?
 *
 * Invariant: every figure is the server's; what asks for attention stands first. Not covered: how curves are drawn (`curves.js`).
 */
import { useContext } from 'preact/hooks';
import { Ask, By, Setting, settable } from './asking.js';
import { History } from './curves.js';
import { ago, count, moment, money, NONE, number, percent, plural, score, span, words } from './figures.js';
import { link } from './route.js';
import { Ago, Author, Badge, Bars, Fact, Panel } from './parts.js';
import { Run } from './server.js';
import { html, Line } from './text.js';

const QUESTION_STATES = ['solved', 'unsolved', 'leased', 'pending'];
export const VERDICTS = ['accepted', 'duplicate', 'surplus', 'misleading', 'unsound', 'wrong_answer', 'undecided'];
const LIVING = ['running', 'paused'];

export default function RunView({ giveToken }) {
  const run = useContext(Run);
  return html`
    <h1 class="hidden">Run ${run.name}</h1>
    <${Alerts} of=${run.alerts} />
    <div class="lanes">
      <div class="lane main"><div class="lane"><${Progress} run=${run} giveToken=${giveToken} /><${Agents} run=${run} giveToken=${giveToken} /></div>
        <div class="lane"><${History} run=${run} /><${Students} run=${run} /></div></div>
      <div class="lane side"><div class="lane"><${Outcomes} run=${run} /></div>
        <div class="lane"><${Machine} run=${run} giveToken=${giveToken} /></div></div>
    </div>`;
}

const GRAVE = ['lost', 'no_success', 'stopped'];

function Alerts({ of }) {
  return html`<div class="alerts" aria-live="polite" aria-label="Alerts" role="region">${of.map((each) => html`
    <p key=${each.kind + each.text} class=${GRAVE.includes(each.kind) ? 'alert grave' : 'alert'} data-test="alert" data-kind=${each.kind}>
      <strong>${words(each.kind)}</strong> <${Line} text=${each.text} most=${600} /></p>`)}</div>`;
}

function Progress({ run, giveToken }) {
  const total = QUESTION_STATES.reduce((sum, state) => sum + run.questions[state], 0), alive = LIVING.includes(run.state);
  return html`<${Panel} id="progress" title="Questions" note=${`${count(total)} in all`} test="progress">
    <div class="stack" role="img" aria-label=${QUESTION_STATES.map((state) => `${run.questions[state]} ${state}`).join(', ')}>
      ${QUESTION_STATES.map((state) => run.questions[state] > 0 && html`<span key=${state} class=${`part is-${state}`} style=${{ flexGrow: String(run.questions[state]) }}></span>`)}
    </div>
    <ul class="legend">${QUESTION_STATES.map((state) => html`<li><a href=${link('questions', null, { state })}><span class=${`key is-${state}`} aria-hidden="true"></span>${state}</a> 
      <b data-test=${`questions-${state}`}>${count(run.questions[state])}</b> <span class="share">${total ? percent(run.questions[state] / total) : NONE}</span></li>`)}
      <li class=${run.balance ? 'balance' : 'balance off'} data-test="balance">${run.balance ? '✓ counts balance' : '✗ counts do not balance'}</li></ul>
    <dl class="facts">
      <${Fact} name="time left" title="Until all questions are settled, or enough is accepted, at the recent pace">${span(run.eta_s)}<//>
      <${Fact} name="settled">${alive ? number(run.settled_per_minute, 1) : NONE} <small>/min</small><//>
      <${Fact} name="completion">${alive ? number(run.tokens_per_s, 1) : NONE} <small>tokens/s</small><//>
      <${Fact} name="calls">${alive ? count(run.calls_per_minute) : NONE} <small>/min</small><//>
      <${Fact} name="last solved"><${Ago} at=${run.solved_at} never="never" /><//>
      <${Fact} name="last accepted"><${Ago} at=${run.accepted_at} never="never" /><//>
      <${Fact} name="last answer"><${Ago} at=${run.answered_at} never="never" /><//>
      <${Fact} name="accepted">${count(run.accepted)}${run.wanted ? html` <small>of ${count(run.wanted)}</small>` : ''}<//>
      <${Fact} name="mean score" title="Of accepted trajectories that have a score">${score(run.mean_score)}<//>
      <${Fact} name="misleading" title="Right by luck: the consensus does not hold them up">${count(run.misleading)}<//>
      <${Fact} name="money"><${Money} usd=${run.usd} cap=${run.cap_usd} /><//>
      <${Fact} name="tokens" title="Prompt and completion">${count(run.tokens.prompt + run.tokens.completion)}${run.cap_tokens ? html` <small>of ${count(run.cap_tokens)}</small>` : ''}<//>
      <${Fact} name="prompt">${count(run.tokens.prompt)}<//>
      <${Fact} name="completion">${count(run.tokens.completion)}<//>
      <${Fact} name="cached" title="Prompt tokens whose keys and values were not computed again">${count(run.tokens.cached)}<//>
      <${Fact} name="calls in all" title=${`${run.calls_reused} of them paid for by an earlier run`}>${count(run.calls)}<//>
    </dl>
    <p class="quiet">${alive ? `Paces are of the last ${span(run.recent_s)}.` : html`Paces are shown while the run lives.`}</p>
    ${run.controls && alive && html`<div class="tools" data-test="run-controls">
      ${run.state === 'paused'
    ? html`<${Ask} main giveToken=${giveToken} asked=${{ verb: 'resume', subject: '' }} test="resume-run">resume the run<//>`
    : html`<${Ask} main giveToken=${giveToken} asked=${{ verb: 'pause', subject: '' }} test="pause-run">pause the run<//>`}
      <${By} /></div>`}
  <//>`;
}

/** What was spent; 0 is shown as a dash, for a price that nobody knows costs nothing either. */
const Money = ({ usd, cap }) => html`<span title=${usd ? undefined : 'No price is known, or nothing was spent.'}>${usd ? money(usd) : NONE}</span>${cap ? html` <small>of ${money(cap)}</small>` : ''}`;

const THIRDS = ['early', 'middle', 'late'];

function Agents({ run, giveToken }) {
  return html`<${Panel} id="agents" title="Agents" wide>
    <div class="scroll" tabindex="0" role="group" aria-labelledby="agents"><table data-test="agents">
      <thead><tr><th scope="col">agent</th><th scope="col">state</th><th scope="col" class="n">calls</th><th scope="col" class="n">recent</th><th scope="col" class="n" title="Upper bound of the median latency of recent calls">p50</th><th scope="col" class="n">p95</th><th scope="col" class="n">tokens</th><th scope="col" class="n">spent</th><th scope="col" title="Its share of the steps of chosen paths, in their first, middle and last third">steps won</th>${run.controls && html`<th scope="col">ask</th>`}</tr></thead>
      <tbody>${run.agents.map((each) => html`<tr key=${each.role + each.name} data-test="agent" data-id=${each.name} data-state=${each.state}>
        <th scope="row">${each.role === 'teacher' ? html`<a href=${link('trajectories', null, { teacher: each.name })}><${Author} name=${each.name} /></a>` : html`<span class="author">${each.name}</span>`}<small>${each.role} · ${each.engine}</small></th>
        <td><${Badge} of=${each.state} />${each.why && html`<small><${Line} text=${each.why} /></small>`}</td>
        <td class="n">${count(each.calls)}</td><td class="n">${count(each.recent_calls)}</td>
        <td class="n">${each.latency_p50_s === null ? NONE : `≤ ${span(each.latency_p50_s)}`}</td><td class="n">${each.latency_p95_s === null ? NONE : `≤ ${span(each.latency_p95_s)}`}</td>
        <td class="n">${count(each.tokens)}${each.cap_tokens ? html`<small>of ${count(each.cap_tokens)}</small>` : ''}</td>
        <td class="n"><${Money} usd=${each.usd} cap=${each.cap_usd} /></td>
        <td>${each.won ? html`<span class="won">${THIRDS.map((third) => html`<span title=${third}><span class="column" aria-hidden="true"><span style=${{ height: `${100 * (each.won[third] ?? 0)}%` }}></span></span><small><span class="hidden">${third} </span>${percent(each.won[third])}</small></span>`)}</span>` : NONE}</td>
        ${run.controls && html`<td>${each.role === 'teacher' && LIVING.includes(run.state) && html`<${Ask} giveToken=${giveToken} asked=${{ verb: each.state === 'paused' ? 'resume' : 'pause', subject: each.name }} test=${each.state === 'paused' ? 'resume-teacher' : 'pause-teacher'}>${each.state === 'paused' ? 'resume' : 'pause'}<//>`}</td>`}
      </tr>`)}</tbody></table></div>
  <//>`;
}

function Outcomes({ run }) {
  const settled = { ...run.trajectories };
  return html`
    <${Panel} id="verdicts" title="Trajectories by verdict" note=${count(Object.values(settled).reduce((sum, each) => sum + each, 0))}>
      <${Bars} of=${settled} order=${VERDICTS} colour=${(name) => `is-${name}`} to=${(verdict) => link('trajectories', null, { verdict })} empty="Trajectories appear here when the first question is settled." test="verdicts" /><//>
    <${Panel} id="unsolved" title="Why questions are unsolved">
      <${Bars} of=${run.unsolved} colour=${() => 'is-unsolved'} to=${() => link('questions', null, { state: 'unsolved' })} empty="No question is unsolved so far." /><//>
    <${Panel} id="rulings" title="Rulings by judge">
      ${Object.keys(run.rulings).length ? html`<table><thead><tr><th scope="col">judge</th>${['valid', 'invalid', 'unreadable'].map((each) => html`<th scope="col" class="n">${each}</th>`)}</tr></thead>
        <tbody>${Object.entries(run.rulings).map(([judge, of]) => html`<tr><th scope="row">${judge}</th>${['valid', 'invalid', 'unreadable'].map((each) => html`<td class="n">${count(of[each] ?? 0)}</td>`)}</tr>`)}</tbody></table>`
    : html`<p class="quiet">${run.agents.some((each) => each.role === 'judge') ? 'Rulings appear here when the first trajectory is judged.' : 'This run has no judges.'}</p>`}<//>
    <${Panel} id="failures" title="Failures by kind" note=${`recent: the last ${span(run.recent_s)}`}>
      ${Object.keys(run.failures).length ? html`<table data-test="failure-kinds"><thead><tr><th scope="col">kind</th><th scope="col" class="n">recent</th><th scope="col" class="n">in all</th></tr></thead>
        <tbody>${Object.entries(run.failures).map(([kind, num]) => html`<tr><th scope="row"><a href=${link('failures', null, { kind })}>${kind}</a></th><td class="n">${count(run.recent_failures[kind] ?? 0)}</td><td class="n">${count(num)}</td></tr>`)}</tbody></table>`
    : html`<p class="quiet">None so far.</p>`}<//>
    <${Panel} id="nodes" title="Nodes by state" note=${count(Object.values(run.nodes).reduce((sum, each) => sum + each, 0))}>
      <${Bars} of=${run.nodes} order=${['kept', 'finished', 'open', 'pruned', 'late']} empty="Nodes appear here with the first scored step." /><//>`;
}

function Machine({ run, giveToken }) {
  return html`
    <${Panel} id="stages" title="Stages"><table><thead><tr><th scope="col">stage</th><th scope="col" class="n">done</th><th scope="col" class="n">of</th><th scope="col" class="n">time</th></tr></thead>
      <tbody>${run.stages.map((each) => html`<tr class=${each.active ? 'active' : ''}><th scope="row">${each.name}${each.active && html` <span class="badge is-running">now</span>`}</th>
        <td class="n">${count(each.done)}</td><td class="n">${count(each.total)}</td><td class="n">${each.seconds >= 0.001 ? span(each.seconds) : NONE}</td></tr>`)}</tbody></table><//>
    <${Panel} id="engines" title="Engines">${run.engines.length ? html`<table><thead><tr><th scope="col">engine</th><th scope="col" class="n">in flight</th><th scope="col" class="n">limit</th><th scope="col" class="n">waiting</th><th scope="col">parked</th></tr></thead>
      <tbody>${run.engines.map((each) => html`<tr><th scope="row">${each.name}</th><td class="n">${count(each.in_flight)}</td><td class="n">${count(each.limit)}</td><td class="n">${count(each.waiting)}</td><td>${each.gone ?? each.parked ? html`<${Line} text=${each.gone ?? each.parked} />` : 'no'}</td></tr>`)}</tbody></table>`
    : html`<p class="quiet">${LIVING.includes(run.state) ? 'No engine is at work now.' : 'The living process tells of its engines; none lives now.'}</p>`}<//>
    ${run.controls && LIVING.includes(run.state) && html`<${Panel} id="settings" title="Change while it runs" note=${`${plural(run.in_flight_questions, 'question')} at once`}><${Setting} giveToken=${giveToken} keys=${settable(run)} /><p class="quiet">All that was asked is kept under <a href="#/controls">Controls</a>.</p><//>`}
    <${Panel} id="notes" title="Notes">${run.notes.length ? html`<ul class="notes" tabindex="0" aria-label="Notes, the latest first">${[...run.notes].reverse().map((each) => html`<li><time title=${moment(each.at)}>${ago(each.at)}</time> <${Line} text=${each.text} most=${500} /></li>`)}</ul>` : html`<p class="quiet">What the living process has to say appears here.</p>`}<//>
    <${Panel} id="life" title="Life"><dl class="facts">
      <${Fact} name="began">${html`<${Ago} at=${run.started_at} />`}<//>
      <${Fact} name="ended">${html`<${Ago} at=${run.finished_at} />`}<//>
      <${Fact} name="last heard" title="The living process tells something every second"><${Ago} at=${run.beat_at} /><//>
      <${Fact} name="process">${run.pid ?? NONE}<//>
      <${Fact} name="event">${count(run.seq)}<//></dl><//>`;
}

function Students({ run }) {
  return html`<${Panel} id="students" title="Students">${run.students.length ? html`<div class="scroll" tabindex="0" role="group" aria-labelledby="students"><table><thead><tr><th scope="col">student</th><th scope="col">model</th><th scope="col" class="n">updates</th><th scope="col" class="n">of</th><th scope="col" class="n">routed</th><th scope="col">state</th></tr></thead>
    <tbody>${run.students.map((each) => html`<tr data-test="student" data-id=${each.name}><th scope="row"><a href=${link('students', each.name)}>${each.name}</a></th><td><${Line} text=${each.model} /></td><td class="n">${count(each.updates)}</td><td class="n">${count(each.of)}</td><td class="n">${count(each.routed)}</td><td>${each.stopped ? html`<${Line} text=${each.stopped} />` : each.final ? 'done' : NONE}</td></tr>`)}</tbody></table></div>` : html`<p class="quiet">No students are configured in this run.</p>`}<//>`;
}
