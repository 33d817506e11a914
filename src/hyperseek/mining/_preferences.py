"""Preferences: which of two documents, or in what order many, several teachers would put for a query.

The candidates of a query come from BM25, from an index, from its judgements and, for the rest, at random. Each teacher
scores them, what it says is kept on disk, and their scores are fused. A pair's confidence is the teachers' mean of
`tanh((z_better - z_worse) / 2)`, z being a teacher's scores of the query's candidates, standardised: near 1 where all
are sure, near 0 where they disagree or see no difference, and below 0 where most would swap the two. It is the weight
of an example, so that doubtful pairs count less.

Shapes: `T` teachers, `n` candidates of a query.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hyperseek._bounded import PathLike
from hyperseek._long_work import progress, stop_here, stoppable
from hyperseek._relevance import Relevance, excluded_ids, is_relevant, text_key
from hyperseek.data import Dataset, ErrorReport, ExampleItem, PreparedInfo, SourceInfo, TrainingExample, open_dataset
from hyperseek.data.examples import cleaned, qualified
from hyperseek.data.open import parse_source, training_split
from hyperseek.data.preparing import example_writer
from hyperseek.data.reading import OnError
from hyperseek.errors import InputError
from hyperseek.mining._bm25 import BM25
from hyperseek.mining._candidates import PreferenceOptions
from hyperseek.mining._mined_corpus import Mine, index_of, opened
from hyperseek.mining._negatives import Teacher
from hyperseek.mining._teachers import (
    BM25Teacher,
    CollectionTeacher,
    IndexTeacher,
    RetrieverTeacher,
    StoredScores,
    TextTeacher,
    load_teacher,
)
from hyperseek.types import Document, Query

if TYPE_CHECKING:
    from hyperseek.index import Index

_BATCH = 16  # queries that a kill makes a teacher read again
_LEAST_MARGIN = 0.1  # of the original's weights

Floats: TypeAlias = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)


def fuse_scores(
    scores: npt.ArrayLike,
    weights: Sequence[float] | None = None,
    *,
    method: Literal["zscore", "minmax", "rrf"] = "rrf",
    rrf_k: int = 60,
) -> Floats:
    """Fuse the scores that several teachers gave to the same documents.

    Args:
        scores: `(T, n)`, finite, higher is better.
        weights: `T` numbers of at least 0, not all 0; None weighs all alike.
        method: `rrf`, the sum of weight / (`rrf_k` + rank) with ranks from 1, equal scores sharing their mean rank, so
            that the order of the documents does not matter; `zscore` or `minmax`, the weighted mean of standardised
            scores, or of scores moved to [0, 1].
        rrf_k: At least 0; 60 is usual.

    Returns:
        `(n,)`; higher is better.

    Raises:
        InputError: The weights do not fit.
    """
    given = np.asarray(scores, np.float64)
    shares = np.ones(len(given)) if weights is None else np.asarray(weights, np.float64)
    if given.ndim != 2 or shares.shape != (len(given),) or not (np.isfinite(shares) & (shares >= 0)).all():
        raise InputError(f"fusing needs one weight of at least 0 per teacher, not {weights} for {given.shape[0]}")
    if not shares.any():
        raise InputError("a teacher needs a weight above 0")
    if method == "rrf":
        return np.asarray(shares @ (1 / (rrf_k + 1 + np.stack([_ranks(own) for own in given]))))
    return np.asarray(shares @ (standardised(given) if method == "zscore" else _to_unit(given)) / shares.sum())


def _ranks(scores: Floats) -> Floats:
    """Return ranks from 0, the best first; equal scores share their mean rank."""
    _, inverse, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Floats = (ends - (counts + 1) / 2)[inverse]
    return mean


def standardised(scores: Floats) -> Floats:
    """Move each row to mean 0 and standard deviation 1; rows without differences become 0."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    # Rounding leaves a spread among equal scores.
    real = spread > 1e-12 * np.abs(scores).max(axis=1, keepdims=True)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=real))


def _to_unit(scores: Floats) -> Floats:
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return np.asarray(np.divide(scores - low, high - low, out=np.zeros_like(scores), where=high > low))


