"""What a run is: every key that a configuration file may hold, its type, its bounds and its default.

Invariant: frozen, and unknown keys are errors. Durations are seconds (`_s`), sizes are tokens unless a name says otherwise.
Not covered: reading files, overrides and messages with line numbers (`load.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.engines import EngineConfig, TransformersEngine
from configs.part import Name, Part, Probability


class WordProblems(Part):
    """Seeded word problems from the shipped generator; two different `split`s never share a problem."""

    kind: Literal["word_problems"]
    """Chooses this source."""
    count: int = Field(ge=1, le=1_000_000)
    """How many questions."""
    seed: int = 0
    """Seed of the generator."""
    split: Literal["train", "held_out"] = "train"
    """Which half of all problems to draw from."""
    operations: tuple[Annotated[int, Field(ge=1, le=3)], ...] = (1, 2, 3)
    """Numbers of operations, drawn from evenly."""
    largest: int = Field(default=20, ge=10, le=1000)
    """The largest number that a problem mentions."""


class Fields(Part):
    """Which column holds what; a dotted name reaches into nested objects."""

    question: str = "question"
    """Column of the question's text."""
    answer: str | None = "answer"
    """Column of the gold answer; None when there is none."""
    choices: str | None = None
    """Column of the list of options, of a choice question."""
    context: str | None = None
    """Column of text to be read before the question."""


class File(Part):
    """Questions from a JSONL, JSON, CSV or parquet file, or a data-set id of the hub."""

    kind: Literal["file"]
    """Chooses this source."""
    path: str
    """A file, or `hf:owner/name[:split]` for a data set of the hub or of its cache."""
    format: Literal["fields", "gsm8k", "svamp", "mawps", "bbh", "strategyqa"] = "fields"
    """A built-in format, or "fields": the columns are named in `fields`."""
    fields: Fields = Fields()
    """Columns, for `format: fields`."""
    answers: Literal["math", "choice", "boolean"] = "math"
    """Kind of the answers, for `format: fields`."""
    count: int | None = Field(default=None, ge=1)
    """Take only this many, after `skip`."""
    skip: int = Field(default=0, ge=0)
    """Leave out this many rows at the start."""


Source = Annotated[WordProblems | File, Field(discriminator="kind")]


class Example(Part):
    """A worked example, shown to a model as an earlier turn of the conversation."""

    question: str
    """The question."""
    steps: tuple[str, ...] = Field(min_length=1)
    """The reasoning, a step each, without headers."""
    answer: str
    """The final answer."""


class Asking(Part):
    """How a model is asked: the system prompt and worked examples. Empty for a model that reasons by itself."""

    system: str | None = None
    """The system prompt; None for none."""
    examples: tuple[Example, ...] = ()
    """Worked examples."""
    answer_prefix: str = "The final answer is "
    """What leads to the answer after `</think>`: in examples, in scoring and in writing the final answer."""


class Budget(Part):
    """What may be spent at most, over all lives of a run. Harmless: may differ when a run is resumed."""

    usd: float | None = Field(default=None, ge=0)
    """US dollars; None: as much as it takes. Hosted models have prices, others cost nothing unless their engine says so."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens, prompts and answers; None: as many as it takes."""


class TeacherBudget(Budget):
    """What one teacher may spend."""

    when_spent: Literal["stop", "leave"] = "stop"
    """"stop": the run stops; "leave": the run goes on without this teacher."""


class Teacher(Part):
    """A model that proposes steps."""

    name: Name
    """How it is called in every record."""
    engine: str
    """A key of `engines`."""
    temperature: float = Field(default=0.6, ge=0, le=10)
    """Sampling temperature."""
    top_p: Probability = 0.95
    """Nucleus sampling."""
    asking: Asking | None = None
    """How this teacher is asked; None: the run's `asking`."""
    budget: TeacherBudget = TeacherBudget()
    """What it may spend. Harmless: may differ when a run is resumed."""


class Prover(Part):
    """The meta-prover: scores how likely a reasoning makes the right answer (CoRD, Eq. 3)."""

    name: Name = "prover"
    """How it is called in every record."""
    engine: str
    """A key of `engines`; must be able to score."""
    asking: Asking | None = None
    """How it is asked; None: the run's `asking`."""


