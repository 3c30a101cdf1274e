/**
 * Trajectories: all of the run, those of one question with their rulings, and one in full: why did it come out as it did?
 */
import { useContext, useEffect, useRef, useState } from 'preact/hooks';
import { count, money, NONE, number, percent, rough, score, words } from './figures.js';
import { Authors, Badge, Choices, Fact, Listing, Panel, Score, Search, usePages, Waiting } from './parts.js';
import { change, link } from './route.js';
import { query, Run, useLive } from './server.js';
import { html, Line, Text } from './text.js';
import { useTree } from './tree.js';

export const VERDICTS = ['accepted', 'wrong_answer', 'unsound', 'misleading', 'duplicate', 'surplus', 'undecided'];
const KINDS = ['trajectory', 'verdict', 'question_solved', 'question_unsolved', 'question_requeued', 'consensus', 'ruling'];
const concerns = (tick) => KINDS.some((kind) => tick.kinds[kind]);

export default function Trajectories(props) {
  return props.id ? html`<${OneTrajectory} ...${props} />` : html`<${List} ...${props} />`;
}

const COLUMNS = [
  { name: 'text', label: 'trajectory', cell: (item) => html`<${Line} text=${item.opening} most=${200} />` },
  { name: 'verdict', label: 'verdict', cell: (item) => html`<${Badge} of=${item.outcome} />${item.best && html` <span class="badge on">chosen</span>`}` },
  { name: 'answer', label: 'answer', cell: (item) => html`<${Line} text=${item.answer} most=${60} />` },
  { name: 'c-score n', label: 'score', cell: (item) => html`<${Score} value=${item.score} />` },
  { name: 'teachers', label: 'teachers', cell: (item) => html`<${Authors} names=${item.teachers} />` },
  { name: 'question', label: 'question', cell: (item) => html`<a href=${link('questions', item.question)}>${count(item.position + 1)}</a> <small>${item.style ? words(item.style) : item.origin}</small>` },
  { name: 'c-reason', label: 'reason', cell: (item) => html`<${Line} text=${item.reason} />` },
];

function List({ params }) {
  const run = useContext(Run), verdict = params.getAll('verdict'), [least, most, teacher, text] = ['least', 'most', 'teacher', 'text'].map((name) => params.get(name));
  const pages = usePages(query('trajectories', { verdict, teacher, least, most, text }), { key: (item) => item.place, falling: true, concerns });
  const bound = (name, value, label) => html`<label class="field narrow">${label}<input type="number" min="0" max="1" step="0.05" value=${value ?? ''} onChange=${(event) => change({ [name]: event.target.value })} data-test=${`filter-${name}`} /></label>`;
  const some = verdict.length || teacher || least || most || text;
  return html`<h1>Trajectories</h1>
    <div class="filters"><${Search} label="Search" value=${text ?? ''} onChange=${(value) => change({ text: value })} />
      <label class="field">Teacher<select value=${teacher ?? ''} onChange=${(event) => change({ teacher: event.target.value })} data-test="filter-teacher"><option value="">any</option>
        ${run.agents.filter((each) => each.role === 'teacher').map((each) => html`<option value=${each.name}>${each.name}</option>`)}</select></label>
      ${bound('least', least, 'Score from')}${bound('most', most, 'to')}
      <${Choices} label="Verdict" name="verdict" of=${VERDICTS} chosen=${verdict} onChange=${(next) => change({ verdict: next })} /></div>
    <${Listing} pages=${pages} columns=${COLUMNS} kind="trajectories" label="Trajectories, newest first" test="trajectory-row" href=${(item) => link('trajectories', item.id)}
      empty=${some ? 'No trajectory is like that. Widen the search.' : 'Trajectories appear here when the first question is settled.'} />`;
}

/** Those of one question, each with its rulings and its standing as it comes in sight. */
export function OfQuestion({ question }) {
  const pages = usePages(query('trajectories', { question }), { key: (item) => item.place, falling: true, concerns: (tick) => tick.questions.includes(question), size: 20 });
  return html`<${Listing} pages=${pages} kind="cards" label="Trajectories of this question, newest first" test="trajectory-row" empty="Trajectories appear here when this question is settled."
    columns=${[{ name: 'card', label: 'trajectory with its verdict, rulings and standing', cell: (item) => html`<${Card} line=${item} />` }]} />`;
}

