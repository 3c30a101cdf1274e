/**
 * The questions of the run, and one of them with its tree, trajectories, consensus, calls and failures.
 */
import { useContext, useEffect, useState } from 'preact/hooks';
import { Ask } from './asking.js';
import { Consensus } from './consensus.js';
import { count, NONE, percent, score } from './figures.js';
import { Failures } from './log.js';
import { CallLine, Comparison, Details } from './node.js';
import { Badge, Choices, Fact, Listing, Score, Search, usePages, Waiting } from './parts.js';
import { change, changed, link } from './route.js';
import { get, onTick, query, Run, steady, useLive } from './server.js';
import { html, Line, Text } from './text.js';
import { OfQuestion } from './trajectories.js';
import { Tree, useTree } from './tree.js';

const STATES = ['pending', 'leased', 'solved', 'unsolved'];
const KINDS = ['question', 'question_leased', 'question_released', 'question_solved', 'question_unsolved', 'question_requeued'];

export default function Questions(props) {
  return props.id ? html`<${OneQuestion} ...${props} />` : html`<${List} ...${props} />`;
}

function List({ params }) {
  const states = params.getAll('state'), text = params.get('text'), split = params.get('split');
  const pages = usePages(query('questions', { state: states, text, split }), {
    key: (item) => item.position, concerns: (tick) => KINDS.some((kind) => tick.kinds[kind]),
  });
  return html`<h1>Questions</h1>
    <div class="filters"><${Search} label="Search" value=${text ?? ''} onChange=${(value) => change({ text: value })} />
      <${Choices} label="State" name="state" of=${STATES} chosen=${states} onChange=${(state) => change({ state })} />
      <label class="field">Split<input value=${split ?? ''} placeholder="train" onChange=${(event) => change({ split: event.target.value.trim() })} data-test="filter-split" /></label></div>
    <${Listing} pages=${pages} kind="questions" label="Questions" test="question-row" href=${(item) => link('questions', item.id)}
      empty=${states.length || text || split ? 'No question is like that. Widen the search.' : 'Questions appear here as soon as they are read.'} columns=${[
    { name: 'text', label: 'question', cell: (item) => html`<span class="quiet n">${count(item.position + 1)}</span> <${Line} text=${item.text} most=${240} />` },
    { name: 'state', label: 'state', cell: (item) => html`<${Badge} of=${item.state} />` },
    { name: 'answer', label: 'answer', cell: (item) => item.answer !== null ? html`<${Line} text=${item.answer} most=${60} />` : item.target !== null ? html`<${Line} text=${item.target} most=${60} /> <small>consensus</small>` : NONE },
    { name: 'c-score n', label: 'best score', cell: (item) => html`<${Score} value=${item.best_score} />` },
    { name: 'num n', label: 'trajectories', cell: (item) => count(item.trajectories) },
    { name: 'c-reason', label: 'reason', cell: (item) => html`<${Line} text=${item.reason} />` },
  ]} />`;
}

const TABS = ['tree', 'trajectories', 'consensus', 'calls', 'failures'];

