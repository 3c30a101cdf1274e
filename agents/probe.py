"""What an engine can really do, found out by asking it before a run spends anything.

    one greedy answer         no answer at all is the engine's own error
    the same, with a stop     alone too: beside other requests a greedy text is often another one
    then, all at once         max_tokens | n | seed | a prefix continued | log-probs of given answers
    and without asking        context length, fingerprints, exactly one `<think>`

A server that ignores a parameter says nothing: it is asked so that the parameter must show. What would spoil every reasoning is a
fault; what a run can live with (a seed that is ignored) is only told, and so is what a small model does not know.
Invariant: a fault is what was seen, never a guess: what could not be tried is told as that.
Not covered: whether a model reasons well.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Engine, Message, Prompt, together
from agents.errors import Broken, EngineError, Retryable, Terminal, Unreadable
from agents.prover import predictive_perplexity
from store.reasoning import THINK_OPEN, open_reasoning

T = TypeVar("T")

TOLERANCE = 0.25
"""Greatest difference, per token, of two log-probs that should be equal: bfloat16 moves them by up to 0.2 between modes."""
ROUNDING = 1 / 32
"""What is added to it, as a share of the log-prob: bfloat16 rounds logits to 8 bits, and an unlikely token's are far apart."""
STORY = Prompt(
    messages=(Message(role="user", content="Tell a strange story that nobody has heard before."),), prefix=open_reasoning(())
)
FRANCE = Prompt(messages=(Message(role="user", content="Name the capital of France."),), prefix="The capital of France is")
KNOWN = (" Paris", " table")
"""Continuations of `FRANCE`, the right one first."""

