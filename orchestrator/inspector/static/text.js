/**
 * Words that others wrote, shown as what they are: text. Never HTML, nothing in it takes effect.
 *
 * Invariant: every character that could disturb the page (control characters, marks of direction, invisible ones) is seen as a
 * symbol; each text is isolated from the words around it; of a long one, only the beginning is laid out. Mathematics is set by
 * KaTeX as MathML, into an element of its own, with nothing trusted.
 */
import { h } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import htm from 'htm';
import { count } from './figures.js';

export const html = htm.bind(h);

const FIRST = 20000; // characters that are shown at once
const FORMULAS = 200, LONGEST = 2000;
const MARKS = 2000; // symbols that get an element of their own
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;
const RUNS = new RegExp(`(?:${UNSEEN.source})+`, 'gu');
const MATHS = /\$\$([^]+?)\$\$|\\\[([^]+?)\\\]|\\\(([^]+?)\\\)|\$(?![\s$])((?:\\.|[^$\\\n])*?[^\s\\$]|[^\s\\$])\$(?!\d)|(\\boxed\{)/g;

/** A character as a visible symbol. */
function symbol(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return '\u2421';
  return `[U+${code.toString(16).toUpperCase().padStart(4, '0')}]`;
}

/** A text with all its characters visible. */
export const visible = (text) => text.replaceAll('\r\n', '\n').replace(UNSEEN, symbol);

function marked(text, left) {
  const written = text.replaceAll('\r\n', '\n'), found = [...written.matchAll(RUNS)], parts = [];
  if (!found.length) return [written];
  if (found.length > left.marks) return [visible(written)];
  left.marks -= found.length;
  let at = 0;
  for (const run of found) {
    parts.push(written.slice(at, run.index), html`<span class="unseen" title="characters that cannot be seen, or that would change what is around them">${run[0].replace(UNSEEN, symbol)}</span>`);
    at = run.index + run[0].length;
  }
  parts.push(written.slice(at));
  return parts;
}

function braced(text, from) {
  for (let at = from, depth = 1; at < Math.min(text.length, from + LONGEST); at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '{') depth++;
    else if (text[at] === '}' && --depth === 0) return at + 1;
  }
  return -1;
}

/** Whether there may be mathematics in a text. */
const mathematical = (text) => MATHS.test(text) && ((MATHS.lastIndex = 0), true);

function set(text, left) {
  const parts = [];
  let at = 0;
  MATHS.lastIndex = 0;
  for (let found; left.formulas > 0 && (found = MATHS.exec(text));) {
    const [whole, display, square, round, dollar, boxed] = found;
    let source = display ?? square ?? round ?? dollar, end = found.index + whole.length;
    if (boxed) {
      end = braced(text, end);
      if (end < 0) continue;
      source = text.slice(found.index, end);
      MATHS.lastIndex = end;
    }
    if (source.length > LONGEST || source.search(UNSEEN) >= 0) continue;
    parts.push(...marked(text.slice(at, found.index), left));
    parts.push(html`<${Formula} source=${source} raw=${text.slice(found.index, end)} display=${Boolean(display ?? square)} />`);
    at = end;
    left.formulas--;
  }
  parts.push(...marked(text.slice(at), left));
  return parts;
}

function Formula({ source, raw, display }) {
  const place = useRef(null);
  useEffect(() => {
    let ended = false;
    import('katex').then(({ default: katex }) => {
      if (ended || !place.current) return;
      const made = document.createElement('span');
      katex.render(source, made, {
        output: 'mathml', displayMode: display, throwOnError: true, trust: false, strict: 'ignore', maxSize: 20, maxExpand: 500,
        macros: { '\\pmb': '\\boldsymbol{#1}', '\\fcolorbox': '\\fbox{#3}' }, // these two want style attributes
      });
      place.current.replaceChildren(made);
    }).catch(() => {});
    return () => { ended = true; };
  }, [source, display]);
  // Keyed by its source, so that preact never takes up a place whose children KaTeX has replaced.
  return html`<span key=${source} class=${display ? 'formula display' : 'formula'} ref=${place}>${raw}</span>`;
}

/** Cut where a line ends, or at least not within a character. */
function blocks(text) {
  const found = [];
  for (let at = 0; at < text.length;) {
    let end = Math.min(text.length, at + FIRST);
    if (end < text.length) {
      const line = text.lastIndexOf('\n', end);
      if (line > at + FIRST / 2) end = line + 1;
      else if (/[\ud800-\udbff]/.test(text[end - 1])) end--;
    }
    found.push(text.slice(at, end));
    at = end;
  }
  return found;
}

/** A text of any length. `plain`: as code, without mathematics. `marks`: for each word of it, whether it is set off (see node.js). */
export function Text({ text, plain = false, children }) {
  const [all, showAll] = useState(false);
  const [raw, showRaw] = useState(plain);
  if (!text) return html`<p class="quiet">empty</p>`;
  const left = { formulas: FORMULAS, marks: MARKS };
  const parts = blocks(text), shown = all ? parts : parts.slice(0, 1);
  const tools = [];
  if (!plain && mathematical(text.slice(0, 2 * FIRST))) {
    tools.push(html`<button type="button" class="small" aria-pressed=${raw} onClick=${() => showRaw(!raw)}>${raw ? 'as mathematics' : 'as written'}</button>`);
  }
  if (parts.length > 1 && !all) {
    tools.push(html`<button type="button" class="small" data-test="show-all" onClick=${() => showAll(true)}>show all (${count(text.length)} characters)</button>`);
  }
  return html`<div class=${plain ? 'words code' : 'words'}>
    ${children ?? shown.map((part) => html`<div dir="auto" class="block">${raw ? marked(part, left) : set(part, left)}</div>`)}
    ${tools.length > 0 && html`<p class="tools">${tools}</p>`}
  </div>`;
}

/** A short text within a line, cut after `most` characters. */
export function Line({ text, most = 300 }) {
  if (text === null || text === undefined) return '–';
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return html`<bdi class="line">${visible(cut).replaceAll('\n', ' ')}</bdi>`;
}
