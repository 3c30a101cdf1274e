"""How a question's tree is searched: the keys of every strategy.

Not covered: the strategies themselves (`orchestrator.strategies`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.part import Name, Part

Strategy = Literal["none", "beam", "greedy", "binary", "mcts", "curation", "random", "longest", "integration"]
_STEPS = {"samples", "max_step_tokens", "max_steps"}
_MIXED = {"quorum", "step_deadline_s"}
_TRACES = {"traces", "traces_of"}
_READS: dict[Strategy, set[str]] = {
    "none": set(),
    "beam": {"beam", "max_question_tokens"} | _STEPS | _MIXED,
    "greedy": {"max_question_tokens"} | _STEPS | _MIXED,
    "binary": {"beam", "max_question_tokens", "answers"} | _STEPS | _MIXED,
    "mcts": {"beam", "max_question_tokens", "iterations", "exploration"} | _STEPS,
    "curation": {"beam", "max_question_tokens"} | _TRACES,
    "random": {"beam", "max_question_tokens"} | _TRACES,
    "longest": {"beam", "max_question_tokens"} | _TRACES,
    "integration": {"integrator"} | _TRACES,
}
"""Which settings a strategy reads, beside those that all do."""
_ALL_READ = {"strategy", "segmentation", "max_think_tokens", "max_answer_tokens"}


class Search(Part):
    """How a question's tree is searched: CoRD's beam of steps, scored by predictive perplexity, or another way."""

    strategy: Strategy = "beam"
    """"beam"; "greedy": a beam of 1; "binary": a beam scored by the prover's own short answers; "mcts": Monte Carlo tree search;
    "curation", "random", "longest": whole traces, chosen from by score, by chance, by length; "integration": one from several;
    "none": no search, `sampling` only."""
    beam: int = Field(default=4, ge=1, le=256)
    """Beam width B; also how many finished hypotheses are kept as trajectories."""
    samples: int = Field(default=1, ge=1, le=64)
    """Proposals of each teacher for each beam."""
    segmentation: Literal["header", "line_break", "cue"] = "header"
    """Where a step ends: before the next `### Step`, at an empty line, or before a line that begins with a cue ("Wait", ...)."""
    traces: int = Field(default=4, ge=1, le=4096)
    """Whole traces: of each teacher, or of all together."""
    traces_of: Literal["each", "all"] = "each"
    """Whose `traces` are counted."""
    iterations: int = Field(default=16, ge=1)
    """Of mcts: how often a leaf is expanded."""
    exploration: float = Field(default=0.7, ge=0)
    """Of mcts: the weight of what is little known, in the upper confidence bound."""
    answers: int = Field(default=4, ge=1, le=64)
    """Of binary: short answers of the prover for each candidate."""
    integrator: Name | None = None
    """Of integration: the teacher that makes one reasoning from several; None: the first."""
    max_step_tokens: int = Field(default=2048, ge=1)
    """Cap on one step."""
    quorum: int | None = Field(default=None, ge=1)
    """A beam's step is decided when so many teachers have answered, without waiting for the others; None: all."""
    step_deadline_s: float | None = Field(default=None, gt=0)
    """A beam's step is decided after this long, with at least one proposal; None: it waits for its teachers."""
    max_steps: int = Field(default=64, ge=1)
    """Cap on the depth of the tree; a beam that is still open then does not finish."""
    max_think_tokens: int = Field(default=16_384, ge=1)
    """Think budget of one beam; when it is spent, `</think>` is appended."""
    max_answer_tokens: int = Field(default=4_096, ge=1)
    """Cap on the final answer."""
    max_question_tokens: int | None = Field(default=None, ge=1)
    """Generated tokens of one question's whole tree; when they are spent, the search of this question ends."""

    @property
    def whole_traces(self) -> bool:
        """Whether a teacher may be asked for all that is left of a reasoning at once."""
        return self.strategy not in ("beam", "greedy", "binary")

    @model_validator(mode="after")
    def _is_read(self) -> Search:
        read = _ALL_READ | _READS[self.strategy]
        for name, field in type(self).model_fields.items():
            if name not in read and getattr(self, name) != field.default:
                accepted = ", ".join(sorted(strategy for strategy, names in _READS.items() if name in names))
                raise ValueError(f"{name}: strategy {self.strategy!r} does not read it; those that do: {accepted}")
        return self
