"""Definitions of "relevant", "the same text" and "the query itself", and the measures.

* A document is **relevant** to a query if its grade is above 0, whatever the minimum grade of positives.
* Two texts are **the same** if they differ only in case, in blanks or in the Unicode form of their letters.
* Two queries with the same text are one query: a document relevant to one is relevant to both.
* A document with the query's own text is **the query itself**, and so is, in a collection whose documents are
  queries, the one with the query's id.

A document that is relevant to a query, has the text of one that is, or is the query itself, is never its negative.

nDCG is here rather than in `evaluation`, a later layer, because validation runs too often to build run files;
`evaluation` takes it from here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from hyperseek._registry import Registry
from hyperseek.errors import DataError, InputError, UnknownNameError, brief, shown
from hyperseek.types import Query

_KEY_BYTES = 8  # two of a billion texts share a key with a chance of 3 %, and only those of one query are compared
_DEPTH = re.compile(r"0*[1-9][0-9]{0,8}")


EXCLUDED_IDS = "excluded_ids"
"""Key of a query's metadata under which the documents are listed that its ranking must not hold."""


def is_relevant(grade: float) -> bool:
    """Return whether a document of this grade is relevant: the one rule, for all uses of judgements."""
    return grade > 0


def normal_text(text: str) -> str:
    """Return the common form of texts that differ only in case, whitespace or Unicode form.

    It is Unicode's canonical caseless form, composed, with each run of blanks as one space. Compatibility forms (NFKC)
    would go too far: they make "x²" and "x2" one text.

    Args:
        text: Any text.

    Returns:
        The form; the function is idempotent.
    """
    if not text.isascii():
        # Folding before the letters are taken apart would leave some letters with several marks in two forms.
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    else:
        text = text.lower()
    return " ".join(text.split())


def text_key(text: str) -> int:
    """Return a hash of `normal_text(text)`, the same on every machine, from 0 to 2^64 - 1."""
    encoded = normal_text(text).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=_KEY_BYTES).digest(), "big")


def key_name(key: int) -> str:
    """Return how files name a key: 16 hexadecimal digits."""
    return f"{key:0{2 * _KEY_BYTES}x}"


def key_of_name(name: str) -> int:
    """Return the key that `key_name` named; ValueError for any other string."""
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


def excluded_ids(queries: Iterable[Query]) -> dict[str, frozenset[str]]:
    """Return the documents that rankings must not hold, by query, from the queries' metadata.

    Args:
        queries: The queries.

    Returns:
        Sets of ids, of the queries that exclude any.

    Raises:
        DataError: A query's `excluded_ids` are not a list of strings.
    """
    excluded = {}
    for query in queries:
        ids = query.metadata.get(EXCLUDED_IDS) or []
        if not isinstance(ids, list | tuple) or not all(isinstance(identity, str) for identity in ids):
            raise DataError(f"{EXCLUDED_IDS} of query {query.id!r} must be a list of strings, not {shown(ids)}")
        if ids:
            excluded[query.id] = frozenset(ids)
    return excluded


class Relevance:
    """Texts that are relevant to queries, as keys; the texts themselves are not stored.

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
        """Return the keys of the texts that are relevant to the query with a key."""
        return frozenset(self._documents.get(query, ()))

    def merge(self, other: Self) -> None:
        """Add everything from another one."""
        for query, documents in other:
            self.add(query, documents)


def normalized_gain(ranked: Sequence[float], judged: Sequence[float], depth: int | None) -> float:
    """Return nDCG with linear gain: the discounted gains of a ranking over those of the best one.

    Args:
        ranked: Gains of the documents found, best first; 0 where a document is not judged.
        judged: Gains of all judged documents.
        depth: How many documents of a ranking count; None for all.

    Returns:
        A number in [0, 1]; 0 if no gain is above 0.
    """
    # Relative to the largest, so that no gain is too large for a float64.
    largest = max(judged, default=0)
    if largest <= 0:
        return 0.0
    best = _discounted(sorted(judged, reverse=True)[:depth], largest)
    return _discounted(ranked[:depth], largest) / best


def _discounted(gains: Sequence[float], largest: float) -> float:
    return math.fsum(max(gain, 0) / largest / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


Measure = Callable[[Sequence[int], Sequence[int], int], float]
"""From the grades of the best K documents, the grades of all judged ones, at least one of them relevant, and K, to a
number; higher is better."""


def _check_measure(name: str, value: Any) -> None:
    if not callable(value):
        raise InputError(f"the measure {name!r} must be a function of grades, grades and a depth, not {shown(value)}")
    if importlib.util.find_spec("ir_measures") is not None:
        taken: Mapping[str, Any] = importlib.import_module("ir_measures").measures.registry
        if name in taken:
            raise InputError(f"the name {name!r} is taken by a measure of ir-measures; choose another")


def _gain(top: Sequence[int], judged: Sequence[int], depth: int) -> float:
    return normalized_gain(top, judged, depth)


def _reciprocal_rank(top: Sequence[int], judged: Sequence[int], depth: int) -> float:
    return next((1 / rank for rank, grade in enumerate(top, start=1) if is_relevant(grade)), 0.0)


def _recall(top: Sequence[int], judged: Sequence[int], depth: int) -> float:
    return sum(map(is_relevant, top)) / sum(map(is_relevant, judged))


_OURS = {"R": f"{__name__}:_recall", "RR": f"{__name__}:_reciprocal_rank", "nDCG": f"{__name__}:_gain"}
MEASURES: Registry[Measure] = Registry("measure", "hyperseek.measures", _OURS, check=_check_measure)


def register_measure(name: str) -> Callable[[Measure], Measure]:
    """Register a measure for `evaluate` and for validation during training, as a decorator.

    The function gets the grades of the best K documents, the grades of all judged documents of the query, at least one
    of them relevant, and K; higher values are better. Another package registers one by an entry point of
    `hyperseek.measures`.

    Args:
        name: What is given before the `@K`, as `-m` and `validation.metric` read it.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        InputError: The name is taken, here or in ir-measures.
    """
    return MEASURES.register(name)


def measure(name_at: str, ranked: Sequence[int], judged: Sequence[int]) -> float:
    """Measure the ranking of one query.

    Args:
        name_at: `nDCG@K` (linear gain), `RR@K` or `R@K`, or a registered name with its `@K`.
        ranked: Grades of the documents found, best first; 0 where a document is not judged.
        judged: Grades of all judged documents, at least one of them relevant.

    Returns:
        A number, in [0, 1] for ours; grades of 1 and more are relevant.

    Raises:
        UnknownNameError: There is no such measure.
        InputError: It is of another package, and failed or gave no finite number.
    """
    name, depth = cut_off(name_at)
    try:
        value = float(MEASURES[name](ranked[:depth], judged, depth))
    except Exception as error:  # a function of anyone's
        raise InputError(f"the measure {name_at} failed: {brief(error)}") from error
    if not math.isfinite(value):
        raise InputError(f"the measure {name_at} must return a finite number, not {value}")
    return value


def cut_off(name_at: str) -> tuple[str, int]:
    """Split `NAME@K` into name and K; UnknownNameError where there is no such measure."""
    name, at, depth = name_at.partition("@")
    if name not in MEASURES or not at or not _DEPTH.fullmatch(depth):
        raise UnknownNameError("measure", name_at, [f"{known}@10" for known in MEASURES])
    return name, int(depth)


def known_measure(name_at: str) -> str:
    """Return `name_at`, for validators of configurations; UnknownNameError where there is no such measure."""
    cut_off(name_at)
    return name_at
