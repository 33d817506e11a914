"""Slices: queries that have something in common, over which systems are compared beside the comparison over all.

A slice is named by what its queries are told apart by, as in `length` or `field:year`. Numbers are split at quantiles
into parts of about as many queries each, and every part states its bounds; words and truth values are a part each.

A trap: slices by how hard queries are for one of the compared systems favour the others on hard queries and that
system on easy ones, since part of its rank is chance. Slice by a system that is not compared, such as BM25.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperseek._config import Config
from hyperseek._order import best_first
from hyperseek._registry import Registry, check_function
from hyperseek._relevance import is_relevant
from hyperseek.errors import DataError, InputError, UnknownNameError
from hyperseek.mining import terms
from hyperseek.types import Qrels, Query

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.evaluation._ranking import Ranking

FEW = 20
"""Slices of fewer queries are said to be small."""

_EASY, _MEDIUM = 1, 10  # ranks of the first relevant document
_REFERENCE = "BM25"  # which can always be made
_MOST_PARTS = 8  # of a field of words; rarer values are one part
_OTHERS = "other values"


class QuerySlice(Config):
    """Queries that have something in common.

    Attributes:
        title: What, with its bounds.
        queries: Their ids, at least one.
        note: A remark for readers of numbers over them; empty for none.
    """

    title: str
    queries: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class SliceValues:
    """What a kind of slice knows of each query.

    Attributes:
        values: A number or a word for each query; None or no entry where there is none.
        unit: Of the numbers, as in `words`.
        order: Words that come first, in this order; others follow, the most frequent first.
        note: A remark for readers of numbers over these slices.
    """

    values: Mapping[str, float | str | None]
    unit: str = ""
    order: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class SliceTask:
    """What a kind of slice may read.

    Attributes:
        qrels: Judgements of the queries.
        argument: What follows the colon of the slice's name; None without one.
        dataset: The collection; None where only judgements are known.
        rankings: The compared systems, the baseline first.
        split: Of the judgements.
    """

    qrels: Qrels
    argument: str | None
    dataset: Dataset | None
    rankings: Sequence[Ranking]
    split: str
    _read: dict[str, Any] = field(default_factory=dict)

    def texts(self) -> Dataset:
        """Return the collection; InputError where there is none."""
        if self.dataset is None:
            raise InputError("this slice needs texts, and a run and judgements have none; give INDEX and DATASET")
        return self.dataset

    @cached_property
    def queries(self) -> dict[str, Query]:
        """The judged queries by id."""
        return {query.id: query for query in self.texts().queries(self.split) if query.id in self.qrels}

    def relevant(self) -> dict[str, dict[str, list[str]]]:
        """Return the terms of each query's relevant documents, by query and document, in one pass over the corpus."""
        self._survey()
        known: dict[str, list[str]] = self._read["documents"]
        return {
            query: {name: known[name] for name, grade in judged.items() if is_relevant(grade) and name in known}
            for query, judged in self.qrels.items()
        }

    def weights(self) -> dict[str, float]:
        """Return the inverse document frequency, at least 0, of each term of the queries."""
        self._survey()
        weights: dict[str, float] = self._read["weights"]
        return weights

    def _survey(self) -> None:
        if self._read:
            return
        wanted = {name for judged in self.qrels.values() for name, grade in judged.items() if is_relevant(grade)}
        asked = {term for query in self.queries.values() for term in terms(query.text)}
        holding: Counter[str] = Counter()
        documents: dict[str, list[str]] = {}
        count = 0
        for document in self.texts().documents():
            found = terms(document.full_text)
            holding.update(asked.intersection(found))
            count += 1
            if document.id in wanted:
                documents[document.id] = found
        self._read["documents"] = documents
        self._read["weights"] = {term: math.log((count + 1) / (holding[term] + 0.5)) for term in asked}


Slicer = Callable[[SliceTask], SliceValues]
"""Tells queries apart."""

_WITHOUT_DOCUMENTS = ("field", "file", "length", "relevant")  # told from queries alone, in no time
_OURS = {
    name: f"{__name__}:_{name}" for name in ("documents", "field", "file", "hardness", "length", "overlap", "relevant")
}
SLICERS: Registry[Slicer] = Registry("slice", "hyperseek.slices", _OURS, check=check_function)


def register_slice(name: str) -> Callable[[Slicer], Slicer]:
    """Register a kind of slice for `evaluate --slice`, as a decorator.

    The function gets a `SliceTask` and returns `SliceValues`. Another package registers one by an entry point of
    `hyperseek.slices`.

    Args:
        name: What is given before the colon, if there is one.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        InputError: The name is taken.
    """
    return SLICERS.register(name)


