"""A tiny student, the real loop, the real store, real processes."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tiny_student import CHATML, NAME, make_lesson, make_lessons, make_spec, make_tokenizer
from tiny_training import ending, examples, kept, last_words, losses, process, wait_for_update
from transformers import AutoModelForCausalLM

from configs.schema import Lora
from store.reasoning import response
from store.store import Verb, open_store
from trainers import checkpoint
from trainers.checkpoint import OtherTraining
from trainers.data import Batch, Writing, collate
from trainers.losses import mean_by_row, token_cross_entropy
from trainers.measures import LASTING, USUAL
from trainers.plan import Item, Walk
from trainers.spec import Spec
from trainers.student import Chat, StudentModel, load_chat, load_student

NUM_LESSONS = 18
UPDATES = 20


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """A tiny model gains nothing from a second thread, and waits for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, taught: Path, model: Path) -> Path:
    """A training that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copy(taught, root / "store.db")
    assert ending(make_spec(root, model)) == "done"
    return root


def student(spec: Spec) -> StudentModel:
    loaded = load_student(spec.model, spec.student, spec.shared.seed)
    loaded.learn(False)
    return loaded


# The template


def test_prompt_and_response_are_one_conversation(model: Path, root: Path):
    chat = load_chat(model)
    assert chat.end_of_turn == "<|im_end|>"
    assert chat.prompt("Why?", "Be brief.") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("opened", ["<think>", "<think>\n"])
def test_one_think_remains_where_the_template_opens_it(opened: str):
    prompt = Chat(make_tokenizer(CHATML.replace("assistant\n", f"assistant\n{opened}"))).prompt("Why?", None)
    assert prompt.endswith("<|im_start|>assistant\n")


def test_a_template_without_an_end_of_turn_gets_the_end_of_sequence():
    bare = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    assert Chat(make_tokenizer(bare)).end_of_turn == "<|im_end|>"


TOKENIZER = make_tokenizer()
CHAT = Chat(TOKENIZER)
texts = st.text(st.characters(exclude_characters="<|", exclude_categories=("Cs",)), max_size=40)


@settings(max_examples=50)
@given(texts.filter(str.strip), texts.filter(str.strip), texts)
def test_the_labels_are_the_response(text: str, conclusion: str, asked: str):
    example = Writing(template=CHAT).example(make_lesson("1", asked, text, conclusion))
    learnt = TOKENIZER.decode(list(example.tokens[example.first :]), skip_special_tokens=False)
    assert learnt == response(text, conclusion) + "<|im_end|>"


# The student


def test_padding_and_company_change_nothing(root: Path, model: Path):
    spec = make_spec(root, model)
    some = examples(spec)[:4]
    one = student(spec)
    with torch.no_grad():
        together = losses_of(one, collate(some))
        padded = losses_of(one, collate(some, width=200))
        alone = torch.cat([losses_of(one, collate([example])) for example in some])
    torch.testing.assert_close(padded, together)
    torch.testing.assert_close(alone, together)


def test_the_loss_is_that_of_transformers(root: Path, model: Path):
    spec = make_spec(root, model)
    (example, *_) = examples(spec)
    tokens = torch.tensor([example.tokens])
    labels = tokens.clone()
    labels[:, : example.first] = -100
    with torch.no_grad():
        ours = losses_of(student(spec), collate([example]))
        theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(input_ids=tokens, labels=labels).loss
    torch.testing.assert_close(ours[0], theirs)


def test_only_float32_adapters_of_attention_learn_in_bfloat16(root: Path, model: Path):
    one = load_student(model, make_spec(root, model, dtype="bfloat16").student, seed=0)
    assert one.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in one.parameters} == {torch.float32}
    assert len(one.parameters) == 2 * 4 * 2  # layers, projections, both factors


def losses_of(one: StudentModel, batch: Batch) -> torch.Tensor:
    """Each trajectory's mean cross-entropy."""
    states_ND = one.states(batch.tokens_BT).flatten(0, 1)[batch.places_N]
    losses_N = token_cross_entropy(one.head, states_ND, batch.labels_N, head_learns=one.head_learns)
    return mean_by_row(losses_N, batch.rows_N, len(batch.trajectories))


# The loop


