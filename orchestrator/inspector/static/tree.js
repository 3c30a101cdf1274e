/**
 * The reasoning tree of a question as it grows: depth from left to right, a parent in the middle of its children, subtrees as near
 * to one another as they fit.
 *
 * Invariant: only what is in sight is drawn: lines on a canvas, nodes as elements (far away, as shades on the canvas too), so
 * that 5,000 nodes cost what 50 do. One listener for all. The node that the arrow keys are on is always an element.
 */
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { count, score } from './figures.js';
import { shade, useAuthors } from './parts.js';
import { get, onTick, steady } from './server.js';
import { html, visible } from './text.js';

const W = 216, H = 44, ACROSS = 40, DOWN = 8, EDGE = 28, TOP = 10, FAR = 0.5, NEAREST = 1.6, FURTHEST = 0.04;

/** The nodes of a question, read page by page, and again when it changes: {nodes, error, whole}. */
export function useTree(question) {
  const [found, set] = useState({ question: null, nodes: [], whole: false, error: null });
  useEffect(() => {
    const stop = new AbortController();
    let size = 0, first = true, told = 0;
    const reader = steady(async () => {
      try {
        let nodes = [], after = null;
        do {
          const page = await get(`questions/${question}/tree?limit=500${after === null ? '' : `&after=${after}`}`, stop.signal);
          nodes = nodes.concat(page.items);
          after = page.next;
          if (first && performance.now() - told > 250) { told = performance.now(); set({ question, nodes, whole: after === null, error: null }); }
        } while (after !== null);
        first = false;
        size = nodes.length;
        set({ question, nodes, whole: true, error: null });
      } catch (error) { if (!stop.signal.aborted) set((was) => ({ ...was, question, error })); }
    }, () => size > 2000 ? 3000 : 1000);
    reader.soon();
    const off = onTick((tick) => { if (tick.reset || tick.questions.includes(question)) reader.soon(); });
    return () => { stop.abort(); reader.stop(); off(); };
  }, [question]);
  return found.question === question ? found : { question, nodes: [], whole: false, error: null };
}

/** Where each node stands. `show`: all, unpruned, chosen. At most nodes times depth. */
export function layout(nodes, chosen, show) {
  const by = new Map(), roots = [];
  for (const node of nodes) {
    if (show === 'chosen' ? !chosen.has(node.id) : show === 'unpruned' && (node.state === 'pruned' || node.state === 'late') && !chosen.has(node.id)) continue;
    const place = { node, children: [], parent: by.get(node.parent) ?? null, x: EDGE + (node.depth - 1) * (W + ACROSS), y: 0 };
    if (node.parent !== null && !place.parent) continue;
    (place.parent ? place.parent.children : roots).push(place);
    by.set(node.id, place);
  }
  const better = (a, b) => b.node.score - a.node.score || a.node.place - b.node.place;
  for (const place of by.values()) place.children.sort(better);
  roots.sort(better);
  const order = [], stack = [...roots].reverse();
  let depth = 1, low = Infinity, high = -Infinity;
  while (stack.length) {
    const place = stack.pop();
    order.push(place);
    depth = Math.max(depth, place.node.depth);
    stack.push(...[...place.children].reverse());
  }
  for (let at = order.length - 1; at >= 0; at--) stackUp(order[at], order[at].children);
  stackUp({}, roots);
  for (const place of order) {
    place.y = place.off + (place.parent ? place.parent.y : 0);
    [low, high] = [Math.min(low, place.y), Math.max(high, place.y)];
  }
  for (const place of order) place.y += TOP - low;
  return {
    order, by, roots, width: EDGE + depth * (W + ACROSS), height: order.length ? high - low + H + 2 * TOP : H,
    middle: roots.length ? (roots[0].y + roots.at(-1).y) / 2 : 0,
  };
}

/**
 * Stack the children of a place, each as near to the one above as the outlines of their subtrees allow, around its own middle.
 * An outline holds, for each depth from the place's own, the highest and the lowest y, measured from the place.
 */
function stackUp(place, children) {
  if (children.length === 1) { // most of a path: its outline, one longer
    Object.assign(place, { upper: children[0].upper, lower: children[0].lower });
    Object.assign(children[0], { off: 0, upper: null, lower: null });
    place.upper.unshift(0);
    place.lower.unshift(0);
    return;
  }
  const upper = [], lower = [];
  for (const child of children) {
    let off = 0;
    for (let at = Math.min(lower.length, child.lower.length) - 1; at >= 0; at--) off = Math.max(off, lower[at] - child.upper[at] + H + DOWN);
    child.off = lower.length ? off : 0;
    for (let at = 0; at < child.lower.length; at++) {
      if (at >= upper.length) upper.push(child.upper[at] + child.off);
      lower[at] = child.lower[at] + child.off;
    }
    child.upper = child.lower = null;
  }
  const middle = children.length ? children.at(-1).off / 2 : 0;
  for (const child of children) child.off -= middle;
  place.upper = [0, ...upper.map((y) => y - middle)];
  place.lower = [0, ...lower.map((y) => y - middle)];
}