def slice_queries(
    by: str | Iterable[str],
    qrels: Qrels,
    *,
    dataset: Dataset | None = None,
    split: str = "test",
    rankings: Sequence[Ranking] = (),
    bins: int = 3,
) -> tuple[QuerySlice, ...]:
    """Split judged queries by what they have in common, for `compare`.

    Args:
        by: Kinds of slices: `length` of the query in words; `overlap`, the share of its words, weighted by inverse
            document frequency, that a relevant document has; `documents`, the mean length of its relevant documents in
            words; `relevant`, how many there are; `hardness`, the rank of the first of them by the first of `rankings`,
            or by another as in `hardness:BM25`; `field:NAME`, a field of the queries' metadata; `file:PATH`, a file of
            query ids, alone or with a word each after a tab.
        qrels: Judgements of the queries.
        dataset: The collection, for kinds that read texts.
        split: Of the judgements.
        rankings: The compared systems.
        bins: Parts of about as many queries that numbers are split into, at least 2.

    Returns:
        The slices, in order; every query is in one slice of each kind.

    Raises:
        UnknownNameError: There is no such kind of slice, ranking or field.
        InputError: `bins` is below 2, or a slice needs texts or an argument that are not given.
        DataError: A file cannot be read, or names no judged query.
    """
    if bins < 2:
        raise InputError(f"numbers are split into at least 2 bins, not {bins}; 3 is usual")
    task = SliceTask(qrels, None, dataset, rankings, split)
    found: list[QuerySlice] = []
    for named in dict.fromkeys([by] if isinstance(by, str) else by):
        kind, colon, argument = named.partition(":")
        own = SliceTask(qrels, argument if colon else None, dataset, rankings, split, task._read)
        told = SLICERS[kind](own)
        found += _parts(named, told, list(qrels), bins)
    return tuple(found)


def check_slices(
    by: Iterable[str],
    rankings: Iterable[str] = (),
    *,
    qrels: Qrels | None = None,
    dataset: Dataset | None = None,
    split: str = "test",
) -> None:
    """Check slices before a search, whose rankings would be lost by an error.

    Args:
        by: As for `slice_queries`.
        rankings: Names of the systems that will be compared.
        qrels: Judgements of the queries; None checks names alone, without reading anything.
        dataset: The collection.
        split: Of the judgements.

    Raises:
        UnknownNameError: There is no such kind, no such system for `hardness`, or no such field.
        InputError: A slice needs an argument that is not given.
        DataError: A file cannot be read, or names no judged query.
    """
    known = dict.fromkeys([*rankings, _REFERENCE])
    for named in by:
        kind, colon, argument = named.partition(":")
        SLICERS.checked(kind)
        if kind == "hardness" and argument and argument not in known:
            raise UnknownNameError("ranking to slice hardness by", argument, known)
        if qrels is not None and kind in _WITHOUT_DOCUMENTS:
            SLICERS[kind](SliceTask(qrels, argument if colon else None, dataset, (), split))


def _parts(name: str, told: SliceValues, queries: Sequence[str], bins: int) -> list[QuerySlice]:
    values = {query: told.values.get(query) for query in queries}
    numbers = {query: float(value) for query, value in values.items() if isinstance(value, int | float)}
    parts: list[tuple[str, list[str]]] = []
    if numbers:
        ends = np.quantile([*numbers.values()], np.arange(1, bins) / bins, method="inverted_cdf")
        places = {query: int(np.searchsorted(ends, number, side="left")) for query, number in numbers.items()}
        for part in sorted(set(places.values())):
            own = [query for query, place in places.items() if place == part]
            parts.append((_bounds([numbers[query] for query in own], told.unit), own))
    words = Counter(value for value in values.values() if isinstance(value, str))
    common = [word for word, _ in words.most_common()]
    kept = [word for word in told.order if word in words] or common[:_MOST_PARTS]
    rest = [word for word in common if word not in kept]
    if len(rest) == 1:
        kept, rest = [*kept, *rest], []
    parts += [(word, [query for query, value in values.items() if value == word]) for word in kept]
    parts += [(_OTHERS, [query for query, value in values.items() if value in rest])] if rest else []
    missing = [query for query, value in values.items() if value is None]
    parts += [("unknown", missing)] if missing else []
    return [QuerySlice(title=f"{name}: {title}", queries=tuple(own), note=told.note) for title, own in parts]


