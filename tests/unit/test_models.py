"""Finding a model: what is said when it is nowhere, and what a folder must hold."""

from pathlib import Path

import pytest

from agents.errors import ModelNotFound
from agents.models import resolve


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, and no network: huggingface_hub reads the switch when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path):
    folder = fill(tmp_path / "m", "config.json", "tokenizer.json", "model.safetensors")
    found = resolve(str(folder))
    assert found.path == folder and "local folder" in found.found


@pytest.mark.parametrize(
    ("names", "lack"),
    [
        ((), "config.json"),
        (("config.json", "model.safetensors"), "tokenizer"),
        (("config.json", "tokenizer.json"), "weights"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(tmp_path: Path, names: tuple[str, ...], lack: str):
    with pytest.raises(ModelNotFound, match=lack) as caught:
        resolve(str(fill(tmp_path / "m", *names)))
    assert "\n" not in str(caught.value)


def test_nowhere_names_every_place():
    with pytest.raises(ModelNotFound) as caught:
        resolve("nobody/nothing-of-that-name")
    message = str(caught.value)
    assert "\n" not in message
    for place in ("folder", "hub cache", "own cache", "HF_HUB_OFFLINE", "wheels"):
        assert place in message


def test_a_path_that_is_not_there_is_not_looked_up():
    with pytest.raises(ModelNotFound, match="not a hub id"):
        resolve("./models/nothing/here")


def test_what_was_converted_earlier_is_used_again(tmp_path: Path):
    folder = tmp_path / "cache/peripatos/models/HuggingFaceTB--SmolLM2-135M-Instruct"
    fill(folder, "config.json", "tokenizer.json", "model.safetensors")
    found = resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert found.path == folder and "converted earlier" in found.found


def test_a_tokenizer_alone_needs_no_weights(tmp_path: Path):
    folder = fill(tmp_path / "m", "config.json", "tokenizer.json")
    assert resolve(str(folder), weights=False).path == folder
    with pytest.raises(ModelNotFound, match="tokenizer"):
        resolve(str(fill(tmp_path / "n", "config.json")), weights=False)
