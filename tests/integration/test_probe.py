"""The probe against servers that lie, without a word, about one thing at a time; and on models in process."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from stub_server import Behaviour, Json, StubServer, says, serving, silent, status
from tiny_student import CHATML, make_model, make_tokenizer

from agents.engines.base import Engine, Message, Prompt
from agents.engines.litellm import LitellmEngine
from agents.engines.openai import OpenAIEngine
from agents.engines.rendering import render
from agents.engines.scripted import ScriptedEngine
from agents.engines.transformers import TransformersEngine
from agents.errors import EngineError, Refused, Retryable, Terminal
from agents.models import resolve
from agents.probe import FRANCE, Probe, probe
from configs import engines
from configs.schema import RunConfig
from orchestrator.doctor import Report, doctor
from store.reasoning import open_reasoning

TALE = " The fox who lived by the old mill could whistle, and so every Sunday the whole village came to hear her. " * 3
SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Vllm:
    """Behaves as a vLLM server does, but for its `lies`. The log-prob of a token depends on the token alone."""

    def __init__(self, *lies: str) -> None:
        self.lies = lies
        self.tokenizer: Any = make_tokenizer()
        self.calls = itertools.count()

    async def __call__(self, _: StubServer, __: web.Request, body: Json) -> web.StreamResponse:
        if "prompt_logprobs" in body:
            return web.json_response({"choices": [self.scored(body["prompt"])], "usage": self.usage(body, 1)})
        if "allowed_token_ids" in body:
            scores = {"token_logprobs": [self.logprob(body["allowed_token_ids"][0])]}
            return web.json_response({"choices": [{"index": 0, "text": "", "logprobs": scores}]})
        num = 1 if "n" in self.lies else body["n"]
        written = [self.written(body, index) for index in range(num)]
        choices = [choice for choice, _ in written]
        return web.json_response({"choices": choices, "usage": self.usage(body, sum(count for _, count in written))})

    def usage(self, body: Json, completion: int) -> Json:
        if "prompt" in body:
            prompt = len(body["prompt"])
        else:
            turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in body["messages"])
            text = render(self.tokenizer, Prompt(messages=turns))
            prompt = len(self.tokens(text)) + 3 * ("template" in self.lies)
        return {"prompt_tokens": prompt, "completion_tokens": completion}

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def scored(self, tokens: list[int]) -> Json:
        entries = [None, *({str(token): {"logprob": self.logprob(token)}} for token in tokens[1:])]
        return {"index": 0, "text": "", "finish_reason": "length"} | (
            {} if "prompt_logprobs" in self.lies else {"prompt_logprobs": entries}
        )

    def logprob(self, token: int) -> float:
        if "constant" in self.lies:
            return -1.0
        if "order" in self.lies:
            return -0.5 * next(self.calls)
        return 0.0 if "zero" in self.lies else -((token * 37) % 11 + 1) / 8

    def written(self, body: Json, index: int) -> tuple[Json, int]:
        """A choice, and how many tokens it took."""
        tokens = self.tokens(self.told(body, index))[: 200 if "max_tokens" in self.lies else body["max_tokens"]]
        text, finish, reason = self.tokenizer.decode(tokens), "length", None
        stops = [stop for stop in body.get("stop", ()) if stop in text]
        if stops and "stop" not in self.lies:
            text, finish, reason = text[: text.index(stops[0])], "stop", None if "end" in self.lies else stops[0]
            tokens = self.tokens(text + stops[0])
        text = "" if "nothing" in self.lies else self.repeated(body) + text
        part: Json = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        off = 1.0 if "written" in self.lies else 0.0
        if body.get("logprobs"):
            part["logprobs"] = {"token_logprobs": [self.logprob(token) - off for token in tokens]}
        return part | {"index": index, "finish_reason": finish, "stop_reason": reason}, len(tokens)

    def told(self, body: Json, index: int) -> str:
        if not body["temperature"]:
            return ("<think>" if "think" in self.lies else "") + TALE
        chance = random.Random(next(self.calls) if "seed" in self.lies else f"{body['seed']} {index * ('same' not in self.lies)}")
        words = TALE.split()
        chance.shuffle(words)
        return " " + " ".join(words)

    def repeated(self, body: Json) -> str:
        """A server that does not know how to continue gives the unfinished turn back."""
        if "prefix" not in self.lies:
            return ""
        if "messages" in body:
            return body["messages"][-1]["content"]
        return self.tokenizer.decode(body["prompt"]).rpartition("assistant\n")[2]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(str(folder))
    return folder


def probed(behaviour: Behaviour, tokenizer: Path | None, *first: Behaviour, owner: str = "vllm", tries: int = 2) -> Probe:
    """What the probe finds on a server that behaves so; `first` are for its first requests."""

    async def go() -> Probe:
        async with serving(behaviour, owner) as server:
            config = engines.OpenAIEngine(kind="openai", model="stub", url=server.url, deadline_s=5.0, silence_s=2.0)
            async with OpenAIEngine(config, server.url, tokenizer) as engine:
                server.behaviours.extend(first)
                return await probe(engine, tries=tries)

    return asyncio.run(go())


def marks(found: Probe) -> dict[str, bool | None]:
    return {finding.name: finding.good for finding in found.findings}


def test_an_honest_server_is_a_teacher_and_a_prover(tokenizer: Path) -> None:
    found = probed(Vllm(), tokenizer)
    assert (found.faults, found.cannot_prove) == ([], None)
    expected = {"model", "think", "stop", "max_tokens", "n", "seed", "continues", "scores", "second way"}
    assert {name for name, good in marks(found).items() if good} >= expected - {"model"}
    line = found.line()
    assert "\n" not in line
    assert "scores by forced" in line
    assert "honours stop, max_tokens, n, seed" in line
    assert "template differs" not in line


def test_without_a_tokenizer_it_is_a_teacher_and_no_prover() -> None:
    found = probed(Vllm(), None)
    assert found.faults == []
    assert found.cannot_prove == "it has no tokenizer configured"
    assert "cannot be the prover: it has no tokenizer configured" in found.line()
    assert marks(found)["stop"] is marks(found)["continues"] is True


@pytest.mark.parametrize(
    ("lie", "name", "words"),
    [
        ("stop", "stop", "ignores stop: it writes on after"),
        ("end", "stop", "does not tell a stop string from the end of the turn"),
        ("max_tokens", "max_tokens", "ignores max_tokens: 200 tokens"),
        ("n", "n", "ignores n: asked for 3 samples"),
        ("prefix", "continues", "repeats the prefix instead of continuing it: 'The capital of France is"),
        ("think", "think", "opens a second <think>"),
        ("nothing", "answers", "answers nothing"),
    ],
)
def test_a_liar_is_no_teacher(lie: str, name: str, words: str, tokenizer: Path) -> None:
    for folder in (tokenizer, None):
        found = probed(Vllm(lie), folder)
        assert marks(found)[name] is False
        assert [fault for fault in found.faults if words in fault], found.faults
        assert words in found.line()
        assert lie != "nothing" or found.cannot_prove == found.faults[0]
        assert not [fault for fault in found.faults if "\n" in fault]


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("seed", "ignores seed: sampled text differs from run to run"),
        ("same", "n repeats one sample"),
        ("template", "the server's own template differs ("),
    ],
)
def test_what_a_run_can_live_with_is_only_told(lie: str, words: str, tokenizer: Path) -> None:
    found = probed(Vllm(lie), tokenizer)
    assert (found.faults, found.cannot_prove) == ([], None)
    assert words in found.line()


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("prompt_logprobs", "the server ignores prompt_logprobs"),
        ("zero", "its log-probs of given answers are all 0"),
        ("constant", "it gives every answer the same log-probs: [-1.0"),
        ("order", "its log-probs of one answer change with what was asked before"),
        ("written", "its scores differ from the log-probs of what it writes, by 1.00 a token"),
    ],
)
def test_wrong_scores_make_no_prover_but_may_teach(lie: str, words: str, tokenizer: Path) -> None:
    found = probed(Vllm(lie), tokenizer)
    assert found.faults == []
    assert found.cannot_prove
    assert words in found.cannot_prove
    assert f"cannot be the prover: {found.cannot_prove}" in found.line()
    assert "\n" not in found.cannot_prove


def test_another_server_teaches_one_way_or_another() -> None:
    found = probed(says("five"), None, owner="stub")
    assert found.faults == []
    assert found.cannot_prove
    assert "neither vLLM nor SGLang" in found.cannot_prove
    assert "stop could not be tried: it wrote only 'five'" in found.line()
    assert "n repeats one sample" in found.line()


def test_a_server_that_does_not_answer_is_an_error() -> None:
    cases = [(silent, Retryable, "no answer"), (status(500), Retryable, "500"), (status(401, {"error": "no"}), Refused, "key")]
    for behaviour, kind, words in cases:
        with pytest.raises(EngineError, match=words) as caught:
            probed(behaviour, None, owner="stub", tries=1)
        assert isinstance(caught.value, kind)


def test_a_server_that_is_busy_is_asked_again(tokenizer: Path) -> None:
    found = probed(Vllm(), tokenizer, status(503), status(429), tries=3)
    assert (found.faults, found.cannot_prove) == ([], None)


def with_engine(folder: Path, then: Callable[[Engine], Any], **settings: Any) -> Any:
    async def go() -> Any:
        config = engines.TransformersEngine(kind="transformers", model=str(folder), device="cpu", **settings)
        async with TransformersEngine(config, resolve(str(folder))) as engine:
            return await then(engine)

    return asyncio.run(go())


def test_a_small_random_model_knows_nothing_and_can_do_everything(tmp_path: Path) -> None:
    found: Probe = with_engine(make_model(tmp_path), probe, dtype="float32")
    assert (found.faults, found.cannot_prove) == ([], None)
    assert marks(found)["scores"] is marks(found)["max_tokens"] is marks(found)["seed"] is marks(found)["n"] is True


def test_a_template_that_opens_no_answer_is_refused_in_one_line(tmp_path: Path) -> None:
    make_model(tmp_path, CHATML.partition("{% if add_generation_prompt")[0])
    with pytest.raises(Terminal, match=r"^/\S*: the chat template has no generation prompt: [^\n]*$"):
        with_engine(tmp_path, probe)


def test_two_thinks_are_a_fault(tmp_path: Path) -> None:
    make_model(tmp_path, CHATML.replace("assistant\n{% endif", "assistant\n<think>\nI think{% endif"))
    found: Probe = with_engine(tmp_path, probe, dtype="float32")
    assert found.faults == ["its prompt holds 2 <think> where one belongs"]
    assert found.cannot_prove == found.faults[0]


@pytest.mark.model
def test_the_real_model_is_good_at_all_of_it() -> None:
    async def then(engine: Engine) -> None:
        found = await probe(engine)
        assert (found.faults, found.cannot_prove) == ([], None)
        assert all(good for name, good in marks(found).items() if name != "model"), found.line()
        assert "with ' Paris" in found.line()
        able = engine.capabilities
        assert {len(able.template or ""), len(able.tokenizer or "")} == {16}
        assert f"template {able.template}, tokenizer {able.tokenizer}" in found.line()
        assert engine.shown(FRANCE).endswith("<|im_start|>assistant\nThe capital of France is")

    async def go() -> None:
        config = engines.TransformersEngine(kind="transformers", model=SMOL, device="cpu")
        async with TransformersEngine(config, await asyncio.to_thread(resolve, SMOL)) as engine:
            await then(engine)

    asyncio.run(go())


def test_the_scripted_engine_passes() -> None:
    async def go() -> Probe:
        async with ScriptedEngine(engines.ScriptedEngine(kind="scripted")) as engine:
            return await probe(engine)

    found = asyncio.run(go())
    assert (found.faults, found.cannot_prove) == ([], None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Pydantic serializer")
def test_a_hosted_model_teaches_in_words_and_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")

    async def go() -> Probe:
        async with serving(says(" The fox", " who lived", " by the", " mill could", " whistle.")) as server:
            config = engines.LitellmEngine(kind="litellm", model="openai/stub", url=f"{server.url}/v1", key="STUB_KEY")
            async with LitellmEngine(config) as engine:
                shown = engine.shown(FRANCE)
                assert shown.startswith(f"user: {FRANCE.messages[0].content}\n\nYour answer has been begun.")
                assert shown.endswith(f"{FRANCE.prefix}\n\nassistant: ")
                return await probe(engine)

    found = asyncio.run(go())
    assert found.faults == []
    assert found.cannot_prove == "hosted models give no log-probs of a given answer"
    assert "asked in words, continues" in found.line()
    assert marks(found)["stop"] is True


def test_equal_templates_and_tokenizers_have_equal_fingerprints(tmp_path: Path) -> None:
    async def then(engine: Engine) -> tuple[str | None, str | None]:
        return engine.capabilities.template, engine.capabilities.tokenizer

    first, same, other = (tmp_path / name for name in ("first", "same", "other"))
    dated = "{{ strftime_now('%H:%M:%S.%f') }}" + CHATML
    one = with_engine(make_model(first, dated), then)
    assert with_engine(make_model(same, dated), then) == one
    template, tokenizer = with_engine(make_model(other), then)
    assert template != one[0]
    assert tokenizer == one[1]


def examined(behaviour: Behaviour, owner: str) -> Report:
    """What the doctor says of a run that is taught and proved by such a server."""

    async def go() -> Report:
        async with serving(behaviour, owner) as server:
            config = RunConfig.model_validate(
                {
                    "name": "walk",
                    "questions": [{"kind": "word_problems", "count": 2000, "seed": 1}],
                    "engines": {"served": {"kind": "openai", "model": "stub", "url": server.url}, "own": {"kind": "scripted"}},
                    "teachers": [{"name": "ann", "engine": "served"}, {"name": "bob", "engine": "own"}],
                    "prover": {"engine": "served"},
                    "limits": {"tries": 1},
                }
            )
            return await asyncio.to_thread(doctor, config)

    return asyncio.run(go())


def test_the_doctor_says_why_a_prover_is_none_and_shows_what_teachers_are_asked() -> None:
    report = examined(Vllm(), "vllm")
    checks = {check.name: check for check in report.checks}
    assert (checks["served"].good, checks["own"].good, report.good) == (False, True, False)
    assert "cannot be the prover: it has no tokenizer configured" in checks["served"].text
    assert report.prompts.keys() == {"ann", "bob"}
    assert all(prompt.endswith(f"assistant: {open_reasoning(())}") for prompt in report.prompts.values())
    assert "the first prompt of ann, bob:\n    user: " in report.text()
    assert report.row()["prompts"] == report.prompts


def test_the_doctor_tells_of_a_liar() -> None:
    (check,) = [check for check in examined(Vllm("stop"), "vllm").checks if check.name == "served"]
    assert not check.good
    assert "ignores stop" in check.text
