"""Training examples from tables with a column of queries and columns of texts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseek._errors import shown
from hyperseek._field_names import number_of
from hyperseek.data._examples import ExampleItem, TrainingExample, cleaned, content_id, qualified
from hyperseek.data._options import ColumnsOptions
from hyperseek.data._report import ErrorReport, Faults, OnError
from hyperseek.data._rows import BadRow, Table, optional_text, table_name, table_rows
from hyperseek.records import Query

_QUERY_NAMES = ("query", "anchor", "question")
_POSITIVE_NAMES = ("positive", "positives", "pos", "answer", "passage")
_NEGATIVE_NAMES = ("negative", "negatives", "neg")
_NUMBERED_NEGATIVE = re.compile(r"negative_\d+")
_SCORE_NAMES = {
    "score": ("score", "scores"),
    "positive_scores": ("positive_scores", "pos_scores"),
    "negative_scores": ("negative_scores", "neg_scores"),
}

logger = logging.getLogger(__name__)


def examples_from_columns(
    table: Table,
    *,
    name: str | None = None,
    split: str = "train",
    options: ColumnsOptions | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example for every row; ids are made of the texts' content.

    Args:
        table: A `.jsonl` file, plain or `.gz`; `hub:NAME`, with `#CONFIGURATION` if needed; or rows in memory.
        name: Name of the source, the first part of every id; None derives it.
        split: The split, for `hub:`.
        options: Which columns hold what; None for the defaults.
        on_error: Stop at a bad row, or leave it out and count it.
        report: Where to count, drops included; None makes one that is logged at the end.

    Yields:
        Examples in order. The columns `task` and `instruction` are kept.

    Raises:
        DataError: A row lacks a column, or a value or the number of scores does not fit.
    """
    options = options or ColumnsOptions()
    name = name or table_name(table)
    place = table if isinstance(table, str | os.PathLike) else name
    faults = Faults(on_error, report)
    resolved: ColumnsOptions | None = None
    for line, row in table_rows(table, split, faults):
        try:
            if resolved is None:
                resolved = _resolve(row, options)
                logger.info("%s: columns %s, by the first row", place, resolved.model_dump(exclude_defaults=True))
            example = _example(row, name, resolved)
        except BadRow as error:
            faults.found(error.reason, str(error), path=place, line=line)
            continue
        kept = cleaned(example, faults.report)
        if kept:
            yield kept
    faults.finish(place)


def _resolve(row: Mapping[str, Any], options: ColumnsOptions) -> ColumnsOptions:
    query = options.query or _first(_QUERY_NAMES, row)
    positive = options.positive or _first(_POSITIVE_NAMES, row)
    negatives = options.negatives or tuple(
        column for column in row if column in _NEGATIVE_NAMES or _NUMBERED_NEGATIVE.fullmatch(column)
    )
    named = [options.score, options.positive_scores, options.negative_scores]
    scores = {} if any(named) else {field: _first(names, row) for field, names in _SCORE_NAMES.items()}
    for what, column in (("query", query), ("positive", positive), *((f"{c!r}", c) for c in (*negatives, *named) if c)):
        if column is None or column not in row:
            raise BadRow("missing_field", f"has no column for {what}; name one of {shown(sorted(row), 200)}")
    return options.model_copy(update={"query": query, "positive": positive, "negatives": negatives} | scores)


def _first(names: tuple[str, ...], row: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in row), None)


def _example(row: Mapping[str, Any], name: str, columns: ColumnsOptions) -> TrainingExample:
    query = row.get(str(columns.query))
    if not isinstance(query, str):
        raise BadRow("missing_field", f"column {columns.query!r} must hold a text, not {shown(query)}")
    positives = _texts(row, str(columns.positive))
    negatives = [text for column in columns.negatives for text in _texts(row, column)]
    scores = _scores(row, columns, len(positives), len(negatives))
    items = [
        ExampleItem(qualified(name, content_id(text)), text, score)
        for text, score in zip(positives + negatives, scores, strict=True)
    ]
    return TrainingExample(
        Query(qualified(name, content_id(query)), query),
        tuple(items[: len(positives)]),
        tuple(items[len(positives) :]),
        name,
        optional_text(row.get("task")),
        optional_text(row.get("instruction")),
    )


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    value = row.get(column)
    if value is None:
        raise BadRow("missing_field", f"no value for {column!r}")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRow("bad_field", f"column {column!r} must hold a text or a list of texts, not {shown(value)}")
    return texts


def _scores(row: Mapping[str, Any], columns: ColumnsOptions, positives: int, negatives: int) -> list[float | None]:
    scores: list[float | None] = [None] * (positives + negatives)
    if columns.score is not None:
        value = row.get(columns.score)
        number = number_of(value)
        if number is None:
            return list(_score_list(value, columns.score, positives + negatives))
        if (positives, negatives) == (1, 1):
            # A lone number beside a triple is the teacher's margin; only differences of scores are ever used.
            return [number, 0.0]
        if (positives, negatives) == (1, 0):
            return [number]
        message = f"one score in {columns.score!r} does not fit {positives} positives and {negatives} negatives"
        raise BadRow("bad_score", f"{message}; give a list with one for each")
    if columns.positive_scores is not None:
        scores[:positives] = _score_list(row.get(columns.positive_scores), columns.positive_scores, positives)
    if columns.negative_scores is not None:
        scores[positives:] = _score_list(row.get(columns.negative_scores), columns.negative_scores, negatives)
    return scores


def _score_list(value: object, column: str, count: int) -> list[float]:
    numbers = [number_of(one) for one in value] if isinstance(value, list) else [number_of(value)]
    finite = [number for number in numbers if number is not None]
    if len(finite) != count or len(numbers) != count:
        raise BadRow("bad_score", f"column {column!r} must hold {count} numbers, not {shown(value)}")
    return finite