class Preference(NamedTuple):
    """A pair of candidates by place, and how much it counts."""

    better: int
    worse: int
    weight: float


def preference_pairs(
    scores: npt.ArrayLike, *, pairs: int = 10, hard_ratio: float = 0.5, draw: random.Random
) -> list[Preference]:
    """Draw the preference pairs of one query as Hydra does.

    The positives are the 3 best; hard negatives come from the ranks 5 to 19, from 0, of more than 20 candidates and
    from 3 to n / 2 of fewer, easy ones from the worse half. For each pair a positive is drawn, then a negative, the
    hard pairs first; pairs may repeat, and those without a difference are left out.

    Args:
        scores: `(n,)` fused scores of the query's candidates.
        pairs: How many to draw.
        hard_ratio: Share of hard negatives.
        draw: Python's generator, shared by all queries.

    Returns:
        The pairs; their weights are differences of scores. Nothing if a pool is empty.
    """
    given = np.asarray(scores, np.float64)
    order = np.argsort(-given, kind="stable").tolist()
    half = len(order) // 2
    best, hard, easy = order[:3], order[5:20] if len(order) > 20 else order[3:half], order[half:]
    if not (best and hard and easy):
        return []
    count = int(pairs * hard_ratio)
    drawn = [(draw.choice(best), draw.choice(pool)) for pool in [hard] * count + [easy] * (pairs - count)]
    margins = ((one, other, float(given[one] - given[other])) for one, other in drawn)
    return [Preference(*pair) for pair in margins if pair[2] > 0]


