"""Training examples from the judgements of a collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hyperseek.data._dataset import Dataset
from hyperseek.data._examples import ExampleItem, TrainingExample, cleaned, qualified
from hyperseek.data._options import QrelsOptions
from hyperseek.data._report import ErrorReport
from hyperseek.records import Query


def examples_from_qrels(
    dataset: Dataset, split: str, *, options: QrelsOptions | None = None, report: ErrorReport | None = None
) -> Iterator[TrainingExample]:
    """Stream one example for every judged query of a split.

    Args:
        dataset: The collection. Its documents are streamed once; memory holds the texts of the judged ones.
        split: One of its splits.
        options: Which judgements count; None for the defaults.
        report: Where drops are counted; None makes one that is logged at the end.

    Yields:
        Examples in the order of the queries. Items carry their grade, and no score. Relevant documents that the
        options leave out stay known as `relevant`.

    Raises:
        DataError: The collection has a bad record.
        UnknownNameError: There is no such split.
    """
    options = options or QrelsOptions()
    dropped = ErrorReport() if report is None else report
    qrels = dataset.qrels(split)
    chosen = {query_id: _choose(dataset.name, query_id, judged, options, dropped) for query_id, judged in qrels.items()}
    wanted = {document_id for judged in chosen.values() for document_id in judged}
    relevant = {query_id: [name for name, grade in judged.items() if grade > 0] for query_id, judged in qrels.items()}
    texts = {document.id: document.full_text for document in dataset.documents() if document.id in wanted}
    for query in dataset.queries(split):
        items = [
            ExampleItem(qualified(dataset.name, document_id), texts[document_id], None, grade)
            for document_id, grade in chosen[query.id].items()
            if document_id in texts
        ]
        example = TrainingExample(
            Query(qualified(dataset.name, query.id), query.text, query.metadata),
            tuple(item for item in items if (item.grade or 0) >= options.minimum_grade),
            tuple(item for item in items if (item.grade or 0) <= 0),
            dataset.name,
            relevant=tuple(
                qualified(dataset.name, document_id)
                for document_id in relevant[query.id]
                if document_id not in chosen[query.id]
            ),
        )
        kept = cleaned(example, dropped)
        if kept:
            yield kept
    if report is None:
        dropped.log(f"{dataset.name}:{split}")


def _choose(
    source: str, query_id: str, judged: Mapping[str, int], options: QrelsOptions, dropped: ErrorReport
) -> dict[str, int]:
    positives, negatives = [], []
    for document_id, grade in judged.items():
        place = f"query {query_id}: {document_id}"
        if document_id in options.drop_documents or qualified(source, document_id) in options.drop_documents:
            dropped.add("listed_document", place)
        elif grade >= options.minimum_grade:
            positives.append((document_id, grade))
        elif grade > 0:
            dropped.add("grade_below_minimum", f"{place} has grade {grade}")
        elif options.judged_negatives:
            negatives.append((document_id, grade))
    positives.sort(key=lambda pair: -pair[1])
    for document_id, _ in positives[options.maximum_positives :] if options.maximum_positives else ():
        dropped.add("over_maximum_positives", f"query {query_id}: {document_id}")
    return dict(positives[: options.maximum_positives] + negatives)