_PARAMETERS = ("stop", "max_tokens", "n", "seed")
_TOKENS = 24
_SAMPLED_TOKENS = 16
_MANY_TOKENS = 256
"""For a model that has written nothing in `_TOKENS`: some reason where nobody sees it."""
_FEW_TOKENS = 4
_SLACK = 8
"""Tokens that a count may be off: servers count ends of turns, and we guess where they do not count."""
_LONGEST_OF_FEW = 200
"""Characters that `_FEW_TOKENS` hardly exceed, for servers that count wrongly or not at all."""
_SAMPLES = 3
_STOP_LENGTH = 5
_TRIES_OF_STOP = 2
_MOST_CONTEXT = 1 << 30
"""Context lengths from here on mean that none is known."""
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `good` is None when it is only told."""

    name: str
    good: bool | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """All that was found out about one engine."""

    findings: tuple[Finding, ...]

    def line(self) -> str:
        """One line for people: what it is, what is wrong, what it does and what it ignores."""
        honoured = [finding.name for finding in self.findings if finding.good and finding.name in _PARAMETERS]
        told = [_told(finding) for finding in sorted(self.findings, key=_place) if finding.name not in honoured]
        return _one_line("; ".join([*told, f"honours {', '.join(honoured)}"] if honoured else told))

    @property
    def faults(self) -> list[str]:
        """Why it cannot be used as a teacher at all, a line each; empty when it can."""
        return [_one_line(finding.text) for finding in self.findings if finding.good is False and finding.name != "scores"]

    @property
    def cannot_prove(self) -> str | None:
        """Why it cannot be the prover, in one line; None when it can."""
        untried = [f.text for f in self.findings if f.name == "scores" and f.good is None]
        wrong = [f.text for f in self.findings if f.name in ("answers", "think", "scores") and f.good is False]
        return next((_one_line(text) for text in untried + wrong), None)


async def probe(engine: Engine, *, tries: int = 3) -> Probe:
    """Ask an open engine. Raises `EngineError` when it does not answer, or breaks meanwhile."""
    asking = _Asking(engine, tries)
    heard = await _first_answer(asking)
    basics = [_model(engine.capabilities), _think(engine, heard)]
    if not heard.whole.text.strip():
        silent = Finding(name="answers", good=False, text=f"answers nothing ({heard.whole.usage.completion} tokens without text)")
        return Probe(findings=(*basics, silent))
    stop = await _settled("stop", _stop(asking, heard))
    looks = {
        "max_tokens": _max_tokens(asking),
        "n": _samples(asking),
        "seed": _seed(asking),
        "continues": _continues(asking),
        "scores": _scores(asking),
    }
    found = await together([_settled(name, look) for name, look in looks.items()])
    return Probe(findings=(*basics, *stop, *(finding for findings in found for finding in findings)))


class _Asking:
    """Requests to one engine, tried again within bounds."""

    def __init__(self, engine: Engine, tries: int) -> None:
        self.engine = engine
        self._tries = tries

    async def write(self, prompt: Prompt, max_tokens: int, *, temperature: float = 0.0, **sampling: Any) -> list[Completion]:
        """`Engine.generate`; greedy unless told otherwise."""
        return await self._tried(lambda: self.engine.generate(prompt, max_tokens=max_tokens, temperature=temperature, **sampling))

    async def score(self, answer: str, context: Prompt = FRANCE) -> AnswerLogprobs:
        """`Engine.answer_logprobs`."""
        return await self._tried(lambda: self.engine.answer_logprobs(context, answer))

    async def _tried(self, ask: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, self._tries):
            try:
                return await ask()
            except Retryable as error:
                wait_s = max(_FIRST_WAIT_S * 2 ** (attempt - 1), error.after_s or 0.0)
                await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
        return await ask()


async def _settled(name: str, look: Coroutine[Any, Any, list[Finding]]) -> list[Finding]:
    """Findings, also of a look that met an error; a server that was merely busy proves nothing."""
    try:
        return await look
    except Broken:
        raise
    except (Terminal, Unreadable) as error:
        return [Finding(name=name, good=False, text=f"{name} cannot be used: {error}")]
    except EngineError as error:
        return [Finding(name=name, good=None, text=f"{name} could not be tried: {error}")]


@dataclass(frozen=True, slots=True)
class _Heard:
    """The first greedy answer, and how it was asked for."""

    prompt: Prompt
    max_tokens: int
    whole: Completion


async def _first_answer(asking: _Asking) -> _Heard:
    heard = None
    for prompt, max_tokens in ((STORY, _TOKENS), (STORY, _MANY_TOKENS), (FRANCE, _TOKENS)):
        (whole,) = await asking.write(prompt, max_tokens)
        heard = _Heard(prompt, max_tokens, whole)
        if whole.text.strip():
            break
    assert heard
    return heard


def _model(able: Capabilities) -> Finding:
    context = f"{able.context_tokens} tokens" if 0 < able.context_tokens < _MOST_CONTEXT else "context of unknown length"
    prints = [f"{name} {value}" for name, value in (("template", able.template), ("tokenizer", able.tokenizer)) if value]
    text = ", ".join([f"{able.model} on {able.device} in {able.dtype}", context, able.found, *prints])
    return Finding(name="model", good=None, text=text)


def _think(engine: Engine, heard: _Heard) -> Finding:
    """Template and prefix may both open the reasoning; a model that begins it anew has not seen the prefix."""
    try:
        shown = engine.shown(Prompt(messages=STORY.messages, prefix=THINK_OPEN))
    except Terminal as error:
        return Finding(name="think", good=False, text=str(error))
    opened = shown.count(THINK_OPEN.strip())
    if opened != 1:
        return Finding(name="think", good=False, text=f"its prompt holds {opened} <think> where one belongs")
    if heard.whole.text.lstrip().startswith(THINK_OPEN.strip()):
        return Finding(name="think", good=False, text="opens a second <think> instead of going on in the first")
    return Finding(name="think", good=True, text="one <think>")


async def _stop(asking: _Asking, heard: _Heard) -> list[Finding]:
    """Ask again for the same text, with a stop string out of its middle."""
    whole = heard.whole
    for _ in range(_TRIES_OF_STOP):
        stop = _out_of_the_middle(whole.text)
        if stop is None:
            return [Finding(name="stop", good=None, text=f"stop could not be tried: it wrote only {whole.text!r}")]
        (stopped,) = await asking.write(heard.prompt, heard.max_tokens, stop=(stop,))
        if judged := _judged(whole, stopped, stop):
            return [judged]
        (whole,) = await asking.write(heard.prompt, heard.max_tokens)
    return [Finding(name="stop", good=None, text="stop could not be tried: its greedy text differs from one time to the next")]


def _out_of_the_middle(text: str) -> str | None:
    """A few characters that do not occur before the middle of `text`, and end well before its end."""
    middle = len(text) // 2
    places = sorted(range(len(text) // 4, 3 * len(text) // 4 - _STOP_LENGTH), key=lambda at: abs(at - middle))
    for at in places:
        piece = text[at : at + _STOP_LENGTH]
        if text.find(piece) == at and piece == piece.strip() and "\ufffd" not in piece:
            return piece
    return None


def _judged(whole: Completion, stopped: Completion, stop: str) -> Finding | None:
    """None when the text before the stop is another one than before."""
    expected = whole.text[: whole.text.index(stop)]
    if stop in stopped.text:
        return Finding(name="stop", good=False, text=f"ignores stop: it wrote on after {stop!r}")
    if stopped.text != expected:
        return None
    if stopped.finish != "stop":
        return Finding(name="stop", good=False, text="does not tell a stop string from the end of the turn")
    if stopped.usage.completion >= whole.usage.completion > _SLACK:  # the engine cut what came after it
        wasted = f"it writes on after {stop!r}, {stopped.usage.completion} tokens in all"
        return Finding(name="stop", good=False, text=f"ignores stop: {wasted}")
    return Finding(name="stop", good=True, text="honours stop")


async def _max_tokens(asking: _Asking) -> list[Finding]:
    (short,) = await asking.write(STORY, _FEW_TOKENS)
    num_tokens = short.usage.completion
    if num_tokens > _FEW_TOKENS + _SLACK or len(short.text) > _LONGEST_OF_FEW:
        text = f"ignores max_tokens: {num_tokens} tokens, {len(short.text)} characters for {_FEW_TOKENS} tokens"
        return [Finding(name="max_tokens", good=False, text=text)]
    return [Finding(name="max_tokens", good=True, text="honours max_tokens")]


async def _samples(asking: _Asking) -> list[Finding]:
    try:
        found = await asking.write(STORY, _SAMPLED_TOKENS, n=_SAMPLES, temperature=1.0, seed=11)
    except Unreadable as error:
        return [Finding(name="n", good=False, text=f"ignores n: asked for {_SAMPLES} samples, {error}")]
    if len(found) != _SAMPLES:
        return [Finding(name="n", good=False, text=f"ignores n: {len(found)} samples where {_SAMPLES} were asked for")]
    if len({completion.text for completion in found}) == 1:
        return [Finding(name="n", good=None, text="n repeats one sample")]
    return [Finding(name="n", good=True, text="honours n")]


async def _seed(asking: _Asking) -> list[Finding]:
    asked = [asking.write(STORY, _SAMPLED_TOKENS, temperature=1.0, seed=seed) for seed in (1, 1, 2, 2)]
    first, again, other, other_again = [completion.text for (completion,) in await together(asked)]
    if first != again and other != other_again:  # one pair may differ: a rounding, which depends on the batch, can tip a token
        return [Finding(name="seed", good=None, text="ignores seed: sampled text differs from run to run")]
    if {first, again} & {other, other_again}:
        return [Finding(name="seed", good=None, text="ignores seed: two seeds draw the same text")]
    return [Finding(name="seed", good=True, text="honours seed")]


async def _continues(asking: _Asking) -> list[Finding]:
    (completion,) = await asking.write(FRANCE, _SLACK)
    if completion.text.lstrip().startswith(FRANCE.prefix):
        text = f"repeats the prefix instead of continuing it: {completion.text!r}"
        return [Finding(name="continues", good=False, text=text)]
    how = "continues" if asking.engine.capabilities.continues else "asked in words, continues"
    return [Finding(name="continues", good=True, text=f"{how} {FRANCE.prefix!r} with {completion.text!r}")]


async def _scores(asking: _Asking) -> list[Finding]:
    """The same answers in two orders, so that what a cache keeps cannot leak into a score unseen."""
    able = asking.engine.capabilities
    if not able.scores:
        return [Finding(name="scores", good=None, text=able.why_not or "it gives no log-probs of a given answer")]
    right, wrong = [(await asking.score(answer)).values for answer in KNOWN]
    again = [(await asking.score(answer)).values for answer in reversed(KNOWN)]
    reason = _untrue(right, wrong) or _changed(right, again[1]) or _changed(wrong, again[0])
    if reason:
        return [Finding(name="scores", good=False, text=reason)]
    second = await _second_way(asking)
    if second.good is False:
        return [second]
    told = f"scores Paris {predictive_perplexity(right):.3f}, table {predictive_perplexity(wrong):.3f}"
    findings = [Finding(name="scores", good=True, text=told), second]
    if predictive_perplexity(right) < predictive_perplexity(wrong):
        findings.append(Finding(name="known answer", good=None, text="finds a wrong capital of France likelier than Paris"))
    return findings


def _untrue(right: tuple[float, ...], wrong: tuple[float, ...]) -> str:
    """Why these cannot be log-probs of two answers; "" when they may be."""
    if not right or not wrong:
        return "it gives no log-probs of a given answer"
    if not all(math.isfinite(value) and value <= 0 for value in right + wrong):
        return f"what it gives are no log-probs: {[*right, *wrong]}"
    if not any(right + wrong):
        return "its log-probs of given answers are all 0, whatever the answer"
    if right == wrong or len({*right, *wrong}) == 1:
        return f"it gives every answer the same log-probs: {[*right]}"
    return ""


def _changed(first: tuple[float, ...], again: tuple[float, ...]) -> str:
    """How one answer's log-probs differ from one time to the next; "" when they do not."""
    pairs = zip(first, again, strict=False)
    if len(first) == len(again) and all(abs(a - b) <= TOLERANCE + ROUNDING * abs(a) for a, b in pairs):
        return ""
    return f"its log-probs of one answer change with what was asked before: {[*first]}, then {[*again]}"


