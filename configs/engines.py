"""How a model is reached: the keys of every kind of engine.

Invariant: what only changes how fast an engine answers, or from where, is not part of a run's identity (`lasting`).
Not covered: the engines themselves (`agents.engines`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.part import Part

HARMLESS_OF_ENGINE = ("max_batch", "prefix_cache_mb", "latency_s", "url", "key", "deadline_s", "silence_s")
"""Keys of an engine that may differ too: they change how fast it answers, and from where, not what."""
HARMLESS_OF_SERVER = ("command", "env", "start_s", "restarts")
"""Keys of a managed server that may differ too."""


class TransformersEngine(Part):
    """A model run in this process by transformers, on CPU or GPU, with continuous batching and prefix reuse."""

    kind: Literal["transformers"]
    """Chooses this engine."""
    model: str
    """A folder, or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": the first GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """"auto": bfloat16 where the device computes in it, else float32."""
    max_batch: int = Field(default=48, ge=1, le=1024)
    """Requests computed at the same time."""
    prefix_cache_mb: int = Field(default=512, ge=0)
    """Memory for keys and values of past prefixes, in MiB."""


class ScriptedEngine(Part):
    """Deterministic answers from a seed: no model. For trying a configuration, for tests and for measuring overhead."""

    kind: Literal["scripted"]
    """Chooses this engine."""
    seed: int = 0
    """Changes every answer."""
    latency_s: float = Field(default=0.0, ge=0)
    """How long every call takes."""
    skill: float = Field(default=0.6, ge=0, le=1)
    """How likely a step is right."""
    steps: int = Field(default=3, ge=1, le=64)
    """Steps of a whole reasoning."""
    failure_rate: float = Field(default=0.0, ge=0, le=1)
    """How many calls fail, at random but the same ones each time."""


class ManagedServer(Part):
    """A vLLM or SGLang server that the run starts, watches, restarts and ends."""

    kind: Literal["vllm", "sglang"]
    """Which program."""
    model: str
    """A folder, or a hub id."""
    command: tuple[str, ...] | None = None
    """How the program is started, in an environment of its own; None: `vllm serve`, or `python -m sglang.launch_server`."""
    args: tuple[str, ...] = ()
    """More arguments, as the program spells them."""
    env: dict[str, str] = Field(default_factory=dict)
    """More environment variables."""
    start_s: float = Field(default=600.0, gt=0)
    """How long it may take until it answers."""
    restarts: int = Field(default=5, ge=0)
    """How often in a row it is started again after it died."""


class OpenAIEngine(Part):
    """A model behind an OpenAI-compatible server: vLLM, SGLang, or another."""

    kind: Literal["openai"]
    """Chooses this engine."""
    url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/\S*)?$")
    """Where the server is, such as http://127.0.0.1:8000; a /v1 at the end is left out."""
    server: ManagedServer | None = None
    """Instead of `url`: a server that the run starts itself."""
    model: str = Field(min_length=1)
    """The name that the server knows the model by."""
    tokenizer: str | None = None
    """A folder or a hub id: renders the model's own template, and is needed to score. None: that of `server`, or, without
    one, the server's chat route."""
    scoring: Literal["auto", "forced", "prompt_logprobs"] = "auto"
    """How a vLLM server scores: every answer token forced, which uses its prefix cache, or the log-probs of the whole prompt,
    computed anew; "auto": the first where both agree. Other servers have one way or none."""
    key: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The NAME of the environment variable that holds the key; None: no key."""
    deadline_s: float = Field(default=300.0, gt=0)
    """How long one request may take in all."""
    silence_s: float = Field(default=60.0, gt=0)
    """How long a stream may be silent."""

    @model_validator(mode="after")
    def _one_address(self) -> OpenAIEngine:
        if (self.url is None) == (self.server is None):
            raise ValueError("one of `url` and `server` must be given, and not both")
        return self


class LitellmEngine(Part):
    """A hosted model, reached through litellm. It cannot score, so it cannot be a prover."""

    kind: Literal["litellm"]
    """Chooses this engine."""
    model: str = Field(min_length=1)
    """litellm's name of it, such as anthropic/claude-sonnet-4-5 or gemini/gemini-2.5-flash."""
    key: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The NAME of the environment variable that holds the key; None: the one that litellm knows for the provider."""
    url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Another address of the provider's API."""
    continues: Literal["auto", "prefill", "words"] = "auto"
    """How a reasoning is continued: "prefill" sends it as the beginning of the answer, "words" asks for it in words; "auto":
    "prefill" where litellm's table says that the model takes it."""
    deadline_s: float = Field(default=300.0, gt=0)
    """How long one request may take in all."""
    silence_s: float = Field(default=60.0, gt=0)
    """How long a stream may be silent."""


EngineConfig = Annotated[TransformersEngine | ScriptedEngine | OpenAIEngine | LitellmEngine, Field(discriminator="kind")]


def lasting(engine: EngineConfig) -> dict[str, Any]:
    """What of an engine makes its answers what they are."""
    found = engine.model_dump(mode="json", exclude=set(HARMLESS_OF_ENGINE))
    if found.get("server"):
        found["server"] = {key: value for key, value in found["server"].items() if key not in HARMLESS_OF_SERVER}
    return found
