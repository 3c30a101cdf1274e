/**
 * Asking something of the run: who asks, a button for each verb, and what came of it in one line.
 *
 * Invariant: nothing here is shown where the run cannot be controlled; without a token, pressing asks for one first.
 */
import { useContext, useEffect, useState } from 'preact/hooks';
import { control, Run, token } from './server.js';
import { html } from './text.js';

const BY = 'peripatos.by';

/** The name of who asks, remembered in this browser. */
export function By() {
  const [by, set] = useState(localStorage.getItem(BY) ?? '');
  const keep = (event) => { set(event.target.value); localStorage.setItem(BY, event.target.value); };
  return html`<label class="field by">Your name<input value=${by} onInput=${keep} maxlength="64" placeholder="somebody at the page" data-test="by-input" /></label>`;
}

/** Asks, and tells what came of it: [ask, told]. */
export function useAsking(giveToken) {
  const [told, tell] = useState(null);
  useEffect(() => {
    if (!told || told.wrong) return undefined;
    const timer = setTimeout(() => tell(null), 6000);
    return () => clearTimeout(timer);
  }, [told]);
  const ask = async (asked) => {
    if (!token()) { giveToken(); return false; }
    const by = localStorage.getItem(BY)?.trim();
    try {
      const { id } = await control(by ? { ...asked, by } : asked);
      tell({ text: `asked, as number ${id}` });
      return true;
    } catch (error) {
      tell({ text: error.message, wrong: true });
      return false;
    }
  };
  return [ask, told];
}

export const Told = ({ told }) => html`<span class=${told?.wrong ? 'wrong' : 'told'} role="status" data-test="told">${told?.text ?? ''}</span>`;

/** A button that asks one thing. */
export function Ask({ asked, giveToken, test, children, main = false }) {
  const run = useContext(Run), [ask, told] = useAsking(giveToken);
  if (!run.controls) return null;
  return html`<span class="ask"><button type="button" class=${main ? 'main' : 'small'} data-test=${test} data-subject=${asked.subject} onClick=${() => ask(asked)}>${children}</button><${Told} told=${told} /></span>`;
}

/** Set a key of the configuration while the run lives. */
export function Setting({ giveToken, keys }) {
  const [ask, told] = useAsking(giveToken), [key, choose] = useState(keys[0]);
  const submit = (event) => {
    event.preventDefault();
    void ask({ verb: 'set', subject: key, value: new FormData(event.target).get('value').trim() });
  };
  return html`<form class="setting" onSubmit=${submit} data-test="set-form">
    <label class="field">Set<select name="key" value=${key} onChange=${(event) => choose(event.target.value)} data-test="set-key">${keys.map((each) => html`<option>${each}</option>`)}</select></label>
    <label class="field">to<input name="value" required maxlength="64" autocomplete="off" data-test="set-value" placeholder=${key.includes('budget') ? 'a number, or null' : 'a number'} /></label>
    <button data-test="set-send">set</button><${Told} told=${told} />
  </form>`;
}

/** The keys that can be set while a run lives. */
export const settable = (run) => [
  'limits.questions', 'budget.usd', 'budget.tokens',
  ...run.agents.filter((each) => each.role === 'teacher').flatMap(({ name }) => [`teachers.${name}.budget.usd`, `teachers.${name}.budget.tokens`]),
  ...[...new Set(run.agents.map((each) => each.engine))].map((name) => `engines.${name}.limits.in_flight`),
];
