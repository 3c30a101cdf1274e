"""Five ways to cut the language into tokens, as different as those of models from different houses.

    whole     a number is one token                               | 42| plus| 7|
    digits    a number is its digits                              | 4|2| plus| 7|
    mixed     small numbers are one token, words come in pieces   | 42| plus| 7|, | 6|2| Multi|ply|
    spelled   digits, blanks before them apart, words in pieces   | |4|2| plu|s| |7|
    trailing  as `whole`, with the blank at the end of a token    |42 |plus |7|

Invariant: every text of the language comes back exactly, and where a prompt is cut (a header, `</think>`, a step's end), its
tokens are those of the whole text. The one exception is the blank before the final answer, which `cut_at_answer` cuts as a
prompt does. Not covered: other texts (their words become `<unk>`).
"""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .language import MODULUS, lexicon, mark

END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<unk>"
SPECIALS = [PAD, END, UNKNOWN, "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ANSWER = "The final answer is "
"""What leads to the answer: the system's own default."""
_MARKS = r"<think>\n|\n</think>\n\n|\n?### Step|The final answer is| ?\(\d+\)|"
_MARKS_WITH_BLANKS = r"<think>\n|\n</think>\n\n|\n?### Step |The final answer is |\(\d+\) ?|"
CUTS: dict[str, str] = {
    "whole": _MARKS + r" ?[A-Za-z]+| ?\d{1,2}",
    "digits": _MARKS + r" ?[A-Za-z]+| ?\d",
    "mixed": _MARKS + r" ?[A-Za-z]{1,5}| ?[1-4]\d(?!\d)| ?\d",
    "spelled": _MARKS + r" ?[A-Za-z]{1,3}|\d",
    "trailing": _MARKS_WITH_BLANKS + r"[A-Za-z]+ ?|\d{1,2} ?",
}
MOST_STEPS = 12


def _texts() -> list[str]:
    """The whole language, marks included: what a vocabulary is made from."""
    headers = [f"<think>\n### Step {n}. a\n### Step {n + 1}. a\n</think>\n\n{ANSWER}" for n in range(1, MOST_STEPS)]
    marks = [f" {mark(n)} " for n in range(1, MOST_STEPS)]
    numbers = [shape.format(n) for n in range(MODULUS) for shape in ("{}.", " {}.", "{} ")]
    return [*(f" {text}" for text in lexicon()), *headers, *marks, *numbers, "\n", " "]


def make(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer called `name` in `CUTS`, with the chat template."""
    # Python's and the tokenizer's regular expressions agree on these patterns; a test compares them
    pattern = f"{CUTS[name]}|[\\s\\S]"
    pieces = sorted({piece for text in set(_texts()) for piece in re.findall(pattern, text)})
    vocabulary = {piece: index for index, piece in enumerate([*SPECIALS, *pieces])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text whose special tokens are written out."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def cut_at_answer(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a whole turn as they come when the system has written everything up to the answer itself."""
    before, lead, answer = text.partition(ANSWER)
    return encode(tokenizer, before + lead) + encode(tokenizer, answer)
