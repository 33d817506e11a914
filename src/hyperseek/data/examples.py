"""Training examples: their schema and its rules, their file format, and examples from judgements."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from hyperseek._config import Config
from hyperseek._fingerprint import fingerprint_texts
from hyperseek._relevance import Relevance, is_relevant, key_name, key_of_name, text_key
from hyperseek.data._dataset import Dataset
from hyperseek.data._text_files import read_id_list
from hyperseek.data.reading import ErrorReport
from hyperseek.types import Qrels, Query


@dataclass(frozen=True, slots=True)
class ExampleItem:
    """A document of a training example.

    Attributes:
        id: `SOURCE/ID`: the collection's name, a slash, and the document's id there.
        text: The text that encoders read: title and text.
        score: A teacher's score, any real number, or None.
        grade: The judgement, or None.
    """

    id: str
    text: str
    score: float | None = None
    grade: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A query with documents that answer it and documents that do not.

    Attributes:
        query: The query; its id is `SOURCE/ID` too.
        positives: At least one, best first.
        negatives: May be empty, with in-batch negatives.
        source: Name of the collection.
        task: Name of a task card, or None.
        instruction: The query's instruction in addition to its text, or None.
        relevant: Ids of other documents that are never negatives: judged relevant but not positives here, or, if
            documents are queries, the query itself.
        relevant_texts: Keys of their texts, as far as known (see `hyperseek._relevance`).
    """

    query: Query
    positives: tuple[ExampleItem, ...]
    negatives: tuple[ExampleItem, ...] = ()
    source: str = ""
    task: str | None = None
    instruction: str | None = None
    relevant: tuple[str, ...] = ()
    relevant_texts: tuple[int, ...] = ()

    def relevant_keys(self) -> set[int]:
        """Return the keys of all texts that are relevant to the query: of the positives, and `relevant_texts`."""
        return {*self.relevant_texts, *(text_key(item.text) for item in self.positives)}


def qualified(source: str, identity: str) -> str:
    """Return the id of a record, unique across collections."""
    return f"{source}/{identity}"


def source_and_id(identity: str) -> tuple[str, str]:
    """Split an id that `qualified` made; names of collections contain no slash."""
    source, _, original = identity.partition("/")
    return source, original


def content_id(text: str) -> str:
    """Return an id derived from a text's content, 16 hexadecimal digits."""
    return fingerprint_texts([text])[:16]


def cleaned(example: TrainingExample, report: ErrorReport) -> TrainingExample | None:
    """Apply the rules of the schema.

    Empty texts, a document that appears twice, and a negative that is also a positive, otherwise known to be relevant,
    or the query itself are dropped, whether recognised by id or by text; so is an example without a query or
    without a positive. Each is counted.

    Args:
        example: The output of a converter.
        report: Counts drops.

    Returns:
        The example without dropped items, or None.
    """
    if not example.query.text.strip():
        report.add("empty_query", example.query.id)
        return None
    place = f"query {example.query.id}"
    seen: set[str] = set()
    positives = _distinct(example.positives, seen, "positive_twice", place, report)
    answers, query = {text_key(item.text) for item in positives}, text_key(example.query.text)
    different = []
    for item in example.negatives:
        key = text_key(item.text)
        if item.id in seen or key in answers:
            report.add("negative_is_positive", f"{place}: {item.id}")
        elif item.id in example.relevant or key in example.relevant_texts:
            report.add("relevant_document", f"{place}: {item.id}")
        elif key == query:
            report.add("query_itself", f"{place}: {item.id}")
        else:
            different.append(item)
    negatives = _distinct(different, seen, "negative_twice", place, report)
    if not positives:
        report.add("no_positive", place)
        return None
    return dataclasses.replace(example, positives=positives, negatives=negatives)


def _distinct(
    items: list[ExampleItem] | tuple[ExampleItem, ...], seen: set[str], reason: str, place: str, report: ErrorReport
) -> tuple[ExampleItem, ...]:
    kept = []
    for item in items:
        if not item.text.strip():
            report.add("empty_text", f"{place}: {item.id}")
        elif item.id in seen:
            report.add(reason, f"{place}: {item.id}")
        else:
            seen.add(item.id)
            kept.append(item)
    return tuple(kept)


