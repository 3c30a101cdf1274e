"""Text out, one token at a time: stop strings and unfinished characters; text in: one `<think>`, and answers by character."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.engines.base import Message, Prompt
from agents.engines.rendering import Transcript, encode_answer, render
from agents.errors import Terminal


class Bytes:
    """A tokenizer with one token per byte, or per few bytes: any text can be cut anywhere."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def decode(self, tokens: list[int], **_: object) -> str:
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")


def write(pieces: list[bytes], stops: list[str]) -> Transcript:
    transcript = Transcript(Bytes(pieces), [], stops)
    for token in range(len(pieces)):
        if transcript.add(token):
            break
    transcript.close()
    return transcript


def cut(text: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(at, len(text)) for at in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


words = st.text(alphabet="ab\n#é€😀", max_size=20)


@given(
    words, st.lists(st.integers(0, 80), max_size=20), st.lists(st.text(alphabet="ab\n#é€😀", min_size=1, max_size=4), max_size=3)
)
def test_however_the_bytes_are_cut_a_stop_ends_the_text(text: str, cuts: list[int], stops: list[str]):
    transcript = write(cut(text.encode(), cuts), stops)
    assert text.startswith(transcript.text + (transcript.stop or ""))
    assert not any(stop in transcript.text for stop in stops)
    if not any(stop in text for stop in stops):
        assert (transcript.text, transcript.stop) == (text, None)


def test_a_stop_across_three_tokens():
    transcript = write([b"one\n#", b"##", b" Step 2", b"more"], ["\n### Step", "</think>"])
    assert (transcript.text, transcript.stop) == ("one", "\n### Step")


def test_two_stops_in_one_token():
    assert write([b"x</think>\n### Step"], ["\n### Step", "</think>"]).stop == "</think>"


def test_bytes_that_never_become_a_character_stay_visible():
    assert write([b"a", b"\xf0\x9f"], []).text == "a\ufffd"


class Words:
    """A tokenizer of whole words with their leading space, as byte-level ones cut, and offsets that leave the space out."""

    def __call__(self, text: str, **_: object) -> dict[str, list]:
        offsets, at = [], 0
        for word in text.split(" "):
            offsets.append((at, at + len(word)))
            at += len(word) + 1
        return {"input_ids": list(range(len(offsets))), "offset_mapping": offsets}


def test_tokens_that_overlap_the_answer_count():
    assert encode_answer(Words(), "it is ", "4 2").first == 2
    assert encode_answer(Words(), "it is", "n't 4").first == 1
    assert encode_answer(Words(), "it is ", "4 2").texts == ("4", "2")


@pytest.mark.parametrize(("text", "answer"), [("it is ", ""), ("", "4")])
def test_nothing_to_score_is_said(text: str, answer: str):
    with pytest.raises(Terminal):
        encode_answer(Words(), text, answer)


class Template:
    """A template that opens the reasoning by itself, as some reasoning models' do."""

    def __init__(self, opening: str) -> None:
        self.opening = opening

    def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
        return f"{turns[-1]['content']}|{self.opening}"


@pytest.mark.parametrize("opening", ["", "<think>", "<think>\n"])
def test_exactly_one_think(opening: str):
    prompt = Prompt(messages=(Message(role="user", content="q"),), prefix="<think>\n### Step 1.")
    assert render(Template(opening), prompt) == "q|<think>\n### Step 1."


def test_a_template_that_refuses_is_terminal():
    class Refusing:
        def apply_chat_template(self, *_: object, **__: object) -> str:
            raise ValueError("no system turns")

    with pytest.raises(Terminal, match="no system turns"):
        render(Refusing(), Prompt(messages=(Message(role="user", content="q"),)))
