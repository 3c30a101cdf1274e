/**
 * One node in full, and two side by side: words, score, log-probs of the answer's tokens, the calls that made and scored it.
 */
import { useEffect, useMemo, useState } from 'preact/hooks';
import { count, money, percent, score, span } from './figures.js';
import { Authors, Badge, Empty, Fact, Score, Waiting, Wrong } from './parts.js';
import { get, useLive } from './server.js';
import { html, Line, Text, visible } from './text.js';

const about = (question) => (tick) => tick.questions.includes(question);

/** The panel beside the tree. `why`: what the run says of a state. */
export function Details({ id, question, on, pathName, onClose, onMark }) {
  const found = useLive(`nodes/${id}`, { concerns: about(question) }), node = found.data;
  return html`<section class="details" aria-label="Details of the node" data-test="details" data-id=${id}>
    <div class="details-head"><h2>${node ? `Step ${node.line.step}` : 'Step'}</h2>
      <span class="tools"><button type="button" class="small" onClick=${onMark} data-test="mark">compare with…</button><button type="button" class="small" onClick=${onClose} data-test="close-details">close</button></span></div>
    ${node ? html`<${Whole} node=${node} on=${on} pathName=${pathName} /><${Calls} id=${id} question=${question} />` : html`<${Waiting} of=${found} />`}
  </section>`;
}

const MEANS = {
  open: 'In the beam, and not expanded yet.', kept: 'Was in the beam, and has been expanded.', pruned: 'Fell out of the beam.',
  late: 'Came after its step was pruned.', finished: 'A closed hypothesis that competes to the end.',
};

function Whole({ node, on, pathName, other, words }) {
  const { line } = node;
  return html`
    <p class="tags"><${Badge} of=${line.state} />${on && html`<span class="badge on">${pathName}</span>`}<${Authors} names=${line.authors} /></p>
    <p class="quiet">${MEANS[line.state]}${line.reason && html` <b class="reason"><${Line} text=${line.reason} /></b>`}</p>
    <${Text} text=${node.text}>${words}<//>
    <dl class="facts">
      <${Fact} name="score"><${Score} value=${line.score} />${other && html` <small>${line.score >= other.line.score ? '+' : '−'}${score(Math.abs(line.score - other.line.score))}</small>`}<//>
      <${Fact} name="rank" title="Its place among those it last competed with">${count(line.rank + 1)}<//>
      <${Fact} name="depth">${count(line.depth)}<//>
      <${Fact} name="ended" title="step: before the next header; closed: it ended its reasoning; capped: a token cap cut it off">${line.finish}<//>
      <${Fact} name="prompt">${count(line.prompt_tokens)} <small>tokens</small><//>
      <${Fact} name="completion">${count(line.completion_tokens)} <small>tokens</small><//>
      <${Fact} name="cost">${money(line.cost)}<//>
    </dl>
    <${LogProbs} node=${node} />`;
}

/** Log-probs of the answer's tokens, as bars of their probabilities. */
function LogProbs({ node }) {
  const [all, showAll] = useState(false), shown = all ? node.logprobs : node.logprobs.slice(0, 40);
  if (!node.logprobs.length) return html`<p class="quiet">No log-probs were measured.</p>`;
  return html`<h3>Answer after this step</h3>
    <p class="quiet">How likely <b>${node.prover}</b> finds each token of the ${node.target === 'gold' ? 'right answer' : 'consensus answer'}, after this step. The score is made of these.</p>
    <table class="logprobs" data-test="logprobs"><thead><tr><th scope="col">token</th><th scope="col" colspan="2">probability</th><th scope="col" class="n">log-prob</th></tr></thead>
      <tbody>${shown.map((each, at) => html`<${LogProb} of=${each} at=${at} token=${node.tokens[at]} />`)}</tbody></table>
    ${shown.length < node.logprobs.length && html`<button type="button" class="small" onClick=${() => showAll(true)}>show all (${count(node.logprobs.length)})</button>`}`;
}

/** One token: its characters where they are known, else its number. A log-prob that is null is minus infinity. */
function LogProb({ of, at, token }) {
  const share = of === null ? 0 : Math.exp(of);
  return html`<tr><th scope="row" title=${`token ${at + 1}`}>${token === undefined ? at + 1 : html`<code><${Line} text=${token} /></code>`}</th>
    <td class="bar"><span class="track" aria-hidden="true"><span class="fill" style=${{ width: `${100 * share}%` }}></span></span></td>
    <td class="n">${percent(share, 1)}</td><td class="n">${of === null ? '−∞' : of.toFixed(3).replace('-', '−')}</td></tr>`;
}

function Calls({ id, question }) {
  const found = useLive(`nodes/${id}/calls`, { concerns: about(question) });
  return html`<h3>Calls that made and scored it</h3>
    ${!found.data ? html`<${Waiting} of=${found} />` : found.data.length ? html`<ul class="calls">${found.data.map((each) => html`<li key=${each.id}><${CallLine} call=${each} /></li>`)}</ul>`
    : html`<${Empty}>No single call belongs to this node: it was made or scored together with others. The calls of the question have them.<//>`}`;
}

