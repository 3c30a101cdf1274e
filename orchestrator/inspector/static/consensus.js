/**
 * The consensus of a question: its trajectories as clusters of answers, joined where their reasoning is alike.
 *
 * Invariant: the picture and the table say the same. Clusters stand in the order of their strength, the leading one first; a
 * node's size is its centrality, its letter and colour its verdict, a line's width a similarity above the threshold.
 */
import { useMemo, useState } from 'preact/hooks';
import { count, number, percent, words } from './figures.js';
import { Authors, Badge, Empty, Wrong } from './parts.js';
import { change, link, parse } from './route.js';
import { useLive } from './server.js';
import { html, Line, visible } from './text.js';

const LETTERS = { accepted: 'A', wrong_answer: 'W', unsound: 'U', misleading: 'M', duplicate: 'D', surplus: 'S', undecided: '?' };
const EDGE = 8;
const MOST_LINES = 1500;
const GOLDEN = Math.PI * (3 - Math.sqrt(5));

/** Clusters in rows within `wide`, the nodes of each on a spiral from its middle, the most central ones innermost. */
export function arrange(consensus, wide) {
  const standing = new Map(consensus.standings.map((each) => [each.trajectory, each])), spots = new Map(), groups = [];
  const inCluster = new Set(consensus.clusters.flatMap((each) => each.trajectories));
  const loose = consensus.standings.map((each) => each.trajectory).filter((each) => !inCluster.has(each));
  const all = loose.length ? [...consensus.clusters, { answer: null, trajectories: loose, support: null, teachers: null, strength: null }] : consensus.clusters;
  const size = (id) => 7 + 5 * Math.sqrt(Math.min(4, standing.get(id)?.centrality ?? 0));
  let x = EDGE, y = EDGE, tall = 0;
  for (const cluster of all) {
    const ids = [...cluster.trajectories].sort((a, b) => (standing.get(b)?.centrality ?? 0) - (standing.get(a)?.centrality ?? 0));
    const step = 23, radius = Math.max(48, step * Math.sqrt(ids.length) + 22);
    if (x > EDGE && x + 2 * radius > wide - EDGE) { x = EDGE; y += tall + 64; tall = 0; }
    const middle = { x: x + radius, y: y + radius };
    ids.forEach((id, at) => {
      const far = ids.length === 1 ? 0 : step * Math.sqrt(at + 0.3), turn = at * GOLDEN;
      spots.set(id, { id, x: middle.x + far * Math.cos(turn), y: middle.y + far * Math.sin(turn), r: size(id), standing: standing.get(id) });
    });
    groups.push({ cluster, radius, ...middle });
    x += 2 * radius + 40;
    tall = Math.max(tall, 2 * radius);
  }
  return { groups, spots, height: y + tall + 56, width: wide };
}