def test_it_learns_and_records_everything(whole: Path, model: Path):
    spec = make_spec(whole, model)
    metrics, checkpoints, counts = kept(spec)
    assert [one.update for one in metrics] == list(range(1, UPDATES + 1))
    values = losses(spec)
    assert sum(values[-5:]) / 5 < 0.6 * values[0]
    assert counts[f"reports.{NAME}"] == NUM_LESSONS * spec.student.epochs
    assert metrics[-1].values["epoch"] == spec.student.epochs
    assert [one.update for one in checkpoints if one.final] == [UPDATES]
    assert sorted(path.name for path in spec.directory.iterdir()) == ["checkpoint-000015", "checkpoint-000018", "final"]
    manifest = checkpoint.find_final(spec.directory, spec.shared.config_hash)
    assert manifest is not None
    assert list(manifest.losses) == values


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers for it
def test_peft_loads_and_merges_the_adapter(whole: Path, model: Path):
    spec = make_spec(whole, model)
    final = spec.directory / "final"
    assert sorted(path.name for path in final.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = torch.tensor([examples(spec)[0].tokens])
    before = base(input_ids=tokens).logits
    adapted = PeftModel.from_pretrained(base, str(final))
    merged: Any = adapted.merge_and_unload()  # pyright: ignore[reportCallIssue] - typed as a module's attribute
    ours = student(spec)
    ours.load(final)
    with torch.no_grad():
        after = merged(input_ids=tokens).logits
        torch.testing.assert_close(after, ours.head(ours.states(tokens)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_running_again_does_nothing(whole: Path, model: Path):
    told: list[dict[str, Any]] = []
    assert ending(make_spec(whole, model), told) == "done"
    assert [message["kind"] for message in told] == ["done"]


def test_stopped_and_resumed_it_ends_as_if_never_stopped(root: Path, whole: Path, model: Path):
    spec = make_spec(root, model)
    assert ending(spec, stop_at=5) == "stopped"
    assert [one.update for one in kept(spec)[1]] == [3, 5]
    told: list[dict[str, Any]] = []
    assert ending(spec, told, stop_at=7) == "stopped"
    assert told[0]["kind"] == "loaded"
    assert told[0]["update"] == 5
    assert ending(spec) == "done"
    assert losses(spec) == losses(make_spec(whole, model))
    assert adapter(spec) == adapter(make_spec(whole, model))


def adapter(spec: Spec) -> bytes:
    return (spec.directory / "final" / "adapter_model.safetensors").read_bytes()


def test_a_damaged_checkpoint_is_passed_over(root: Path, whole: Path, model: Path):
    spec = make_spec(root, model)
    assert ending(spec, stop_at=7) == "stopped"
    (spec.directory / "checkpoint-000007" / "state.pt").write_bytes(b"damaged")
    told: list[dict[str, Any]] = []
    assert ending(spec, told) == "done"
    assert told[0]["update"] == 6
    assert losses(spec) == losses(make_spec(whole, model))
    assert adapter(spec) == adapter(make_spec(whole, model))


def test_a_final_adapter_that_was_recorded_but_not_named_is_made_again(root: Path, whole: Path, model: Path):
    shutil.copytree(whole, root, dirs_exist_ok=True)
    spec = make_spec(root, model)
    (spec.directory / "final").rename(spec.directory / ".draft-final")
    metrics, checkpoints, counts = kept(spec)
    assert ending(spec) == "done"
    assert kept(spec)[0] == metrics
    assert len(kept(spec)[1]) == len(checkpoints)
    assert kept(spec)[2] == counts
    assert adapter(spec) == adapter(make_spec(whole, model))
    assert not list(spec.directory.glob(".draft-*"))


@pytest.mark.parametrize("finished", [True, False])
def test_another_configurations_checkpoints_are_refused(root: Path, model: Path, whole: Path, finished: bool):
    shutil.copytree(whole, root, dirs_exist_ok=True)
    spec = make_spec(root, model, config_hash="another")
    if not finished:
        shutil.rmtree(spec.directory / "final")
    with pytest.raises(OtherTraining, match=r"made with another configuration \(configuratio, now another\)"):
        ending(spec)


def test_other_lessons_are_refused(root: Path, model: Path):
    spec = make_spec(root, model)
    assert ending(spec, stop_at=2) == "stopped"
    kept_as = kept(spec)[1]
    spec.shared.store.unlink()
    asyncio.run(make_lessons(spec.shared.store, NUM_LESSONS + 1))

    async def keep() -> None:
        async with open_store(spec.shared.store) as store:
            await store.record_training([], [], kept_as[-1])

    asyncio.run(keep())
    with pytest.raises(OtherTraining, match="other lessons"):
        ending(spec)


def test_long_lessons_are_left_out_and_counted(root: Path, model: Path):
    spec = make_spec(root, model)
    lengths = sorted(len(example.tokens) for example in examples(spec))
    spec = make_spec(root, model, max_tokens=lengths[len(lengths) // 2], epochs=1)
    long = sum(length > spec.student.max_tokens for length in lengths)
    told: list[dict[str, Any]] = []
    assert ending(spec, told) == "done"
    assert told[0]["left_out"] == long > 0
    assert kept(spec)[0][-1].values["left_out"] == long
    assert kept(spec)[2][f"reports.{NAME}"] == NUM_LESSONS - long


def test_all_lessons_too_long(root: Path, model: Path):
    told: list[dict[str, Any]] = []
    assert ending(make_spec(root, model, max_tokens=16), told) == "nothing"
    assert told[0]["left_out"] == NUM_LESSONS
    assert "longer than 16 tokens" in told[0]["message"]


def test_no_lessons(tmp_path: Path, model: Path):
    asyncio.run(make_lessons(tmp_path / "store.db", 0))
    told: list[dict[str, Any]] = []
    assert ending(make_spec(tmp_path, model), told) == "nothing"
    message = "tiny has nothing to learn: there are no lessons"
    assert told == [{"kind": "nothing", "message": message, "left_out": 0, "actor": NAME}]


RECKLESS: dict[str, Any] = {"tuning": "full", "learning_rate": 3.0, "warmup": 0.9}
"""The rate rises until the weights are lost; all losses are numbers."""


def test_losses_that_explode_stop_it_at_the_checkpoint_before(root: Path, model: Path):
    spec = make_spec(root, model, epochs=24, checkpoint_every=1, explosion=2.0, **RECKLESS)
    told: list[dict[str, Any]] = []
    assert ending(spec, told) == "diverged"
    good = len(losses(spec))
    assert USUAL <= good < len([message for message in told if message["kind"] == "update"])
    message = told[-1]["message"]
    assert f"student {NAME} stopped at update {good + 1}: loss " in message
    after = message.partition("; and then losses of ")[2].partition(";")[0].split(", ")
    assert len(after) == LASTING - 1
    assert all(float(loss) > 2 * median(losses(spec)[-USUAL:]) for loss in after)
    assert f"its last good checkpoint is in {spec.directory}" in message
    assert (spec.directory / f"checkpoint-{good:06d}").is_dir()
    assert not list(spec.directory.glob(f"checkpoint-{good + 1:06d}*"))
    assert not (spec.directory / "final").exists()


def test_a_training_that_ends_before_they_are_enough_says_so(root: Path, model: Path):
    told: list[dict[str, Any]] = []
    assert ending(make_spec(root, model, epochs=5, explosion=4.0, **RECKLESS), told) == "done"
    (note,) = [message["message"] for message in told if message["kind"] == "note"]
    assert note.startswith(f"{NAME} ends on high losses, from update 2")


def test_the_learning_rate_rises_and_falls():
    arrived = tuple(Item(trajectory=str(at), question=str(at), characters=1) for at in range(20))
    walk = Walk(arrivals=(arrived,), ended_with=0, epochs=4, batch=4, batch_of="trajectories", seed=0)
    rates = [walk.rate(number, 1.0, 0.2) for number in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.02


# The process


@pytest.mark.chaos
@pytest.mark.long
def test_killed_at_any_moment_it_ends_as_if_never_killed(root: Path, whole: Path, model: Path):
    spec = make_spec(root, model)
    for update in (2, 8):
        child = process(spec)
        wait_for_update(child, update)
        child.kill()
        child.communicate()
        assert len(losses(spec)) >= update - update % 3 - 3
    child = process(spec)
    code, messages, errors = last_words(child)
    assert (code, errors) == (0, "")
    assert messages[0]["update"] >= 6
    assert messages[-1]["kind"] == "done"
    assert kept(spec)[2][f"reports.{NAME}"] == NUM_LESSONS * spec.student.epochs
    assert losses(spec) == losses(make_spec(whole, model))
    assert adapter(spec) == adapter(make_spec(whole, model))


@pytest.mark.long
def test_while_the_run_is_paused_a_student_waits_and_then_ends_as_if_it_had_not(root: Path, whole: Path, model: Path):
    spec = make_spec(root, model)
    asked(spec, "pause")
    child = process(spec)
    assert child.stdout
    assert next(line for line in child.stdout if '"loaded"' in line)
    time.sleep(3.0)  # undisturbed, it would have ended by now
    assert kept(spec)[0] == []
    asked(spec, "resume")
    code, messages, errors = last_words(child)
    assert (code, errors) == (0, "")
    assert messages[-1]["kind"] == "done"
    assert losses(spec) == losses(make_spec(whole, model))


def asked(spec: Spec, verb: Verb) -> None:
    async def ask() -> None:
        async with open_store(spec.shared.store, create=False) as store:
            await store.ask(verb, by="me")

    asyncio.run(ask())


@pytest.mark.chaos
@pytest.mark.long
def test_sigterm_leaves_a_checkpoint_and_a_closed_pipe_ends_it_at_once(root: Path, model: Path):
    spec = make_spec(root, model, epochs=10_000)
    child = process(spec)
    wait_for_update(child, 1)
    child.terminate()
    code, messages, errors = last_words(child)
    assert (code, errors) == (143, "")
    assert messages[-1]["kind"] == "checkpoint"
    orphan = process(spec)
    wait_for_update(orphan, len(losses(spec)) + 1)
    assert orphan.stdin is not None
    orphan.stdin.close()
    assert orphan.wait(timeout=10) == 3
    for pipe in (orphan.stdout, orphan.stderr):
        assert pipe is not None
        pipe.close()


def test_an_error_is_one_line_for_the_parent(root: Path, model: Path):
    spec = make_spec(root, root / "nowhere")
    code, (message,), errors = last_words(process(spec))
    assert code == 1
    assert message["kind"] == "error"
    assert "nowhere" in message["message"]
    assert "Traceback" in errors


def test_what_would_fail_again_is_exit_code_2(root: Path, model: Path):
    spec = make_spec(root, model, lora=Lora(targets=("no_such_layer",)))
    code, (message,), _ = last_words(process(spec))
    assert code == 2
    assert "no_such_layer" in message["message"]
