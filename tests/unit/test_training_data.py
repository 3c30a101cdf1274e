"""Lessons to batches. The tokenizer here cuts text anywhere, also across the prompt's end."""

import math
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from store.reasoning import response
from store.types import Lesson, Question, Trajectory, Usage
from trainers.data import Example, Writing, collate
from trainers.plan import Item, order, passes


class Pieces:
    """A template whose tokens are pieces of given lengths; `texts` holds each token's characters."""

    end_of_turn = "<end>"

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.texts: list[str] = []

    def prompt(self, user: str, system: str | None) -> str:
        return f"{system or ''}|{user}|"

    def inert(self, text: str) -> str:
        return text

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        begins, at, index = [], 0, 0
        while at < len(text):
            begins.append(at)
            at += self.lengths[index % len(self.lengths)]
            index += 1
        offsets = list(zip(begins, [*begins[1:], len(text)], strict=True))
        self.texts = [text[begin:end] for begin, end in offsets]
        return list(range(len(begins))), offsets


def lesson(text: str = "### Step 1. a", conclusion: str = "b", asked: str = "c?", context: str | None = None) -> Lesson:
    question = Question(id="q", text=asked, answer="b", kind="math", context=context)
    trajectory = Trajectory(
        id="t",
        question="q",
        nodes=(),
        teachers=("teacher",),
        text=text,
        conclusion=conclusion,
        answer="b",
        origin="search",
        score=1.0,
        best=True,
        usage=Usage(),
    )
    return Lesson(question=question, trajectory=trajectory)


def example(name: str, length: int, first: int = 1) -> Example:
    return Example(trajectory=name, question=name, tokens=tuple(range(1, length + 1)), first=first)


texts = st.text(max_size=40)


@given(texts.filter(str.strip), texts.filter(str.strip), texts, st.lists(st.integers(1, 7), min_size=1, max_size=9))
def test_exactly_the_responses_characters_are_learnt(text: str, conclusion: str, asked: str, lengths: list[int]):
    template = Pieces(lengths)
    made = Writing(template=template, system="s").example(lesson(text, conclusion, asked))
    prompt, written = template.prompt(asked, "s"), response(text, conclusion) + "<end>"
    learnt, masked = "".join(template.texts[made.first :]), "".join(template.texts[: made.first])
    assert masked + learnt == prompt + written
    assert written.endswith(learnt)
    straddling = len(masked) - len(prompt)
    assert 0 <= straddling < max(lengths)
    assert straddling == 0 or len(template.texts[made.first - 1]) > straddling


def test_context_comes_before_the_question():
    template = Pieces([1])
    Writing(template=template).example(lesson(asked="why?", context="Because."))
    assert "".join(template.texts).startswith("|Because.\n\nwhy?|<think>\n### Step 1.")


@given(st.lists(st.tuples(st.integers(2, 12), st.integers(1, 11)), min_size=1, max_size=6), st.integers(0, 30))
def test_a_batch_predicts_each_response_token_from_the_token_before_it(shapes: list[tuple[int, int]], width: int):
    examples = [example(str(at), length, min(first, length - 1)) for at, (length, first) in enumerate(shapes)]
    batch = collate(examples, width=width)
    flat = batch.tokens_BT.flatten()
    torch.testing.assert_close(flat[batch.places_N] + 1, batch.labels_N)
    for row, one in enumerate(examples):
        assert tuple(batch.labels_N[batch.rows_N == row].tolist()) == one.tokens[one.first :]


def items(lengths: list[int], of: int = 1) -> list[Item]:
    """`of` trajectories of each question."""
    return [Item(trajectory=str(at), question=str(at // of), characters=length) for at, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=120), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_holds_every_example_once(lengths: list[int], batch: int, seed: int, epoch: int):
    batches = order(items(lengths), batch, "trajectories", seed, epoch)
    assert Counter(item.trajectory for one in batches for item in one) == Counter(map(str, range(len(lengths))))
    assert len(batches) == -(-len(lengths) // batch)
    assert max(map(len, batches)) <= batch
    assert batches == order(items(lengths), batch, "trajectories", seed, epoch)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=120), st.integers(1, 4), st.integers(1, 9))
def test_questions_stay_whole(lengths: list[int], of: int, batch: int):
    batches = order(items(lengths, of), batch, "questions", 0, 0)
    asked = [{item.question for item in one} for one in batches]
    assert sum(map(len, asked)) == len(set().union(*asked)) == math.ceil(len(lengths) / of)
    assert len(batches) == math.ceil(math.ceil(len(lengths) / of) / batch)


def test_epochs_and_seeds_differ_in_their_order():
    some = items(list(range(64)))
    assert len({str(order(some, 4, "trajectories", seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_gather_similar_lengths():
    lengths = [10, 300] * 64
    batches = order(items(lengths), 8, "trajectories", seed=0, epoch=0)
    assert sum(max(item.characters for item in one) * len(one) for one in batches) < 1.1 * sum(lengths)


@given(
    st.lists(st.lists(st.integers(2, 50), min_size=1, max_size=4), min_size=1, max_size=20),
    st.integers(1, 8),
    st.none() | st.integers(1, 200),
)
def test_forward_passes_hold_to_their_limits_and_cut_no_unit(lengths: list[list[int]], rows: int, tokens: int | None):
    units = [[(number, length) for length in unit] for number, unit in enumerate(lengths)]
    made = list(passes(units, [max(unit) for unit in lengths], rows, tokens))
    assert [one for each in made for one in each] == [one for unit in units for one in unit]
    for each in made:
        padded = len(each) * max(length for _, length in each)
        alone = len({number for number, _ in each}) == 1
        assert len(each) <= rows or alone
        assert tokens is None or padded <= tokens or alone
        for index in {number for number, _ in each}:
            assert sum(number == index for number, _ in each) == len(lengths[index])
