/**
 * The server, as the page sees it: requests with the token, and the feed that says what has changed.
 *
 * Invariant: whoever reads through `steady` never has two requests of one kind in flight, waits between them, and asks nothing
 * while the page is hidden. A change between two connections is not missed: the feed goes on after the last number it saw.
 */
import { createContext } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

const TOKEN = 'peripatos.token';
const SILENCE_MS = 25000; // the server says something every 10 s

/** The run at a glance, for every view. */
export const Run = createContext(null);

/** A request that was refused, with what the server said in one line. */
export class Refused extends Error {
  constructor(status, detail) {
    super(said(detail) || `the server answered ${status}`);
    this.status = status;
  }
}

const said = (detail) => Array.isArray(detail) ? detail.map((each) => each.msg).join('; ') : detail;

/** The token of this tab; '' for none. */
export const token = () => sessionStorage.getItem(TOKEN) ?? '';

/** Keep a token for this tab, and read everything again with it. */
export function keepToken(value) {
  sessionStorage.setItem(TOKEN, value.trim());
  hurry();
  tell(ticked, { kinds: {}, questions: [], students: [], reset: true });
}

/** Take the token out of the address, where `#token=...` brought it, so that it is not shared with a link. */
export function takeToken() {
  const found = /^#token=([^&/]*)[&/]?(.*)$/.exec(location.hash);
  if (!found) return;
  keepToken(decodeURIComponent(found[1]));
  history.replaceState(null, '', `#/${found[2].replace(/^\//, '')}`);
}

async function ask(path, options) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  const answer = await fetch(path, { cache: 'no-store', ...options, headers });
  if (answer.ok) return answer;
  if (answer.status === 401) tell(refused, options.method === 'POST');
  const detail = await answer.json().then((told) => told.detail, () => '');
  throw new Refused(answer.status, detail);
}

/** What is at a path under /api, as JSON. Throws `Refused`. */
export const get = (path, signal) => ask(`/api/${path}`, { signal }).then((answer) => answer.json());

/** Ask something of the run. Throws `Refused`. */
export const control = (asked) => ask('/api/control', {
  method: 'POST', body: JSON.stringify(asked), headers: { 'content-type': 'application/json' },
}).then((answer) => answer.json());

/** A path with its query; what is null, '' or an empty list is left out. */
export function query(path, about) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(about)) {
    for (const each of Array.isArray(value) ? value : [value]) if (each !== null && each !== undefined && each !== '') found.append(name, each);
  }
  return found.size ? `${path}?${found}` : path;
}

const ticked = new Set(), states = new Set(), refused = new Set();
let state = 'connecting', wake = () => {};

function tell(listeners, news) {
  for (const each of [...listeners]) each(news);
}

const listen = (listeners) => (listener) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

/** Call with every tick, until the returned function is called. */
export const onTick = listen(ticked);
/** Call whenever a token is missing or wrong, with whether a person had just asked for something. */
export const onRefused = listen(refused);

function become(next) {
  if (next !== state) tell(states, state = next);
}

/** How the connection stands: connecting, live, reconnecting, asleep. */
export function useConnection() {
  const [shown, show] = useState(state);
  useEffect(() => listen(states)(show), []);
  return shown;
}

function hurry() {
  wake();
}

const pause = (ms) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  wake = () => { clearTimeout(timer); done(); };
});

/** Follow the feed as long as the page lives. */
export async function follow() {
  let run = null, seen = null, wait = 500;
  for (;;) {
    try {
      const now = await get('run');
      if (run !== null && (now.id !== run || now.seq < seen)) {
        seen = null;
        tell(ticked, { kinds: {}, questions: [], students: [], reset: true });
      }
      run = now.id;
      seen ??= now.seq;
      await stream(seen, (event) => {
        wait = 500;
        become('live');
        seen = event.seq;
        if (event.kinds) tell(ticked, { ...event, reset: Boolean(event.kinds.reset || event.more) });
      });
    } catch { /* told by the state */ }
    if (document.hidden) {
      become('asleep');
      await new Promise((done) => document.addEventListener('visibilitychange', done, { once: true }));
      continue;
    }
    become('reconnecting');
    await pause(wait);
    wait = Math.min(2 * wait, 5000);
  }
}

async function stream(after, heard) {
  const stop = new AbortController();
  let watch;
  const alive = () => { clearTimeout(watch); watch = setTimeout(() => stop.abort(), SILENCE_MS); };
  const hide = () => { if (document.hidden) setTimeout(() => document.hidden && stop.abort(), 5000); };
  document.addEventListener('visibilitychange', hide);
  try {
    alive();
    const answer = await ask(`/api/stream?after=${after}`, { signal: stop.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ''; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const parts = (rest + value).split('\n\n');
      rest = parts.pop();
      for (const part of parts) {
        const data = /^data: (.*)$/m.exec(part);
        if (data) heard(JSON.parse(data[1]));
      }
    }
  } finally {
    clearTimeout(watch);
    document.removeEventListener('visibilitychange', hide);
  }
}

/** Runs `load` when asked to, once at a time, `every` ms apart, and not while the page is hidden. */
export function steady(load, every) {
  let timer = null, busy = false, wanted = false, last = -Infinity, ended = false;
  const go = async () => {
    timer = null;
    if (document.hidden) return;
    busy = true; wanted = false; last = performance.now();
    try { await load(); } catch { /* told by load */ }
    busy = false;
    if (wanted) soon();
  };
  const soon = () => {
    wanted = true;
    if (timer === null && !busy && !ended) timer = setTimeout(go, Math.max(0, last + every() - performance.now()));
  };
  const seen = () => { if (wanted && !document.hidden) soon(); };
  document.addEventListener('visibilitychange', seen);
  return {
    soon,
    stop: () => { ended = true; wanted = false; clearTimeout(timer); document.removeEventListener('visibilitychange', seen); },
  };
}

const always = () => true;

/** What is at a path, read again when a tick concerns it (`every` ms apart), and every `poll` ms anyway; null: read nothing. */
export function useLive(path, { concerns = always, every = 1000, poll = 0 } = {}) {
  const [found, set] = useState({ path: null, data: null, error: null });
  const asked = useRef(concerns);
  asked.current = concerns;
  useEffect(() => {
    if (path === null) return undefined;
    const stop = new AbortController();
    const reader = steady(async () => {
      try {
        const data = await get(path, stop.signal);
        set({ path, data, error: null });
      } catch (error) {
        if (!stop.signal.aborted) set((was) => ({ path, data: was.path === path && error.status !== 404 ? was.data : null, error }));
      }
    }, () => every);
    reader.soon();
    const off = onTick((tick) => { if (tick.reset || asked.current(tick)) reader.soon(); });
    const timer = poll ? setInterval(reader.soon, poll) : 0;
    return () => { stop.abort(); reader.stop(); off(); clearInterval(timer); };
  }, [path, every, poll]);
  return found.path === path ? found : { path, data: null, error: null };
}
