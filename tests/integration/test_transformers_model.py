"""The engine with the real SmolLM2-135M-Instruct: from wherever `agents.models.resolve` finds it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.engines.base import Completion, Message, Prompt
from agents.engines.rendering import encode, encode_answer, render
from agents.engines.transformers import TransformersEngine
from agents.models import ModelFolder, resolve
from configs.engines import TransformersEngine as Config

pytestmark = pytest.mark.model

MODEL = os.environ.get("PERIPATOS_TEST_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
QUESTIONS = (
    "What is the capital of France?",
    "Tom has 3 apples and buys 4 more. How many has he?",
    "Name three colours.",
    "Say hi.",
)


@pytest.fixture(scope="session")
def smol() -> ModelFolder:
    return resolve(MODEL)


def ask(text: str, prefix: str = "") -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),), prefix=prefix)


def with_engine(smol: ModelFolder, use: Callable[[TransformersEngine], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    async def main() -> Any:
        config = Config(kind="transformers", model=MODEL, device="cpu", **settings)
        async with asyncio.timeout(200), TransformersEngine(config, smol) as engine:
            return await use(engine)

    return asyncio.run(main())


async def together(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]


def test_float32_equals_plain_transformers(smol: ModelFolder):
    tokenizer = AutoTokenizer.from_pretrained(smol.path)
    model = AutoModelForCausalLM.from_pretrained(smol.path, dtype=torch.float32)
    context, answer = ask(QUESTIONS[1], "<think>\nHe has 3 + 4.\n</think>\n\nThe final answer is "), "7 apples"

    async def use(engine: TransformersEngine) -> tuple[list[list[Completion]], list[Any]]:
        calls = (engine.generate(ask(question), max_tokens=10, temperature=0) for question in QUESTIONS)
        texts = await together(*calls)
        return texts, [await engine.answer_logprobs(context, answer) for _ in range(2)]

    texts, scores = with_engine(smol, use, dtype="float32")
    for question, (completion,) in zip(QUESTIONS, texts, strict=True):
        tokens = torch.tensor([encode(tokenizer, render(tokenizer, ask(question)))])
        out = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=10)
        assert completion.text == tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True)
    whole = encode_answer(tokenizer, render(tokenizer, context), answer)
    with torch.no_grad():
        logprobs = model(torch.tensor([whole.tokens])).logits[0].log_softmax(-1)
    expected = [logprobs[at - 1, whole.tokens[at]].item() for at in range(whole.first, len(whole.tokens))]
    for score in scores:
        assert score.values == pytest.approx(expected, abs=1e-4)
    assert scores[1].usage.cached == whole.first - 1


def test_the_default_type_knows_its_capital(smol: ModelFolder):
    async def use(engine: TransformersEngine) -> None:
        right, wrong = await together(
            *(engine.answer_logprobs(ask(QUESTIONS[0], "It is "), city) for city in ("Paris", "Berlin"))
        )
        assert sum(right.values) > sum(wrong.values) + 2
        completions = await engine.generate(ask(QUESTIONS[0]), n=4, max_tokens=24, temperature=0.3, seed=1, stop=["."])
        assert any("Paris" in completion.text for completion in completions)
        assert all("." not in completion.text for completion in completions)
        assert engine.capabilities.context_tokens == 8192

    with_engine(smol, use)


def test_steps_stop_before_the_next_header(smol: ModelFolder):
    example = "### Step 1. Add\n3 + 4 = 7.\n### Step 2. Answer\nIt is 7."
    prompt = Prompt(
        messages=(
            Message(role="user", content=QUESTIONS[1]),
            Message(role="assistant", content=f"<think>\n{example}\n</think>\n\nThe final answer is 7"),
            Message(role="user", content="Ann has 5 pens and buys 6 more. How many has she?"),
        ),
        prefix="<think>\n### Step 1.",
    )

    async def use(engine: TransformersEngine) -> list[Completion]:
        return await engine.generate(prompt, n=3, max_tokens=60, temperature=0.5, top_p=0.95, stop=["\n### Step", "</think>"])

    completions = with_engine(smol, use)
    assert any(completion.stop == "\n### Step" for completion in completions)
    assert all("### Step" not in completion.text and "<think>" not in completion.text for completion in completions)
    assert [completion.usage.prompt - completion.usage.cached == 1 for completion in completions].count(True) == 2
