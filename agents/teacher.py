"""A teacher proposes next steps and, for a reasoning that it closed, writes the final answer (CoRD, section 1 of methods).

Invariant: what it draws depends only on the run's seed and on (question, steps so far, teacher), never on timing, nor on the
rest of the configuration: runs that share a ledger share these calls.
Not covered: which step is kept (`orchestrator.search`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from agents import prompts
from agents.engines.base import Completion
from agents.ledger import Ledger, Model
from agents.steps import END, STOPS, step_of
from configs import schema
from store.types import Candidate, Question, Usage, content_id

Writes = Literal["step", "rest", "merged"]
"""What a teacher is asked for: the next step, all that is left of the reasoning, or one reasoning from several."""


class Teacher:
    """One teacher of a run: a model, how it is asked and how it samples. `index` breaks ties between equal scores."""

    def __init__(
        self,
        *,
        config: schema.Teacher,
        index: int,
        model: Model,
        asking: schema.Asking,
        search: schema.Search,
        seed: int,
        sampling: schema.Sampling | None = None,
    ) -> None:
        self.name = config.name
        self.leaves_when_spent = config.budget.when_spent == "leave"
        self.index = index
        self.asking = asking
        self.model = model
        self._config = config
        self._search = search
        self._sampling = sampling or schema.Sampling()
        self._seed = seed

    async def propose(
        self,
        ledger: Ledger,
        question: Question,
        *,
        parent: str | None,
        steps: Sequence[str],
        budget: int,
        writes: Writes = "step",
        samples: int = 1,
        draw: int = 0,
        traces: Sequence[str] = (),
        style: schema.Style | None = None,
        waits: bool = True,
    ) -> list[Candidate]:
        """What may come after `steps`, at most `budget` tokens each: up to `samples` candidates, empty ones left out.

        The rest of a reasoning is one candidate, as a step is; `merged` is made from `traces`; one in a `style` is drawn as the
        run's `sampling` says. `draw` tells equal requests apart. Raises `EngineError` when the engine cannot answer;
        `waits` while it is parked, or raises `Parked`.
        """
        segmentation, whole = self._search.segmentation, writes != "step"
        if writes == "merged":
            prompt = prompts.integrate(question, traces, self.asking, segmentation)
        elif style is not None:
            prompt = prompts.styled(question, style, self.asking, segmentation)
        else:
            prompt = prompts.propose(question, steps, self.asking, segmentation)
        drawn = self._config if style is None else self._sampling
        told = ("style", style, str(draw)) if style is not None else (writes, str(draw), *traces) if whole else ()
        completions = await ledger.generate(
            self.model,
            "propose",
            prompt,
            agent=self.name,
            waits=waits,
            n=samples,
            max_tokens=budget if whole else min(self._search.max_step_tokens, budget),
            stop=(END,) if whole else STOPS[segmentation],
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            seed=self._seed_for(question, len(steps), *steps, *told),
        )
        return [candidate for each in completions if (candidate := self._candidate(each, parent, len(steps) + 1, style))]

    def _candidate(self, completion: Completion, parent: str | None, index: int, style: str | None) -> Candidate | None:
        step = step_of(completion, index=index, author=self.name, segmentation=self._search.segmentation)
        if step is None:
            return None
        usage = completion.usage
        return Candidate(parent=parent, step=step, usage=usage, authors=(self.name,), cost=self.cost(usage), style=style)

    def cost(self, usage: Usage) -> float | None:
        """US dollars; None where no price is known."""
        price = self.model.price
        return price.of(usage.prompt, usage.completion, usage.cached) if price else None

    async def conclude(self, ledger: Ledger, question: Question, *, text: str, waits: bool = True) -> tuple[str, Usage]:
        """What follows `</think>` for the closed reasoning `text`, the answer's lead included.

        Raises `EngineError`; `waits` while the engine is parked, or raises `Parked`.
        """
        (completion,) = await ledger.generate(
            self.model,
            "answer",
            prompts.conclude(question, text, self.asking, self._search.segmentation),
            agent=self.name,
            waits=waits,
            n=1,
            max_tokens=self._search.max_answer_tokens,
            stop=("\n",) if self.asking.answer_prefix else (),
            temperature=0.0,
            top_p=1.0,
            seed=self._seed_for(question, -1, text),
        )
        return (self.asking.answer_prefix + completion.text).strip(), completion.usage

    def _seed_for(self, question: Question, depth: int, *text: str) -> int:
        return int(content_id("seed", self._seed, question.id, depth, *text, self.name)[:15], 16)
