"""Tables: rows of a file, of the Hub or of memory, and the values in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hyperseek._bounded import PathLike
from hyperseek.data.hub import hub_rows
from hyperseek.data.lines import Row, base_stem, base_suffix, json_lines
from hyperseek.data.report import Faults
from hyperseek.errors import DataError, InputError, shown

Table: TypeAlias = PathLike | Iterable[Mapping[str, Any]]
"""A `.jsonl` file, `hub:NAME` (with `#CONFIGURATION` if it has several), or rows in memory."""


class BadRow(Exception):
    """A row that cannot become an example.

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
        faults: Where lines that hold no row go.

    Returns:
        Row numbers from 1, and rows.

    Raises:
        DataError: The table is missing or of another kind.
    """
    if not isinstance(table, str | os.PathLike):
        if isinstance(table, Mapping | bytes) or not isinstance(table, Iterable):
            raise InputError(f"a table must be a file, 'hub:NAME' or rows, and not {shown(table)}")
        return _rows_in_memory(table, faults)
    text = os.fspath(table)
    if text.startswith("hub:"):
        return hub_rows(text.removeprefix("hub:"), split)
    if base_suffix(text) != ".jsonl":
        raise DataError("rows are read from .jsonl files, plain or .gz, or from 'hub:NAME'", path=text)
    return json_lines(Path(text), faults)


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