def example_record(example: TrainingExample) -> dict[str, Any]:
    """Return an example without the texts of its items.

    Args:
        example: Any.

    Returns:
        An object without empty fields.
    """
    query = {"_id": example.query.id, "text": example.query.text}
    record = {
        "query": query | ({"metadata": dict(example.query.metadata)} if example.query.metadata else {}),
        "positives": [_reference(item) for item in example.positives],
        "negatives": [_reference(item) for item in example.negatives],
        "source": example.source,
        "task": example.task,
        "instruction": example.instruction,
        "relevant": list(example.relevant) or None,
        "relevant_texts": [key_name(key) for key in example.relevant_texts] or None,
    }
    return {key: value for key, value in record.items() if value is not None}


def example_from_record(record: Mapping[str, Any], texts: Mapping[str, str]) -> TrainingExample:
    """Read an example back from its `example_record`.

    Args:
        record: The object.
        texts: Texts by id, including those of its items.

    Returns:
        The example.

    Raises:
        KeyError: A field or a text is missing.
    """
    relevant = tuple(record.get("relevant", ()))
    names = record.get("relevant_texts")
    # Folders of earlier versions have ids alone; a text is known only if it is an item of an example.
    known = map(key_of_name, names) if names is not None else (text_key(texts[one]) for one in relevant if one in texts)
    query = record["query"]

    def items(key: str) -> tuple[ExampleItem, ...]:
        return tuple(
            ExampleItem(item["_id"], texts[item["_id"]], item.get("score"), item.get("grade")) for item in record[key]
        )

    return TrainingExample(
        Query(query["_id"], query["text"], query.get("metadata", {})),
        items("positives"),
        items("negatives"),
        record["source"],
        record.get("task"),
        record.get("instruction"),
        relevant,
        tuple(dict.fromkeys(known)),
    )


def _reference(item: ExampleItem) -> dict[str, Any]:
    values = {"_id": item.id, "score": item.score, "grade": item.grade}
    return {key: value for key, value in values.items() if value is not None}


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
    """

    minimum_grade: int = Field(default=1, ge=1)
    maximum_positives: int | None = Field(default=None, ge=1)
    judged_negatives: bool = True
    drop_documents: frozenset[str] = frozenset()
    exclude_same_id: bool = False

    @field_validator("drop_documents", mode="before")
    @classmethod
    def _read_list(cls, given: object) -> object:
        return read_id_list(given) if isinstance(given, str | os.PathLike) else given


def examples_from_qrels(
    dataset: Dataset,
    split: str,
    *,
    options: QrelsOptions | None = None,
    report: ErrorReport | None = None,
    relevance: Relevance | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example per judged query of a split.

    Args:
        dataset: The collection. Its documents are streamed once; memory holds the texts of the judged ones.
        split: One of its splits.
        options: Which judgements count; None for the defaults.
        report: Counts drops; None makes one that is logged at the end.
        relevance: Collects the relevant documents of queries without an example, or None.

    Yields:
        Examples in the order of the queries. Items have a grade, but no score. Relevant documents that the
        options leave out, or that only another query with the same text has, are listed in `relevant`.

    Raises:
        DataError: The collection has a bad record.
        UnknownNameError: There is no such split.
    """
    options = options or QrelsOptions()
    dropped = ErrorReport() if report is None else report
    qrels, queries = dataset.qrels(split), dataset.queries(split)
    chosen = {query_id: _choose(dataset.name, query_id, judged, options, dropped) for query_id, judged in qrels.items()}
    relevant = _relevant(queries, qrels, options)
    wanted = {document_id for judged in chosen.values() for document_id in judged}
    further = {document_id for own in relevant.values() for document_id in own} - wanted
    texts: dict[str, str] = {}
    keys: dict[str, int] = {}
    for document in dataset.documents():
        if document.id in wanted:
            texts[document.id] = document.full_text
        elif document.id in further:
            keys[document.id] = text_key(document.full_text)
    for query in queries:
        items = [
            ExampleItem(qualified(dataset.name, document_id), texts[document_id], None, grade)
            for document_id, grade in chosen[query.id].items()
            if document_id in texts
        ]
        positives = tuple(item for item in items if (item.grade or 0) >= options.minimum_grade)
        own = {item.id for item in positives}
        others = [one for one in relevant[query.id] if qualified(dataset.name, one) not in own]
        known = (text_key(texts[one]) if one in texts else keys.get(one) for one in others)
        example = TrainingExample(
            Query(qualified(dataset.name, query.id), query.text, query.metadata),
            positives,
            tuple(item for item in items if (item.grade or 0) <= 0),
            dataset.name,
            relevant=tuple(qualified(dataset.name, one) for one in others),
            relevant_texts=tuple(dict.fromkeys(key for key in known if key is not None)),
        )
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
