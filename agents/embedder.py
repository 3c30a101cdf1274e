"""How alike texts are, by any sentence-transformers model, or by TF-IDF over the texts themselves.

Similarity is the cosine of two texts' vectors, cut to [0, 1]; a text is as like to itself as can be, and one without any token
is like to none, itself included. TF-IDF counts single words and numbers, single digits too. A number weighs twice a word: words
are a teacher's voice, numbers its reasoning. Counts are damped (1 + log), or the word that every step repeats would decide. IDF
is that of the distinct texts at hand, so similarities move as texts arrive. On the proving ground's training questions the
nearest of the same answer tells sound from lucky with an AUC of .89 (with equal weights .87, with pairs of words beside them
less), and where equal texts are merged of .63 to .73 (.56 to .62).

Invariant: what two texts get depends on which texts there are, never on their order, on how often each is there, nor on when they
came; one text is read by the model once, as long as it is among the last `KEPT`. Nothing blocks the event loop for over 2 ms.
Not covered: what similarities are for (`orchestrator.consensus`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from agents.errors import Refused
from agents.models import resolve
from configs.sift import Consensus

KEPT = 2048
"""Texts whose vectors are remembered."""
TFIDF = "tf-idf"
WORDS, NUMBERS = re.compile(r"[^\W\d]\w*"), re.compile(r"\d+(?:[.,]\d+)*")
NUMBER_WEIGHT = 2.0

V = TypeVar("V")


class Embedder(Protocol):
    """Tells how alike texts are. Safe to call from many tasks at once."""

    @property
    def name(self) -> str:
        """How it is called in every record."""
        ...

    async def similarities(self, texts: Sequence[str]) -> np.ndarray:
        """How alike each two are [N, N], in [0, 1], symmetric."""
        ...


@asynccontextmanager
async def open_embedder(config: Consensus) -> AsyncIterator[Embedder]:
    """Open what `config.embedder` names. Raises `ModelNotFound`, and `Refused` when the model cannot be used here.

    Not while engines are opened: transformers can neither be imported nor load a model in two threads at once.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")  # fast tokenizers refuse to be used from two at once
    try:
        loop = asyncio.get_running_loop()
        space = await loop.run_in_executor(thread, _space, config)
        yield _InThread(config.embedder or TFIDF, space, thread)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


class Space(Protocol):
    """Where texts have their places. Up to `at_once` characters take no longer than to hand them to a thread and back."""

    at_once: int

    def cosines(self, texts: Sequence[str]) -> np.ndarray:
        """Of each two of these distinct texts [N, N]; a text without any token has zeros."""
        ...


class _InThread:
    """An embedder whose work is done in one thread."""

    def __init__(self, name: str, space: Space, thread: ThreadPoolExecutor) -> None:
        self.name = name
        self._space = space
        self._thread = thread

    async def similarities(self, texts: Sequence[str]) -> np.ndarray:
        """How alike each two are [N, N], in [0, 1], symmetric."""
        if sum(map(len, texts)) <= self._space.at_once:
            return _similarities(self._space, texts)
        return await asyncio.get_running_loop().run_in_executor(self._thread, _similarities, self._space, tuple(texts))


def _space(config: Consensus) -> Space:
    return Words() if config.embedder is None else Sentences.load(config.embedder, config.device)


def _similarities(space: Space, texts: Sequence[str]) -> np.ndarray:
    readable = [text.encode("utf-8", "replace").decode() for text in texts]  # half a surrogate pair is no text to anyone
    distinct = sorted(set(readable))
    if not distinct:
        return np.zeros((0, 0))
    cosines = space.cosines(distinct)
    above = np.clip(np.triu(cosines, 1), 0.0, 1.0)
    cosines = above + above.T + np.diag((cosines.diagonal() > 0).astype(float))
    places = {text: place for place, text in enumerate(distinct)}
    at = np.array([places[text] for text in readable])
    return cosines[np.ix_(at, at)]


