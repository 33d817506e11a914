"""Training examples from the judgements of a collection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from hyperseek._relevance import Relevance, is_relevant, text_key
from hyperseek.data._dataset import Dataset
from hyperseek.data._examples import ExampleItem, TrainingExample, cleaned, qualified
from hyperseek.data._options import QrelsOptions
from hyperseek.data._report import ErrorReport
from hyperseek.records import Qrels, Query


def examples_from_qrels(
    dataset: Dataset,
    split: str,
    *,
    options: QrelsOptions | None = None,
    report: ErrorReport | None = None,
    relevance: Relevance | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example for every judged query of a split.

    Args:
        dataset: The collection. Its documents are streamed once; memory holds the texts of the judged ones.
        split: One of its splits.
        options: Which judgements count; None for the defaults.
        report: Where drops are counted; None makes one that is logged at the end.
        relevance: Where to add what is relevant to queries of which no example is made, or None.

    Yields:
        Examples in the order of the queries. Items carry their grade, and no score. Relevant documents that the
        options leave out, or that only another query of the same text has, stay known as `relevant`.

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
    """Return for each query the documents that are never its negatives: those of all queries with its text."""
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