@dataclass(frozen=True)
class Judged:
    """A query's candidates with their scores.

    Attributes:
        scores: `(T, n)` of the teachers.
        fused: `(n,)`.
        shares: `(T,)` weights of the teachers.
        relevant: `(n,)` which are known to be relevant.
    """

    scores: Floats
    fused: Floats
    shares: Floats
    relevant: npt.NDArray[np.bool_]

    @cached_property
    def order(self) -> list[int]:
        """Candidates by fused score, best first; equal ones keep their order."""
        return [int(place) for place in np.argsort(-self.fused, kind="stable")]

    @cached_property
    def _standard(self) -> Floats:
        return standardised(self.scores)

    def confidence(self, better: int, worse: int) -> float:
        """Return how sure the teachers are of a pair, in (-1, 1); see the module."""
        surer = np.tanh((self._standard[:, better] - self._standard[:, worse]) / 2)
        return float(self.shares @ surer / self.shares.sum())

    def pools(self, options: PreferenceOptions) -> tuple[list[int], list[int], list[int]]:
        """Return the positives, the hard and the easy negatives, each best first."""
        best = [place for place in self.order if self.relevant[place]] if options.judged else []
        best = best or self.order[: options.positives]
        rest = [place for place in self.order if place not in best and not self.relevant[place]]
        end = options.skip + options.hard
        return best, rest[options.skip : end], rest[max(end, len(rest) // 2) :]


def confident_pairs(judged: Judged, options: PreferenceOptions, draw: random.Random) -> list[Preference]:
    """Draw different pairs of enough confidence.

    Args:
        judged: The candidates of one query.
        options: How many, and from where.
        draw: The query's own generator.

    Returns:
        The pairs, hard ones first; fewer where there are not enough.
    """
    best, hard, easy = judged.pools(options)
    pairs: list[Preference] = []
    count = round(options.pairs * options.hard_ratio)
    for wanted, pool in ((count, hard), (options.pairs - count, easy)):
        found = [Preference(one, other, judged.confidence(one, other)) for one in best for other in pool]
        found = [pair for pair in found if pair.weight > options.least_confidence]
        pairs += draw.sample(found, min(wanted, len(found)))
    return pairs


def confident_list(
    judged: Judged, options: PreferenceOptions, draw: random.Random
) -> tuple[list[int], list[int], float] | None:
    """Choose positives and negatives of one query.

    Args:
        judged: Its candidates.
        options: How many, and from where.
        draw: The query's own generator.

    Returns:
        The positives and the negatives, best first, and the mean confidence of their pairs; None where it is too low.
    """
    best, hard, easy = judged.pools(options)
    best = best[: options.positives]
    count = min(len(hard), max(round(options.negatives * options.hard_ratio), options.negatives - len(easy)))
    drawn = {*draw.sample(hard, count), *draw.sample(easy, min(len(easy), options.negatives - count))}
    negatives = [place for place in judged.order if place in drawn]
    pairs = [judged.confidence(one, other) for one in best for other in negatives]
    weight = sum(pairs) / len(pairs) if pairs else 0.0
    return (best, negatives, weight) if weight > options.least_confidence else None


def prepare_preferences(
    source: PathLike,
    folder: PathLike,
    *,
    teachers: Sequence[str | Teacher],
    dense: Mine | None = None,
    options: PreferenceOptions | None = None,
    scores: PathLike | None = None,
    url: str | None = None,
    key: str | None = None,
    allow_test: bool = False,
    device: str | None = None,
    on_error: OnError = "raise",
    overwrite: bool = False,
) -> PreparedInfo:
    """Let teachers rank candidates for the queries of a collection, and write their preferences as training examples.

    Memory holds the collection's texts once. A call that was killed is resumed by the next with the same arguments:
    until the end, encoded documents and scores are kept beside `folder`, in `.NAME.preferences`.

    Args:
        source: `[NAME=]COLLECTION[:SPLIT]`; the split is `train` if not given, and all queries are asked where the
            collection has no judgements.
        folder: The folder to write, atomically; `hyperseek.training` and `hyperseek.mining.refine` read it.
        teachers: `bm25`, `dense` (the index's own model), the path of another index of the collection, names for
            `load_teacher`, or objects.
        dense: Finds candidates: an index of the collection, its path, or a model that encodes the collection first.
        options: How candidates are found and preferences drawn; None for the defaults.
        scores: Keeps the teachers' scores for other calls, by teacher, query and document; None drops them at the end.
        url: The endpoint of teachers behind one; see `load_teacher`.
        key: Its key.
        allow_test: Whether a test split may be used, on which nothing can be measured afterwards.
        device: Of models given by name; None takes a GPU if there is one.
        on_error: Stop at a bad record, or skip and count it.
        overwrite: Replace an existing prepared folder.

    Returns:
        A description of the folder; its `options` name the teachers and say how the weights are distributed.

    Raises:
        InputError: A test split, no teacher, a teacher without what it needs, no example left, or the folder exists.
        DataError: The collection has a bad record, or the index is of another collection.
        ModelError: A teacher cannot be loaded, or its endpoint does not answer.
    """
    from hyperseek.index import Index

    options = options or PreferenceOptions()
    if isinstance(teachers, str) or not teachers:
        raise InputError("preferences need a list of teachers, as in ['bm25', 'dense']")
    if options.weights is not None and len(options.weights) != len(teachers):
        raise InputError(f"there are {len(teachers)} teachers and {len(options.weights)} weights; give one each")
    if "dense" in teachers and dense is None:
        raise InputError("the teacher 'dense' is the model of an index; give one, dense= or --index")
    if options.options and dense is None:
        raise InputError("options are for the model of an index, and there is none; give one, dense= or --index")
    parsed = parse_source(source)
    if parsed.kind != "qrels":
        raise InputError(f"preferences need a collection, not the table {parsed.given!r}")
    collection = open_dataset(parsed.place, name=parsed.name, on_error=on_error)
    split = training_split(collection, parsed.split, allow_test=allow_test)
    target = Path(folder)
    work = target.parent / f".{target.name}.preferences"
    kept = work / "scores" if scores is None else Path(scores)
    with example_writer(folder, overwrite=overwrite) as writer:
        handle = None if dense is None else opened(dense, device)
        if handle is not None and options.options:  # a card is recorded by its content, not by its file
            model = handle.model if isinstance(handle, Index) else handle
            options = options.model_copy(update={"options": model.check_options(options.options)})
        asked = _Asked(collection, split, options)
        index = None if handle is None else index_of(collection, asked.texts, handle, work)
        words = (Document(one, text) for one, text in asked.texts.items())
        ranker = BM25(words, total=len(asked.texts)) if options.bm25 or "bm25" in teachers else None
        rankings = _rankings(asked, ranker, index)
        found: list[CollectionTeacher] = []
        for given in teachers:
            if given == "bm25" and ranker is not None:
                found.append(BM25Teacher(ranker, collection.fingerprint()))
            elif given == "dense" and index is not None:
                found.append(IndexTeacher(index, name="dense", options=options.options))
            else:
                found.append(_teacher(given, asked, work, device=device, url=url, key=key))
        stored = [StoredScores(kept, one, asked.texts) for one in found]
        report, weights = ErrorReport(), []
        with stoppable(lambda: f"the teachers' scores so far are kept in {kept}; run the same command again to resume"):
            for example in _preferred(asked, rankings, stored, report):
                writer.add(example)
                weights.append(example.weight)
        report.log(parsed.given, level=logging.INFO)
        writer.relevance.merge(asked.lost)
        named = [{"name": one.name, "fingerprint": one.fingerprint} for one in found]
        made = {**options.model_dump(mode="json"), "teachers": named, "weights_given": _summary(weights)}
        about = SourceInfo(
            name=collection.name,
            source=parsed.given,
            kind="qrels",
            split=split,
            fingerprint=collection.fingerprint(),
            examples=writer.examples,
            dropped=report.to_dict(),
        )
        info = writer.finish([about], {"preferences": made})
    shutil.rmtree(work, ignore_errors=True)
    return info


def _preferred(
    asked: _Asked,
    rankings: Sequence[Mapping[str, Mapping[str, float]]],
    stored: Sequence[StoredScores],
    report: ErrorReport,
) -> Iterator[TrainingExample]:
    """Yield the examples of all queries; after each teacher's answer for a few of them it may be stopped."""
    draw = random.Random(asked.options.seed)
    with progress("asking teachers", len(asked.queries), unit="queries") as bar:
        for start in range(0, len(asked.queries), _BATCH):
            batch = asked.queries[start : start + _BATCH]
            lists = [asked.candidates(query, [ranking[query.id] for ranking in rankings]) for query in batch]
            scores = []
            for one in stored:
                scores.append(one.score([query.id for query in batch], [query.text for query in batch], lists))
                stop_here()
            for query, ids, own in zip(batch, lists, zip(*scores, strict=True), strict=True):
                yield from asked.examples(query, ids, np.stack(own), draw, report)
                bar.advance()


def _summary(weights: Sequence[float]) -> dict[str, float]:
    if len(weights) < 2:
        return {}
    lower, median, upper = quantiles(weights, n=4, method="inclusive")
    named = {"lowest": min(weights), "lower_quartile": lower, "median": median, "upper_quartile": upper}
    return {**named, "highest": max(weights)}


class _Asked:
    """The queries of a split, the documents, and what is known of both."""

    def __init__(self, collection: Dataset, split: str | None, options: PreferenceOptions) -> None:
        self.collection, self.options = collection, options
        self.texts = {one.id: one.full_text for one in collection.documents() if one.full_text}
        self._ids = list(self.texts)
        self.queries = collection.queries(split)
        self._grades = {} if split is None else collection.qrels(split)
        self._excluded = excluded_ids(self.queries)
        self.lost = Relevance()  # of queries without an example
        self._relevant: defaultdict[int, dict[str, None]] = defaultdict(dict)
        for query in self.queries:
            own = [one for one, grade in self._grades.get(query.id, {}).items() if is_relevant(grade)]
            self._relevant[text_key(query.text)] |= dict.fromkeys(one for one in own if one in self.texts)

    def candidates(self, query: Query, rankings: Sequence[Mapping[str, float]]) -> list[str]:
        """Return the documents that teachers score: those of rankings, relevant ones, and random ones."""
        key = text_key(query.text)
        unwanted = set(self._excluded.get(query.id, ()))
        if self.options.exclude_same_id:
            unwanted.add(query.id)
        chosen: dict[str, None] = {}

        def add(one: str) -> None:
            if one in self.texts and one not in unwanted and text_key(self.texts[one]) != key:
                chosen[one] = None

        for one in (*(one for ranking in rankings for one in ranking), *self._relevant[key]):
            add(one)
        wanted = self.options.candidates
        draw = random.Random(f"{self.options.seed}-{query.id}")
        for one in draw.sample(self._ids, min(len(self._ids), wanted + len(chosen) + len(unwanted) + 1)):
            if len(chosen) >= wanted:
                break
            add(one)
        return list(chosen)

    def examples(
        self, query: Query, ids: Sequence[str], scores: Floats, draw: random.Random, report: ErrorReport
    ) -> Iterator[TrainingExample]:
        """Yield the examples of one query, from the teachers' scores `(T, n)` of its candidates."""
        options, key = self.options, text_key(query.text)
        shares = np.ones(len(scores)) if options.weights is None else np.array(options.weights)
        relevant = np.array([one in self._relevant[key] for one in ids], bool)
        fused = fuse_scores(scores, shares.tolist(), method=options.fusion, rrf_k=options.rrf_k)
        judged = Judged(scores, fused, shares, relevant)
        own = random.Random(f"{options.seed}-pairs-{query.id}")
        chosen: list[tuple[list[int], list[int], float]] = []
        if options.form == "lists":
            one = confident_list(judged, options, own)
            chosen = [] if one is None else [one]
        else:
            pairs = (
                preference_pairs(fused, pairs=options.pairs, hard_ratio=options.hard_ratio, draw=draw)
                if options.sampling == "hydra"
                else confident_pairs(judged, options, own)
            )
            least = _LEAST_MARGIN if options.sampling == "hydra" else 0.0
            chosen = [([pair.better], [pair.worse], max(pair.weight, least)) for pair in pairs]
        if not chosen:
            report.add("no_confident_preference", f"query {query.id}")
            self.lost.add(key, (text_key(self.texts[one]) for one in self._relevant[key]))
        grades, name = self._grades.get(query.id, {}), self.collection.name
        items = [
            ExampleItem(qualified(name, one), self.texts[one], float(score), grades.get(one))
            for one, score in zip(ids, fused, strict=True)
        ]
        known = self._relevant[key]
        for better, worse, weight in chosen:
            positives = tuple(items[place] for place in better)
            others = [one for one in known if qualified(name, one) not in {item.id for item in positives}]
            example = TrainingExample(
                Query(qualified(name, query.id), query.text, query.metadata),
                positives,
                tuple(items[place] for place in worse),
                name,
                options.task,
                relevant=tuple(qualified(name, one) for one in others),
                relevant_texts=tuple(dict.fromkeys(text_key(self.texts[one]) for one in others)),
                weight=weight,
            )
            kept = cleaned(example, report)
            if kept is not None and kept.negatives:
                yield kept


def _rankings(asked: _Asked, ranker: BM25 | None, index: Index | None) -> list[Mapping[str, Mapping[str, float]]]:
    options = asked.options
    found: list[Mapping[str, Mapping[str, float]]] = []
    if ranker is not None and options.bm25:
        found.append(ranker.run(asked.queries, k=options.bm25))
    if index is not None and options.dense:
        found.append(index.run(asked.queries, k=options.dense, options=options.options))
    return found


def _teacher(
    given: str | Teacher, asked: _Asked, work: Path, *, device: str | None, url: str | None, key: str | None
) -> CollectionTeacher:
    if not isinstance(given, str | os.PathLike):
        return TextTeacher(given, asked.texts)
    name = os.fspath(given)
    if (Path(name) / "index.json").is_file():
        return IndexTeacher(index_of(asked.collection, asked.texts, opened(name, device), work), name=name)
    teacher = load_teacher(name, device=device, url=url, key=key)
    pairs = len(asked.queries) * asked.options.candidates
    if isinstance(teacher, RetrieverTeacher) and pairs > len(asked.texts):
        # Each document would be encoded for each query that it is a candidate of.
        return IndexTeacher(index_of(asked.collection, asked.texts, teacher.model, work), name=name)
    return TextTeacher(teacher, asked.texts)