async def _second_way(asking: _Asking) -> Finding:
    """Log-probs that came with written text against the scores of the same text; refused only if no text agrees.

    A text may be cut into other tokens when it is read than when it was written: then nothing can be compared.
    """
    differences = []
    for prompt in (FRANCE, STORY):
        off = await _difference(asking, prompt)
        if off is not None and off <= TOLERANCE:
            return Finding(name="second way", good=True, text="scores agree with the log-probs of what it writes")
        if off is not None:
            differences.append(off)
    if differences:
        text = f"its scores differ from the log-probs of what it writes, by {min(differences):.2f} a token"
        return Finding(name="scores", good=False, text=text)
    return Finding(name="second way", good=None, text="its scores could not be compared with the log-probs of what it writes")


async def _difference(asking: _Asking, prompt: Prompt) -> float | None:
    """Of the two sums, per token; None where they are not of the same tokens."""
    try:
        (written,) = await asking.write(prompt, _FEW_TOKENS, logprobs=True)
    except Terminal:
        return None
    if not written.logprobs or not written.text.startswith(" "):  # a first token without a blank may join the prefix
        return None
    scored = (await asking.score(written.text, prompt)).values
    if len(scored) != len(written.logprobs):
        return None
    return abs(math.fsum(scored) - math.fsum(written.logprobs)) / len(scored)


def _told(finding: Finding) -> str:
    return f"cannot be the prover: {finding.text}" if finding.name == "scores" and not finding.good else finding.text


def _place(finding: Finding) -> int:
    """In the line: first what it is, then what is wrong with it."""
    if finding.name == "model":
        return 0
    return 1 if finding.good is False or (finding.name == "scores" and not finding.good) else 2


def _one_line(text: str) -> str:
    return " ".join(text.split())
