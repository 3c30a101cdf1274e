"""One taxonomy of what can go wrong with a model, classified once, where an engine meets the outside.

EngineError
├── Retryable       the same request may succeed later (a crash, a closed connection)
│   ├── Throttled   too many requests, or a full server
│   ├── TimedOut    no answer within the deadline, or a stream that fell silent
│   └── Unreadable  the server answered, but not in a form that can be read
├── Terminal        the same request will fail again
│   ├── Overlong    prompt plus answer do not fit the context
│   └── Refused     the engine cannot do this at all (a prover without log-probs, a wrong key)
├── Quarantined     it failed in the same way too often: it is not asked again, in later lives of the run neither
├── Parked          the engine is not asked now: it fails for everyone, and is looked at from time to time
├── Late            a proposal that was still not there when its question ended
├── Withheld        the request was not sent
│   ├── BudgetSpent   the next call might cost more than is left
│   └── MissingCall   a replay has no row for it
└── Broken          the engine itself is gone: no request will ever succeed
ModelNotFound       no folder, cache, hub, wheel or server has the model: the environment's fault, before a run starts

The names are the values of the column `kind` of a `Failure`.
"""

from __future__ import annotations

from store.types import Failure, Usage


class EngineError(Exception):
    """Something went wrong with one request to an engine; the message is one line.

    `tries` is how often it was sent; `usage` the tokens that were spent all the same, where that is known; `request` the
    content key of the request.
    """

    tries: int = 1
    request: str = ""
    usage: Usage | None = None


class Retryable(EngineError):
    """The same request may succeed later: not before `after_s` seconds from now, if the server said so."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Throttled(Retryable):
    """Too many requests, or a server that is full; `counted` when it counts requests rather than being full."""

    def __init__(self, message: str, after_s: float | None = None, *, counted: bool = True) -> None:
        super().__init__(message, after_s)
        self.counted = counted


class TimedOut(Retryable):
    """No answer within the deadline."""


class Unreadable(Retryable):
    """The server's answer is not in the form that it should have."""


class Terminal(EngineError):
    """The same request will fail again."""


class Overlong(Terminal):
    """The prompt and what is asked for do not fit into the model's context."""


class Refused(Terminal):
    """The engine cannot do what was asked, whatever the input."""


class Quarantined(EngineError):
    """This request failed in the same way too often, in this life of the run or in an earlier one."""


class Parked(EngineError):
    """The engine fails for everyone: it is not asked until it answers again."""


class Late(EngineError):
    """The proposal was still not there when its question ended."""


class Withheld(EngineError):
    """The request was not sent, and will not be in this run as it is configured."""


class BudgetSpent(Withheld):
    """What is left of a budget may not cover the next call; `agent` is whose budget it is, None: the run's."""

    def __init__(self, message: str, agent: str | None = None) -> None:
        super().__init__(message)
        self.agent = agent


class MissingCall(Withheld):
    """A replay has no row for this request."""


class Broken(EngineError):
    """The engine itself is gone for good."""


class ModelNotFound(Exception):
    """A model could not be found anywhere that was looked at; the message says where."""


def again(failure: Failure) -> EngineError:
    """The error that a row tells of, to be raised once more."""
    kind = globals().get(failure.kind)
    error = (kind if isinstance(kind, type) and issubclass(kind, EngineError) else Terminal)(failure.message)
    error.tries = failure.tries
    return error
