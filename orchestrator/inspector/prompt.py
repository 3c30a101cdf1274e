"""A prompt as it was sent, made again: the ledger keeps whole turns by their hash, and the configuration has their words.

Invariant: turns are shown only if their hash is that of the request. Not covered: how an engine's template renders them; the
first prompt of each teacher as rendered lies in the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator

from agents import prompts
from agents.engines import base
from agents.ledger import turns_hash
from configs.schema import Asking, RunConfig
from orchestrator.inspector.shapes import Message, Prompt
from store.lines import CallWhole
from store.types import Question, Trajectory


def prompt_of(config: RunConfig, question: Question, call: CallWhole, judged: list[Trajectory]) -> Prompt:
    """The prompt of a call about a question; of a judge's, one of its trajectories is what was `judged`."""
    wanted, prefix = call.request.get("turns"), call.request.get("prefix", "")
    for made in _candidates(config, question, call, judged):
        if turns_hash(made.messages) == wanted:
            turns = [Message(role=each.role, content=each.content) for each in made.messages]
            return Prompt(turns=turns, prefix=prefix)
    return Prompt(turns=[], prefix=prefix)


def _candidates(config: RunConfig, question: Question, call: CallWhole, judged: list[Trajectory]) -> Iterator[base.Prompt]:
    asking, segmentation = _asking(config, call.line.agent), config.search.segmentation
    yield prompts.propose(question, (), asking, segmentation)
    for style in config.sampling.styles if config.sampling else ():
        yield prompts.styled(question, style, asking, segmentation)
    for trajectory in judged:
        yield prompts.judge(question, trajectory, config.judging)


def _asking(config: RunConfig, agent: str) -> Asking:
    agents = [*config.teachers, *((config.prover,) if config.prover else ())]
    return next((each.asking for each in agents if each.name == agent and each.asking), config.asking)
