"""Rankings with their protocol, from an index, BM25 or a file, and their evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hyperseek._fingerprint import fingerprint_json
from hyperseek._relevance import is_relevant
from hyperseek.cards import Card
from hyperseek.data import read_run
from hyperseek.errors import InputError, shown
from hyperseek.evaluation._measures import aggregate, calculate, check_depth, cutoffs, depth, measure_names
from hyperseek.evaluation._result import Evaluation, Protocol, Slices, measuring_versions, slice_by_training, trained_on
from hyperseek.mining import BM25, BM25Settings
from hyperseek.plan import as_plan
from hyperseek.scoring import Scorer
from hyperseek.types import NO_OPTIONS, Qrels, Query, QueryOptions, Run

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.index import Index
    from hyperseek.models import Retriever
    from hyperseek.plan import PlanLike

_BATCH = 64

logger = logging.getLogger(__name__)


def rank_index(
    index: Index,
    dataset: Dataset,
    *,
    split: str = "test",
    k: int = 1000,
    exclude_same_id: bool = False,
    name: str | None = None,
    engine: str = "exact",
    plan: PlanLike | None = None,
    options: Mapping[str, Any] | None = None,
    scorer: Scorer | None = None,
    card_field: str | None = None,
    combine: Literal["best", "soft"] = "best",
) -> Ranking:
    """Search an index with the queries of a split, exhaustively by default.

    Documents that a query's metadata list as `excluded_ids` are left out of its ranking.

    Args:
        index: Index of the data set's documents; opened with another model (`Index.open(path, model=...)`) it gives
            that model's ranking.
        dataset: Its queries and judgements.
        split: The split of the judgements.
        k: Documents per query, at least 1.
        exclude_same_id: Leave out a document whose id is the query's.
        name: The system's name; None takes the model's.
        engine: `"exact"`, or another value for `Index.search`.
        plan: The plan to search by instead.
        options: Options of the model for the queries, as in `Index.search`.
        scorer: The queries of the split, compiled already, in order; None compiles them.
        card_field: For models with task cards, the field of the queries' metadata that says what is relevant to each,
            as the narratives of FollowIR do: every query is asked with a card of its own.
        combine: How the scores of a document's passages are combined, as in `Index.search`.

    Returns:
        The ranking, with the documents that were relevant in the model's training if its folder has them.

    Raises:
        UnknownNameError: There is no such split, or the model does not understand an option.
        InputError: The index holds none of the relevant documents, `dataset` is not an open collection, or a query has
            no text in `card_field`, or more than a description may have.
    """
    _check_dataset(dataset)
    qrels = dataset.qrels(split)
    notes = _index_notes(index, dataset, qrels)
    model = index.model
    asked = _options(model, options) if scorer is None else scorer.options
    if card_field is not None:
        compiled = compile_instructed(model, dataset.queries(split), card_field, asked)
        asked = QueryOptions(**asked, card_field=card_field)
        scorer = compiled.with_options(asked)
    system = {
        "kind": "index",
        "model": _unversioned(model.protocol()),
        "index": _unversioned(describe_index(index)),
        "search": engine if plan is None else as_plan(plan).model_dump(mode="json"),
        **({} if index.passages is None else {"combine": combine}),
    }
    trained, training_notes = trained_on(model.source, dataset)
    queries = dataset.queries(split)
    run = index.run(
        queries,
        k=k,
        scorer=scorer,
        exclude_same_id=exclude_same_id,
        engine=engine,
        plan=plan,
        options=asked,
        combine=combine,
    )
    return Ranking(
        name=name or Path(model.source or "index").name,
        run=run,
        protocol=_protocol(dataset, split, qrels, k=k, exclude_same_id=exclude_same_id, options=asked, system=system),
        trained=trained,
        notes=(*notes, *training_notes),
    )


class EncodedQueries:
    """Queries that a model has read once, to be compiled under many options.

    Args:
        model: The model.
        texts: At least one.
    """

    def __init__(self, model: Retriever, texts: Sequence[str]) -> None:
        self._model = model
        self._count = len(texts)
        self._parts: list[dict[str, Any]] = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                self._parts.append(model.forward(model.preprocess(texts[start : start + _BATCH], "query"), "query"))

    def scorer(self, options: Mapping[str, Any] | None = None) -> Scorer:
        """Compile all of them under the same options."""
        with torch.inference_mode():
            return _joined([self._model.scorer(dict(part), options) for part in self._parts])

    def scorer_each(self, options: Sequence[Mapping[str, Any]]) -> Scorer:
        """Compile each under options of its own; the scorer itself records none."""
        parts: list[Scorer] = []
        with torch.inference_mode():
            for place in range(self._count):
                features = self._parts[place // _BATCH]
                row = place % _BATCH
                own = {name: features[name][row : row + 1] for name in self._model.outputs}
                parts.append(self._model.scorer(own, options[place]).with_options(NO_OPTIONS))
        return _joined(parts)


def _joined(parts: Sequence[Scorer]) -> Scorer:
    return parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts)


def compile_instructed(
    model: Retriever, queries: Sequence[Query], field: str, options: Mapping[str, Any] | None = None
) -> Scorer:
    """Compile queries, each with a card of its own: what a field of its metadata says is relevant.

    Args:
        model: A model with task cards.
        queries: At least one.
        field: Name of the field, as in `narrative`.
        options: Further options of all queries.

    Returns:
        The queries, in order; their options are not recorded, since they differ.

    Raises:
        InputError: A query has no text in the field, or more than a description may have.
        UnknownNameError: The model has no cards.
    """
    asked = []
    for query in queries:
        text = query.metadata.get(field)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"query {query.id!r} has no text in the field {field!r} of its metadata, which has "
                f"{list(query.metadata)}; name the field that holds its instruction"
            )
        said = {"name": field, "description": text.strip()}
        card = Card.from_mapping(said, source=f"the card of query {query.id!r}, from its {field!r}", error=InputError)
        asked.append(model.check_options({**(options or {}), "card": card}))
    return EncodedQueries(model, [query.text for query in queries]).scorer_each(asked)


def _options(model: Retriever, given: Mapping[str, Any] | None) -> QueryOptions:
    """Return options as the model understands them, so that a card is named by its content and not by its file."""
    options = QueryOptions.of(given)
    return model.check_options(options) if options and hasattr(model, "check_options") else options


def describe_index(index: Index) -> dict[str, Any]:
    """Return what determines the searched points, regardless of when and in which files they were written."""
    described = index.info.model_dump(mode="json", exclude={"created", "version", "table"})
    return {**described, "count": len(index), "data": index.data_fingerprint}


def rank_bm25(
    dataset: Dataset,
    *,
    split: str = "test",
    k: int = 1000,
    exclude_same_id: bool = False,
    settings: BM25Settings | None = None,
    name: str = "BM25",
) -> Ranking:
    """Search a data set with BM25, the baseline for every other system.

    Documents that a query's metadata list as `excluded_ids` are left out of its ranking.

    Args:
        dataset: Documents, queries and judgements.
        split: The split of the judgements.
        k: Most documents per query, at least 1.
        exclude_same_id: Leave out a document whose id is the query's.
        settings: None for the defaults.
        name: The system's name.

    Returns:
        The ranking.

    Raises:
        UnknownNameError: There is no such split.
        InputError: `dataset` is not an open collection.
    """
    _check_dataset(dataset)
    qrels = dataset.qrels(split)
    index = BM25(dataset.documents(), settings=settings, total=dataset.count())
    system = {"kind": "bm25", "settings": index.settings.model_dump(mode="json")}
    run = index.run(dataset.queries(split), k=k, exclude_same_id=exclude_same_id)
    return Ranking(
        name=name,
        run=run,
        protocol=_protocol(dataset, split, qrels, k=k, exclude_same_id=exclude_same_id, options=None, system=system),
    )


def rank_file(
    path: str | os.PathLike[str],
    qrels: Qrels,
    *,
    name: str | None = None,
    excluded: Mapping[str, Collection[str]] | None = None,
) -> Ranking:
    """Read another program's run; its origin is unknown, which its protocol states.

    Args:
        path: A TREC run, or the JSON lines that Hypencoder writes.
        qrels: The judgements to measure it by.
        name: The system's name; None takes the file's.
        excluded: Documents to leave out of the rankings, by query.

    Returns:
        The ranking.

    Raises:
        DataError: The file is missing or is not a run.
    """
    left_out = excluded or {}
    run = {
        query: {document: score for document, score in ranking.items() if document not in left_out.get(query, ())}
        for query, ranking in read_run(path).items()
    }
    deepest = max((len(ranking) for ranking in run.values()), default=0)
    system = {"kind": "file", "file": os.fspath(path), "deepest": deepest}
    protocol = Protocol(qrels=fingerprint_json(qrels), options=None, system=system, versions=measuring_versions())
    return Ranking(name=name or _stem(path), run=run, protocol=protocol)


def evaluate(
    index: Index,
    dataset: Dataset,
    *,
    split: str = "test",
    measures: str | Iterable[str] = "default",
    k: int | None = None,
    exclude_same_id: bool = False,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    combine: Literal["best", "soft"] = "best",
) -> Evaluation:
    """Search an index with a data set's queries and measure the result.

    Args:
        index: Index of the data set's documents.
        dataset: Queries and judgements.
        split: The split of the judgements.
        measures: Names of measures and of named sets.
        k: Documents per query; None takes as many as the measures read, see `depth`.
        exclude_same_id: Leave out a document whose id is the query's.
        name: The system's name; None takes the model's.
        options: Options of the model for the queries, as in `Index.search`.
        combine: How the scores of a document's passages are combined, as in `Index.search`.

    Returns:
        The result.

    Raises:
        UnknownNameError: There is no such split, measure, or option of the model.
        InputError: A measure reads deeper than `k`, or the index holds none of the relevant documents.
    """
    chosen = choose_k(measures, k)
    given: dict[str, Any] = {"exclude_same_id": exclude_same_id, "options": options, "combine": combine}
    ranking = rank_index(index, dataset, split=split, k=chosen, name=name, **given)
    return ranking.evaluate(dataset.qrels(split), measures=measures)


def _check_dataset(dataset: object) -> None:
    if hasattr(dataset, "qrels"):
        return
    if isinstance(dataset, str | os.PathLike):
        raise InputError(f"dataset must be an open collection; give open_dataset({shown(os.fspath(dataset))})")
    raise InputError(f"dataset must be the result of open_dataset(SOURCE), not {shown(dataset)}")


def _protocol(
    dataset: Dataset,
    split: str,
    qrels: Qrels,
    *,
    k: int,
    exclude_same_id: bool,
    options: QueryOptions | None,
    system: dict[str, Any],
) -> Protocol:
    return Protocol(
        dataset=dataset.name,
        data=dataset.fingerprint(),
        split=split,
        qrels=fingerprint_json(qrels),
        k=k,
        exclude_same_id=exclude_same_id,
        options=options,
        system=system,
        versions=measuring_versions(),
    )


def _stem(path: str | os.PathLike[str]) -> str:
    return Path(path).name.removesuffix(".gz").rsplit(".", 1)[0]


def _unversioned(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out package versions, which the protocol lists once."""
    return {
        key: _unversioned(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key != "versions"
    }


def _index_notes(index: Index, dataset: Dataset, qrels: Qrels) -> list[str]:
    relevant = {document for judged in qrels.values() for document, grade in judged.items() if is_relevant(grade)}
    found = sum(document in relevant for document in index.ids)
    if relevant and not found:
        raise InputError(
            f"the index holds none of the {len(relevant)} documents that are relevant in {dataset.name}; "
            f"was it built from another corpus?"
        )
    notes = []
    if found < len(relevant):
        missing = len(relevant) - found
        notes.append(f"{missing} of {len(relevant)} relevant documents are not in the index and cannot be found")
    if len(index) != dataset.count():
        notes.append(f"the index has {len(index)} documents, the data set {dataset.count()}")
    return notes


@dataclass(frozen=True, slots=True)
class Ranking:
    """A run and its protocol.

    Attributes:
        name: The system's name in tables.
        run: Scores by query and document.
        protocol: How it was made, and by which system.
        trained: Documents of this collection that were relevant in the system's training; None if unknown.
        notes: Remarks for readers of the numbers.
    """

    name: str
    run: Run
    protocol: Protocol
    trained: frozenset[str] | None = None
    notes: tuple[str, ...] = ()

    def evaluate(self, qrels: Qrels, *, measures: str | Iterable[str] = "default") -> Evaluation:
        """Measure the ranking.

        Args:
            qrels: The judgements whose fingerprint is `protocol.qrels`.
            measures: Names of measures and of named sets.

        Returns:
            Values by query, aggregates, and slices if the training is known.

        Raises:
            InputError: These are other judgements, or a measure reads deeper than the ranking goes or cannot be
                computed.
        """
        if fingerprint_json(qrels) != self.protocol.qrels:
            raise InputError(f"the ranking {self.name} was made for other judgements; make one for these")
        names = measure_names(measures)
        shallow = []
        if self.protocol.k is None:
            shallow = _depth_notes(self.run, names)
        else:
            check_depth(names, self.protocol.k)
        values = calculate(self.run, qrels, names)
        slices = None if self.trained is None else slice_by_training(qrels, self.trained)
        return Evaluation(
            name=self.name,
            per_query=values,
            aggregate=aggregate(values),
            protocol=self.protocol,
            slices=slices,
            notes=(*self.notes, *_coverage_notes(self.run, qrels), *shallow, *_slice_notes(slices)),
        )


def choose_k(measures: str | Iterable[str], k: int | None) -> int:
    """Return `k`, or the depth of the measures if it is None; raise InputError if a measure reads deeper than `k`."""
    names = measure_names(measures)
    if k is None:
        k = depth(names)
        logger.info("k=%d documents per query, as deep as %s read", k, ", ".join(names))
    check_depth(names, k)
    return k


def _depth_notes(run: Run, names: Iterable[str]) -> list[str]:
    """Return notes on a run of unknown depth."""
    deepest = max((len(ranking) for ranking in run.values()), default=0)
    return [
        f"{name} reads {cutoff} documents per query, but this run has at most {deepest}"
        for name, cutoff in cutoffs(names).items()
        if cutoff is not None and cutoff > deepest
    ]


def _coverage_notes(run: Run, qrels: Qrels) -> list[str]:
    absent = sum(not run.get(query) for query in qrels)
    return [f"{absent} of {len(qrels)} judged queries have no ranking and count as 0"] if absent else []


def _slice_notes(slices: Slices | None) -> list[str]:
    if slices is None:
        return []
    return [f"no query has {name} of its relevant documents relevant in training" for name in slices.empty()]
