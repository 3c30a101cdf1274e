"""What learns: an adapter on weights of 4 bits, or all weights; with activations computed again; in smaller passes.

A missing bitsandbytes fails here: it is in the extra `dev`.
"""

import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from tiny_student import make_model, make_spec
from tiny_training import ending, examples, losses
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from configs.schema import Lora
from trainers.data import Example
from trainers.spec import Spec
from trainers.student import StudentModel, load_student
from trainers.update import Learner

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_LESSONS = 18
TUNINGS: dict[str, dict[str, Any]] = {
    "full": {"tuning": "full", "learning_rate": 3e-3},
    "qlora": {"tuning": "qlora"},
    "checkpointing": {"gradient_checkpointing": True},
    "full, checkpointing": {"tuning": "full", "learning_rate": 3e-3, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("untied"), tied=False)


def another(root: Path, taught: Path) -> Path:
    """A second training's place."""
    other = root / "other"
    other.mkdir()
    shutil.copy(taught, other / "store.db")
    return other


def learner(spec: Spec) -> Learner:
    return Learner(load_student(spec.model, spec.student, spec.shared.seed), spec.student, spec.shared.seed)


def weights(one: StudentModel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one.parameters]


def final_weights(spec: Spec) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (spec.directory / "final").glob("*.safetensors")}


def logits(one: StudentModel, tokens: torch.Tensor) -> torch.Tensor:
    one.learn(False)
    with torch.no_grad():
        return one.head(one.states(tokens))


@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
def test_it_learns_and_stopped_and_resumed_it_ends_as_if_never_stopped(
    root: Path, taught: Path, model: Path, tuning: dict[str, Any]
):
    whole, stopped = make_spec(root, model, **tuning), make_spec(another(root, taught), model, **tuning)
    assert ending(whole) == "done"
    values = losses(whole)
    assert sum(values[-5:]) / 5 < 0.8 * values[0]
    assert ending(stopped, stop_at=7) == "stopped"
    assert ending(stopped) == "done"
    assert losses(stopped) == values
    assert final_weights(stopped) == final_weights(whole)
    assert len(final_weights(whole)) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_fully_tuned_student_is_a_folder_as_the_hub_has_them(root: Path, model: Path, untied: Path, tied: bool):
    spec = make_spec(root, model if tied else untied, epochs=1, **TUNINGS["full"])
    assert ending(spec) == "done"
    final = spec.directory / "final"
    tokens = torch.tensor([examples(spec)[0].tokens])
    one = load_student(spec.model, spec.student, 0)
    before = logits(one, tokens)
    one.load(final)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(final)(input_ids=tokens).logits
    torch.testing.assert_close(theirs, logits(one, tokens))
    assert not torch.allclose(theirs, before, atol=1e-2)
    said = [{"role": "user", "content": "Why?"}]
    ours, first = (AutoTokenizer.from_pretrained(folder) for folder in (final, spec.model))
    assert ours.apply_chat_template(said, tokenize=False) == first.apply_chat_template(said, tokenize=False)
    assert ours("What is 1 and 2?")["input_ids"] == first("What is 1 and 2?")["input_ids"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers for it
def test_an_adapter_on_4_bits_is_one_that_peft_loads_there(root: Path, model: Path):
    spec = make_spec(root, model, epochs=1, **TUNINGS["qlora"])
    assert ending(spec) == "done"
    one = load_student(spec.model, spec.student, 0)
    quantised = [each for each in one._whole.modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert len(quantised) == 2 * 7  # layers, projections
    assert {parameter.dtype for parameter in one.parameters} == {torch.float32}
    tokens = torch.tensor([examples(spec)[0].tokens])
    before = logits(one, tokens)
    one.load(spec.directory / "final")
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = AutoModelForCausalLM.from_pretrained(model, quantization_config=four_bits, dtype=torch.float32, device_map="cpu")
    for layer in base.modules():  # these are too narrow for how bitsandbytes packs them for AVX-512
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, str(spec.directory / "final"))(input_ids=tokens).logits
    torch.testing.assert_close(theirs, logits(one, tokens), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(theirs, before, atol=1e-2)


@pytest.mark.parametrize("tuning", ["lora", "qlora", "full"])
def test_computing_activations_again_changes_no_loss(root: Path, taught: Path, model: Path, tuning: str):
    settings = {"tuning": tuning, "epochs": 1, "learning_rate": 3e-3}
    again = make_spec(another(root, taught), model, gradient_checkpointing=True, **settings)
    once = make_spec(root, model, **settings)
    assert (ending(once), ending(again)) == ("done", "done")
    assert losses(again) == pytest.approx(losses(once), rel=1e-6)


def test_activations_are_in_fact_computed_again(root: Path, model: Path):
    def forwards(checkpointing: bool) -> int:
        spec = make_spec(root, model, gradient_checkpointing=checkpointing)
        one = learner(spec)
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        one.student._decoder.layers[0].self_attn.q_proj.register_forward_hook(count)
        update(one, examples(spec)[:2])
        return calls

    assert (forwards(False), forwards(True)) == (1, 2)


def update(one: Learner, some: list[Example]) -> None:
    """All of an update but the step."""
    one.begin(0, 1e-3, some)
    one.learn(some)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_transformers(root: Path, model: Path, untied: Path, tied: bool, checkpointing: bool):
    folder = model if tied else untied
    spec = make_spec(root, folder, tuning="full", gradient_checkpointing=checkpointing)
    some = examples(spec)[:5]
    one = learner(spec)
    update(one, some)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    mean = torch.zeros(())
    for example in some:
        tokens = torch.tensor([example.tokens])
        labels = tokens.clone()
        labels[:, : example.first] = -100
        loss: Any = plain(input_ids=tokens, labels=labels).loss / len(some)
        loss.backward()
        mean += loss.detach()
    assert one._sums.loss == pytest.approx(mean.item(), rel=1e-5)
    theirs = dict(plain.named_parameters())
    ours = dict(one.student._whole.named_parameters())
    assert ours.keys() == theirs.keys()
    assert ("lm_head.weight" in ours) == (not tied)
    for name, parameter in ours.items():
        torch.testing.assert_close(
            parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=lambda said, name=name: name + said
        )


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_smaller_passes_make_the_same_update(root: Path, model: Path, tuning: str):
    def moved(rows: int) -> list[torch.Tensor]:
        spec = make_spec(root, model, tuning=tuning, micro_batch=rows, lora=Lora(rank=4, alpha=8, dropout=0.0))
        some, one = examples(spec)[:8], learner(spec)
        assert len(one.passes(some)) >= 8 // rows
        update(one, some)
        one.finish()
        gradients = [parameter.grad.clone() for parameter in one.student.parameters if parameter.grad is not None]
        one.step()
        return [*gradients, torch.tensor(one._sums.loss), *weights(one.student)]

    first, *others = (moved(rows) for rows in (8, 2, 1))
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-5)