/** Where an arrow key leads from a place. */
function beside(placed, at, key) {
  const siblings = at.parent ? at.parent.children : placed.roots;
  if (key === 'ArrowLeft') return at.parent;
  if (key === 'ArrowRight') return at.children.find((each) => each.node.state !== 'pruned') ?? at.children[0];
  if (key === 'Home') return placed.roots[0];
  if (key === 'End') return placed.order.at(-1);
  const by = key === 'ArrowDown' ? 1 : -1, next = siblings[siblings.indexOf(at) + by];
  if (next) return next;
  const column = placed.order.filter((each) => each.node.depth === at.node.depth); // beyond the last sibling: its cousin
  return column[column.indexOf(at) + by];
}

const DASH = { pruned: [2, 3], late: [6, 2, 2, 2], open: [5, 3] };

/** The tree. `path`: ids of the path that stands out, and `best`: whether it is the chosen one. */
export function Tree({ nodes, path, pathName, selected, compared, show, onSelect, onMark, onClose }) {
  const box = useRef(null), canvas = useRef(null), place = useAuthors(), drag = useRef(null);
  const chosen = useMemo(() => new Set(path), [path]);
  const placed = useMemo(() => layout(nodes, chosen, show), [nodes, chosen, show]);
  const [zoom, setZoom] = useState(1), [view, look] = useState({ left: 0, top: 0, width: 800, height: 500 }), [active, activate] = useState(null);
  const at = placed.by.get(active) ?? placed.by.get(selected) ?? placed.by.get(path[0]) ?? placed.order[0];
  const anchor = useRef(null);

  useLayoutEffect(() => {
    const seen = () => {
      const { scrollLeft: left, scrollTop: top, clientWidth: width, clientHeight: height } = box.current;
      look((was) => was.left === left && was.top === top && was.width === width && was.height === height ? was : { left, top, width, height });
    };
    let frame = 0;
    const later = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(seen); };
    seen();
    const watch = new ResizeObserver(later), element = box.current;
    watch.observe(element);
    element.addEventListener('scroll', later, { passive: true });
    const wheel = (event) => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); nearer(event.deltaY < 0 ? 1.15 : 1 / 1.15, event); } };
    element.addEventListener('wheel', wheel, { passive: false });
    return () => { watch.disconnect(); cancelAnimationFrame(frame); element.removeEventListener('scroll', later); element.removeEventListener('wheel', wheel); };
  }, []);

  const nearer = (factor, event) => setZoom((was) => {
    const next = Math.min(NEAREST, Math.max(FURTHEST, was * factor)), bounds = box.current.getBoundingClientRect();
    const x = event ? event.clientX - bounds.left : bounds.width / 2, y = event ? event.clientY - bounds.top : bounds.height / 2;
    anchor.current = { left: (box.current.scrollLeft + x) * next / was - x, top: (box.current.scrollTop + y) * next / was - y };
    return next;
  });
  const fit = () => { setZoom(Math.min(1, Math.max(FURTHEST, Math.min(view.width / placed.width, view.height / placed.height)))); anchor.current = { left: 0, top: 0 }; };
  useLayoutEffect(() => { if (anchor.current) { box.current.scrollTo(anchor.current); anchor.current = null; } }, [zoom]);

  const reveal = (to) => {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = box.current, x = to.x * zoom, y = to.y * zoom, w = W * zoom, h = H * zoom;
    box.current.scrollTo({
      left: x < scrollLeft + 20 ? x - 20 : x + w > scrollLeft + clientWidth - 20 ? x + w - clientWidth + 20 : scrollLeft,
      top: y < scrollTop + 20 ? y - 20 : y + h > scrollTop + clientHeight - 20 ? y + h - clientHeight + 20 : scrollTop,
    });
  };
  useEffect(() => { const to = placed.by.get(selected); if (to) reveal(to); }, [selected, compared]);
  const ready = placed.order.length > 0;
  useEffect(() => { // at first: where the selected node, or the path, begins
    const first = placed.by.get(selected) ?? placed.by.get(path[0]) ?? placed.roots[0];
    if (first) box.current.scrollTo({ top: first.y * zoom - box.current.clientHeight / 2, left: placed.by.has(selected) ? first.x * zoom - box.current.clientWidth / 2 : 0 });
  }, [ready, path[0]]);

  const margin = 200, near = zoom >= FAR;
  const box4 = { left: view.left / zoom - margin, right: (view.left + view.width) / zoom + margin, top: view.top / zoom - margin, bottom: (view.top + view.height) / zoom + margin };
  const inside = (each) => each.x + W > box4.left && each.x < box4.right && each.y + H > box4.top && each.y < box4.bottom;
  const shown = near ? placed.order.filter((each) => each === at || inside(each)) : at ? [at] : [];

  const last = useRef(placed);
  useLayoutEffect(() => { // as it grows, what is looked at stays where it is
    const was = last.current, { scrollTop, scrollLeft, clientHeight, clientWidth } = box.current;
    last.current = placed;
    const sees = (each) => each && (each.y + H) * zoom > scrollTop && each.y * zoom < scrollTop + clientHeight && (each.x + W) * zoom > scrollLeft && each.x * zoom < scrollLeft + clientWidth;
    const held = [at && was.by.get(at.node.id), ...was.order].find((each) => sees(each) && placed.by.has(each.node.id));
    if (held) box.current.scrollTop += (placed.by.get(held.node.id).y - held.y) * zoom;
  }, [placed]);

  const [theme, retheme] = useState(0);
  useEffect(() => {
    const again = () => retheme((n) => n + 1), dark = matchMedia('(prefers-color-scheme: dark)');
    addEventListener('theme', again);
    dark.addEventListener('change', again);
    return () => { removeEventListener('theme', again); dark.removeEventListener('change', again); };
  }, []);
  useLayoutEffect(() => paint(canvas.current, { placed, view, zoom, near, chosen, inside, place, at }), [placed, view, zoom, chosen, theme, at, place]);

  const hit = (event) => {
    const element = event.target.closest('[data-id]');
    if (element) return placed.by.get(element.dataset.id);
    const bounds = box.current.getBoundingClientRect();
    const x = (event.clientX - bounds.left + box.current.scrollLeft) / zoom, y = (event.clientY - bounds.top + box.current.scrollTop) / zoom;
    return near ? undefined : placed.order.find((each) => x >= each.x && x <= each.x + W && y >= each.y && y <= each.y + H);
  };
  const clicked = (event) => {
    if (drag.current?.moved) return;
    const found = hit(event);
    if (!found) return;
    activate(found.node.id);
    if (event.shiftKey) onMark(found.node.id);
    else onSelect(found.node.id);
  };
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !at) return;
    const { key } = event;
    if (/^Arrow|^Home$|^End$/.test(key)) {
      const next = beside(placed, at, key);
      if (next) { activate(next.node.id); reveal(next); }
    } else if (key === 'Enter' || key === ' ') onSelect(at.node.id);
    else if (key === 'c') onMark(at.node.id);
    else if (key === 'Escape') onClose();
    else if (key === '+' || key === '=') nearer(1.25);
    else if (key === '-') nearer(0.8);
    else if (key === '0') fit();
    else return;
    event.preventDefault();
  };
  const down = (event) => {
    if (event.pointerType !== 'mouse' || event.button !== 0) return;
    drag.current = { x: event.clientX, y: event.clientY, left: box.current.scrollLeft, top: box.current.scrollTop, moved: false };
  };
  const moved = (event) => {
    const from = drag.current;
    if (!from || !(event.buttons & 1)) return;
    if (!from.moved && Math.hypot(event.clientX - from.x, event.clientY - from.y) < 5) return;
    from.moved = true;
    box.current.scrollTo(from.left + from.x - event.clientX, from.top + from.y - event.clientY);
  };

  return html`<div class="tree">
    <div class="tools tree-tools"><span class="quiet" data-test="tree-size">${count(placed.order.length)}${placed.order.length < nodes.length ? ` of ${count(nodes.length)}` : ''} nodes</span>
      <button type="button" class="small" onClick=${() => nearer(0.8)} aria-label="further">−</button><button type="button" class="small" onClick=${() => nearer(1.25)} aria-label="nearer">+</button><button type="button" class="small" onClick=${fit}>all of it</button>
      ${zoom !== 1 && html`<button type="button" class="small" onClick=${() => nearer(1 / zoom)}>1:1</button>`}<span class="quiet">${count(100 * zoom)} %</span></div>
    <div class="tree-box" ref=${box} onClick=${clicked} onPointerDown=${down} onPointerMove=${moved} onKeyDown=${pressed}>
      <div class="tree-space" style=${{ width: `${placed.width * zoom}px`, height: `${placed.height * zoom}px` }}>
        <canvas ref=${canvas} aria-hidden="true"></canvas>
        <div class="tree-nodes" role="tree" tabindex="0" aria-label="Reasoning tree" aria-activedescendant=${at && `node-${at.node.id}`} style=${{ transform: `scale(${zoom})` }} data-test="tree">
          ${shown.map((each) => html`<${Spot} key=${each.node.id} each=${each} colour=${place(each.node.author)} on=${chosen.has(each.node.id)} name=${pathName}
            active=${each === at} selected=${each.node.id === selected} compared=${each.node.id === compared} siblings=${each.parent ? each.parent.children : placed.roots} />`)}
        </div>
      </div>
    </div>
  </div>`;
}

