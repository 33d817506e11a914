"""How much of a corpus a model does not read, which is said before it is encoded."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperseek.errors import InputError
from hyperseek.index._splitting import TokenCounter, longest
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.models import Encoder

# Documents whose tokens are counted, and characters of each that are.
_SURVEYED = 1000
_COUNTED = 1 << 20


@dataclass(frozen=True, slots=True)
class LongDocuments:
    """How much of a corpus is beyond what a model reads of a document.

    Attributes:
        limit: Tokens that the model reads, special ones included.
        documents: Documents of the corpus.
        sample: Documents that were counted; the longest is one of them.
        long: How many of these are longer.
        median: Tokens of a long document, in the middle of all; 0 if there is none.
        longest: Tokens of the longest document.
        share: Share of all tokens of the sample that are beyond the limit, in [0, 1].
    """

    limit: int
    documents: int
    sample: int
    long: int
    median: int
    longest: int
    share: float

    def __str__(self) -> str:
        if not self.long:
            return f"no document is longer than the {self.limit} tokens that the model reads"
        sampled = "" if self.sample >= self.documents else f", in a sample of {self.sample:,}"
        return (
            f"{self.long / self.sample:.0%} of the documents{sampled} are longer than the {self.limit} tokens that the "
            f"model reads ({self.median:,} in the middle, at most {self.longest:,}): {self.share:.0%} of all tokens "
            f"would be cut off without passages"
        )


class Survey:
    """Measures documents that pass by: some, by chance, and the one with the most characters."""

    def __init__(self, counter: TokenCounter | None, limit: int | None, seed: int) -> None:
        self.documents = 0
        self._counter, self._limit = counter, limit
        self._random = random.Random(seed)
        self._lengths: list[int] = []
        self._most = 0
        self._longest = 0

    @classmethod
    def of(cls, model: Encoder, seed: int) -> Survey:
        """Return what measures documents for a model; without a tokenizer it only counts them."""
        try:
            return cls(TokenCounter(model), longest(model), seed)
        except InputError:
            return cls(None, None, seed)

    def passing(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents on."""
        for document in documents:
            self.documents += 1
            if self._limit is not None:
                self._measure(document.full_text)
            yield document

    def result(self) -> LongDocuments | None:
        """Return what was found; None if the model reads documents of any length, or there were none."""
        if self._limit is None or not self._lengths:
            return None
        long = [length for length in self._lengths if length > self._limit]
        return LongDocuments(
            limit=self._limit,
            documents=self.documents,
            sample=len(self._lengths),
            long=len(long),
            median=sorted(long)[len(long) // 2] if long else 0,
            longest=max(self._longest, *self._lengths),
            share=sum(length - self._limit for length in long) / sum(self._lengths),
        )

    def _measure(self, text: str) -> None:
        # Reservoir sampling, as in an estimate.
        full = len(self._lengths) == _SURVEYED
        place = self._random.randrange(self.documents) if full else len(self._lengths)
        if place < _SURVEYED or len(text) > self._most:
            length = self._length(text)
            self._longest = max(self._longest, length)
            if place < _SURVEYED:
                self._lengths[place : place + 1] = [length]
        self._most = max(self._most, len(text))

    def _length(self, text: str) -> int:
        assert self._counter is not None
        [length] = self._counter.lengths([text[:_COUNTED]])
        return length if len(text) <= _COUNTED else length * len(text) // _COUNTED