function Card({ line }) {
  const place = useRef(null), [seen, see] = useState(false);
  useEffect(() => {
    const watch = new IntersectionObserver(([each]) => { if (each.isIntersecting) { see(true); watch.disconnect(); } });
    watch.observe(place.current);
    return () => watch.disconnect();
  }, []);
  const { data: whole } = useLive(seen ? `trajectories/${line.id}` : null, { concerns: (tick) => tick.questions.includes(line.question) });
  return html`<div class="card" ref=${place}>
    <p class="tags"><a class="open" href=${link('trajectories', line.id)}>open</a><${Badge} of=${line.outcome} />${line.best && html`<span class="badge on">chosen</span>`}<span>answer <b><${Line} text=${line.answer} most=${100} /></b></span><${Score} value=${line.score} /><${Authors} names=${line.teachers} /><small>${line.style ? `asked for: ${words(line.style)}` : line.origin}</small></p>
    <p><${Line} text=${line.reason} most=${400} /></p>
    <p class="quiet opening"><${Line} text=${line.opening} most=${400} /></p>
    ${whole && html`<${Stands} of=${whole.standing} /><${Rulings} of=${whole.rulings} />`}
  </div>`;
}

const Standing = ({ of }) => of ? html`<dl class="facts standing"><${Fact} name="centrality" title="By weighted PageRank; 1 is the average">${number(of.centrality, 2)}<//>
  <${Fact} name="nearest" title="Its highest similarity to another one">${number(of.nearest, 2)}<//><${Fact} name="support" title="The share of trajectories that give its answer">${percent(of.support)}<//>
  <${Fact} name="misleading">${of.misleading ? html`<span class="badge is-misleading">yes: right by luck</span>` : 'no'}<//></dl>` : html`<p class="quiet">It has no standing: the question has no consensus yet, or it is not in it.</p>`;

const Stands = ({ of }) => of && html`<p>${of.misleading && html`<span class="badge is-misleading">misleading: right by luck</span> `}<span class="quiet">centrality</span> ${number(of.centrality, 2)} <span class="quiet">· nearest</span> ${number(of.nearest, 2)} <span class="quiet">· support</span> ${percent(of.support)}</p>`;

const Rulings = ({ of }) => of.length ? html`<ul class="rulings">${of.map((each) => html`<li><b>${each.judge}</b> says <${Badge} of=${each.ruled} /> <${Line} text=${each.reason} most=${2000} />${each.tries > 1 && html` <small>after ${each.tries} tries</small>`}</li>`)}</ul>` : html`<p class="quiet">No judge was asked about it.</p>`;

