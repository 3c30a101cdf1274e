"""What a run is: every key that a configuration file may hold, its type, its bounds and its default.

Invariant: frozen, and unknown keys are errors. Durations are seconds (`_s`), sizes are tokens unless a name says otherwise.
Not covered: reading files, overrides and messages with line numbers (`load.py`).
"""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.engines import EngineConfig, OpenAIEngine, TransformersEngine, lasting
from configs.part import Name, Part, Probability
from configs.search import Search, Strategy
from configs.sift import Consensus, Judge, Judging, Sampling, Style, Target
from configs.sources import Fields, File, Source, WordProblems
from configs.training import Compatibility, Lora, Peers, Router, Student

__all__ = [
    "HARMLESS",
    "HELD_OUT",
    "Asking",
    "Budget",
    "Compatibility",
    "Consensus",
    "Evaluation",
    "Example",
    "Fields",
    "File",
    "Http",
    "Judge",
    "Judging",
    "Limits",
    "Logging",
    "Lora",
    "Peers",
    "Prover",
    "Router",
    "RunConfig",
    "Sampling",
    "Search",
    "Source",
    "Strategy",
    "Student",
    "Style",
    "Target",
    "Teacher",
    "TeacherBudget",
    "WordProblems",
]


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""


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
    licence: str | None = None
    """The terms under which what it writes may be used, as the data-set card tells them. Harmless too."""


class Prover(Part):
    """The meta-prover: scores how likely a reasoning makes the right answer (CoRD, Eq. 3)."""

    name: Name = "prover"
    """How it is called in every record."""
    engine: str
    """A key of `engines`; must be able to score."""
    asking: Asking | None = None
    """How it is asked; None: the run's `asking`."""


