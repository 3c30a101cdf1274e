"""One update against the papers' formulas, written down a second time: with whole logits, plain loops and one backward pass."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_student import make_lesson
from torch import Tensor

from configs.schema import Compatibility, Lora, Peers, Router, Student
from trainers import gates, peers
from trainers.alignment import pool, pooling, words
from trainers.data import Example, Writing
from trainers.encoder import HashedText
from trainers.exchange import Message
from trainers.plan import Item
from trainers.router import Gatekeeper
from trainers.spec import RouterSpec, Shared
from trainers.student import StudentModel, load_chat, load_student
from trainers.teaching import make_teaching
from trainers.update import Diverged, Learner

NAMES = ("ann", "bob")
QUESTIONS = 3
EACH = 3


@pytest.fixture(scope="module")
def examples(model: Path) -> list[Example]:
    """Three trajectories each of three questions, with thinking words at several places."""
    writing = Writing(template=load_chat(model), common="The final answer is ", thinking_words=Compatibility().thinking_words)
    thoughts = ("So it is {}.", "Let us see: {} and that is all.", "It is {}. But wait, is it? Therefore {}.")
    made = []
    for question in range(QUESTIONS):
        for number in range(EACH):
            text = f"### Step 1. {thoughts[number].format(question, question)}"
            lesson = make_lesson(f"{question}-{number}", f"What is {question}?", text, "own words")
            asked = replace(lesson.question, id=f"q{question}")
            made.append(writing.example(replace(lesson, question=asked, target=f"{question}{question}")))
    return made


def config(name: str = "ann", **changes: Any) -> Student:
    settings = {"dtype": "float32", "device": "cpu", "lora": Lora(rank=4, alpha=64, dropout=0.0), "micro_batch": 64}
    if changes.get("compatibility"):
        settings |= {"batch_of": "questions", "conclusion": "common"}
    return Student(name=name, model="tiny", **(settings | changes))


def student_of(model: Path, settings: Student, seed: int) -> StudentModel:
    """With an adapter that already does something."""
    student = load_student(model, settings, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return student


def log_probs(student: StudentModel, example: Example) -> tuple[Tensor, Tensor]:
    """Of one example alone: states and log-probs of the whole vocabulary, at every token."""
    states_TD = student.states(torch.tensor([example.tokens]))[0]
    return states_TD, torch.log_softmax(student.head(states_TD), -1)


def cross_entropy(student: StudentModel, example: Example) -> Tensor:
    _, log_probs_TV = log_probs(student, example)
    places = range(example.first, len(example.tokens))
    return -torch.stack([log_probs_TV[place - 1, example.tokens[place]] for place in places]).mean()


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in parameters]


def assert_near(one: Tensor, other: Tensor) -> None:
    """Equal but for float32's rounding of many sums."""
    assert (one - other).norm() <= 1e-4 * other.norm() + 1e-7


def updated(learner: Learner, examples: Sequence[Example], heard: dict[str, list[Message]] | None = None) -> list[Tensor]:
    """The gradients of an update that is begun and not stepped."""
    learner.optimizer.zero_grad()
    learner.begin(0, 1e-3, examples, len(heard or ()))
    for at, rows in enumerate(learner.passes(examples)):
        forward = learner.forward(rows, at, frozenset(heard or ()))
        learner.backward(forward, heard or {})
    return gradients(learner.student.parameters)


# COMPACT (Eq. 2-11)


