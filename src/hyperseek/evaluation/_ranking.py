"""Rankings with their protocol, from an index, BM25 or a file, and their evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperseek._fingerprint import fingerprint_json
from hyperseek._relevance import is_relevant
from hyperseek.data import read_run
from hyperseek.errors import InputError, shown
from hyperseek.evaluation._measures import aggregate, calculate, check_depth, cutoffs, depth, measure_names
from hyperseek.evaluation._result import Evaluation, Protocol, Slices, measuring_versions, slice_by_training, trained_on
from hyperseek.evaluation.candidates import Candidates, as_given, fingerprint_candidates, rerank, rerank_bm25
from hyperseek.evaluation.encoded_queries import compile_instructed
from hyperseek.mining import BM25, BM25Settings
from hyperseek.plan import as_plan
from hyperseek.scoring import Scorer
from hyperseek.types import Qrels, QueryOptions, Run

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.index import Index
    from hyperseek.models import Retriever
    from hyperseek.plan import PlanLike

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
    candidates: Candidates | None = None,
) -> Ranking:
    """Search an index with the queries of a split, exhaustively by default, or rerank given documents.

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
        candidates: Rank these documents only: by query lists of ids, or a run. The protocol names them by their
            fingerprint, so that reranking is not compared with retrieval.

    Returns:
        The ranking, with the documents that were relevant in the model's training if its folder has them.

    Raises:
        UnknownNameError: There is no such split, or the model does not understand an option.
        InputError: The index holds none of the relevant documents, `dataset` is not an open collection, a query has
            no text in `card_field`, or more than a description may have, or a candidate is not in the index.
    """
    _check_dataset(dataset)
    if candidates is not None and (engine != "exact" or plan is not None or combine != "best"):
        raise InputError("candidates are scored exactly, without a search; leave out engine=, plan= and combine=")
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
    how: dict[str, Any] = {"k": k, "exclude_same_id": exclude_same_id, "options": asked, "scorer": scorer}
    if candidates is not None:
        run = rerank(index, queries, candidates, **how)
    else:
        run = index.run(queries, engine=engine, plan=plan, combine=combine, **how)
    given: dict[str, Any] = {"k": k, "exclude_same_id": exclude_same_id, "candidates": candidates}
    return Ranking(
        name=name or Path(model.source or "index").name,
        run=run,
        protocol=_protocol(dataset, split, qrels, options=asked, system=system, **given),
        trained=trained,
        notes=(*notes, *training_notes),
    )


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
    candidates: Candidates | None = None,
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
        candidates: Rank these documents only, as in `rank_index`.

    Returns:
        The ranking.

    Raises:
        UnknownNameError: There is no such split.
        InputError: `dataset` is not an open collection, or a candidate is not one of its documents.
    """
    _check_dataset(dataset)
    qrels = dataset.qrels(split)
    index = BM25(dataset.documents(), settings=settings, total=dataset.count())
    system = {"kind": "bm25", "settings": index.settings.model_dump(mode="json")}
    queries = dataset.queries(split)
    how: dict[str, Any] = {"k": k, "exclude_same_id": exclude_same_id}
    run = index.run(queries, **how) if candidates is None else rerank_bm25(index, queries, candidates, **how)
    protocol = _protocol(dataset, split, qrels, options=None, system=system, candidates=candidates, **how)
    return Ranking(name=name, run=run, protocol=protocol)


def rank_candidates(
    dataset: Dataset,
    candidates: Candidates,
    *,
    split: str = "test",
    k: int = 1000,
    exclude_same_id: bool = False,
    name: str = "candidates",
) -> Ranking:
    """Take given documents in their own order, as the baseline of what reranks them.

    Args:
        dataset: Queries and judgements.
        candidates: As in `rank_index`.
        split: The split of the judgements.
        k: Most documents per query, at least 1.
        exclude_same_id: Leave out a document whose id is the query's.
        name: The system's name.

    Returns:
        The ranking; its scores are places, counted from the end.

    Raises:
        UnknownNameError: There is no such split.
        InputError: `dataset` is not an open collection, or no query has candidates.
    """
    _check_dataset(dataset)
    qrels = dataset.qrels(split)
    how: dict[str, Any] = {"k": k, "exclude_same_id": exclude_same_id}
    run = as_given(dataset.queries(split), candidates, **how)
    protocol = _protocol(
        dataset, split, qrels, options=None, system={"kind": "candidates"}, candidates=candidates, **how
    )
    return Ranking(name=name, run=run, protocol=protocol)


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
    candidates: Candidates | None = None,
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
        candidates: Rank these documents only, as in `rank_index`.

    Returns:
        The result.

    Raises:
        UnknownNameError: There is no such split, measure, or option of the model.
        InputError: A measure reads deeper than `k`, or the index holds none of the relevant documents.
    """
    chosen = choose_k(measures, k)
    given: dict[str, Any] = {"exclude_same_id": exclude_same_id, "options": options, "combine": combine}
    given["candidates"] = candidates
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
    candidates: Candidates | None,
) -> Protocol:
    return Protocol(
        dataset=dataset.name,
        data=dataset.fingerprint(),
        split=split,
        qrels=fingerprint_json(qrels),
        k=k,
        exclude_same_id=exclude_same_id,
        candidates=None if candidates is None else fingerprint_candidates(candidates),
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