function Spot({ each: { node, x, y, children }, siblings, colour, on, name, active, selected, compared }) {
  const names = ['node', `is-${node.state}`, on && 'on', active && 'active', selected && 'selected', compared && 'compared'].filter(Boolean).join(' ');
  const state = on ? html`${node.state} · <b>${name}</b>` : node.state;
  return html`<div class=${names} id=${`node-${node.id}`} role="treeitem" aria-level=${node.depth} aria-setsize=${siblings.length} aria-posinset=${siblings.findIndex((one) => one.node === node) + 1}
    aria-selected=${selected ? 'true' : 'false'} aria-expanded=${children.length ? 'true' : undefined} title=${node.reason || undefined}
    data-test="tree-node" data-id=${node.id} data-state=${node.state} data-on=${on ? '' : undefined} style=${{ transform: `translate(${x}px, ${y}px)` }}>
    <span class=${`stripe a${colour}`} aria-hidden="true"></span>
    <span class="row-of"><span class="who"><span class="hidden">step ${node.step} by </span>${node.authors.join(', ')}</span><span class="state">${state}</span></span>
    <span class="row-of"><bdi class="title">${visible(node.title) || '(no words)'}</bdi><span class=${`score s${shade(node.score)}`}><span class="hidden">score </span>${score(node.score)}</span></span>
  </div>`;
}