Strategy = Literal["beam", "greedy", "binary", "mcts", "curation", "random", "longest", "integration"]
_STEPS = {"samples", "max_step_tokens", "max_steps"}
_MIXED = {"quorum", "step_deadline_s"}
_TRACES = {"traces", "traces_of"}
_READS: dict[Strategy, set[str]] = {
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
    "curation", "random", "longest": whole traces, chosen from by score, by chance, by length; "integration": one from several."""
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


class Lora(Part):
    """Low-rank adapters (peft)."""

    rank: int = Field(default=32, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=32, ge=1)
    """Scale: alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: tuple[str, ...] | Literal["attention", "all-linear"] = "attention"
    """Names of linear layers, or all attention projections, or all linear layers."""


class Student(Part):
    """A model that learns from accepted trajectories."""

    name: Name
    """How it is called in every record."""
    model: str
    """A folder or a hub id."""
    system: str | None = None
    """Its system prompt, in training and evaluation; None for none."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" or "auto"."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights; the adapter is always float32."""
    lora: Lora = Lora()
    """The adapter."""
    trajectories: Literal["best", "accepted"] = "accepted"
    """Learn from the best accepted trajectory of a question, or from all accepted ones."""
    epochs: int = Field(default=5, ge=1)
    """Passes over the data."""
    batch: int = Field(default=8, ge=1)
    """Trajectories per update."""
    micro_batch: int = Field(default=8, ge=1)
    """Trajectories per forward pass."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate of AdamW, cosine schedule."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    max_tokens: int = Field(default=2048, ge=16)
    """Longest training example; longer ones are left out, and counted."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Updates between checkpoints."""


class Evaluation(Part):
    """Accuracy on held-out questions, before and after."""

    questions: Source
    """The held-out questions."""
    samples: int = Field(default=4, ge=0)
    """Sampled answers per question, beside one greedy answer."""
    temperature: float = Field(default=0.6, gt=0)
    """Temperature of the sampled answers."""
    top_p: Probability = 0.95
    """Nucleus sampling of the sampled answers."""
    max_tokens: int = Field(default=512, ge=1)
    """Cap on a whole answer, reasoning included."""
    engine: TransformersEngine | None = None
    """Overrides for the engine that runs the student; its `model` is ignored. None: the first transformers engine's settings."""


class Limits(Part):
    """How much happens at once. Harmless: may differ when a run is resumed."""

    questions: int = Field(default=8, ge=1)
    """Questions in flight."""
    evaluations: int = Field(default=64, ge=1)
    """Held-out answers in flight."""
    tries: int = Field(default=3, ge=1)
    """How often a call that failed in a retryable way is tried in all."""
    patience_s: float = Field(default=3600.0, gt=0)
    """How long the run waits for a server that is down, when nobody else can be asked, before it ends."""
    grace_s: float = Field(default=30.0, ge=0)
    """How long a teacher whose server is down is waited for before the others go on without it."""
    drain_s: float = Field(default=30.0, ge=0)
    """After SIGTERM: how long calls in flight may take before they are cancelled."""
    lease_s: float = Field(default=60.0, gt=1)
    """How long a question stays with a process that has gone silent."""


class Logging(Part):
    """What is told. Harmless: may differ when a run is resumed."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written to log.jsonl in the run folder."""


class Http(Part):
    """The status server. Harmless: may differ when a run is resumed."""

    port: int | None = Field(default=None, ge=0, le=65535)
    """Port on the loopback address for GET /status; None: no server; 0: any free port."""


class RunConfig(Part):
    """A whole run."""

    name: Name
    """The run's name."""
    seed: int = 0
    """Everything that draws numbers draws them from this."""
    run_dir: Path | None = None
    """Where the run is kept; None: runs/NAME in the current folder. Relative paths start there too."""
    questions: tuple[Source, ...] = Field(min_length=1)
    """What to reason about."""
    engines: dict[Name, EngineConfig] = Field(min_length=1)
    """The models, by a name of your choice."""
    asking: Asking = Asking()
    """How teachers and prover are asked unless they say otherwise."""
    teachers: tuple[Teacher, ...] = Field(min_length=1)
    """Who proposes steps."""
    prover: Prover
    """Who scores them."""
    search: Search = Search()
    """How the tree grows."""
    students: tuple[Student, ...] = Field(default=(), max_length=1)
    """Who learns; empty: make data only."""
    evaluation: Evaluation | None = None
    """Measure the students; None: do not."""
    budget: Budget = Budget()
    """What may be spent."""
    ledger: Path | None = None
    """A database of calls that several runs share, so that none is paid for twice; also another run's own database."""
    replay: bool = False
    """Ask nobody: teachers and prover answer from this run's calls and from `ledger`, and a missing call ends the run."""
    limits: Limits = Limits()
    """Concurrency, retries, deadlines."""
    logging: Logging = Logging()
    """What is told."""
    http: Http = Http()
    """The status server."""

    @model_validator(mode="after")
    def _names_exist(self) -> RunConfig:
        for where, engine in [(f"teachers[{i}]", t.engine) for i, t in enumerate(self.teachers)] + [
            ("prover", self.prover.engine)
        ]:
            if engine not in self.engines:
                raise ValueError(f"{where}.engine: no engine is called {engine!r}; engines: {', '.join(self.engines)}")
        names = [t.name for t in self.teachers]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"teachers: the name {twice[0]!r} is used twice; names must differ")
        if self.prover.name in names:
            raise ValueError(f"prover.name: a teacher is called {self.prover.name!r} too; names must differ")
        if self.search.quorum is not None and self.search.quorum > len(names):
            raise ValueError(f"search.quorum: {self.search.quorum} of {len(names)} teachers; accepted: 1 to {len(names)}")
        if self.engines[self.prover.engine].kind == "litellm" and self.search.strategy != "binary":
            raise ValueError(
                f"prover.engine: {self.prover.engine!r} is of kind litellm, which gives no log-probs of an answer; accepted: "
                "kind transformers, scripted, or openai (vLLM, SGLang); search.strategy binary needs none"
            )
        if self.search.integrator is not None and self.search.integrator not in names:
            raise ValueError(f"search.integrator: no teacher is called {self.search.integrator!r}; teachers: {', '.join(names)}")
        return self


HARMLESS = ("limits", "logging", "http", "run_dir", "budget", "ledger", "replay")
"""Keys that may differ between a run and its resumption; they are not part of a run's identity."""
