"""The proving ground's parts, with models that are trained for four updates: everything but their skill is real."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from proving_ground import Ground, build, tiny
from proving_ground.cache import MADE, code, is_kept
from proving_ground.language import KINDS, MODULUS, Problem, draw, last_number, lexicon, slip
from proving_ground.measure import answered, mixed, opened, question, stepped, told_apart
from proving_ground.models import sees, shape
from proving_ground.rows import Skill, branch, row, steps, trunk, turn
from proving_ground.tokens import ANSWER, CUTS, UNKNOWN, cut_at_answer, encode, make

from agents import prompts
from configs.schema import Asking, File, RunConfig
from orchestrator.answers.answer import extract, same_answer
from orchestrator.questions.load import load_questions
from store.reasoning import closed_reasoning, header, open_reasoning

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = replace(tiny(), teachers=tiny().teachers[:2], provers=tiny().provers[:1])


def silent(_: str) -> None:
    """Nobody listens."""


def bytes_of(ground: Ground) -> dict[str, bytes]:
    models = {name: (folder / "model.safetensors").read_bytes() for name, folder in (ground.teachers | ground.provers).items()}
    return models | {name: path.read_bytes() for name, path in ground.questions.items()}


def some_problems(count: int, lengths: tuple[int, ...] = (1, 3, 5)) -> list[Problem]:
    chance = random.Random(7)
    return [draw(chance, lengths[index % len(lengths)], reserved=False) for index in range(count)]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return build(tiny(), tmp_path_factory.mktemp("ground"), processes=1, tell=silent)


def test_every_operation_is_a_bijection_and_a_slip_is_wrong() -> None:
    chance = random.Random(1)
    for kind in KINDS.values():
        for k in kind.operands:
            assert sorted(kind.apply(x, k) for x in range(MODULUS)) == list(range(MODULUS))
    assert all(slip(chance, x) != x and 0 <= slip(chance, x) < MODULUS for x in range(MODULUS))


@pytest.mark.parametrize("name", CUTS)
def test_a_tokenizer_gives_the_language_back_and_cuts_prompts_as_whole_texts(name: str) -> None:
    tokenizer = make(name)
    unknown = tokenizer.get_vocab()[UNKNOWN]
    chance = random.Random(2)
    for text in chance.sample(sorted({f" {text}" for text in lexicon()}), 500):
        tokens = encode(tokenizer, text)
        assert tokenizer.decode(tokens) == text
        assert unknown not in tokens
    for problem in some_problems(30, (1, 5, 9)):
        told = steps(problem, problem.values, [chance.randrange(3) for _ in problem.values])
        whole = turn(tokenizer, problem) + closed_reasoning("\n".join(told), f"{ANSWER}{problem.answer}.")
        tokens = cut_at_answer(tokenizer, whole)
        assert tokenizer.decode(tokens) == whole
        assert unknown not in tokens
        for at in range(len(told)):
            opened_at = encode(tokenizer, turn(tokenizer, problem) + open_reasoning(told[:at]))
            assert tokens[: len(opened_at)] == opened_at, "a prompt's tokens are those that the model was trained on"
        asked = encode(tokenizer, turn(tokenizer, problem) + closed_reasoning("\n".join(told), ANSWER))
        assert tokens[: len(asked)] == asked


def test_tokenizers_really_differ() -> None:
    text = " Multiply 42 by 7 to get 94."
    assert len({tuple(make(name).tokenize(text)) for name in CUTS}) == len(CUTS)


def test_the_language_and_the_system_agree_on_answers() -> None:
    for problem in some_problems(100):
        said = f"{ANSWER}{problem.answer}."
        answer = extract(said, "math")
        assert answer is not None
        assert same_answer(answer, str(problem.answer), "math")
        assert not same_answer(answer, str((problem.answer + 10) % MODULUS), "math")
        told = steps(problem, problem.values, [0] * len(problem.values))
        assert [last_number(each) for each in told] == problem.values
        assert [each.startswith(header(place)) for place, each in enumerate(told, start=1)] == [True] * len(told)


def test_the_loss_starts_where_the_system_stops_writing() -> None:
    chance, tokenizer = random.Random(3), make("digits")
    whole = row(chance, Skill(branches_from=0.5), tokenizer, 5, 0.4)
    assert tokenizer.decode(whole.tokens[: whole.weights.index(1.0)]).endswith("<think>\n### Step 1.")
    assert not any(whole.branches)
    assert any(row(chance, Skill(branches_from=0.5), tokenizer, 5, 0.5).branches)


def test_a_branch_is_computed_as_the_prompt_that_it_stands_for() -> None:
    """The mask, the positions and the tokens of a branch, against the prover's real prompt."""
    chance, tokenizer = random.Random(3), make("trailing")
    problem = draw(chance, 4, reserved=False)
    told = steps(problem, problem.values, [0, 1, 2, 0])
    grown = trunk(tokenizer, problem, told, problem.answer)
    for shown in (1, 2, 3):
        branch(grown, tokenizer, problem, told[:shown])
    asked = turn(tokenizer, problem) + closed_reasoning("\n".join(told[:2]), f"{ANSWER}{problem.answer}")
    alone = encode(tokenizer, asked)
    at = [place for place, each in enumerate(grown.branches) if each == 2]
    assert [grown.tokens[place] for place in [*range(grown.seen[at[0]]), *at]] == alone
    assert [grown.positions[place] for place in at] == list(range(len(alone) - len(at), len(alone)))
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape(tiny().provers[0], len(tokenizer), 1)).eval()
    with torch.no_grad():
        mask = sees(torch.tensor([grown.branches]), torch.tensor([grown.seen]))
        tokens, positions = torch.tensor([grown.tokens]), torch.tensor([grown.positions])
        in_row = model(tokens, attention_mask=mask, position_ids=positions).logits[0, at[-1]]
        torch.testing.assert_close(in_row, model(torch.tensor([alone])).logits[0, -1], atol=1e-5, rtol=1e-4)


