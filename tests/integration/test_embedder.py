"""Likeness of texts, by TF-IDF and by a real sentence-transformers model: two layers with random weights, made here."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agents.embedder import TFIDF, Remembered, Sentences, open_embedder
from agents.errors import ModelNotFound, Refused
from configs.sift import Consensus

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("Add 3 to 5 to get 8.", "Add 3 to 5 to get 9.", "", "   ", "Half of 16 is 8.", "Add 3 to 5 to get 8.", "?!", "\ud800 5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model as they are published: BERT, its tokenizer, mean pooling. It reads 16 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    plain = tmp_path_factory.mktemp("bert")
    words = ["add", "to", "get", "half", "of", "is", "and", ".", "?", "!", *map(str, range(10)), *(f"##{d}" for d in range(10))]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (plain / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(shape).save_pretrained(plain)
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    model = SentenceTransformer(str(plain), device="cpu")  # which puts mean pooling on a plain encoder
    model.max_seq_length = 16
    whole = tmp_path_factory.mktemp("sentences")
    model.save(str(whole))
    return whole


@pytest.fixture(params=["tf-idf", "model"])
def config(request: pytest.FixtureRequest) -> Consensus:
    if request.param == "tf-idf":
        return Consensus()
    return Consensus(embedder=str(request.getfixturevalue("folder")))


def similarities(config: Consensus, *batches: Sequence[str]) -> list[np.ndarray]:
    async def found() -> list[np.ndarray]:
        async with open_embedder(config) as embedder:
            return [await embedder.similarities(batch) for batch in batches]

    return asyncio.run(found())


def test_likeness_is_a_symmetric_share_and_equal_texts_are_alike(config: Consensus) -> None:
    (found,) = similarities(config, TEXTS)
    assert found.shape == (8, 8)
    assert (found == found.T).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[0], found[0, 5]) == (pytest.approx(found[5]), 1.0)
    assert 0 < found[0, 1] < 1
    assert not found[2].any(), "nothing is like an empty text"
    assert not found[3].any()
    assert found[0, 1] > found[0, 4]


def test_the_order_of_texts_decides_nothing_and_neither_do_repeats(config: Consensus) -> None:
    order = random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    first, second, repeated = similarities(config, TEXTS, [TEXTS[at] for at in order], (*TEXTS, *TEXTS))
    assert (first[np.ix_(order, order)] == second).all()
    assert (repeated[:8, :8] == first).all()
    (fresh,) = similarities(config, TEXTS[::-1])
    assert (fresh[::-1, ::-1] == first).all()


@pytest.mark.parametrize("texts", [(), ("",), ("one",), ("?!", "?!"), ("", "")])
def test_few_texts_and_texts_of_nothing_do_not_fail(config: Consensus, texts: tuple[str, ...]) -> None:
    (found,) = similarities(config, texts)
    assert found.shape == (len(texts), len(texts))
    assert np.isfinite(found).all()


def test_many_tasks_may_ask_at_once(config: Consensus) -> None:
    async def asked() -> list[np.ndarray]:
        async with open_embedder(config) as embedder, asyncio.TaskGroup() as group:
            tasks = [group.create_task(embedder.similarities(TEXTS[: 1 + at % 8])) for at in range(24)]
        return [task.result() for task in tasks]

    found = asyncio.run(asked())
    assert all((found[at] == found[at % 8]).all() for at in range(24))


def test_the_model_reads_each_text_once(folder: Path) -> None:
    model = Sentences.load(str(folder), "cpu")
    read: list[str] = []
    vector = model._vector
    model._vectors = Remembered(lambda text: (read.append(text), vector(text))[1])
    model.cosines(TEXTS[:2])
    model.cosines(TEXTS[:5])
    assert read == list(TEXTS[:5])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.embedder.KEPT", 2)
    made: list[str] = []
    kept = Remembered(lambda text: made.append(text) or text)
    for text in ("a", "b", "a", "c", "a", "b"):
        assert kept.of([text]) == [text]
    assert made == ["a", "b", "c", "b"]
    assert kept.of("abcd") == list("abcd"), "more at once than is kept"


def test_a_long_text_is_read_to_its_end(folder: Path) -> None:
    start = "Add 3 to 5 to get 8. " * 4
    (found,) = similarities(Consensus(embedder=str(folder)), (start + "Half of 16 is 8.", start + "9 9 9 9 9 9", start * 2))
    assert found[0, 1] < 0.9999


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    similarities(Consensus(embedder=str(folder)), TEXTS)
    assert capfd.readouterr() == ("", "")


def test_names(config: Consensus, folder: Path) -> None:
    async def name() -> str:
        async with open_embedder(config) as embedder:
            return embedder.name

    assert asyncio.run(name()) == (str(folder) if config.embedder else TFIDF)


def test_a_model_that_is_nowhere_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        similarities(Consensus(embedder="./no/such/model"), TEXTS)


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(Refused, match="cannot be loaded") as caught:
        similarities(Consensus(embedder=str(tmp_path)), TEXTS)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_here_is_refused(folder: Path) -> None:
    with pytest.raises(Refused, match="on nowhere"):
        similarities(Consensus(embedder=str(folder), device="nowhere"), TEXTS)


def test_a_missing_library_is_refused_with_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(Refused, match=r"peripatos\[embeddings\]"):
        similarities(Consensus(embedder=str(folder)), TEXTS)