export function Consensus({ question, state }) {
  const found = useLive(`questions/${question}/consensus`, { concerns: (tick) => tick.questions.includes(question) });
  const least = Number(parse(location.hash).params.get('similar') ?? 0.5), [over, hover] = useState(null);
  const graph = found.data, wide = Math.min(2400, Math.max(320, innerWidth - 90));
  const made = useMemo(() => graph && arrange(graph.consensus, wide), [graph, wide]);
  if (!graph) {
    if (found.error?.status !== 404) return found.error ? html`<${Wrong} error=${found.error} />` : html`<p class="quiet waiting">reading…</p>`;
    return html`<${Empty}>${state === 'solved' || state === 'unsolved' ? 'This question has no consensus: it has no trajectories with answers.' : 'The consensus appears here when the trajectories of this question are there.'}<//>`;
  }
  const { consensus, outcomes, teachers } = graph;
  const strong = consensus.edges.filter((each) => each[2] >= least).sort((a, b) => b[2] - a[2]), lines = strong.slice(0, MOST_LINES);
  const label = (id, at) => `${outcomes[id] ? words(outcomes[id]) : 'no verdict'}, by ${(teachers[id] ?? []).join(' and ')}, centrality ${number(at.standing?.centrality, 2)}${at.standing?.misleading ? ', misleading' : ''}`;
  return html`
    <p>${consensus.clusters.length ? html`Leading answer: <b><${Line} text=${consensus.clusters[0].answer} /></b>, given by ${percent(consensus.clusters[0].support)} of the trajectories and ${percent(consensus.clusters[0].teachers)} of the teachers.` : 'No trajectory gives an answer.'}
      ${consensus.target !== null && html` It stands in for the answer that is not given.`} <span class="quiet">Similarity by ${consensus.embedder}.</span></p>
    <div class="tools"><label class="field slider"><span>Lines from similarity<output>${number(least, 2)}</output></span><input type="range" min="0" max="1" step="0.05" value=${least} onInput=${(event) => change({ similar: event.target.value })} data-test="similarity" /></label>
      <span class="quiet">${count(strong.length)} of ${count(consensus.edges.length)} lines${lines.length < strong.length ? `, the ${count(lines.length)} strongest drawn` : ''}</span>
      <ul class="legend">${Object.entries(LETTERS).filter(([name]) => Object.values(outcomes).includes(name)).map(([name, letter]) => html`<li><span class=${`letter is-${name}`} aria-hidden="true">${letter}</span>${words(name)}</li>`)}<li class="quiet">dashed ring: misleading; size: centrality</li></ul></div>
    <div class="scroll graph-box" tabindex="0" role="group" aria-label="Consensus graph"><svg class="graph" width=${made.width} height=${made.height} viewBox=${`0 0 ${made.width} ${made.height}`} role="group" aria-label="Clusters of answers; each link is a trajectory" data-test="graph">
      ${made.groups.map(({ cluster, x, y, radius }, at) => html`<g class=${at === 0 && cluster.answer !== null ? 'cluster leading' : 'cluster'}><circle cx=${x} cy=${y} r=${radius} />
        <text x=${x} y=${y + radius + 18} text-anchor="middle" class="cluster-answer">${cluster.answer === null ? 'no answer' : visible(cluster.answer).slice(0, Math.max(8, radius / 4))}</text>
        <text x=${x} y=${y + radius + 34} text-anchor="middle" class="cluster-note">${cluster.support === null ? count(cluster.trajectories.length) : `${percent(cluster.support)} · strength ${number(cluster.strength, 1)}`}</text></g>`)}
      <g class="lines">${lines.map(([a, b, similarity]) => { const [from, to] = [made.spots.get(a), made.spots.get(b)]; return from && to && html`<line x1=${from.x} y1=${from.y} x2=${to.x} y2=${to.y} stroke-width=${0.4 + 2.6 * similarity ** 2} class=${over === a || over === b ? 'over' : ''} />`; })}</g>
      <g onMouseOver=${(event) => hover(event.target.closest('[data-id]')?.dataset.id ?? null)} onMouseLeave=${() => hover(null)}>${[...made.spots.values()].map((at) => html`<a key=${at.id} href=${link('trajectories', at.id)} aria-label=${label(at.id, at)} data-id=${at.id} data-test="graph-node" class=${`spot is-${outcomes[at.id] ?? 'none'}`}><title>${label(at.id, at)}</title>
        ${at.standing?.misleading && html`<circle class="flag" cx=${at.x} cy=${at.y} r=${at.r + 4} />`}<circle class="disc" cx=${at.x} cy=${at.y} r=${at.r} /><text x=${at.x} y=${at.y + 4} text-anchor="middle">${LETTERS[outcomes[at.id]] ?? '·'}</text></a>`)}</g>
    </svg></div>
    <h2>As a table</h2>
    <div class="scroll" tabindex="0" role="group" aria-label="The consensus as a table"><table class="consensus-table" data-test="consensus-table"><thead><tr><th scope="col">answer</th><th scope="col" class="n">support</th><th scope="col" class="n">teachers</th><th scope="col" class="n">strength</th><th scope="col">trajectory</th><th scope="col">by</th><th scope="col" class="n">centrality</th><th scope="col" class="n">nearest</th><th scope="col">misleading</th></tr></thead>
      ${made.groups.map(({ cluster }) => html`<tbody>${cluster.trajectories.map((id, at) => { const standing = made.spots.get(id)?.standing; return html`<tr>
        ${at === 0 && html`<th scope="rowgroup" rowspan=${cluster.trajectories.length}><${Line} text=${cluster.answer ?? 'no answer'} most=${80} /></th><td class="n" rowspan=${cluster.trajectories.length}>${percent(cluster.support)}</td><td class="n" rowspan=${cluster.trajectories.length}>${percent(cluster.teachers)}</td><td class="n" rowspan=${cluster.trajectories.length}>${number(cluster.strength, 2)}</td>`}
        <td><a href=${link('trajectories', id)}><${Badge} of=${outcomes[id]} /></a></td><td><${Authors} names=${teachers[id] ?? []} /></td><td class="n">${number(standing?.centrality, 2)}</td><td class="n">${number(standing?.nearest, 2)}</td><td>${standing?.misleading ? 'yes' : 'no'}</td></tr>`; })}</tbody>`)}</table></div>`;
}
