"""Training examples from tables: rows of queries and texts, and Hypencoder's JSON lines."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from pydantic import model_validator

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._documents import id_of, number_of
from hyperseek.data.examples import ExampleItem, TrainingExample, cleaned, content_id, qualified
from hyperseek.data.hub import hub_rows
from hyperseek.data.reading import ErrorReport, Faults, OnError, Row, base_stem
from hyperseek.data.tables import file_rows
from hyperseek.errors import InputError, shown
from hyperseek.types import Query

Table: TypeAlias = PathLike | Iterable[Mapping[str, Any]]
"""A `.jsonl`, `.parquet` or `.arrow` file, a folder of such files, `hub:NAME` (with `#CONFIGURATION` if it has
several), or rows in memory."""

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


class BadRow(Exception):
    """A row that cannot be turned into an example.

    Args:
        reason: A short stable name.
        message: What is wrong.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def table_rows(table: Table, split: str, faults: Faults) -> Iterator[Row]:
    """Stream the rows of a table.

    Args:
        table: The table.
        split: The split, for `hub:`.
        faults: Takes lines without a row.

    Returns:
        Row numbers from 1, and rows.

    Raises:
        DataError: The table is missing or of another kind.
    """
    if not isinstance(table, str | os.PathLike):
        if isinstance(table, Mapping | bytes) or not isinstance(table, Iterable):
            raise InputError(f"a table must be a file, 'hub:NAME' or rows, not {shown(table)}")
        return _rows_in_memory(table, faults)
    text = os.fspath(table)
    if text.startswith("hub:"):
        return hub_rows(text.removeprefix("hub:"), split)
    return file_rows(text, faults)


def _rows_in_memory(table: Iterable[object], faults: Faults) -> Iterator[Row]:
    for position, row in enumerate(table, start=1):
        if isinstance(row, Mapping) and all(isinstance(key, str) for key in row):
            yield position, row
        else:
            faults.found(
                "bad_field", f"a row must be a mapping with names, not {shown(row)}", path="rows", line=position
            )


def table_name(table: Table) -> str:
    """Return a short name for a table, without a slash."""
    if not isinstance(table, str | os.PathLike):
        return "rows"
    text = os.fspath(table)
    if text.startswith("hub:"):
        return text.removeprefix("hub:").strip("/").replace("/", "-").replace("#", "-")
    return base_stem(text)


def optional_text(value: object) -> str | None:
    """Return a non-empty string, or None."""
    return value if isinstance(value, str) and value else None


class HypencoderOptions(Config):
    """How Hypencoder's lines are turned into training examples.

    Attributes:
        positive_filter: `first`: the first item is the positive; `type`: items of `positive_type` are;
            `score_above`: items whose score is above `score_threshold` are. All others are negatives.
        positive_type: The type of positives, for `type`.
        score_threshold: The threshold, for `score_above`.
        score_key: Key of the teacher's score in an item; None reads none.
    """

    positive_filter: Literal["first", "type", "score_above"] = "first"
    positive_type: str | None = None
    score_threshold: float = 0.0
    score_key: str | None = "score"

    @model_validator(mode="after")
    def _complete(self) -> HypencoderOptions:
        if self.positive_filter == "type" and self.positive_type is None:
            raise ValueError("positive_filter 'type' needs positive_type, the type of positives")
        if self.positive_filter == "score_above" and self.score_key is None:
            raise ValueError("positive_filter 'score_above' needs score_key")
        return self


class ColumnsOptions(Config):
    """The columns of a table and their meaning; None finds the usual names in the first row.

    Attributes:
        query: Column of the query.
        positive: Column of one positive text or a list of them.
        negatives: Columns of negatives, each one text or a list; empty finds `negative`, `neg`, `negative_1`, ...
        score: Column of teacher scores: a list with one for every positive, then every negative; or one number, which
            is the margin between one positive and one negative, or the score of a lone positive.
        positive_scores: Column with a score for every positive, or None.
        negative_scores: Column with a score for every negative, or None.
    """

    query: str | None = None
    positive: str | None = None
    negatives: tuple[str, ...] = ()
    score: str | None = None
    positive_scores: str | None = None
    negative_scores: str | None = None


