/**
 * The page itself: its head with the views and the connection, the view that the address names, the keys, the two dialogs.
 *
 * Invariant: no view is loaded before it is asked for, and none is drawn before the run is known. Not covered: what views show.
 */
import { render } from 'preact';
import { useEffect, useErrorBoundary, useRef, useState } from 'preact/hooks';
import { setClock } from './figures.js';
import { Badge, Wrong } from './parts.js';
import { follow, keepToken, onRefused, Run, takeToken, token, useConnection, useLive } from './server.js';
import { go, useRoute } from './route.js';
import { html, Line } from './text.js';

const VIEWS = {
  run: ['Run', () => import('./run.js')],
  questions: ['Questions', () => import('./questions.js')],
  trajectories: ['Trajectories', () => import('./trajectories.js')],
  students: ['Students', () => import('./students.js')],
  failures: ['Failures', () => import('./log.js')],
  controls: ['Controls', () => import('./log.js')],
};
const JUMPS = { r: 'run', q: 'questions', t: 'trajectories', s: 'students', f: 'failures', l: 'controls' };
const KEYS = [
  ['g then r, q, t, s, f, l', 'go to the run, questions, trajectories, students, failures, the log of controls'],
  ['/', 'go to the search field'],
  ['j, k', 'next, previous row of a list; Enter opens it'],
  ['arrow keys', 'in the tree: left to the parent, right to its best child, up and down among siblings'],
  ['Enter', 'in the tree: open the details of the node'],
  ['c', 'in the tree: mark the node for comparison with the open one'],
  ['+, −, 0', 'in the tree: nearer, further, all of it'],
  ['Esc', 'close what is open'],
  ['?', 'this help'],
];

function useTheme() {
  const [theme, set] = useState(localStorage.getItem('peripatos.theme') ?? 'auto');
  useEffect(() => {
    localStorage.setItem('peripatos.theme', theme);
    if (theme === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event('theme'));
  }, [theme]);
  return [theme, set];
}

const CONNECTION = { live: 'live', connecting: 'connecting…', reconnecting: 'reconnecting…', asleep: 'asleep' };

function Head({ run, view, help, open }) {
  const [theme, setTheme] = useTheme(), connection = useConnection();
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector('main').focus(); }}>to the content</a>
    <p class="name"><a href="#/run">Peripatos</a>${run && html`<span class="run-name"><${Line} text=${run.name} /></span> <${Badge} of=${run.state} test="state" />`}</p>
    <nav aria-label="Views">${Object.entries(VIEWS).map(([name, [title]]) => html`
      <a href=${`#/${name}`} aria-current=${view === name ? 'page' : undefined}>${title}</a>`)}</nav>
    <div class="aside">
      <span class=${`connection is-${connection}`} role="status" data-test="connection">${CONNECTION[connection]}</span>
      ${(run?.controls || token()) && html`<button type="button" class="small" onClick=${open} data-test="open-token">${token() ? 'token kept' : 'give token'}</button>`}
      <label class="theme"><span class="hidden">Theme</span><select value=${theme} onChange=${(event) => setTheme(event.target.value)} data-test="theme">
        <option value="auto">auto</option><option value="light">light</option><option value="dark">dark</option></select></label>
      <button type="button" class="small" onClick=${help} aria-label="Help: the keys" data-test="help-button">?</button>
    </div>
  </header>`;
}

function Modal({ open, close, title, test, children }) {
  const place = useRef(null);
  useEffect(() => {
    if (open && !place.current.open) place.current.showModal();
    if (!open && place.current.open) place.current.close();
  }, [open]);
  return html`<dialog ref=${place} onClose=${close} aria-labelledby=${`${test}-title`} data-test=${test}>
    <h2 id=${`${test}-title`}>${title}</h2>${children}
  </dialog>`;
}

function TokenForm({ close }) {
  const keep = (event) => {
    event.preventDefault();
    keepToken(new FormData(event.target).get('token'));
    close();
  };
  return html`<form onSubmit=${keep}>
    <p>Who controls a run, or reads one from another machine, needs its token: <code>http.token</code> in the configuration names the variable that holds it. It is kept in this tab only.</p>
    <label class="field">Token<input name="token" type="password" autocomplete="off" required data-test="token-input" /></label>
    <p class="tools"><button class="main" data-test="token-keep">keep it</button><button type="button" onClick=${close}>not now</button></p>
  </form>`;
}

function useKeys(help) {
  useEffect(() => {
    let jumping = 0;
    const pressed = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest?.('input, textarea, select, [contenteditable], dialog')) return;
      const key = event.key;
      if (Date.now() - jumping < 1500 && JUMPS[key]) go(`#/${JUMPS[key]}`);
      else if (key === '?') help();
      else if (key === '/') document.querySelector('[data-search]')?.focus();
      else if (key === 'j' || key === 'k') step(key === 'j' ? 1 : -1);
      else if (key !== 'g') return;
      jumping = key === 'g' ? Date.now() : 0;
      event.preventDefault();
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, []);
}