class Remembered(Generic[V]):
    """The values of the last `KEPT` texts."""

    def __init__(self, make: Callable[[str], V]) -> None:
        self._make = make
        self._values: OrderedDict[bytes, V] = OrderedDict()

    def of(self, texts: Iterable[str]) -> list[V]:
        """The value of each text; the unknown ones are made."""
        found = [self._one(text) for text in texts]
        while len(self._values) > KEPT:
            self._values.popitem(last=False)
        return found

    def _one(self, text: str) -> V:
        key = hashlib.sha256(text.encode()).digest()
        if key not in self._values:
            self._values[key] = self._make(text)
        self._values.move_to_end(key)
        return self._values[key]


class Words:
    """TF-IDF; the words of each text are counted once."""

    at_once = 20_000  # 2 ms: a thread waits for Python's lock up to 5 ms, and they wait one after the other

    def __init__(self) -> None:
        from scipy.sparse import csr_array  # here, in the thread that opens it: it takes a while

        self._rows = csr_array
        self._counts = Remembered(lambda text: Counter(WORDS.findall(text.lower()) + NUMBERS.findall(text)))

    def cosines(self, texts: Sequence[str]) -> np.ndarray:
        """Of each two; IDF is counted over these texts."""
        size, counts = len(texts), self._counts.of(texts)
        column = {word: place for place, word in enumerate(sorted({word for each in counts for word in each}))}
        columns = np.array([column[word] for each in counts for word in each], dtype=np.int64)
        rows = np.repeat(np.arange(size), [len(each) for each in counts])
        told = np.array([NUMBER_WEIGHT if word[0].isdecimal() else 1.0 for word in column])
        idf = np.log((1 + size) / (1 + np.bincount(columns, minlength=len(column)))) + 1
        values = (1 + np.log([count for each in counts for count in each.values()])) * (idf * told)[columns]
        lengths = np.sqrt(np.bincount(rows, values**2, minlength=size))
        unit = self._rows((values / lengths[rows], (rows, columns)), shape=(size, len(column)))
        return (unit @ unit.T).toarray()


class Sentences:
    """A sentence-transformers model. A text longer than the model reads is embedded in pieces: the mean of their vectors,
    each by its length. Texts go to the model one by one: in a batch, a text's last digits would depend on its neighbours'."""

    at_once = 0

    def __init__(self, model: Any) -> None:
        self._model = model
        self._vectors = Remembered(self._vector)

    @classmethod
    def load(cls, name: str, device: str) -> Sentences:
        """Find the model and load it. Raises `ModelNotFound`, and `Refused` when it cannot be used."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            why = "sentence-transformers is not installed; pip install 'peripatos[embeddings]'"
            raise Refused(f"consensus.embedder {name!r}: {why}") from None
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        folder: Path = resolve(name).path
        try:
            return cls(SentenceTransformer(str(folder), device=device, local_files_only=True))
        except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:  # what torch and transformers raise
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Refused(f"consensus.embedder {name!r}: cannot be loaded from {folder} on {device}: {said}") from error

    def cosines(self, texts: Sequence[str]) -> np.ndarray:
        """Of each two."""
        vectors = np.stack(self._vectors.of(texts))
        return vectors @ vectors.T

    def _vector(self, text: str) -> np.ndarray:
        """Of length 1; zeros for a text without anything in it."""
        pieces = self._pieces(text)
        found = self._model.encode(pieces or [""], normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        lengths = [len(piece) for piece in pieces]
        mean = lengths @ found.astype(np.float64) if pieces else np.zeros(found.shape[1])
        return mean / max(float(np.linalg.norm(mean)), 1e-12)

    def _pieces(self, text: str) -> list[str]:
        """The text, cut where the model would cut it off; nothing where there is nothing to read."""
        tokenizer, most = self._model.tokenizer, self._model.max_seq_length
        if not isinstance(most, int) or not getattr(tokenizer, "is_fast", False):  # only a fast one knows where its tokens stand
            return [text] if text.strip() else []
        room = max(1, most - tokenizer.num_special_tokens_to_add())
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = [0, *(start for start, _ in tokens["offset_mapping"][room::room])]
        cuts = zip(starts, [*starts[1:], len(text)], strict=True)
        return [piece for start, end in cuts if (piece := text[start:end]).strip()]