/** Draw the lines in sight, and, from afar, the nodes. */
function paint(canvas, { placed, view, zoom, near, chosen, inside, place, at }) {
  const ratio = devicePixelRatio || 1, width = Math.round(view.width * ratio), height = Math.round(view.height * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    Object.assign(canvas, { width, height });
    Object.assign(canvas.style, { width: `${view.width}px`, height: `${view.height}px` });
  }
  canvas.style.transform = `translate(${view.left}px, ${view.top}px)`;
  const pen = canvas.getContext('2d'), style = getComputedStyle(canvas), css = (name) => style.getPropertyValue(name);
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.setTransform(ratio * zoom, 0, 0, ratio * zoom, -view.left * ratio, -view.top * ratio);
  const lines = { faint: new Path2D(), firm: new Path2D(), on: new Path2D() };
  const middle = placed.middle + H / 2, top = view.top / zoom, bottom = (view.top + view.height) / zoom;
  for (const each of placed.order) {
    const y = each.y + H / 2, from = each.parent ? each.parent.y + H / 2 : middle, x = each.parent ? each.parent.x + W : EDGE - 16;
    if (Math.max(y, from) < top || Math.min(y, from) > bottom) continue;
    const on = chosen.has(each.node.id) && (!each.parent || chosen.has(each.parent.node.id));
    const line = on ? lines.on : each.node.state === 'pruned' || each.node.state === 'late' ? lines.faint : lines.firm;
    line.moveTo(x, from);
    line.bezierCurveTo(x + ACROSS / 2, from, each.x - ACROSS / 2, y, each.x, y);
  }
  const draw = (line, colour, thick) => { pen.strokeStyle = css(colour); pen.lineWidth = thick / Math.max(zoom, 0.3); pen.stroke(line); };
  draw(lines.faint, '--line', 1);
  draw(lines.firm, '--edge', 1.4);
  draw(lines.on, '--accent', 3.5);
  pen.fillStyle = css('--accent');
  pen.beginPath();
  pen.arc(EDGE - 16, middle, 5, 0, 7);
  pen.fill();
  if (near) return;
  const shades = [0, 1, 2, 3, 4, 5].map((each) => css(`--s${each}`)), authors = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((each) => css(`--a${each}`));
  pen.lineWidth = 1.2 / zoom;
  for (const each of placed.order) {
    if (!inside(each) || each === at) continue;
    const on = chosen.has(each.node.id);
    pen.fillStyle = shades[shade(each.node.score)];
    pen.fillRect(each.x, each.y, W, H);
    pen.fillStyle = authors[place(each.node.author)];
    pen.fillRect(each.x, each.y, 24, H);
    pen.strokeStyle = css(on ? '--accent' : '--edge');
    pen.lineWidth = (on ? 3 : 1) / zoom;
    pen.setLineDash(on ? [] : (DASH[each.node.state] ?? []).map((length) => length / zoom));
    pen.strokeRect(each.x, each.y, W, H);
  }
  pen.setLineDash([]);
}