class Evaluation(Part):
    """Accuracy on held-out questions, before and after.

    A question that is also to be learnt from is left out of every set; one that two sets share counts for the first of them.
    """

    questions: Source
    """The held-out questions of the kind that is learnt: the set that is called held_out."""
    others: dict[Name, Source] = Field(default_factory=dict)
    """Held-out questions of other kinds, by a name of your choice: what is lost there is forgetting."""
    teachers: bool = False
    """Every teacher answers all sets too, as a reference: asked as in the search, sampled as said here, paid from its budget.
    Harmless: may differ when a run is resumed."""
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
    """The inspector's server. Harmless: may differ when a run is resumed."""

    port: int | None = Field(default=None, ge=0, le=65535)
    """Its port; None: no server (`peripatos inspect` can look all the same); 0: any free port."""
    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    """The address that it listens on; one that others can reach needs a `token`."""
    hosts: tuple[str, ...] = ()
    """Names that it answers to beside its address, such as that of a proxy in front of it."""
    token: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The NAME of the environment variable that holds the token; with it the run can be controlled; None: it can only be read."""

    @model_validator(mode="after")
    def _others_need_a_token(self) -> Http:
        if self.host not in LOOPBACK and self.token is None:
            raise ValueError(f"http.host: {self.host} can be reached by others; give http.token, or leave it at 127.0.0.1")
        return self


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
    prover: Prover | None = None
    """Who scores them; every search but "none" needs one."""
    search: Search = Search()
    """How the tree grows."""
    sampling: Sampling | None = None
    """Whole trajectories in several styles, beside the search; None: only where they are needed."""
    judges: tuple[Judge, ...] = ()
    """Who rules on what passes the answer check; empty: nobody."""
    judging: Judging = Judging()
    """How judges are asked and counted."""
    consensus: Consensus = Consensus()
    """What the trajectories of a question say about each other."""
    span_f1: Probability = 1.0
    """An answer of kind span is right from this F1 of its words on; 1: all of them. Numbers must be equal in any case."""
    target: Target = Target()
    """When there is enough, of the run and of each question."""
    students: tuple[Student, ...] = ()
    """Who learns; empty: make data only."""
    router: Router | None = None
    """Who sends each trajectory to the students that gain from it; None: every student learns all."""
    peers: Peers | None = None
    """How students teach each other; None: not at all."""
    placement: Literal["separate", "together"] = "separate"
    """Students and router live in a process each, or all in one."""
    learn: Literal["after_search", "at_once"] = "after_search"
    """Students begin when all questions are settled, or as soon as there is a batch, while teachers still write."""
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
    """The inspector's server."""

    @model_validator(mode="after")
    def _engines_exist(self) -> RunConfig:
        used = [(f"teachers[{i}]", t.engine) for i, t in enumerate(self.teachers)]
        used += [(f"judges[{i}]", judge.engine) for i, judge in enumerate(self.judges)]
        used += [("prover", self.prover.engine)] if self.prover else []
        for where, engine in used:
            if engine not in self.engines:
                raise ValueError(f"{where}.engine: no engine is called {engine!r}; engines: {', '.join(self.engines)}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> RunConfig:
        names = [t.name for t in self.teachers]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"teachers: the name {twice[0]!r} is used twice; names must differ")
        if self.prover and self.prover.name in names:
            raise ValueError(f"prover.name: a teacher is called {self.prover.name!r} too; names must differ")
        taken = [*names, *([self.prover.name] if self.prover else [])]
        for index, judge in enumerate(self.judges):
            if judge.name in taken:
                raise ValueError(f"judges[{index}].name: {judge.name!r} is somebody else's name; names must differ")
            taken.append(judge.name)
        for index, student in enumerate(self.students):
            if student.name in taken:
                raise ValueError(f"students[{index}].name: {student.name!r} is somebody else's name; names must differ")
            taken.append(student.name)
        return self

    @model_validator(mode="after")
    def _sets_differ(self) -> RunConfig:
        if self.evaluation and HELD_OUT in self.evaluation.others:
            raise ValueError(f"evaluation.others.{HELD_OUT}: so the set of evaluation.questions is called; choose another name")
        return self

    @model_validator(mode="after")
    def _search_can_be_done(self) -> RunConfig:
        names, search = [t.name for t in self.teachers], self.search
        if search.strategy == "none" and self.sampling is None:
            raise ValueError('search.strategy: "none" makes no trajectories; accepted: another strategy, or a `sampling` part')
        if search.strategy != "none" and self.prover is None:
            raise ValueError('prover: missing, must be given; only search.strategy "none" needs none')
        if search.quorum is not None and search.quorum > len(names):
            raise ValueError(f"search.quorum: {search.quorum} of {len(names)} teachers; accepted: 1 to {len(names)}")
        if self.prover and self.engines[self.prover.engine].kind == "litellm" and search.strategy != "binary":
            raise ValueError(
                f"prover.engine: {self.prover.engine!r} is of kind litellm, which gives no log-probs of an answer; accepted: "
                "kind transformers, scripted, or openai (vLLM, SGLang); search.strategy binary needs none"
            )
        if search.integrator is not None and search.integrator not in names:
            raise ValueError(f"search.integrator: no teacher is called {search.integrator!r}; teachers: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _students_can_learn(self) -> RunConfig:
        names = [student.name for student in self.students]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"students: the name {twice[0]!r} is used twice; names must differ")
        if self.router and ROUTER in names:
            raise ValueError(f"students: the name {ROUTER!r} is the router's own; names must differ")
        if self.peers and len(names) < 2:
            raise ValueError("peers: one student has no peers; accepted: two students or more, or no `peers`")
        if self.router and not names:
            raise ValueError("router: there is no student to route to; accepted: at least one student, or no `router`")
        if self.router or self.peers or self.placement == "together":
            self._students_walk_together()
        for index, student in enumerate(self.students):
            if self.peers and student.processes > 1:
                raise ValueError(f"students[{index}].processes: {student.processes}; with peers, students have one process each")
        return self

    def _students_walk_together(self) -> None:
        """Students that share batches must agree on what a batch is."""
        for index, student in enumerate(self.students):
            for key in ("epochs", "batch", "batch_of", "trajectories"):
                value, first = getattr(student, key), getattr(self.students[0], key)
                if value != first:
                    raise ValueError(
                        f"students[{index}].{key}: {value!r}, but {first!r} for {self.students[0].name!r}; "
                        "with a router, peers or placement together, students share their batches: it must be the same"
                    )
            if self.placement == "together" and student.processes > 1:
                raise ValueError(f"students[{index}].processes: {student.processes}; placement together takes one each")

    @model_validator(mode="after")
    def _judges_can_rule(self) -> RunConfig:
        for index, source in enumerate(self.questions):
            if isinstance(source, File) and source.answers == "open" and source.format == "fields" and not self.judges:
                raise ValueError(
                    f"questions[{index}].answers: open answers are for judges to check; give `judges`, or another kind"
                )
        for index, judge in enumerate(self.judges):
            own = lasting(self.engines[judge.engine])
            if twin := next((other for other in self.judges[:index] if lasting(self.engines[other.engine]) == own), None):
                same = f"{judge.engine!r} rules as {twin.name!r} already, and at temperature 0 it would say the same"
                raise ValueError(f"judges[{index}].engine: {same}; accepted: another engine for each judge")
            engine = self.engines[judge.engine]
            model = engine.server.model if isinstance(engine, OpenAIEngine) and engine.server else getattr(engine, "model", None)
            if student := next((each for each in self.students if model and normpath(each.model) == normpath(model)), None):
                raise ValueError(
                    f"judges[{index}].engine: {model} is what student {student.name!r} is; no student is its own judge"
                )
        if self.target.most is not None and self.target.most < self.target.least:
            raise ValueError(f"target.most: {self.target.most} is less than target.least, {self.target.least}")
        return self


ROUTER = "router"
"""The router's name in every record."""

HELD_OUT = "held_out"
"""What the set of `evaluation.questions` is called."""

HARMLESS = ("limits", "logging", "http", "run_dir", "budget", "ledger", "replay")
"""Keys that may differ between a run and its resumption; they are not part of a run's identity."""
