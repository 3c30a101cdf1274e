"""How a model is reached: the keys of every kind of engine.

Invariant: what only changes how fast an engine answers, or from where, is not part of a run's identity (`lasting`).
Not covered: the engines themselves (`agents.engines`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.part import Part

HARMLESS_OF_ENGINE = ("max_batch", "prefix_cache_mb", "latency_s", "url", "key", "deadline_s", "silence_s", "limits", "price")
"""Keys of an engine that may differ too: they change how fast it answers, and from where, not what."""
HARMLESS_OF_SERVER = ("command", "env", "start_s", "restarts", "replicas")
"""Keys of a managed server that may differ too."""

_ADDRESS = re.compile(r"https?://[^/\s]+(/\S*)?")


class EngineLimits(Part):
    """How an engine is asked. A server's own limits are learnt from its answers; what is known of them can be said here."""

    in_flight: int = Field(default=256, ge=1)
    """Most requests at once."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Most requests a minute, sent evenly."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Most tokens a minute, prompts and answers; an answer counts in full until it is there."""
    give_up_s: float = Field(default=900.0, gt=0)
    """How long one call may take in all, from when it is first sent, retries and their waits included."""
    park_s: float = Field(default=60.0, gt=0)
    """A server that fails for everyone is parked; the longest time between two looks at it."""


class Price(Part):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0)
    """Tokens of a prompt."""
    completion: float = Field(ge=0)
    """Tokens of an answer."""
    cached: float | None = Field(default=None, ge=0)
    """Tokens of a prompt that the server had in its cache; None: as all of the prompt."""

    def of(self, prompt: int, completion: int, cached: int) -> float:
        """US dollars."""
        cached_price = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * cached_price + completion * self.completion) / 1e6


class Reached(Part):
    """What every kind of engine may say."""

    limits: EngineLimits = EngineLimits()
    """How much is asked of it."""
    price: Price | None = None
    """What it costs; None: for a hosted model litellm's table, for others nothing."""


class TransformersEngine(Reached):
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
    """Requests computed at the same time; a quarter as many more wait in the engine, all others for their turn."""
    prefix_cache_mb: int = Field(default=512, ge=0)
    """Memory for keys and values of past prefixes, in MiB."""


class ScriptedEngine(Reached):
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
    """More arguments, as the program spells them; `{replica}` becomes the replica's number, from 0."""
    env: dict[str, str] = Field(default_factory=dict)
    """More environment variables; `{replica}` as in `args`, so that CUDA_VISIBLE_DEVICES: "{replica}" gives each its own GPU."""
    start_s: float = Field(default=600.0, gt=0)
    """How long it may take until it answers."""
    restarts: int = Field(default=5, ge=0)
    """How often in a row it is started again after it died."""
    replicas: int = Field(default=1, ge=1, le=64)
    """How many such servers; all requests of one question's tree go to the same one, where their prefix is cached."""


class OpenAIEngine(Reached):
    """A model behind an OpenAI-compatible server: vLLM, SGLang, or another."""

    kind: Literal["openai"]
    """Chooses this engine."""
    url: str | tuple[str, ...] | None = None
    """Where the server is, such as http://127.0.0.1:8000; a /v1 at the end is left out. A list: replicas of one server."""
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

    @property
    def addresses(self) -> tuple[str, ...]:
        """`url` as a list: an address for each replica; none with a `server`."""
        return (self.url,) if isinstance(self.url, str) else self.url or ()

    @field_validator("url", mode="before")
    @classmethod
    def _are_addresses(cls, url: Any) -> Any:
        """Before the types are looked at, so that a mistake is one message and not one for each type."""
        several = isinstance(url, list | tuple)
        for address in url if several else () if url is None else (url,):
            if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
                wanted = "must be an address such as http://127.0.0.1:8000"
                raise ValueError(f"each {wanted}, not {address!r}" if several else f"{wanted}, or a list of such addresses")
        if several and not url:
            raise ValueError("the list of addresses is empty")
        if several and (twice := [address for address in url if url.count(address) > 1]):
            raise ValueError(f"the address {twice[0]} is in the list twice")
        return url

    @model_validator(mode="after")
    def _one_address(self) -> OpenAIEngine:
        if (self.url is None) == (self.server is None):
            raise ValueError("one of `url` and `server` must be given, and not both")
        return self


class LitellmEngine(Reached):
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
