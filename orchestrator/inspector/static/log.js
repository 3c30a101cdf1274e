/**
 * What happened: failures, and what was asked of the run, by whom, and what came of it.
 */
import { useContext } from 'preact/hooks';
import { By, Setting, settable } from './asking.js';
import { NONE, plural } from './figures.js';
import { Ago, Listing, usePages } from './parts.js';
import { change, link } from './route.js';
import { query, Run } from './server.js';
import { html, Line } from './text.js';

export default function FailuresView({ params }) {
  const run = useContext(Run), kind = params.get('kind'), subject = params.get('subject');
  return html`<h1>Failures</h1>
    <div class="filters"><label class="field">Kind<select value=${kind ?? ''} onChange=${(event) => change({ kind: event.target.value })} data-test="filter-kind"><option value="">any</option>
      ${[...new Set([...Object.keys(run.failures), ...(kind ? [kind] : [])])].map((each) => html`<option value=${each}>${each}</option>`)}</select></label>
      <label class="field">Subject<input value=${subject ?? ''} placeholder="the id of a question" onChange=${(event) => change({ subject: event.target.value.trim() })} data-search data-test="filter-subject" /></label></div>
    <${Failures} kind=${kind} subject=${subject} empty=${kind || subject ? 'No failure is like that.' : 'Nothing has failed. A failure of one item is kept here; the run goes on.'} />`;
}

/** Failures, newest first. */
export function Failures({ kind = null, subject = null, empty }) {
  const pages = usePages(query('failures', { kind, subject }), { key: (item) => item.place, falling: true, concerns: (tick) => tick.kinds.failure });
  return html`<${Listing} pages=${pages} kind="failures" label="Failures, newest first" test="failure-row" empty=${empty} columns=${[
    { name: 'kind', label: 'kind', cell: (item) => html`<b>${item.kind}</b>` },
    { name: 'where', label: 'where', cell: (item) => html`<${Line} text=${item.where} />` },
    { name: 'message', label: 'message', cell: (item) => html`<${Line} text=${item.message} most=${2000} />` },
    { name: 'tries', label: 'tries', cell: (item) => plural(item.tries, 'try', 'tries') },
    { name: 'subject', label: 'subject', cell: (item) => item.subject ? /^[0-9a-f]{32}$/.test(item.subject) ? html`<a href=${link('questions', item.subject)}>question <code>${item.subject.slice(0, 8)}</code></a>` : html`<${Line} text=${item.subject} />` : NONE },
  ]} />`;
}

/** The log of controls, and the form that adds to it. */
export function Controls({ giveToken }) {
  const run = useContext(Run), alive = run.state === 'running' || run.state === 'paused';
  const pages = usePages('controls', { key: (item) => item.id, concerns: (tick) => tick.kinds.control || tick.kinds.controlled });
  const subject = (item) => item.verb === 'requeue' ? html`<a href=${link('questions', item.subject)}>question <code>${item.subject.slice(0, 8)}</code></a>` : item.verb === 'set' ? html`<code>${item.subject}</code>` : item.subject || 'the run';
  return html`<h1>Controls</h1>
    ${run.controls && alive ? html`<div class="filters"><${By} /><${Setting} giveToken=${giveToken} keys=${settable(run)} /></div>`
    : html`<p class="quiet">${alive ? 'This page only reads: the run is controlled at its own address, when its configuration names a token.' : 'The run does not live now, so nothing can be asked of it.'}</p>`}
    <${Listing} pages=${pages} kind="controls" label="What was asked of the run" test="control-row" empty="Nobody has asked anything of this run. What is asked, here or on the command line, is kept here with who and when." columns=${[
    { name: 'verb', label: 'asked', cell: (item) => html`<b>${item.verb}</b> ${subject(item)}` },
    { name: 'value', label: 'value', cell: (item) => item.verb === 'set' ? html`<${Line} text=${item.was} /> → <b><${Line} text=${item.value} /></b>` : NONE },
    { name: 'by', label: 'by', cell: (item) => html`<${Line} text=${item.by} />` },
    { name: 'when', label: 'when', cell: (item) => html`<${Ago} at=${item.asked_at} />` },
    { name: 'outcome', label: 'outcome', cell: (item) => item.outcome ? html`<${Line} text=${item.outcome} />` : html`<span class="quiet">not answered yet</span>` },
  ]} />`;
}
