"""One taxonomy of what can go wrong with a model, classified once, where an engine meets the outside.

EngineError
├── Retryable       the same request may succeed later (a crash, a time-out, a full server)
│   └── Unreadable  the server answered, but not in a form that can be read
├── Terminal        the same request will fail again
│   ├── Overlong    prompt plus answer do not fit the context
│   └── Refused     the engine cannot do this at all (a prover without log-probs, a wrong key)
└── Broken          the engine itself is gone: no request will ever succeed, the run ends with this cause
ModelNotFound       no folder, cache, hub, wheel or server has the model: the environment's fault, before a run starts
"""


class EngineError(Exception):
    """Something went wrong with one request to an engine; the message is one line."""


class Retryable(EngineError):
    """The same request may succeed later: not before `after_s` seconds from now, if the server said so."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Unreadable(Retryable):
    """The server's answer is not in the form that it should have."""


class Terminal(EngineError):
    """The same request will fail again."""


class Overlong(Terminal):
    """The prompt and what is asked for do not fit into the model's context."""


class Refused(Terminal):
    """The engine cannot do what was asked, whatever the input."""


class Broken(EngineError):
    """The engine itself is gone for good."""


class ModelNotFound(Exception):
    """A model could not be found anywhere that was looked at; the message says where."""