function OneTrajectory({ id }) {
  const first = useRef(null);
  const found = useLive(`trajectories/${id}`, { concerns: (tick) => concerns(tick) || tick.kinds.report || tick.kinds.route || tick.questions.includes(first.current) });
  const whole = found.data, line = whole?.line;
  first.current = line?.question;
  const { data: question } = useLive(line ? `questions/${line.question}` : null, { concerns: () => false });
  if (!whole) return html`<h1>Trajectory</h1><${Waiting} of=${found} />`;
  return html`<header class="question-head" data-test="trajectory" data-state=${line.outcome}>
      <p class="crumbs"><a href="#/trajectories">Trajectories</a> / <a href=${link('questions', line.question)}>question ${count(line.position + 1)}</a></p>
      <h1 class="tags">Trajectory <${Badge} of=${line.outcome} />${line.best && html`<span class="badge on">chosen</span>`}</h1>
      <p class="verdict-reason"><${Line} text=${line.reason || 'There is no verdict yet.'} most=${1000} /></p>
      ${question && html`<div class="question-text" tabindex=${question.line.text.length > 1200 ? 0 : undefined}><${Text} text=${question.line.text} /></div>`}
      <dl class="facts"><${Fact} name="answer"><b><${Line} text=${line.answer} most=${200} /></b> ${whole.where && html`<small>in its ${whole.where}</small>`}<//>
        ${question && html`<${Fact} name="right answer"><${Line} text=${question.line.answer ?? question.line.target} most=${200} /><//>`}
        <${Fact} name="compared with">${whole.target ?? NONE}<//><${Fact} name="score"><${Score} value=${line.score} /><//>
        <${Fact} name="origin">${line.style ? `style: ${words(line.style)}` : line.origin}<//><${Fact} name="completion">${count(line.completion_tokens)} <small>tokens</small><//><${Fact} name="cost">${money(line.cost)}<//>
        <${Fact} name="teachers"><${Authors} names=${line.teachers} /><//></dl>
      ${whole.nodes.length > 0 && html`<p><a href=${link('questions', line.question, { path: id })} data-test="show-path">show its path in the tree</a></p>`}
    </header>
    <div class="pair">
      <${Panel} id="reasoning" title="Reasoning" note=${whole.nodes.length ? `${whole.nodes.length} steps, by author` : ''}><${Steps} whole=${whole} />
        <h3>Conclusion</h3><${Text} text=${whole.conclusion} /><//>
      <div class="lane"><${Panel} id="rulings" title="Rulings"><${Rulings} of=${whole.rulings} /><//>
        <${Panel} id="standing" title="Standing in the consensus"><${Standing} of=${whole.standing} /><p><a href=${link('questions', line.question, { tab: 'consensus' })}>the consensus of its question</a></p><//>
        <${Panel} id="assigned" title="For which students"><${Assigned} of=${whole.assigned} /><//></div>
    </div>`;
}

/** Its steps, each with who wrote it: from its nodes; of one that was written in one go, the whole text. */
function Steps({ whole }) {
  if (!whole.nodes.length) return html`<p class="quiet">Written in one go by <${Authors} names=${whole.line.teachers} /></p><${Text} text=${whole.text} />`;
  return html`<${OfNodes} whole=${whole} />`;
}

function OfNodes({ whole }) {
  const { data } = useLive(`nodes/${whole.nodes.at(-1)}`, { concerns: () => false }), { nodes } = useTree(whole.line.question);
  if (!data) return html`<${Text} text=${whole.text} />`;
  const lines = new Map(nodes.map((each) => [each.id, each]));
  return html`<ol class="steps">${data.steps.map((text, at) => {
    const line = lines.get(data.path[at]) ?? (at === data.steps.length - 1 ? data.line : null);
    return html`<li key=${data.path[at]} data-test="step"><p class="tags">${line ? html`<${Authors} names=${line.authors} /><${Score} value=${line.score} />` : html`<span class="quiet">step ${at + 1}</span>`}
      <a class="quiet" href=${link('questions', whole.line.question, { node: data.path[at], path: whole.line.id })}>in the tree</a></p><${Text} text=${text} /></li>`;
  })}</ol>`;
}

const MEASURES = ['cross_entropy', 'alpha', 'adaptability', 'consensus', 'difficulty', 'peer'];

export function Assigned({ of }) {
  if (!of.length) return html`<p class="quiet">No student has been asked about it: only accepted trajectories are routed.</p>`;
  return html`<div class="scroll" tabindex="0" role="group" aria-label="For which students"><table data-test="assigned"><thead><tr><th scope="col">student</th><th scope="col" class="n">round</th><th scope="col">gate</th><th scope="col" class="n">probability</th><th scope="col" class="n">update</th>${MEASURES.map((each) => html`<th scope="col" class="n">${each === 'cross_entropy' ? 'CE' : each}</th>`)}</tr></thead>
    <tbody>${of.map((each) => html`<tr><th scope="row"><a href=${link('students', each.student)}>${each.student}</a></th><td class="n">${each.round}</td><td><${Gate} open=${each.gate} /></td><td class="n">${score(each.probability)}</td><td class="n">${count(each.update)}</td>${MEASURES.map((name) => html`<td class="n">${rough(each[name])}</td>`)}</tr>`)}</tbody></table></div>`;
}

export const Gate = ({ open }) => html`<span class=${open ? 'badge is-open-gate' : 'badge is-shut-gate'}>${open ? 'open' : 'shut'}</span>`;
