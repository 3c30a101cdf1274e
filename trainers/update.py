"""One update of one student: the only place where a loss is made of its terms.

    L = ( sum_q sum_j alpha_j CE_j  +  lambda MCon_q ) / Z  +  l2 * ( sum_j peer_j ) / C          (methods.md, part 5)

over the batch's questions q and their routed trajectories j. alpha sums to 1 over a question and Z counts questions; without
compatibility every alpha is 1 and Z counts trajectories. C counts the trajectories that a peer learns too. A switch
removes a term and nothing else.

    begin ──▶ ( forward ──▶ [ what peers say ] ──▶ backward ) per forward pass ──▶ finish ──▶ step
              └───────────── learn, where there are no peers ─────────────┘

Invariant: the weights move only in `step`, and only by numbers that are numbers; dropout is drawn from seed, student,
update and pass, so a resumed student draws the same, and so do several processes. Not covered: which examples (`plan.py`),
who else (`loop.py`), how processes share the passes (`ranks.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs import schema
from store.types import Report
from trainers import checkpoint, compatibility, losses, shards
from trainers.data import Batch, Example, collate
from trainers.exchange import Message
from trainers.look import Look
from trainers.measures import LASTING, USUAL, Measured, Sums, num_high
from trainers.plan import passes
from trainers.ranks import Alone, Ranks
from trainers.student import StudentModel
from trainers.teaching import Spoken, Teaching

CPU_TOKENS = 512
"""Padded tokens of one forward pass on a CPU: more takes memory (1.1 MB a token in SmolLM2-135M) for a tenth of speed."""


class Diverged(ArithmeticError):
    """A loss or a gradient that is no number, or far from the ones before; the message is one line."""


@dataclass(slots=True, kw_only=True)
class Forward:
    """One forward pass, up to what peers say of it."""

    batch: Batch
    examples: Sequence[Example]
    losses_B: Tensor
    alpha_B: Tensor
    scores: compatibility.Scores
    consistency: Tensor | None
    spoken: list[Spoken]
    messages: list[Message]


class Learner:
    """A student and its optimizer. All of it runs in one thread."""

    def __init__(
        self,
        student: StudentModel,
        config: schema.Student,
        seed: int,
        peers: schema.Peers | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.student = student
        self.config = config
        self.seed = seed
        self.peers = peers
        self.ranks: Ranks = ranks or Alone()
        self.teaching: Teaching | None = None
        self.optimizer = torch.optim.AdamW(
            shards.groups(student.parameters), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.suspect: str | None = None
        """The update with which losses became high, while they are: the weights may be broken already."""
        self._losses: list[float] = []
        self._sums = Sums()
        student.learn(True)

    def teach_with(self, teaching: Teaching) -> None:
        """Peers are there: what learns with them has a rate of its own."""
        assert self.peers is not None
        self.teaching = teaching
        if teaching.projection is not None:
            teaching.projection.to(self.student.device)
            self.optimizer.add_param_group({"params": list(teaching.projection.parameters()), "peers": True})

    def remember(self, losses: Sequence[float]) -> None:
        """The losses so far, of a training that goes on."""
        self._losses = list(losses[-USUAL - LASTING :])

    def passes(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The forward passes of one batch; what is weighed together stays together."""
        whole = self.config.compatibility is not None
        units: dict[str, list[Example]] = {}
        for example in examples:
            units.setdefault(example.question if whole else example.trajectory, []).append(example)
        lengths = [max(len(example.tokens) for example in unit) for unit in units.values()]
        limit = CPU_TOKENS if self.student.device.type == "cpu" else None
        return list(passes(list(units.values()), lengths, self.config.micro_batch, limit))

    def begin(self, number: int, rate: float, examples: Sequence[Example], co_routed: int = 0) -> None:
        """The update `number`, from 0, over `examples`, of which peers learn `co_routed`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.peers.learning_rate if self.peers and group.get("peers") else rate
        units = {example.question for example in examples} if self.config.compatibility else examples
        self._sums = Sums(
            number=number,
            weight=float(len(units)),
            co_routed=co_routed,
            tokens=sum(len(example.tokens) for example in examples),
            response_tokens=sum(len(example.tokens) - example.first for example in examples),
        )

    @torch.no_grad()
    def measure(self, examples: Sequence[Example]) -> None:
        """Cross-entropies of examples that are not learnt, by the student as it is: without dropout."""
        self.student.learn(False)
        for at, rows in self.ranks.deal(self.passes(examples)):
            if at is None:
                self._accompany(rows)
                continue
            batch = collate(rows).to(self.student.device)
            values = self._cross_entropies(batch, self._states(batch), None)[1].tolist()
            for trajectory, value in zip(batch.trajectories, values, strict=True):
                self._report(trajectory, cross_entropy=value, routed=False)
        self.student.learn(True)

    def learn(self, examples: Sequence[Example]) -> None:
        """All forward and backward passes that are this process's."""
        for at, rows in self.ranks.deal(self.passes(examples)):
            if at is None:
                self._accompany(rows)
            else:
                self.backward(self.forward(rows, at), {})

    def forward(self, examples: Sequence[Example], at: int, speaking: frozenset[str] = frozenset()) -> Forward:
        """The forward pass `at` of the update, and messages about those trajectories that are `speaking`."""
        number = self._sums.number
        key = f"{self.seed}/{self.config.name}/{number}/{at}"
        torch.manual_seed(int.from_bytes(sha256(key.encode()).digest()[:7]))
        batch = collate(examples).to(self.student.device)
        states_ND = self._states(batch)
        reads_gold = self.config.compatibility is not None and self.config.compatibility.adaptability > 0
        look = Look(batch, gold=reads_gold, peers=self._spoken_logits())
        losses_N, losses_B = self._cross_entropies(batch, states_ND, look)
        scores = self._scores(batch, states_ND.detach(), losses_N.detach(), look)
        alpha_B = self._alpha(batch, scores)
        forward = Forward(
            batch=batch,
            examples=examples,
            losses_B=losses_B,
            alpha_B=alpha_B,
            scores=scores,
            consistency=self._consistency(batch, states_ND, alpha_B),
            spoken=self._spoken(examples, batch, states_ND, losses_N.detach(), losses_B, look, speaking),
            messages=[],
        )
        if self.teaching and forward.spoken:
            forward.messages = self.teaching.speak(forward.spoken, self.config.name, number)
        return forward

    def backward(self, forward: Forward, heard: Mapping[str, Sequence[Message]]) -> None:
        """Add the gradients of one forward pass, and what it measured."""
        sums = self._sums
        taught = (forward.alpha_B * forward.losses_B).sum() / sums.weight
        terms = {"cross_entropy": taught}
        if forward.consistency is not None and self.config.compatibility is not None:
            terms["consistency"] = self.config.compatibility.consistency * forward.consistency / sums.weight
        peer_losses = self._hear(forward, heard)
        if peer_losses and self.peers is not None:
            terms["peers"] = self.peers.weight * torch.stack([each.loss for each in peer_losses.values()]).sum() / sums.co_routed
        loss = torch.stack(list(terms.values())).sum()
        competence = [each.competence for each in peer_losses.values() if each.competence is not None]
        (loss + torch.stack(competence).sum() / sums.co_routed if competence else loss).backward()
        sums.loss += loss.item()
        for name, value in terms.items():
            sums.terms[name] = sums.terms.get(name, 0.0) + value.item()
        self._tell(forward, {trajectory: each.loss.item() for trajectory, each in peer_losses.items()})

    def finish(self) -> Measured:
        """What the passes of all ranks came to, known on rank 0. Raises `Diverged` there."""
        sums, learnt, norm = self._sums, bool(self._sums.weight), None
        if learnt:
            self.ranks.add_up(self._learning())
            norm = shards.clip(self._learning(), self.config.clip)
        for other in self.ranks.gather(sums)[1:]:
            sums.add(other)
        if learnt and self.ranks.rank == 0:
            self._check(sums, norm)
        return Measured(
            loss=sums.loss if learnt else None,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=norm,
            tokens=sums.tokens,
            response_tokens=sums.response_tokens,
            terms=sums.terms,
            reports=sums.reports,
        )

    def step(self) -> None:
        """Move the weights, after `finish` has found nothing wrong."""
        if self._sums.weight:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, draft: Path, final: bool) -> None:
        """Write the weights and, if not `final`, what only a continued training needs; all ranks take part, rank 0 writes."""
        writes = self.ranks.rank == 0
        self.student.save(draft, writes=writes)
        if not final:
            state = shards.optimizer_state(self.optimizer, keep=writes)
            if writes:
                checkpoint.save_state(draft, state)

    def load(self, folder: Path) -> None:
        """Take what `save` wrote."""
        self.student.load(folder)
        shards.load_optimizer_state(self.optimizer, checkpoint.load_state(folder))

    def _accompany(self, examples: Sequence[Example]) -> None:
        """A pass that counts nothing: where weights are split, the others' passes need this rank's part of them."""
        states_ND = self._states(collate(examples[:1]).to(self.student.device))
        if states_ND.requires_grad:
            (states_ND.sum() * 0).backward()

    def _learning(self) -> list[Any]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _check(self, sums: Sums, norm: float | None) -> None:
        trajectories = ", ".join(report.trajectory for report in sums.reports if report.routed)
        told = f"loss {sums.loss:.6g}, gradient norm {norm if norm is None else round(norm, 4)}; trajectories {trajectories}"
        if not (math.isfinite(sums.loss) and norm is not None and math.isfinite(norm)):
            raise Diverged(f"update {sums.number + 1}: {told}; a smaller learning rate may help")
        self._losses = [*self._losses, sums.loss][-USUAL - LASTING :]
        high = num_high(self._losses, self.config.explosion)
        self.suspect = (self.suspect or f"update {sums.number + 1}: {told}") if high else None
        if high == LASTING:
            after = ", ".join(f"{loss:.4g}" for loss in self._losses[1 - LASTING :])
            raise Diverged(f"{self.suspect}; and then losses of {after}; a smaller learning rate may help")

    def _states(self, batch: Batch) -> Tensor:
        """States at the places: N x D."""
        with self.student.precision():
            states_BTD = self.student.states(batch.tokens_BT)
        return states_BTD.flatten(0, 1).index_select(0, batch.places_N)

    def _cross_entropies(self, batch: Batch, states_ND: Tensor, look: Look | None) -> tuple[Tensor, Tensor]:
        """Of each token, and the mean of each trajectory."""
        with self.student.precision():
            losses_N = losses.token_cross_entropy(
                self.student.head, states_ND, batch.labels_N, look=look, head_learns=self.student.head_learns
            )
        return losses_N, losses.mean_by_row(losses_N, batch.rows_N, len(batch.trajectories))

    def _scores(self, batch: Batch, states_ND: Tensor, losses_N: Tensor, look: Look) -> compatibility.Scores:
        """COMPACT's three scores, each only if its factor is not 0 (Eq. 2-6)."""
        config, rows = self.config.compatibility, len(batch.trajectories)
        if config is None:
            return compatibility.Scores(adaptability=None, consensus=None, difficulty=None)
        rows_R = batch.rows_N[batch.rationale_R]
        adaptability = consensus = None
        if config.adaptability:
            information_R = look.information_N[batch.rationale_R + 1]  # the state after a token of the rationale
            adaptability = compatibility.adaptability(information_R, batch.thinking_R, rows_R, rows, config.elsewhere)
        if config.consensus:
            last_B = torch.zeros_like(batch.questions_B).scatter_reduce(0, rows_R, batch.rationale_R, "amax")
            with torch.no_grad(), self.student.precision():
                queries, keys = self.student.queries_and_keys(states_ND[last_B + 1])
            consensus = compatibility.consensus(queries, keys, batch.questions_B)
        difficulty = compatibility.difficulty(losses_N[batch.rationale_R], rows_R, rows) if config.difficulty else None
        return compatibility.Scores(adaptability=adaptability, consensus=consensus, difficulty=difficulty)

    def _alpha(self, batch: Batch, scores: compatibility.Scores) -> Tensor:
        """Each trajectory's weight: 1, or its share of its question (Eq. 7)."""
        config = self.config.compatibility
        if config is None:
            return torch.ones(len(batch.trajectories), device=self.student.device)
        factors = (config.adaptability, config.consensus, config.difficulty)
        present_B = torch.ones_like(batch.questions_B, dtype=torch.bool)
        return compatibility.weights(scores, batch.questions_B, present_B, factors=factors, temperature=config.temperature)

    def _consistency(self, batch: Batch, states_ND: Tensor, alpha_B: Tensor) -> Tensor | None:
        """The sum over questions of sum_k alpha_k MCon_k (Eq. 8-11), where all rows end in the same answer's tokens."""
        if self.config.compatibility is None or not self.config.compatibility.consistency:
            return None
        found = []
        for question in batch.questions_B.unique():
            rows = (batch.questions_B == question).nonzero().flatten().tolist()
            spans = [batch.labels_N[slice(*batch.answers[row])] for row in rows]
            if len(rows) < 2 or not len(spans[0]) or not all(torch.equal(span, spans[0]) for span in spans):
                continue
            places = torch.cat([torch.arange(*batch.answers[row], device=states_ND.device) for row in rows])
            with self.student.precision():
                logits_NV = self.student.head(states_ND[places])
            log_probs_KMV = torch.log_softmax(logits_NV.float(), -1).unflatten(0, (len(rows), -1))
            found.append(compatibility.consistency(log_probs_KMV, alpha_B[rows]))
        return torch.stack(found).sum() if found else None

    def _spoken_logits(self) -> schema.Peers | None:
        return self.peers if self.teaching is not None and self.peers is not None and self.peers.kind == "logits" else None

    def _spoken(
        self,
        examples: Sequence[Example],
        batch: Batch,
        states_ND: Tensor,
        losses_N: Tensor,
        losses_B: Tensor,
        look: Look,
        speaking: frozenset[str],
    ) -> list[Spoken]:
        if not (self.teaching and speaking):
            return []
        found, start = [], 0
        for row, example in enumerate(examples):
            end = start + len(example.tokens) - example.first
            if example.trajectory in speaking:
                spoken = Spoken(
                    example=example,
                    states_ND=states_ND[start:end],
                    labels_N=batch.labels_N[start:end],
                    cross_entropy=losses_B[row].item(),
                    top=(look.ids_NK[start:end], look.log_probs_NK[start:end]),
                    label_log_probs_N=look.labels_N[start:end],
                )
                found.append(spoken)
            start = end
        return found

    def _hear(self, forward: Forward, heard: Mapping[str, Sequence[Message]]) -> dict[str, Any]:
        if self.teaching is None:
            return {}
        with self.student.precision():
            found = {
                each.example.trajectory: self.teaching.hear(each, heard.get(each.example.trajectory, ()))
                for each in forward.spoken
            }
        return {trajectory: each for trajectory, each in found.items() if each is not None}

    def _tell(self, forward: Forward, peer: Mapping[str, float]) -> None:
        def listed(values: Tensor | None) -> list[float | None]:
            return [None] * len(forward.examples) if values is None else values.tolist()

        scores, weighed = forward.scores, self.config.compatibility is not None
        columns = (
            forward.losses_B.tolist(),
            listed(forward.alpha_B if weighed else None),
            listed(scores.adaptability),
            listed(scores.consensus),
            listed(scores.difficulty),
        )
        for trajectory, loss, alpha, adaptability, consensus, difficulty in zip(
            forward.batch.trajectories, *columns, strict=True
        ):
            self._report(
                trajectory,
                cross_entropy=loss,
                alpha=alpha,
                adaptability=adaptability,
                consensus=consensus,
                difficulty=difficulty,
                peer=peer.get(trajectory),
            )

    def _report(self, trajectory: str, **measured: Any) -> None:
        update = self._sums.number + 1
        self._sums.reports.append(Report(student=self.config.name, trajectory=trajectory, update=update, **measured))
