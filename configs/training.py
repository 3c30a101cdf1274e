"""What students are, and how they learn: from trajectories, from a router's choice, and from each other.

Invariant: a part that is None removes its term from the loss, and nothing else. Not covered: which trajectories there are
(`sift.py`), and how students are measured (`schema.py`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.part import Name, Part, Probability

THINKING_WORDS = (
    *("Therefore", "Thus", "Hence", "So", "Because", "Consequently", "Wait", "But", "However", "Although", "First", "Second"),
    *("Finally", "Specifically", "In summary", "Basically", "Let", "Assuming", "Suppose", "Hmm", "Okay", "Note"),
)


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


class Compatibility(Part):
    """Each rationale's weight alpha by the student's own state (COMPACT, Eq. 2-11). A factor of 0 removes its score."""

    adaptability: float = Field(default=1.0, ge=0)
    """Factor of the score of "epiphany moments": how much the rationale's words bring the answer nearer (Eq. 2-3)."""
    consensus: float = Field(default=1.0, ge=0)
    """Factor of the score of agreement with the question's other rationales, by the student's attention (Eq. 4-5)."""
    difficulty: float = Field(default=0.5, ge=0)
    """Factor of the rationale's mean negative log-likelihood, which counts against it (Eq. 6)."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the softmax over a question's rationales (Eq. 7)."""
    consistency: float = Field(default=0.1, ge=0)
    """Factor lambda of the answer-consistency loss (Eq. 8-11); above 0 it needs `conclusion: common`."""
    elsewhere: float = Field(default=0.1, ge=0, le=1)
    """What counts of a gain that is made on other words than thinking words."""
    thinking_words: tuple[str, ...] = THINKING_WORDS
    """Words that open a thought; matched in the text at word starts, so with any tokenizer."""


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
    """What it computes in. What learns is float32 in any case."""
    tuning: Literal["lora", "qlora", "full"] = "lora"
    """What learns: an adapter, an adapter on weights of 4 bits (needs bitsandbytes), or all weights."""
    lora: Lora = Lora()
    """The adapter."""
    trajectories: Literal["best", "accepted"] = "accepted"
    """Learn from the best accepted trajectory of a question, or from all accepted ones."""
    conclusion: Literal["own", "common"] = "own"
    """What follows the reasoning: the trajectory's own words, or the same for all: the answer prefix and the right answer."""
    compatibility: Compatibility | None = None
    """Weigh a question's trajectories against each other; None: all count the same."""
    epochs: int = Field(default=5, ge=1)
    """How often each trajectory is learnt."""
    batch: int = Field(default=8, ge=1)
    """Trajectories, or whole questions, per update."""
    batch_of: Literal["trajectories", "questions"] = "trajectories"
    """What `batch` counts; `compatibility` needs whole questions."""
    micro_batch: int = Field(default=8, ge=1)
    """Trajectories per forward pass; a question that is weighed is never cut."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate of AdamW, cosine schedule."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    explosion: float = Field(default=10.0, gt=1)
    """Five losses in a row so many times the median of the 20 before stop this student, as one that is not a number does at once;
    meanwhile no checkpoint is written."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    max_tokens: int = Field(default=2048, ge=16)
    """Longest training example; longer ones are left out, and counted."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Updates between checkpoints."""
    processes: int = Field(default=1, ge=1)
    """Processes that train this one student together, each on a device of its own."""
    shard: bool = False
    """Split the weights over those processes (FSDP2), for a model that one device does not hold; False: each has them all."""

    @model_validator(mode="after")
    def _questions_are_whole(self) -> Student:
        if self.compatibility is not None and self.batch_of != "questions":
            raise ValueError('batch_of: compatibility weighs the trajectories of a question; accepted: "questions"')
        if self.compatibility is not None and self.conclusion != "common":
            for key in ("adaptability", "consistency"):
                if getattr(self.compatibility, key) > 0:
                    raise ValueError(
                        f'conclusion: compatibility.{key} reads the right answer in it; accepted: "common", or {key}: 0'
                    )
        return self

    @model_validator(mode="after")
    def _processes_can_share(self) -> Student:
        if self.shard and self.processes == 1:
            raise ValueError("shard: one process has nobody to share with; accepted: processes above 1")
        if self.processes > 1 and self.device.startswith("cuda:"):
            raise ValueError(f'device: {self.device!r} for {self.processes} processes; accepted: "cuda", "cpu" or "auto"')
        if self.shard and self.tuning == "qlora":
            raise ValueError('shard: weights of 4 bits cannot be split; accepted: tuning "lora" or "full"')
        return self


class Router(Part):
    """Which student learns which trajectory, by gates that are learnt from the students' losses (QR-Distill, Eq. 1-2)."""

    encoder: str | None = None
    """A folder or hub id of any encoder of transformers, which stays as it is; None: hashed words, without a model."""
    width: int = Field(default=256, ge=8)
    """Numbers per text without an encoder."""
    gate: Literal["independent", "onehot"] = "independent"
    """Each student has a gate of its own, or each trajectory goes to exactly one student."""
    utility: Literal["loss", "progress"] = "loss"
    """What a gate is judged by: the student's loss, or how far it has fallen since the trajectory was last seen."""
    baseline: Literal["known", "routed"] = "known"
    """What a loss is held against: the student's mean over all that it measured, or, as in the paper's joint loss, over what it
    was routed; there dropping anything above the average lowers the loss, and independent gates close in the end."""
    entropy: float = Field(default=0.01, ge=0)
    """Factor l1 of the entropy of each student's share, which keeps gates from being all open or all closed."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the Gumbel-softmax."""
    student_state: bool = False
    """Let the gates see each student's last loss on the trajectory."""
    explore: Probability = 0.25
    """Share of the trajectories not routed to a student that it measures all the same, so that the router knows."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of the gates."""
    every: int = Field(default=1, ge=1)
    """Updates per round: the routes of a round are written at once."""
    staleness: int = Field(default=1, ge=0)
    """Rounds that students may be ahead of what the router has learnt from; 0: all wait for each other."""
    wait_s: float = Field(default=120.0, gt=0)
    """How long a round waits for a student that reports nothing, and a student for routes, before they go on without."""


class Peers(Part):
    """Students teach each other on trajectories that they both learn (QR-Distill, Eq. 5-8)."""

    kind: Literal["hidden", "logits"] = "hidden"
    """What they exchange: projected hidden states, or the likeliest next tokens with their log-probs."""
    weight: float = Field(default=0.1, ge=0)
    """Factor l2 of the peer loss."""
    width: int = Field(default=512, ge=1)
    """Width of the projected states."""
    top: int = Field(default=64, ge=1)
    """Next tokens per place."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the exchanged distributions."""
    merge: Literal["span", "first"] = "span"
    """Where tokenizers cut differently: a span's text is one outcome for both, or its first token stands for it."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of projections and competence."""
    staleness: int = Field(default=100, ge=0)
    """Updates that a peer's message may be older than one's own; 0: only messages of the same update count."""
    wait_s: float = Field(default=5.0, ge=0)
    """How long a student waits for a message that is too old or not there; then it does without."""