function step(by) {
  const rows = [...document.querySelectorAll('main [data-row]')].filter((each) => each.querySelector('a, button'));
  const at = rows.indexOf(document.activeElement?.closest('[data-row]'));
  const next = rows[at < 0 ? 0 : at + by];
  next?.querySelector('a, button').focus();
  next?.scrollIntoView({ block: 'nearest' });
}

const modules = {};

function useView(name) {
  const [, again] = useState(0);
  const known = VIEWS[name];
  useEffect(() => {
    if (!known || modules[name]) return;
    known[1]().then((found) => { modules[name] = found; again((n) => n + 1); }, (error) => { modules[name] = { error }; again((n) => n + 1); });
  }, [name]);
  return modules[name];
}

function View({ route, open }) {
  const [broken, mend] = useErrorBoundary((error) => console.error(error));
  const found = useView(route.view), place = `${route.view}/${route.id}`;
  useEffect(() => { if (broken) mend(); }, [place]);
  if (broken) return html`<${Wrong} error=${broken} />`;
  if (!VIEWS[route.view]) return html`<h1>Nothing here</h1><p>There is no view called <${Line} text=${route.view} />. <a href="#/run">To the run</a></p>`;
  if (!found) return html`<p class="quiet waiting">reading…</p>`;
  if (found.error) return html`<${Wrong} error=${found.error} />`;
  const Shown = found[route.view === 'controls' ? 'Controls' : 'default'];
  return html`<${Shown} key=${place} id=${route.id} params=${route.params} giveToken=${open} />`;
}

function Page() {
  const route = useRoute(), [dialog, show] = useState(null), main = useRef(null);
  const { data: run, error } = useLive('run', { poll: 5000 });
  if (run) setClock(run.now);
  const declined = useRef(false);
  useEffect(() => onRefused((pressed) => { if (pressed || !declined.current) show('token'); }), []);
  useKeys(() => show('help'));
  const place = `${route.view}/${route.id}`, was = useRef(place);
  useEffect(() => {
    const title = VIEWS[route.view]?.[0] ?? 'Nothing here';
    document.title = `${title}${run ? ` · ${run.name}` : ''} · Peripatos`;
    if (was.current === place) return;
    was.current = place;
    scrollTo(0, 0);
    main.current.focus({ preventScroll: true });
  }, [place, run?.name]);
  const close = () => { declined.current ||= dialog === 'token'; show(null); }, open = () => show('token');
  return html`<${Run.Provider} value=${run}>
    <${Head} run=${run} view=${route.view} help=${() => show('help')} open=${open} />
    <main id="main" ref=${main} tabindex="-1" class=${`view-${route.view}`}>
      ${run ? html`<${View} route=${route} open=${open} />` : error ? html`<h1>Not yet</h1><${Wrong} error=${error} /><p class="quiet">The page asks again by itself.</p>${error.status === 401 && html`<p><button type="button" class="main" onClick=${open}>give token</button></p>`}` : html`<p class="quiet waiting">reading the run…</p>`}
    </main>
    <${Modal} open=${dialog === 'token'} close=${close} title="Token" test="token-dialog">${dialog === 'token' && html`<${TokenForm} close=${close} />`}<//>
    <${Modal} open=${dialog === 'help'} close=${close} title="Keys" test="help">
      <dl class="keys">${KEYS.map(([key, does]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}</dl>
      <form method="dialog"><button class="main">close</button></form>
    <//>
  <//>`;
}

takeToken();
addEventListener('hashchange', takeToken);
render(html`<${Page} />`, document.getElementById('page'));
void follow();
