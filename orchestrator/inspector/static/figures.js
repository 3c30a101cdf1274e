/**
 * Figures as a person reads them. Invariant: what was not measured is a dash, never a zero.
 */
const THIN = '\u202f';
export const NONE = '–';

const missing = (value) => value === null || value === undefined || Number.isNaN(value);

/** A count, its thousands apart. */
export function count(value) {
  if (missing(value)) return NONE;
  return String(Math.round(value)).replace('-', '−').replace(/\B(?=(\d{3})+(?!\d))/g, THIN);
}

/** A number with so many digits behind the point. */
export function number(value, digits = 2) {
  if (missing(value)) return NONE;
  const [whole, part] = Math.abs(value).toFixed(digits).split('.');
  const sign = value < 0 && (Number(whole) || Number(part)) ? '−' : '';
  return sign + count(Number(whole)) + (part ? `.${part}` : '');
}

/** A number of any size, with about three digits that say something. */
export function rough(value) {
  if (missing(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1).replace('-', '−');
  return size >= 100 || Number.isInteger(value) ? count(value) : number(value, size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

/** A number in few signs, for an axis. */
export function brief(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${rough(value / 1e9)}${THIN}G`;
  if (size >= 1e6) return `${rough(value / 1e6)}${THIN}M`;
  return size >= 1e4 ? `${rough(value / 1e3)}${THIN}k` : rough(value);
}

/** A share, in percent. */
export const percent = (value, digits = 0) => missing(value) ? NONE : `${number(100 * value, digits)}${THIN}%`;

/** A score in [0, 1]. */
export const score = (value) => missing(value) ? NONE : value.toFixed(3);

/** US dollars. */
export function money(value) {
  if (missing(value)) return NONE;
  return `$${THIN}${number(value, value !== 0 && Math.abs(value) < 0.1 ? 4 : 2)}`;
}

/** A length of time. */
export function span(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds < 0.001) return `<${THIN}1${THIN}ms`;
  if (seconds < 1) return `${count(1000 * seconds)}${THIN}ms`;
  if (seconds < 10) return `${number(seconds, Number.isInteger(seconds) ? 0 : 1)}${THIN}s`;
  if (seconds < 120) return `${count(seconds)}${THIN}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes}${THIN}min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours}${THIN}h ${minutes % 60}${THIN}min`;
  return `${Math.floor(hours / 24)}${THIN}d ${hours % 24}${THIN}h`;
}

let ahead = 0;

/** Set the page's clock by the server's. */
export const setClock = (now) => { ahead = now - Date.now() / 1000; };
/** Seconds since the epoch, by the server's clock. */
export const clock = () => Date.now() / 1000 + ahead;

/** How long ago; never in the future. */
export function ago(at) {
  const past = Math.floor(clock() - at);
  return past < 1 ? 'just now' : `${span(past)} ago`;
}

/** A moment, in full. */
export const moment = (at) => new Date(1000 * at).toLocaleString('en-GB', {
  year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', timeZoneName: 'short',
});

const WORDS = { wrong_answer: 'wrong answer', no_success: 'no success' };
/** A name of the store, as words. */
export const words = (name) => WORDS[name] ?? name.replaceAll('_', ' ');

/** One of something, or several. */
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