/** A call in one line that opens: its prompt as it was sent, and its raw request and response. */
export function CallLine({ call }) {
  const [open, set] = useState(false);
  return html`<details onToggle=${(event) => set(event.target.open)} data-test="call" data-id=${call.id}><summary>
    <span class="call-line"><b>${call.agent}</b><span>${call.purpose}</span><span class="quiet">${call.engine}</span><span class="n">${count(call.prompt_tokens)} + ${count(call.completion_tokens)} tokens${call.cached_tokens ? html` <small>(${count(call.cached_tokens)} cached)</small>` : ''}</span><span class="n">${span(call.latency_s)}</span><span class="n">${money(call.cost)}</span>${call.reused && html`<span class="badge">reused</span>`}</span></summary>
    ${open && html`<${Sent} id=${call.id} />`}</details>`;
}

function Sent({ id }) {
  const [found, set] = useState({});
  useEffect(() => {
    const stop = new AbortController();
    for (const part of ['prompt', 'call']) {
      get(part === 'call' ? `calls/${id}` : `calls/${id}/prompt`, stop.signal)
        .then((data) => set((was) => ({ ...was, [part]: data })), (error) => stop.signal.aborted || set((was) => ({ ...was, error })));
    }
    return () => stop.abort();
  }, [id]);
  const { prompt, call, error } = found;
  return html`<div class="sent"><${Wrong} error=${error} />
    ${prompt && html`<h4>Prompt as sent</h4>
      ${prompt.turns.length ? prompt.turns.map((turn) => html`<div class="turn"><span class="role">${turn.role}</span><${Text} plain text=${turn.content} /></div>`) : html`<p class="quiet">Its turns could not be made again from the configuration; the ledger keeps only their hash.</p>`}
      ${prompt.prefix && html`<div class="turn"><span class="role">to be continued</span><${Text} plain text=${prompt.prefix} /></div>`}`}
    ${call && html`<h4>Response</h4>${(call.response.completions ?? []).map((each) => html`<div class="turn"><span class="role">${each.finish ?? 'completion'}</span><${Text} plain text=${each.text} /></div>`)}
      <details><summary>raw request and response</summary><${Text} plain text=${JSON.stringify({ request: call.request, response: call.response }, null, 2)} /></details>`}
  </div>`;
}

const MOST_WORDS = 600;

/** For each of two texts, its words, and whether the other has them in the same order (the longest common subsequence). */
export function contrast(one, other) {
  const a = one.match(/\s+|[^\s]+/g) ?? [], b = other.match(/\s+|[^\s]+/g) ?? [];
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return null;
  const long = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) long[i][j] = a[i] === b[j] ? long[i + 1][j + 1] + 1 : Math.max(long[i + 1][j], long[i][j + 1]);
  const left = [], right = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && a[i] === b[j]) { left.push([a[i++], true]); right.push([b[j++], true]); }
    else if (j >= b.length || (i < a.length && long[i + 1][j] >= long[i][j + 1])) left.push([a[i++], false]);
    else right.push([b[j++], false]);
  }
  return [left, right];
}

/** Two nodes side by side. */
export function Comparison({ one, other, question, path, pathName, onClose }) {
  const [differences, show] = useState(true);
  const found = [one, other].map((id) => useLive(`nodes/${id}`, { concerns: about(question) })), both = found.map((each) => each.data);
  const parts = useMemo(() => both[0] && both[1] ? contrast(both[0].text, both[1].text) : null, [both[0]?.text, both[1]?.text]);
  const siblings = both[0] && both[1] && both[0].line.parent === both[1].line.parent;
  const marked = (words) => html`<div dir="auto" class="block">${words.map(([word, same]) => same ? visible(word) : html`<mark>${visible(word)}</mark>`)}</div>`;
  return html`<section class="comparison" aria-label="Comparison of two nodes" data-test="compare">
    <div class="details-head"><h2>Two nodes side by side ${siblings && html`<span class="note">siblings</span>`}</h2><span class="tools">
      ${parts && html`<button type="button" class="small" aria-pressed=${differences} onClick=${() => show(!differences)}>mark differences</button>`}<button type="button" class="small" onClick=${onClose} data-test="close-compare">close</button></span></div>
    <div class="sides">${both.map((node, at) => html`<div class="side" data-id=${at ? other : one}>${node ? html`<h3>Step ${node.line.step} by ${node.line.authors.join(', ')}</h3>
      <${Whole} node=${node} on=${path.includes(node.line.id)} pathName=${pathName} other=${both[1 - at]} words=${parts && differences && marked(parts[at])} />` : html`<${Waiting} of=${found[at]} />`}</div>`)}</div>
  </section>`;
}