def alpha_by_hand(
    student: StudentModel, rows: Sequence[Example], settings: Compatibility
) -> tuple[list[float], list[dict[str, float]]]:
    scores: list[dict[str, float]] = []
    last = []
    for row in rows:
        with torch.no_grad():
            states_TD, log_probs_TV = log_probs(student, row)
        gold = row.tokens[slice(*row.answer)]
        information = [sum(log_probs_TV[place, token].item() for token in gold) / len(gold) for place in range(*row.rationale)]
        gains = [max(0.0, after - before) for before, after in pairwise(information)]
        counted = [gain * (1.0 if thinks else settings.elsewhere) for gain, thinks in zip(gains, row.thinking[1:], strict=True)]
        difficulty = [-log_probs_TV[place - 1, row.tokens[place]].item() for place in range(*row.rationale)]
        scores.append({"adaptability": sum(counted), "difficulty": sum(difficulty) / len(difficulty)})
        last.append(states_TD[row.rationale[1] - 1])
    with torch.no_grad():
        queries, keys = student.queries_and_keys(torch.stack(last))
    heads, groups = queries.shape[1], keys.shape[1]
    looked = torch.zeros(len(rows), len(rows))
    for head in range(heads):
        for i in range(len(rows)):
            logits = [
                (queries[i, head] @ keys[j, head * groups // heads]).item() / math.sqrt(queries.shape[2]) if j != i else -math.inf
                for j in range(len(rows))
            ]
            looked[i] += torch.tensor(logits).softmax(0) / heads
    for j, score in enumerate(scores):
        score["consensus"] = looked[:, j].sum().item()
    standard = {}
    for name in ("adaptability", "consensus", "difficulty"):
        values = torch.tensor([score[name] for score in scores])
        standard[name] = (values - values.mean()) / (values.std(unbiased=False) + 1e-4)
    b = settings
    logits = (
        b.adaptability * standard["adaptability"] + b.consensus * standard["consensus"] - b.difficulty * standard["difficulty"]
    )
    return (logits / b.temperature).softmax(0).tolist(), scores


def compact_by_hand(student: StudentModel, examples: Sequence[Example], settings: Compatibility) -> Tensor:
    """L of Eq. 11, the mean over questions."""
    total = torch.zeros(())
    for question in range(QUESTIONS):
        rows = [example for example in examples if example.question == f"q{question}"]
        alpha, _ = alpha_by_hand(student, rows, settings)
        answers = []
        for row in rows:
            _, log_probs_TV = log_probs(student, row)
            answers.append(log_probs_TV[row.answer[0] - 1 : row.answer[1] - 1])
        for k, row in enumerate(rows):
            kl = [(answers[k].exp() * (answers[k] - answers[j])).sum(-1).mean() for j in range(len(rows))]
            consistency = sum((alpha[j] * kl[j] for j in range(len(rows)) if j != k), torch.zeros(()))
            total = total + alpha[k] * (cross_entropy(student, row) + settings.consistency * consistency)
    return total / QUESTIONS


@pytest.mark.parametrize("micro_batch", [64, 1])
@pytest.mark.parametrize(
    "settings",
    [
        Compatibility(),
        Compatibility(adaptability=0, consistency=0.5),
        Compatibility(consensus=0, temperature=0.3),
        Compatibility(difficulty=0),
    ],
    ids=["all", "without adaptability", "without consensus", "without difficulty"],
)
def test_the_update_of_compact_is_the_papers(model: Path, examples: list[Example], settings: Compatibility, micro_batch: int):
    settled = config(compatibility=settings, micro_batch=micro_batch)
    student = student_of(model, settled, 3)
    learner = Learner(student, settled, seed=0)
    ours = updated(learner, examples)
    measured = learner.finish()
    student = student_of(model, settled, 3)
    loss = compact_by_hand(student, examples, settings)
    loss.backward()
    assert measured.loss == pytest.approx(loss.item(), rel=1e-5)
    for one, other in zip(ours, gradients(student.parameters), strict=True):
        assert_near(one, other)
    for question in range(QUESTIONS):
        rows = [example for example in examples if example.question == f"q{question}"]
        alpha, scores = alpha_by_hand(student_of(model, settled, 3), rows, settings)
        by_trajectory = {report.trajectory: report for report in measured.reports}
        told = [by_trajectory[row.trajectory] for row in rows]
        assert [each.alpha for each in told] == pytest.approx(alpha, rel=1e-4)
        assert len(set(alpha)) > 1
        for each, score in zip(told, scores, strict=True):
            for name, value in score.items():
                kept = getattr(each, name)
                assert kept is None if getattr(settings, name) == 0 else kept == pytest.approx(value, rel=1e-4)


def test_a_switch_removes_a_term_and_nothing_else(model: Path, examples: list[Example]):
    def measured(settings: Compatibility | None) -> Any:
        settled = config(compatibility=settings, batch_of="questions", conclusion="common")
        learner = Learner(student_of(model, settled, 3), settled, seed=0)
        updated(learner, examples)
        return learner.finish()

    plain, whole, silent = measured(None), measured(Compatibility()), measured(Compatibility(consistency=0))
    equal = measured(Compatibility(adaptability=0, consensus=0, difficulty=0, consistency=0))
    assert set(plain.terms) == {"cross_entropy"}
    assert set(whole.terms) == {"cross_entropy", "consistency"}
    assert silent.terms == {"cross_entropy": pytest.approx(whole.terms["cross_entropy"])}
    assert equal.loss == pytest.approx(plain.loss)  # all questions have as many trajectories here
    assert [each.alpha for each in equal.reports] == pytest.approx([1 / EACH] * len(examples))
    assert {each.alpha for each in plain.reports} == {None}
    assert [each.cross_entropy for each in plain.reports] == pytest.approx([e.cross_entropy for e in whole.reports])


def test_company_and_order_change_no_alpha(model: Path, examples: list[Example]):
    settled = config(compatibility=Compatibility())

    def alphas(some: Sequence[Example]) -> dict[str, float]:
        learner = Learner(student_of(model, settled, 3), settled, seed=0)
        updated(learner, some)
        return {report.trajectory: report.alpha for report in learner.finish().reports}

    whole = alphas(examples)
    assert alphas(examples[::-1]) == pytest.approx(whole, rel=1e-4)
    assert alphas(examples[:EACH]) == pytest.approx(
        {each.trajectory: whole[each.trajectory] for each in examples[:EACH]}, rel=1e-4
    )


# The joint loss of QR-Distill (Eq. 1-9 as methods.md has them)


def keeper_of(tmp_path: Path, router: Router, examples: Sequence[Example]) -> Gatekeeper:
    shared = Shared(store=tmp_path / "store.db", seed=5, config_hash="", names=NAMES, router=router)
    keeper = Gatekeeper(RouterSpec(shared=shared, student=config(), directory=tmp_path), HashedText(64))
    encoded = keeper.encoder.encode([each.response for each in examples])
    keeper._features = dict(zip((each.trajectory for each in examples), encoded, strict=True))
    return keeper


def peers_by_hand(
    students: dict[str, StudentModel], projections: dict[str, peers.Projection], examples: Sequence[Example]
) -> tuple[Tensor, Tensor]:
    """The peer losses of all students, and the losses of their competence, summed over examples."""
    peer, competence = torch.zeros(()), torch.zeros(())
    for each in examples:
        z, w = {}, {}
        for name in NAMES:
            spans = words(each.response)
            num = sum(begin < len(each.response) for begin in each.begins)
            states = students[name].states(torch.tensor([each.tokens]))[0][each.first : each.first + num]
            z[name] = projections[name](pool(states, pooling(each.begins[:num], len(each.response), spans), len(spans)))
            w[name] = projections[name].competence(z[name].detach())
        for name in NAMES:
            other = next(each for each in NAMES if each != name)
            theirs = z[other].detach().half().float()  # as it was sent
            gamma = torch.stack([w[name], w[other]]).detach().softmax(0)
            ensemble = (gamma[0] * z[name] + gamma[1] * theirs).detach()
            peer = peer + (z[name] - ensemble).square().mean()
        better = min(NAMES, key=lambda name: cross_entropy(students[name], each).item())
        logits = torch.stack([w[name] for name in NAMES])
        competence = competence - logits.log_softmax(0)[NAMES.index(better)]
    return peer, competence


@pytest.mark.parametrize("kind", ["independent", "onehot"])
def test_apart_the_actors_make_the_gradients_of_the_joint_loss(tmp_path: Path, model: Path, examples: list[Example], kind: Any):
    router = Router(gate=kind, baseline="routed", explore=1.0, entropy=0.3)
    exchanged = Peers(width=8, weight=0.7)
    items = [Item(trajectory=each.trajectory, question=each.question, characters=1) for each in examples]
    keeper = keeper_of(tmp_path, router, examples)
    routes = keeper.routes(items, 2)
    gate = {(route.trajectory, route.student): route.gate for route in routes}
    routed = {name: [each for each in examples if gate[each.trajectory, name]] for name in NAMES}
    both = [each.trajectory for each in examples if all(gate[each.trajectory, name] for name in NAMES)]
    assert all(routed.values())
    assert bool(both) == (kind == "independent")

    # apart: each student with its routes and the other's messages, the router with their reports
    learners, forwards = {}, {}
    for number, name in enumerate(NAMES):
        settled = config(name)
        student = student_of(model, settled, number)
        learner = Learner(student, settled, seed=0, peers=exchanged)
        learner.teach_with(make_teaching(exchanged, student.width, student.head, [], "same", lambda _: None, seed=number))
        learner.begin(0, 1e-3, routed[name], len(both))
        learner.measure([each for each in examples if not gate[each.trajectory, name]])
        learners[name] = learner
        forwards[name] = [learner.forward(rows, at, frozenset(both)) for at, rows in enumerate(learner.passes(routed[name]))]
    reports, apart = [], {}
    for name, learner in learners.items():
        other = next(each for each in NAMES if each != name)
        heard = {message.trajectory: [message] for forward in forwards[other] for message in forward.messages}
        for forward in forwards[name]:
            learner.backward(forward, heard)
        apart[name] = gradients(learner._learning())
        reports += learner.finish().reports
    before = [parameter.detach().clone() for parameter in keeper.gates.parameters()]
    values = keeper.learn(items, 2, routes, reports)
    of_gates = gradients(list(keeper.gates.parameters()))

    # together: one loss, one backward pass
    twin = keeper_of(tmp_path, router, examples)
    for parameter, value in zip(twin.gates.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    ids = [each.trajectory for each in examples]
    drawn = gates.sample(twin._logits(ids), gates.noise(5, ids, 2, 2), kind)
    students = {name: student_of(model, config(name), number) for number, name in enumerate(NAMES)}
    projections = {name: peers.Projection(students[name].width, 8, seed=number) for number, name in enumerate(NAMES)}
    total = torch.zeros(())
    for column, name in enumerate(NAMES):
        losses = torch.stack([cross_entropy(students[name], each) for each in examples])
        g = drawn[:, column]
        total = total + (g * losses).sum() / g.sum().clamp(min=1)
    entropy = torch.stack([-(p * p.log() + (1 - p) * (1 - p).log()) for p in drawn.mean(0)]).mean()
    joint = total - router.entropy * entropy
    shared = [each for each in examples if each.trajectory in both]
    peer, competence = peers_by_hand(students, projections, shared)
    (joint + (exchanged.weight * peer + competence) / max(1, len(both))).backward()

    assert values["loss"] == pytest.approx(joint.item(), rel=1e-5)
    assert values["entropy"] == pytest.approx(entropy.item(), rel=1e-5)
    for one, other in zip(of_gates, gradients(list(twin.gates.parameters())), strict=True):
        assert_near(one, other)
        assert one.abs().max() > 0
    for name in NAMES:
        joint_gradients = gradients([*students[name].parameters, *projections[name].parameters()])
        for one, other in zip(apart[name], joint_gradients, strict=True):
            assert_near(one, other)
        if both:
            assert all(each.abs().max() > 0 for each in apart[name][-2:])  # the projection, and the competence


# What has gone wrong


def test_losses_that_stay_high_stop_the_student_and_name_the_batch_they_began_with(model: Path, examples: list[Example]):
    """Its losses are about 7, and it remembers that 0.001 was usual."""
    learner = Learner(student_of(model, config(), 0), config(), seed=0)

    def learn(number: int) -> None:
        learner.begin(number, 1e-5, examples[number % 2 : 3])
        learner.learn(examples[number % 2 : 3])
        learner.finish()
        learner.step()

    learner.remember([1e-3] * 21)
    for number in range(21, 25):
        learn(number)
        assert learner.suspect is not None
    says = r"update 22: loss \d+\.\d+, gradient norm .*; trajectories t0-1, t0-2; and then losses of (\d\.\d+, ){3}\d\.\d+; "
    with pytest.raises(Diverged, match=says):
        learn(25)


def test_a_loss_that_is_high_once_stops_nobody(model: Path, examples: list[Example]):
    learner = Learner(student_of(model, config(), 0), config(), seed=0)
    for losses, is_suspect in (([1e-3] * 20, True), ([1e-3] * 20 + [10.0], True), ([10.0] * 20, False)):
        learner.remember(losses)
        learner.begin(0, 0.0, examples[:2])
        learner.learn(examples[:2])
        learner.finish()
        learner.step()
        assert (learner.suspect is not None) == is_suspect
