"""Training examples from judgements."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field, field_validator

from hyperseek._ancestors import hops_above
from hyperseek._config import Config
from hyperseek._relevance import Relevance, is_relevant, text_key
from hyperseek.data._dataset import Dataset
from hyperseek.data._text_files import read_id_list
from hyperseek.data.examples import CoarseOptions, ExampleItem, TrainingExample, cleaned, qualified, with_coarse
from hyperseek.data.hierarchy import hierarchy_of
from hyperseek.data.reading import ErrorReport
from hyperseek.types import Document, Qrels, Query


class QrelsOptions(Config):
    """How judgements are turned into training examples.

    Attributes:
        minimum_grade: The lowest grade of a positive; at least 1.
        maximum_positives: Positives kept for a query, highest grades first; None keeps all.
        judged_negatives: Whether documents judged 0 or less become negatives.
        drop_documents: Documents that must not appear, as `ID` in any collection or `SOURCE/ID` in one; or the path of
            a file with one per line.
        exclude_same_id: Whether documents are queries, as in ArguAna: the document with the query's id is then neither
            a positive nor a negative.
        hierarchy: What is above each document: a file of children and parents, or the metadata field that names a
            document's parents. Positives then have hops; see `data.hops` of recipes. Environment variables are filled
            in.
        node_prefix: What is to be removed from a query's id for the id of its own node of the hierarchy, as `q-`. A
            query that is no node counts as a child of its nearest positives.
    """

    minimum_grade: int = Field(default=1, ge=1)
    maximum_positives: int | None = Field(default=None, ge=1)
    judged_negatives: bool = True
    drop_documents: frozenset[str] = frozenset()
    exclude_same_id: bool = False
    hierarchy: str | None = None
    node_prefix: str = ""

    @field_validator("drop_documents", mode="before")
    @classmethod
    def _read_list(cls, given: object) -> object:
        return read_id_list(given) if isinstance(given, str | os.PathLike) else given


def examples_from_qrels(
    dataset: Dataset,
    split: str,
    *,
    options: QrelsOptions | None = None,
    coarse: CoarseOptions | None = None,
    report: ErrorReport | None = None,
    relevance: Relevance | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example per judged query of a split.

    Args:
        dataset: The collection. Its documents are streamed once; memory holds the texts of the judged ones.
        split: One of its splits.
        options: Which judgements count; None for the defaults.
        coarse: Where coarse positives come from; None for none.
        report: Counts drops; None makes one that is logged at the end.
        relevance: Collects the relevant documents of queries without an example, or None.

    Yields:
        Examples in the order of the queries. Items have a grade, but no score. Relevant documents that the
        options leave out, or that only another query with the same text has, are listed in `relevant`.

    Raises:
        DataError: The collection has a bad record.
        UnknownNameError: There is no such split.
        InputError: The hierarchy leads in a circle, or knows no positive.
    """
    options, rules = options or QrelsOptions(), coarse or CoarseOptions()
    dropped = ErrorReport() if report is None else report
    qrels, queries = dataset.qrels(split), dataset.queries(split)
    chosen = {query_id: _choose(dataset.name, query_id, judged, options, dropped) for query_id, judged in qrels.items()}
    relevant = _relevant(queries, qrels, options)
    wanted = {document_id for judged in chosen.values() for document_id in judged}
    further = {document_id for own in relevant.values() for document_id in own} - wanted
    hierarchy = None if options.hierarchy is None else hierarchy_of(dataset, options.hierarchy, wanted)
    above = set() if hierarchy is None else {name for one in wanted for name in hierarchy.parents.get(one, ())}
    texts: dict[str, str] = {}
    keys: dict[str, int] = {}
    known: dict[str, Document] = {}
    for document in dataset.documents():
        if rules.rules and (document.id in wanted or document.id in above):
            known[document.id] = document
        if document.id in wanted:
            texts[document.id] = document.full_text
        elif document.id in further:
            keys[document.id] = text_key(document.full_text)
    for query in queries:
        judged = {document_id: grade for document_id, grade in chosen[query.id].items() if document_id in texts}
        best = [document_id for document_id, grade in judged.items() if grade >= options.minimum_grade]
        hops = {} if hierarchy is None else hops_above(hierarchy, query.id.removeprefix(options.node_prefix), best)
        items = [
            ExampleItem(qualified(dataset.name, one), texts[one], None, grade, hops.get(one))
            for one, grade in judged.items()
        ]
        positives = tuple(item for item in items if (item.grade or 0) >= options.minimum_grade)
        own = {item.id for item in positives}
        others = [one for one in relevant[query.id] if qualified(dataset.name, one) not in own]
        of_others = (text_key(texts[one]) if one in texts else keys.get(one) for one in others)
        example = TrainingExample(
            Query(qualified(dataset.name, query.id), query.text, query.metadata),
            positives,
            tuple(item for item in items if (item.grade or 0) <= 0),
            dataset.name,
            relevant=tuple(qualified(dataset.name, one) for one in others),
            relevant_texts=tuple(dict.fromkeys(key for key in of_others if key is not None)),
        )
        if rules.rules:
            near = [*best, *(name for one in best for name in (hierarchy.parents.get(one, ()) if hierarchy else ()))]
            documents = {qualified(dataset.name, one): known[one] for one in near if one in known}
            example = with_coarse(example, rules, documents)
        kept = cleaned(example, dropped)
        if kept:
            yield kept
        elif relevance is not None:
            relevance.add(text_key(query.text), example.relevant_keys())
    if report is None:
        dropped.log(f"{dataset.name}:{split}")


def _relevant(queries: Sequence[Query], qrels: Qrels, options: QrelsOptions) -> dict[str, list[str]]:
    """Return the documents that are never negatives of each query: those of all queries with its text."""
    of_text: defaultdict[int, dict[str, None]] = defaultdict(dict)
    keys = {query.id: text_key(query.text) for query in queries}
    for query_id, key in keys.items():
        own = [document_id for document_id, grade in qrels[query_id].items() if is_relevant(grade)]
        of_text[key] |= dict.fromkeys([*own, *([query_id] if options.exclude_same_id else [])])
    return {
        query_id: list(dict.fromkeys([*(one for one in qrels[query_id] if one in of_text[key]), *of_text[key]]))
        for query_id, key in keys.items()
    }


def _choose(
    source: str, query_id: str, judged: Mapping[str, int], options: QrelsOptions, dropped: ErrorReport
) -> dict[str, int]:
    positives, negatives = [], []
    for document_id, grade in judged.items():
        place = f"query {query_id}: {document_id}"
        if options.exclude_same_id and document_id == query_id:
            dropped.add("query_itself", place)
        elif document_id in options.drop_documents or qualified(source, document_id) in options.drop_documents:
            dropped.add("listed_document", place)
        elif grade >= options.minimum_grade:
            positives.append((document_id, grade))
        elif is_relevant(grade):
            dropped.add("grade_below_minimum", f"{place} has grade {grade}")
        elif options.judged_negatives:
            negatives.append((document_id, grade))
    positives.sort(key=lambda pair: -pair[1])
    for document_id, _ in positives[options.maximum_positives :] if options.maximum_positives else ():
        dropped.add("over_maximum_positives", f"query {query_id}: {document_id}")
    return dict(positives[: options.maximum_positives] + negatives)
