"""One meaning of "relevant", "the same text" and "the query itself", and the measures that validation needs."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

_KEY_BYTES = 8  # two of a billion texts share a key with a chance of 3 %, and only those of one query are compared


def is_relevant(grade: float) -> bool:
    """Return whether a document of this grade is relevant: the one rule, for all uses of judgements."""
    return grade > 0


def normal_text(text: str) -> str:
    """Return the form that texts share which differ in case, blanks or Unicode form alone.

    It is Unicode's canonical caseless form, composed, with each run of blanks as one space. Compatibility forms (NFKC)
    would go too far: they make "x²" and "x2" one text.

    Args:
        text: Any.

    Returns:
        The form; its own form is itself.
    """
    if not text.isascii():
        # Folding before the letters are taken apart would leave some letters with several marks in two forms.
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    else:
        text = text.lower()
    return " ".join(text.split())


def text_key(text: str) -> int:
    """Return a number that stands for `normal_text(text)`, the same on every machine, 0 to 2^64 - 1."""
    encoded = normal_text(text).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=_KEY_BYTES).digest(), "big")


def key_name(key: int) -> str:
    """Return how files name a key: 16 hexadecimal digits."""
    return f"{key:0{2 * _KEY_BYTES}x}"


def key_of_name(name: str) -> int:
    """Return the key that `key_name` named; ValueError where it is none."""
    if len(name) != 2 * _KEY_BYTES:
        raise ValueError(f"{name!r} does not have {2 * _KEY_BYTES} digits")
    return int(name, 16)


def rows_of_themselves(queries: Iterable[str], documents: Sequence[str]) -> list[int]:
    """Return for each query the place of the document that is the query itself, where documents are queries.

    Args:
        queries: Ids.
        documents: Ids, by place.

    Returns:
        Places; -1 for none.
    """
    places = {identity: place for place, identity in enumerate(documents)}
    return [places.get(query, -1) for query in queries]


class Relevance:
    """Texts that are relevant to queries, as keys: memory holds no text.

    Args:
        keys: Keys of documents by key of the query.
    """

    def __init__(self, keys: Mapping[int, Iterable[int]] | None = None) -> None:
        self._documents: dict[int, set[int]] = {query: set(own) for query, own in (keys or {}).items()}

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[tuple[int, frozenset[int]]]:
        """Yield keys of queries, each with those of its documents, in the order of the keys."""
        return ((query, frozenset(self._documents[query])) for query in sorted(self._documents))

    def add(self, query: int, documents: Iterable[int]) -> None:
        """Make documents relevant to a query.

        Args:
            query: Its key.
            documents: Theirs.
        """
        added = set(documents)
        if added:
            self._documents.setdefault(query, set()).update(added)

    def of(self, query: int) -> frozenset[int]:
        """Return the keys of what is relevant to the query with a key."""
        return frozenset(self._documents.get(query, ()))

    def merge(self, other: Self) -> None:
        """Add all that another one knows."""
        for query, documents in other:
            self.add(query, documents)


def normalized_gain(ranked: Sequence[float], judged: Sequence[float], depth: int | None) -> float:
    """Return nDCG with linear gain: the discounted gains of a ranking over those of the best one.

    Args:
        ranked: Gains of the documents found, best first; 0 where a document is not judged.
        judged: Gains of all judged documents.
        depth: How many documents of a ranking count; None for all.

    Returns:
        A number in [0, 1]; 0 where no gain is above 0.
    """
    # Relative to the largest, so that no gain is too large for a float64.
    largest = max(judged, default=0)
    if largest <= 0:
        return 0.0
    best = _discounted(sorted(judged, reverse=True)[:depth], largest)
    return _discounted(ranked[:depth], largest) / best


def _discounted(gains: Sequence[float], largest: float) -> float:
    return math.fsum(max(gain, 0) / largest / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
