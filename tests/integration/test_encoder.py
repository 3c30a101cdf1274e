"""The router's text encoder: tiny models of three kinds in folders, against the models' own states."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_student import make_model, make_tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, T5Config, T5ForConditionalGeneration

from trainers.encoder import BATCH, HashedText, TextEncoder, open_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
BEGIN, END = 1, 2
SHORT, MIDDLE, LONG = "2", "What is 2 and 2? It is 4.", "### Step 1. One and one is two. " * 9


def save_tokenizer(folder: Path, *, padding: bool = True) -> None:
    """One that puts a token before each text and one behind it, as BERT's does."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", BEGIN), ("<|im_end|>", END)]
    )
    if not padding:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(str(folder))


def bert_config(positions: int = 512) -> BertConfig:
    return BertConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.3,  # large enough that attention, which padding would disturb, decides something
    )


def make_bert(folder: Path, *, positions: int = 512, padding: bool = True) -> Path:
    save_tokenizer(folder, padding=padding)
    torch.manual_seed(3)
    BertForMaskedLM(bert_config(positions)).save_pretrained(str(folder))  # has no pooler, as many encoders
    return folder


def make_t5(folder: Path) -> Path:
    save_tokenizer(folder)
    torch.manual_seed(3)
    config = T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(str(folder))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {"bert": make_bert, "llama": make_model, "t5": make_t5}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.load(folder, CPU)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder.load(make_bert(tmp_path_factory.mktemp("one")), CPU)


def by_hand(folder: Path, tokens: list[int]) -> Tensor:
    model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    model = model.encoder if model.config.is_encoder_decoder else model
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)


def tokens_of(folder: Path, text: str) -> list[int]:
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)(text)["input_ids"]


def test_features_are_the_mean_of_the_models_last_states(folder: Path, encoder: TextEncoder):
    (encoded,) = encoder.encode([MIDDLE])
    assert encoder.width == 32
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded, by_hand(folder, tokens_of(folder, MIDDLE)))


def test_padding_changes_nothing(encoder: TextEncoder):
    texts = [MIDDLE, SHORT, LONG]
    alone = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(encoder.encode(texts), alone, rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 0.01 < (alone[0] - alone[2]).abs().max()


def test_rows_stand_in_the_order_of_their_texts(encoder: TextEncoder):
    texts = [f"{number} and " * (1 + number * 7 % 11) for number in range(2 * BATCH + 3)]
    order = list(reversed(range(len(texts))))
    encoded = encoder.encode(texts)
    torch.testing.assert_close(encoder.encode([texts[place] for place in order]), encoded[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded[[5]], encoder.encode([texts[5]]), rtol=1e-4, atol=1e-5)


def test_of_a_long_text_head_and_tail_are_read(folder: Path, encoder: TextEncoder):
    text = "".join(chr(97 + number * number % 23) for number in range(1500))
    tokens = tokens_of(folder, text)
    assert len(tokens) > 700
    torch.testing.assert_close(encoder.encode([text])[0], by_hand(folder, tokens[:256] + tokens[-256:]), rtol=1e-4, atol=1e-5)


def test_the_middle_of_a_long_text_is_not_read_and_its_ends_are(bert: TextEncoder):
    text = "z" * 600
    changed = {place: f"{text[:place]}q{text[place + 1 :]}" for place in (10, 254, 256, 343, 346, 590)}
    plain = bert.encode([text])[0]
    same = {place: torch.allclose(bert.encode([other])[0], plain, atol=1e-6) for place, other in changed.items()}
    assert same == {10: False, 254: False, 256: True, 343: True, 346: False, 590: False}  # a mark at each end takes a place


def test_nothing_learns_and_nothing_is_random(folder: Path, encoder: TextEncoder):
    encoded = encoder.encode([MIDDLE])
    assert not encoded.requires_grad
    assert torch.equal(encoded, TextEncoder.load(folder, CPU).encode([MIDDLE]))  # dropout is off
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())


def test_an_encoder_without_a_padding_token_pads_all_the_same(tmp_path: Path, bert: TextEncoder):
    other = TextEncoder.load(make_bert(tmp_path, padding=False), CPU)
    assert other._tokenizer.pad_token_id is None
    torch.testing.assert_close(other.encode([SHORT, LONG]), bert.encode([SHORT, LONG]))


def test_a_model_with_fewer_positions_reads_as_many(tmp_path: Path):
    folder = make_bert(tmp_path, positions=33)
    tokens = tokens_of(folder, LONG)
    assert len(tokens) > 33
    encoded = TextEncoder.load(folder, CPU).encode([LONG])[0]
    torch.testing.assert_close(encoded, by_hand(folder, tokens[:17] + tokens[-16:]))


def test_texts_with_nothing_in_them(encoder: TextEncoder):
    encoded = encoder.encode(["", MIDDLE, "half a pair \ud83d"])
    assert encoded.isfinite().all()
    torch.testing.assert_close(encoded[[1]], encoder.encode([MIDDLE]), rtol=1e-4, atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode([""]).shape == (1, 32)


def no_model(folder: Path) -> None:
    (folder / "README.md").write_text("nothing here")


def no_tokenizer(folder: Path) -> None:
    BertModel(bert_config()).save_pretrained(str(folder))


def no_weights(folder: Path) -> None:
    save_tokenizer(folder)
    bert_config().save_pretrained(str(folder))


def other_weights(folder: Path) -> None:
    make_model(folder)
    save_tokenizer(folder)
    bert_config().save_pretrained(str(folder))


def unknown_kind(folder: Path) -> None:
    save_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "no such kind"}')


def broken_weights(folder: Path) -> None:
    make_bert(folder)
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")


@pytest.mark.parametrize("make", [no_model, no_tokenizer, no_weights, other_weights, unknown_kind, broken_weights])
def test_a_folder_without_an_encoder_is_told_in_one_line(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path)
    with pytest.raises(ValueError, match=r"holds no model that can encode texts: \w") as told:
        open_encoder(tmp_path, 256, CPU)
    assert str(told.value).startswith(f"{tmp_path}: ")
    assert len(str(told.value).splitlines()) == 1


def test_without_a_folder_texts_are_hashed(folder: Path):
    hashed = open_encoder(None, 100, CPU)
    assert isinstance(hashed, HashedText)
    assert hashed.encode([MIDDLE]).shape == (1, 100)
    assert isinstance(open_encoder(folder, 100, CPU), TextEncoder)
    assert math.isclose(hashed.encode([MIDDLE]).norm().item(), 1, abs_tol=1e-6)