def _bounds(numbers: Sequence[float], unit: str) -> str:
    low, high = (f"{end:.4g}" for end in (min(numbers), max(numbers)))
    bounds = low if low == high else f"{low} to {high}"
    return f"{bounds} ({unit})" if unit else bounds


def _without_argument(task: SliceTask, kind: str) -> None:
    if task.argument is not None:
        raise InputError(f"the slice {kind} takes nothing after a colon, not {task.argument!r}")


def _length(task: SliceTask) -> SliceValues:
    _without_argument(task, "length")
    return SliceValues({query.id: len(terms(query.text)) for query in task.queries.values()}, "words")


def _overlap(task: SliceTask) -> SliceValues:
    _without_argument(task, "overlap")
    values = {}
    for query, documents in task.relevant().items():
        if documents and query in task.queries:
            values[query] = overlap(terms(task.queries[query].text), documents.values(), task.weights())
    return SliceValues(values, "share of the query's words, by idf, in a relevant document")


def overlap(asked: Iterable[str], documents: Iterable[Iterable[str]], weights: Mapping[str, float]) -> float:
    """Return the largest share of a query's distinct terms, each by its weight, that one document has; 0 to 1."""
    distinct = set(asked)
    total = math.fsum(weights[term] for term in distinct)
    if total <= 0:
        return 0.0
    shares = (math.fsum(weights[term] for term in distinct.intersection(own)) / total for own in documents)
    return max(shares, default=0.0)


def _documents(task: SliceTask) -> SliceValues:
    _without_argument(task, "documents")
    found = task.relevant()
    means = {query: sum(map(len, own.values())) / len(own) for query, own in found.items() if own}
    return SliceValues(means, "words in a relevant document")


def _relevant(task: SliceTask) -> SliceValues:
    _without_argument(task, "relevant")
    return SliceValues({query: sum(map(is_relevant, own.values())) for query, own in task.qrels.items()}, "documents")


def _hardness(task: SliceTask) -> SliceValues:
    by_name = {ranking.name: ranking for ranking in task.rankings}
    name = task.argument or next(iter(by_name), _REFERENCE)
    note = ""
    if name in by_name:
        note = f"slices by the ranks of {name}, which is compared, favour other systems on hard queries"
        run = by_name[name].run
    elif name == _REFERENCE:
        from hyperseek.evaluation._ranking import rank_bm25

        run = rank_bm25(task.texts(), split=task.split).run
    else:
        raise UnknownNameError("ranking to slice hardness by", name, dict.fromkeys([*by_name, _REFERENCE]))
    easy = f"easy, first relevant document at rank {_EASY} of {name}"
    medium = f"medium, first relevant document at rank {_EASY + 1} to {_MEDIUM} of {name}"
    hard = f"hard, first relevant document beyond rank {_MEDIUM} of {name}, or not found"
    values: dict[str, float | str | None] = {}
    for query, judged in task.qrels.items():
        if any(map(is_relevant, judged.values())):
            rank = first_relevant(best_first(run.get(query, {})), judged)
            values[query] = hard if rank is None or rank > _MEDIUM else easy if rank <= _EASY else medium
    return SliceValues(values, order=(easy, medium, hard), note=note)


def first_relevant(ranked: Sequence[str], judged: Mapping[str, int]) -> int | None:
    """Return the rank, from 1, of the first relevant document; None if none was found."""
    return next((rank for rank, name in enumerate(ranked, 1) if is_relevant(judged.get(name, 0))), None)


def _field(task: SliceTask) -> SliceValues:
    if not task.argument:
        raise InputError("the slice field needs the name of a field of the queries' metadata, as in field:year")
    known = {key for query in task.queries.values() for key in query.metadata}
    if task.argument not in known:
        raise UnknownNameError("field of the queries' metadata", task.argument, sorted(known))
    return SliceValues({name: _plain(query.metadata.get(task.argument)) for name, query in task.queries.items()})


def _plain(value: Any) -> float | str | None:
    if isinstance(value, bool) or value is None:
        return None if value is None else str(value).lower()
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return str(value) or None


def _file(task: SliceTask) -> SliceValues:
    from hyperseek.data import read_id_list

    if not task.argument:
        raise InputError("the slice file needs the place of a file of query ids, as in file:hard.txt")
    lines = read_id_list(task.argument)
    words = {query: word.strip() or "listed" for query, _, word in (line.partition("\t") for line in lines)}
    if not words.keys() & task.qrels.keys():
        raise DataError(
            f"names none of the {len(task.qrels)} judged queries, whose ids are like {next(iter(task.qrels))!r}",
            path=task.argument,
        )
    return SliceValues({query: words.get(query, "not listed") for query in task.qrels})