def test_the_same_plan_is_the_same_bytes_and_a_second_build_trains_nothing(ground: Ground, tmp_path: Path) -> None:
    assert ground.trained == 6
    again = build(FEW, ground.teachers["whole"].parent, processes=1, tell=silent)
    assert (again.trained, again.teachers["whole"]) == (0, ground.teachers["whole"])
    elsewhere = build(FEW, tmp_path, processes=1, tell=silent)
    assert elsewhere.trained == 3
    assert bytes_of(elsewhere) == {name: found for name, found in bytes_of(ground).items() if name in bytes_of(elsewhere)}
    other = build(replace(FEW, seed=1), tmp_path, processes=1, tell=silent)
    assert not set(bytes_of(other).values()) & set(bytes_of(elsewhere).values())


def test_what_a_killed_process_left_is_made_again(ground: Ground, tmp_path: Path) -> None:
    folder = tmp_path / "ground"
    shutil.copytree(ground.teachers["whole"].parent, folder, symlinks=True)
    before = bytes_of(build(FEW, folder, processes=1, tell=silent))
    whole, digits = (folder / ground.teachers[name].name for name in ("whole", "digits"))
    (whole / MADE).unlink()
    os.truncate(digits / "model.safetensors", 1000)
    (folder / f"{whole.name}.part").mkdir()
    (folder / f"{whole.name}.part" / "config.json").write_text("{")
    assert not is_kept(whole)
    assert not is_kept(digits)
    mended = build(FEW, folder, processes=1, tell=silent)
    assert mended.trained == 2
    assert bytes_of(mended) == before


def test_questions_are_read_by_the_system_and_no_two_sets_share_one(ground: Ground) -> None:
    keys = [problem.key for name in ground.questions for problem in ground.problems(name)]
    assert len(keys) == len(set(keys)) == 48
    for name, path in ground.questions.items():
        loaded = load_questions(File(kind="file", path=str(path)), Path())
        assert not loaded.bad
        assert [(each.text, each.answer) for each in loaded.questions] == [
            (problem.text, str(problem.answer)) for problem in ground.problems(name)
        ]
        assert all(problem.reserved for problem in ground.problems(name))
    config = RunConfig.model_validate({"name": "here", **ground.asked("train", count=5), **ground.agents(prover="weak")})
    assert [teacher.name for teacher in config.teachers] == ["whole", "digits", "mixed", "spelled"]


async def ask(ground: Ground) -> None:
    problems = ground.problems("test")[:1]  # untrained models never end: every trace is as long as it may be
    async with AsyncExitStack() as stack:
        models = await opened(stack, ground.teachers)
        assert len(await answered(models["digits"], problems)) == 1
        for model in models.values():
            assert len(await stepped(model, problems)) == sum(len(problem.operations) for problem in problems)
        assert len(await mixed(models, dict.fromkeys(KINDS, "digits"), problems)) == 1
        for prover in (await opened(stack, ground.provers)).values():
            assert len(await told_apart(prover, problems, 1)) == 1
            context = prompts.conclude(question(problems[0]), "### Step 1. Fold 12 to get 13.", Asking())
            scored = await prover.answer_logprobs(context, str(problems[0].answer))
            assert len(scored.values) == 1, "a prover reads a number as one token"


def test_the_models_open_in_the_engine_and_generate_and_score(ground: Ground) -> None:
    asyncio.run(ask(ground))


def test_words_about_the_code_do_not_train_anything_anew_and_code_does() -> None:
    plain = "RATE = 2\n\ndef f(x):\n    return x * RATE\n"
    told = '"""A module."""\nRATE = 2  # twice\n"""How often."""\n\n\ndef f(x):\n    """Doubles."""\n    return (x * RATE)\n'
    assert code(plain) == code(told)
    assert code(plain) != code(plain.replace("2", "3"))
    assert code(plain) != code(plain.replace("x * RATE", '"x"'))
