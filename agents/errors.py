"""One taxonomy of what can go wrong with a model, classified once, where an engine meets the outside.

EngineError
├── Retryable     the same request may succeed later (a crash, a time-out, a full server)
├── Terminal      the same request will fail again
│   ├── Overlong  prompt plus answer do not fit the context
│   └── Refused   the engine cannot do this at all (a prover without log-probs)
└── Broken        the engine itself is gone: no request will ever succeed, the run ends with this cause
ModelNotFound     no folder, cache, hub or wheel has the model: the environment's fault, before a run starts
"""


class EngineError(Exception):
    """Something went wrong with one request to an engine; the message is one line."""


class Retryable(EngineError):
    """The same request may succeed later."""


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
