/**
 * Where the page is: a view, what of it, and every filter and selection, all in the address after `#`.
 *
 * Invariant: the address alone brings the same view back; back and forward work because a view is only ever drawn from it.
 */
import { useEffect, useState } from 'preact/hooks';

/** The route of an address: {view, id, params}. */
export function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [view, ...rest] = path.split('/');
  return { view: view || 'run', id: rest.length ? decoded(rest.join('/')) : null, params: new URLSearchParams(query) };
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

/** The address of a view; of `params`, what is null, '' or false is left out. */
export function link(view, id = null, params = {}) {
  const found = params instanceof URLSearchParams ? params : new URLSearchParams();
  if (found !== params) for (const [name, value] of Object.entries(params)) put(found, name, value);
  const query = found.toString();
  return `#/${view}${id === null ? '' : `/${encodeURIComponent(id)}`}${query ? `?${query}` : ''}`;
}

function put(params, name, value) {
  params.delete(name);
  for (const each of Array.isArray(value) ? value : [value]) {
    if (each !== null && each !== undefined && each !== '' && each !== false) params.append(name, each);
  }
}

/** The address of this view with some params changed. */
export function changed(changes) {
  const { view, id, params } = parse(location.hash);
  for (const [name, value] of Object.entries(changes)) put(params, name, value);
  return link(view, id, params);
}

/** Go to an address; `replace`: without a new entry in the history. */
export function go(address, { replace = false } = {}) {
  if (address === location.hash) return;
  if (!replace) { location.hash = address; return; }
  history.replaceState(null, '', address);
  dispatchEvent(new Event('hashchange'));
}

/** Change some params here. */
export const change = (changes, how = { replace: true }) => go(changed(changes), how);

/** The current route, as it changes. */
export function useRoute() {
  const [route, set] = useState(() => parse(location.hash));
  useEffect(() => {
    const seen = () => set(parse(location.hash));
    addEventListener('hashchange', seen);
    return () => removeEventListener('hashchange', seen);
  }, []);
  return route;
}
