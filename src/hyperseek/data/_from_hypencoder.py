"""Training examples from Hypencoder's lines: `{"query": {"id", "content"}, "items": [{"id", "content", "score"}]}`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseek._errors import shown
from hyperseek._field_names import id_of, number_of
from hyperseek.data._examples import ExampleItem, TrainingExample, cleaned, content_id, qualified
from hyperseek.data._options import HypencoderOptions
from hyperseek.data._report import ErrorReport, Faults, OnError
from hyperseek.data._rows import BadRow, Table, optional_text, table_name, table_rows
from hyperseek.records import Query


def examples_from_hypencoder(
    table: Table,
    *,
    name: str | None = None,
    split: str = "train",
    options: HypencoderOptions | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example for every line.

    Args:
        table: A `.jsonl` file, plain or `.gz`; `hub:NAME`, with `#CONFIGURATION` if needed; or rows in memory.
        name: Name of the source, the first part of every id; None derives it.
        split: The split, for `hub:`.
        options: Which items are positives; None for the defaults.
        on_error: Stop at a bad line, or leave it out and count it.
        report: Where to count, drops included; None makes one that is logged at the end.

    Yields:
        Examples in order. Ids that are missing are made of the text's content.

    Raises:
        DataError: A line lacks a field or holds token ids only, or its positive filter does not fit.
    """
    options = options or HypencoderOptions()
    name = name or table_name(table)
    place = table if isinstance(table, str | os.PathLike) else name
    faults = Faults(on_error, report)
    for line, row in table_rows(table, split, faults):
        try:
            example = _example(row, name, options)
        except BadRow as error:
            faults.found(error.reason, str(error), path=place, line=line)
            continue
        kept = cleaned(example, faults.report)
        if kept:
            yield kept
    faults.finish(place)


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
        message = f"{what} holds token ids only ('tokenized_content'); give the file from before tokenisation"
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