def examples_from_hypencoder(
    table: Table,
    *,
    name: str | None = None,
    split: str = "train",
    options: HypencoderOptions | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example per line.

    Args:
        table: A `.jsonl`, `.parquet` or `.arrow` file, or a folder of such files; `hub:NAME`, with `#CONFIGURATION` if
            needed; or rows in memory.
        name: Name of the source, the prefix of every id; None derives it.
        split: The split, for `hub:`.
        options: Which items are positives; None for the defaults.
        on_error: Stop at a bad line, or skip and count it.
        report: Counts them, and drops; None makes one that is logged at the end.

    Yields:
        Examples in order. Missing ids are derived from the text.

    Raises:
        DataError: A line lacks a field or holds token ids only, or its positive filter does not fit.
    """
    chosen = options or HypencoderOptions()

    yield from examples_of_rows(
        table,
        lambda row, name, _: _example(row, name, chosen),
        name=name,
        split=split,
        on_error=on_error,
        report=report,
    )


def _example(row: Mapping[str, Any], name: str, options: HypencoderOptions) -> TrainingExample:
    query, items = row.get("query"), row.get("items")
    if not isinstance(query, Mapping) or not isinstance(items, list):
        raise BadRow(
            "missing_field", f"needs an object 'query' and a list 'items', has the keys {shown(sorted(row), 200)}"
        )
    text = _content(query, "the query")
    identity = id_of(query.get("id")) or content_id(text)
    pairs = [(_item(item, name, options), item) for item in items]
    positives = [parsed for index, (parsed, raw) in enumerate(pairs) if _is_positive(index, parsed, raw, options)]
    chosen = {id(item) for item in positives}
    return TrainingExample(
        Query(qualified(name, identity), text),
        tuple(positives),
        tuple(item for item, _ in pairs if id(item) not in chosen),
        name,
        optional_text(row.get("task")),
        optional_text(row.get("instruction")),
    )


def _item(item: object, name: str, options: HypencoderOptions) -> ExampleItem:
    if not isinstance(item, Mapping):
        raise BadRow("missing_field", f"an item must be an object, not {shown(item)}")
    text = _content(item, "an item")
    score = None
    if options.score_key is not None and item.get(options.score_key) is not None:
        score = number_of(item[options.score_key])
        if score is None:
            raise BadRow("bad_score", f"{options.score_key!r} must be a number, not {shown(item[options.score_key])}")
    return ExampleItem(qualified(name, id_of(item.get("id")) or content_id(text)), text, score)


def _content(holder: Mapping[str, Any], what: str) -> str:
    content = holder.get("content")
    if isinstance(content, str):
        return content
    if content is None and "tokenized_content" in holder:
        message = f"{what} has token ids only ('tokenized_content'); give the file from before tokenisation"
        raise BadRow("only_tokenized_content", message)
    if content is None:
        raise BadRow("missing_field", f"{what} has no 'content' but the keys {shown(sorted(holder), 200)}")
    raise BadRow("bad_field", f"'content' of {what} must be a string, not {shown(content)}")


def _is_positive(index: int, item: ExampleItem, raw: Mapping[str, Any], options: HypencoderOptions) -> bool:
    if options.positive_filter == "first":
        return index == 0
    if options.positive_filter == "type":
        if "type" not in raw:
            raise BadRow(
                "missing_field", f"positive_filter 'type' needs a 'type' in every item, has {shown(sorted(raw), 200)}"
            )
        return bool(raw["type"] == options.positive_type)
    if item.score is None:
        message = (
            f"positive_filter 'score_above' needs {options.score_key!r} in every item, has {shown(sorted(raw), 200)}"
        )
        raise BadRow("missing_field", message)
    return item.score > options.score_threshold


def examples_from_columns(
    table: Table,
    *,
    name: str | None = None,
    split: str = "train",
    options: ColumnsOptions | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example per row; ids are derived from the texts.

    Args:
        table: A `.jsonl`, `.parquet` or `.arrow` file, or a folder of such files; `hub:NAME`, with `#CONFIGURATION` if
            needed; or rows in memory.
        name: Name of the source, the prefix of every id; None derives it.
        split: The split, for `hub:`.
        options: The columns and their meaning; None for the defaults.
        on_error: Stop at a bad row, or skip and count it.
        report: Counts them, and drops; None makes one that is logged at the end.

    Yields:
        Examples in order. The columns `task` and `instruction` are kept.

    Raises:
        DataError: A row lacks a column, or a value or the number of scores does not fit.
    """
    chosen = options or ColumnsOptions()
    resolved: ColumnsOptions | None = None

    def example(row: Mapping[str, Any], name: str, place: object) -> TrainingExample:
        nonlocal resolved
        if resolved is None:
            resolved = _resolve(row, chosen)
            logger.info("%s: columns %s, by the first row", place, resolved.model_dump(exclude_defaults=True))
        return _column_example(row, name, resolved)

    yield from examples_of_rows(table, example, name=name, split=split, on_error=on_error, report=report)


def examples_of_rows(
    table: Table,
    example: Callable[[Mapping[str, Any], str, object], TrainingExample],
    *,
    name: str | None,
    split: str,
    on_error: OnError,
    report: ErrorReport | None,
) -> Iterator[TrainingExample]:
    """Make an example from each row; `example` takes the row, the source's name, and its place for messages.

    Args:
        table: The table.
        example: Raises `BadRow` if a row cannot be turned into an example.
        name: Name of the source; None derives it.
        split: The split, for `hub:`.
        on_error: Stop at a bad row, or skip and count it.
        report: Counts them; None makes one that is logged at the end.

    Yields:
        Examples that keep the rules of the schema.
    """
    name = name or table_name(table)
    place = table if isinstance(table, str | os.PathLike) else name
    faults = Faults(on_error, report)
    for line, row in table_rows(table, split, faults):
        try:
            made = example(row, name, place)
        except BadRow as error:
            faults.found(error.reason, str(error), path=place, line=line)
            continue
        kept = cleaned(made, faults.report)
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


def _column_example(row: Mapping[str, Any], name: str, columns: ColumnsOptions) -> TrainingExample:
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
            # A single number for a triple is the teacher's margin; only score differences are used.
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
