"""What is wrong with a server, a key or a model is told in one line when a run starts, before anything is spent."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import Done, call, config, kept
from stub_server import Behaviour, StubServer, says, serving, status

from agents.models import resolve

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GOOD = says(" Paris", " is a city of two million, and of many bridges.", usage={"prompt_tokens": 9, "completion_tokens": 12})


@contextmanager
def stub(default: Behaviour, owner: str = "stub") -> Iterator[StubServer]:
    """A stub server in a thread of its own."""
    ready, done = threading.Event(), threading.Event()
    found: list[StubServer] = []

    async def serve() -> None:
        async with serving(default, owner) as server:
            found.append(server)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        done.set()
        thread.join()


def started(folder: Path, engine: dict[str, Any], *, proves: bool = False, **env: str) -> Done:
    """A run with one teacher, or the prover, on `engine`; the others are scripted."""
    name = config(
        folder,
        count=2,
        engines={"scripted": {"kind": "scripted"}, "far": {"deadline_s": 5, "silence_s": 2, **engine}},
        teachers=[{"name": "ann", "engine": "scripted" if proves else "far"}],
        prover={"engine": "far" if proves else "scripted"},
        search={"beam": 1, "max_step_tokens": 64},
    )
    return call("run", name, cwd=folder, STUB_KEY="secret", **env)


def openai(server: StubServer | None = None, **keys: Any) -> dict[str, Any]:
    return {"kind": "openai", "model": "stub", "url": server.url if server else "http://127.0.0.1:9", **keys}


def litellm(server: StubServer | None = None, **keys: Any) -> dict[str, Any]:
    url = f"{server.url if server else 'http://127.0.0.1:9'}/v1"
    return {"kind": "litellm", "model": "openai/stub", "url": url, "key": "STUB_KEY", **keys}


def spent_nothing(folder: Path) -> bool:
    dump = kept(folder / "runs" / "walk").dump
    return not dump["call"] and not dump["node"] and {row["state"] for row in dump["question"]} == {"pending"}


@pytest.mark.parametrize("engine", [openai, litellm])
def test_nobody_is_there(tmp_path: Path, engine: Any) -> None:
    started(tmp_path, engine()).complains(1, "127.0.0.1:9" if engine is openai else "openai/stub")
    assert spent_nothing(tmp_path)


@pytest.mark.parametrize("engine", [openai, litellm])
def test_a_wrong_key(tmp_path: Path, engine: Any) -> None:
    wrong = status(401, {"error": {"message": "invalid api key", "type": "auth"}})
    with stub(wrong) as server:
        started(tmp_path, engine(server)).complains(1, "invalid api key", "is the key right?")
    assert spent_nothing(tmp_path)


@pytest.mark.parametrize("engine", [openai, litellm])
def test_a_key_that_is_not_set(tmp_path: Path, engine: Any) -> None:
    with stub(GOOD) as server:
        started(tmp_path, engine(server, key="NOBODYS_KEY")).complains(1, "NOBODYS_KEY", "is not set")


def test_an_unknown_model(tmp_path: Path) -> None:
    with stub(GOOD) as server:
        started(tmp_path, openai(server, model="gpt-9")).complains(1, "no model 'gpt-9'", "it has: stub")
        (tmp_path / "b").mkdir()
        started(tmp_path / "b", litellm(server, model="nonsense")).complains(1, "'nonsense'", "write provider/model")
    (tmp_path / "c").mkdir()
    with stub(status(404, {"error": {"message": "The model `stub` does not exist"}})) as server:
        started(tmp_path / "c", litellm(server)).complains(1, "does not exist")


def test_a_template_without_a_generation_prompt(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in resolve(MODEL).path.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    (folder / "chat_template.jinja").write_text(template)
    with stub(GOOD) as server:
        started(tmp_path, openai(server, tokenizer=str(folder))).complains(1, "generation prompt")


def test_a_prover_that_cannot_score(tmp_path: Path) -> None:
    with stub(GOOD) as server:
        started(tmp_path, openai(server), proves=True).complains(1, "prover", "'far'")
        (tmp_path / "b").mkdir()
        started(tmp_path / "b", litellm(server), proves=True).complains(2, "prover", "'far'", "log-probs")


def test_a_teacher_that_answers_nothing(tmp_path: Path) -> None:
    with stub(says("", usage={"prompt_tokens": 9, "completion_tokens": 0})) as server:
        started(tmp_path, openai(server)).complains(1, "engine far", "answers nothing")
    assert spent_nothing(tmp_path)


def test_money_is_capped_and_no_price_is_known(tmp_path: Path) -> None:
    with stub(GOOD) as server:
        name = config(
            tmp_path,
            engines={"scripted": {"kind": "scripted"}, "far": litellm(server)},
            teachers=[{"name": "ann", "engine": "far"}],
            budget={"usd": 1.0},
        )
        call("run", name, cwd=tmp_path, STUB_KEY="secret").complains(1, "engine far", "price")
    assert spent_nothing(tmp_path)


def test_a_good_one_starts_and_says_what_it_is(tmp_path: Path) -> None:
    with stub(GOOD) as server:
        done = started(tmp_path, openai(server))
    assert done.code == 0, done.err
    assert "engine far: stub on http://127.0.0.1" in done.err
    assert "honours" in done.err
