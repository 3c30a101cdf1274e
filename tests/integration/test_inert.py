"""What a question, a file or a model wrote is data: a special token that is spelled out in it ends no turn, for any tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prompt_encoding import TOKENIZERS
from tiny_student import CHATML, SPECIALS, make_lesson, make_tokenizer

from agents.engines.base import Message, Prompt
from agents.engines.encoding import PromptEncoder
from agents.engines.rendering import encode, encode_answer, marks_of, render
from store.reasoning import closed_reasoning, inert
from trainers.data import Writing
from trainers.student import Chat

NO_WIDTH = "\u2060"
PIECES = [*SPECIALS, "<|im_", "end|>", "<|", "|>", "<", "im_start", "<think>", "</think>", "One", " ", "\n", "2", NO_WIDTH]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
names = pytest.mark.parametrize(
    "name", ["byte-level", "qwen", "llama 3", "byte-level, opens the reasoning", "metaspace", "wordpiece", "bpe without pieces"]
)


def turn_tokens(tokenizer: Any, tokens: list[int]) -> list[str]:
    """The special tokens of turns and ends among these, in their order; a tokenizer may have others for what it does not know."""
    marks = {tokenizer.convert_tokens_to_ids(mark): mark for mark in SPECIALS if mark in tokenizer.get_vocab()}
    return [marks[token] for token in tokens if token in marks]


def asked(system: str, question: str, prefix: str) -> Prompt:
    messages = (Message(role="system", content=system), Message(role="user", content=question))
    return Prompt(messages=messages, prefix=f"<think>\n{prefix}")


@names
@settings(max_examples=50)
@given(system=texts, question=texts, prefix=texts, answer=texts.map("{} One 2".format))
def test_a_prompt_has_the_special_tokens_of_an_innocent_one(
    name: str, system: str, question: str, prefix: str, answer: str
) -> None:
    tokenizer = TOKENIZERS[name]
    encoder = PromptEncoder(tokenizer)
    prompt, innocent = asked(system, question, prefix), asked("One", "One", "One")
    right = turn_tokens(tokenizer, encode(tokenizer, render(tokenizer, innocent)))
    assert right.count("<|im_start|>") == 3
    assert turn_tokens(tokenizer, encode(tokenizer, render(tokenizer, prompt))) == right
    assert turn_tokens(tokenizer, encoder.tokens(prompt)) == right
    if name == "bpe without pieces":  # it drops what it has not learnt, and miscounts the characters from there on
        return
    context = replace(prompt, prefix=closed_reasoning(prefix, "It is "))
    assert turn_tokens(tokenizer, encoder.answer(context, answer).tokens) == right
    assert turn_tokens(tokenizer, encode_answer(tokenizer, render(tokenizer, context), answer).tokens) == right


@names
@given(system=texts, question=texts, prefix=texts)
def test_what_people_see_of_a_prompt_is_unchanged(name: str, system: str, question: str, prefix: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = asked(system, question, prefix)
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    plain = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).removesuffix("<think>\n")
    assert render(tokenizer, prompt).replace(NO_WIDTH, "") == (plain + prompt.prefix).replace(NO_WIDTH, "")


@names
def test_spelled_out_without_care_they_would_count(name: str) -> None:
    """Else the tests above could not fail."""
    tokenizer = TOKENIZERS[name]
    assert turn_tokens(tokenizer, encode(tokenizer, "One<|im_end|> One")) == ["<|im_end|>"]
    assert {"<|im_start|>", "<|im_end|>"} <= set(marks_of(tokenizer))


@given(texts)
def test_the_marks_of_reasoning_stay(text: str) -> None:
    marks = [*SPECIALS, "<think>", "</think>"]
    quiet = inert(text, marks)
    assert quiet.replace(NO_WIDTH, "") == text.replace(NO_WIDTH, "")
    assert not any(mark in quiet for mark in SPECIALS)
    for mark in ("<think>", "</think>"):
        assert quiet.count(mark) == text.count(mark)
    assert inert(quiet, marks) == quiet
    if not any(mark in text for mark in SPECIALS):
        assert quiet == text


@given(st.text("ab<", max_size=12), st.lists(st.text("ab<", min_size=2, max_size=4), max_size=4))
def test_marks_may_overlap_and_hold_each_other(text: str, marks: list[str]) -> None:
    quiet = inert(text, marks)
    assert not any(mark in quiet for mark in marks)
    assert quiet.replace(NO_WIDTH, "") == text


@pytest.mark.parametrize("mark", ["[[", "\\d", "(?:", "||", "..", "^$", "\\\\"])
def test_a_mark_is_text_whatever_it_means_to_a_pattern(mark: str) -> None:
    text = f"a{mark}{mark}{mark[0]} b\\d7"
    assert mark not in inert(text, [mark])
    assert inert(text, [mark]).replace(NO_WIDTH, "") == text


CHAT = Chat(make_tokenizer())
OPENING_CHAT = Chat(make_tokenizer(CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")))


@pytest.mark.parametrize("chat", [CHAT, OPENING_CHAT])
@given(question=texts, text=texts.filter(str.strip), conclusion=texts.filter(str.strip), system=st.none() | texts.filter(bool))
def test_a_lesson_ends_its_turn_once(chat: Chat, question: str, text: str, conclusion: str, system: str | None) -> None:
    tokenizer = make_tokenizer()
    example = Writing(template=chat, system=system).example(make_lesson("0", question, text, conclusion))
    innocent = Writing(template=chat, system=system and "One").example(make_lesson("1", "One", "One", "One"))
    assert chat.end_of_turn == "<|im_end|>"
    assert turn_tokens(tokenizer, list(example.tokens)) == turn_tokens(tokenizer, list(innocent.tokens))
    learnt = list(example.tokens[example.first :])
    assert turn_tokens(tokenizer, learnt) == ["<|im_end|>"]
    assert learnt[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = tokenizer.decode(learnt).replace(NO_WIDTH, "")
    assert said == (closed_reasoning(text) + conclusion + "<|im_end|>").replace(NO_WIDTH, "")


@given(question=texts, system=texts.filter(bool))
def test_a_student_learns_from_the_prompt_that_it_is_asked(question: str, system: str) -> None:
    assert CHAT.prompt(question, system) == render(make_tokenizer(), replace(asked(system, question, ""), prefix=""))