function OneQuestion({ id, params, giveToken }) {
  const run = useContext(Run), concerns = (tick) => tick.questions.includes(id);
  const found = useLive(`questions/${id}`, { concerns }), whole = found.data;
  const tab = TABS.includes(params.get('tab')) ? params.get('tab') : 'tree';
  if (!whole) return html`<h1>Question</h1><${Waiting} of=${found} />`;
  const { line } = whole;
  const figures = { trajectories: line.trajectories, failures: whole.failures, tree: Object.values(whole.nodes).reduce((sum, each) => sum + each, 0) };
  return html`<header class="question-head" data-test="question" data-state=${line.state}>
      <p class="crumbs"><a href="#/questions">Questions</a> / ${count(line.position + 1)} <span class="quiet">· ${line.split}, ${line.kind}${whole.source && html`, <${Line} text=${whole.source} />`}</span></p>
      <h1 class="hidden">Question ${line.position + 1}</h1>
      <div class="question-text" tabindex=${line.text.length > 1200 ? 0 : undefined}><${Text} text=${line.text} /></div>
      <div class="question-side"><p class="tags"><${Badge} of=${line.state} test="question-state" /> <${Line} text=${line.reason} most=${500} />
        ${line.state === 'unsolved' && html`<${Ask} giveToken=${giveToken} asked=${{ verb: 'requeue', subject: id }} test="requeue">requeue<//>`}</p>
      <dl class="facts"><${Fact} name="answer">${line.answer === null ? html`<span class="quiet">not given</span>` : html`<${Line} text=${line.answer} />`}<//>
        ${line.target !== null && html`<${Fact} name="target" title="The consensus that stands in for the answer"><${Line} text=${line.target} /> <small>${percent(line.target_support)} support</small><//>`}
        ${whole.aliases.length > 0 && html`<${Fact} name="also right"><${Line} text=${whole.aliases.join(' · ')} /><//>`}
        <${Fact} name="best score"><${Score} value=${line.best_score} /><//>
        <${Fact} name="nodes">${Object.entries(whole.nodes).map(([state, num]) => `${count(num)} ${state}`).join(', ') || NONE}<//></dl></div>
      ${whole.choices.length > 0 && html`<ol class="choices-given">${whole.choices.map((each) => html`<li><${Line} text=${each} most=${2000} /></li>`)}</ol>`}
      ${whole.context && html`<details><summary>context</summary><${Text} text=${whole.context} /></details>`}
      ${Object.keys(whole.meta).length > 0 && html`<details><summary>what else was given</summary><${Text} plain text=${JSON.stringify(whole.meta, null, 2)} /></details>`}
    </header>
    <nav class="tabs" aria-label="Parts of the question">${TABS.map((each) => html`<a href=${changed({ tab: each === 'tree' ? null : each })} aria-current=${tab === each ? 'page' : undefined} data-test=${`tab-${each}`}>${each}${figures[each] !== undefined && html` <small>${count(figures[each])}</small>`}</a>`)}</nav>
    <div class="tab">
      ${tab === 'tree' && html`<${TreeTab} id=${id} state=${line.state} params=${params} />`}
      ${tab === 'trajectories' && html`<${OfQuestion} question=${id} />`}
      ${tab === 'consensus' && html`<${Consensus} question=${id} state=${line.state} />`}
      ${tab === 'calls' && html`<${Calls} question=${id} />`}
      ${tab === 'failures' && html`<${Failures} subject=${id} empty="Nothing failed about this question." />`}
    </div>`;
}

/** The nodes of the chosen trajectory, or of the one that the address names: {nodes, name}. */
function usePath(question, trajectory) {
  const [found, set] = useState({ nodes: [], name: 'chosen', of: null });
  useEffect(() => {
    const stop = new AbortController();
    const reader = steady(async () => {
      let id = trajectory, after = null;
      while (!id) {
        const page = await get(query('trajectories', { question, after, limit: 200 }), stop.signal);
        id = page.items.find((each) => each.best)?.id;
        after = page.next;
        if (after === null) break;
      }
      const whole = id ? await get(`trajectories/${id}`, stop.signal) : null;
      const nodes = whole?.nodes ?? [];
      set((was) => was.of === id && was.nodes.join() === nodes.join() ? was : { of: id, nodes, name: trajectory && !whole.line.best ? 'this path' : 'chosen' });
    }, () => 1000);
    reader.soon();
    const off = onTick((tick) => { if (tick.reset || (!trajectory && tick.questions.includes(question))) reader.soon(); });
    return () => { stop.abort(); reader.stop(); off(); };
  }, [question, trajectory]);
  return found;
}

const SHOWN = { all: 'all nodes', unpruned: 'without pruned', chosen: 'only the path' };

function TreeTab({ id, state, params }) {
  const { nodes, error, whole } = useTree(id), path = usePath(id, params.get('path'));
  const node = params.get('node'), other = params.get('compare'), show = SHOWN[params.get('show')] ? params.get('show') : 'all';
  const select = (next) => change({ node: next, compare: null }, { replace: false });
  const mark = (next) => node && next !== node ? change({ compare: next }, { replace: false }) : change({ node: next });
  const close = () => other ? change({ compare: null }) : node && change({ node: null });
  const [marking, setMarking] = useState(false);
  useEffect(() => {
    const pressed = (event) => {
      if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
      setMarking(false);
      close();
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  });
  if (!nodes.length) return html`<p class="quiet ${whole ? '' : 'waiting'}">${error ? error.message : whole ? state === 'pending' ? 'The tree appears here when a worker has taken this question.' : 'No step has been scored yet; the tree appears here as it grows.' : 'reading…'}</p>`;
  return html`<div class="tree-bar">
      <label class="field">Show<select value=${show} onChange=${(event) => change({ show: event.target.value === 'all' ? null : event.target.value })} data-test="tree-show">${Object.entries(SHOWN).map(([value, name]) => html`<option value=${value} disabled=${value === 'chosen' && !path.nodes.length}>${name}</option>`)}</select></label>
      <${Legend} name=${path.name} some=${path.nodes.length > 0} />
      ${params.get('path') && html`<span class="quiet">Shown is the path of <a href=${link('trajectories', params.get('path'))}>one trajectory</a>. <a href=${changed({ path: null })}>back to the chosen one</a></span>`}
      ${marking && html`<span class="told" role="status">Now pick the node to compare with.</span>`}
    </div>
    <div class=${node ? 'tree-and-details' : ''}>
      <${Tree} nodes=${nodes} path=${path.nodes} pathName=${path.name} selected=${node} compared=${other} show=${show}
        onSelect=${(next) => { if (marking && node && next !== node) { setMarking(false); mark(next); } else select(next); }} onMark=${mark} onClose=${close} />
      ${node && !other && html`<${Details} key=${node} id=${node} question=${id} on=${path.nodes.includes(node)} pathName=${path.name} onClose=${close} onMark=${() => setMarking(true)} />`}
      ${node && other && html`<${Comparison} key=${`${node}/${other}`} one=${node} other=${other} question=${id} path=${path.nodes} pathName=${path.name} onClose=${close} />`}
    </div>`;
}

const Legend = ({ name, some }) => html`<ul class="legend states" aria-label="What the outlines mean">${['open', 'kept', 'pruned', 'late', 'finished'].map((each) => html`<li><span class=${`node-key is-${each}`} aria-hidden="true"></span>${each}</li>`)}
  ${some && html`<li><span class="node-key on" aria-hidden="true"></span>${name}</li>`}<li class="quiet">shade: score</li></ul>`;

function Calls({ question }) {
  const pages = usePages(`questions/${question}/calls`, { key: (item) => item.place, concerns: (tick) => tick.questions.includes(question) });
  return html`<${Listing} pages=${pages} kind="calls" label="Calls about this question" test="call-row" empty="Calls appear here when the first of them has ended."
    columns=${[{ name: 'call', label: 'agent, purpose, engine, tokens, latency, cost; open one for its prompt and response', cell: (item) => html`<${CallLine} call=${item} />` }]} />`;
}
