"""Metadata fields: plain values of documents as columns of the table, so that filters need not read JSON.

Every metadata key whose values are numbers, strings, booleans or lists of strings becomes a column of its own, under
its own name if that is plain, else with a prefix. Numbers that float64 rounds have a second column, of their digits. A
key whose values have several types, or whose name no filter can write, stays in the documents but is no use in filters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from hyperseek.errors import shown
from hyperseek.store._conditions import Field, digit_array, is_rounded, number_array
from hyperseek.store.rows import BASE_COLUMNS, CHECKSUM_COLUMNS, PASSAGE
from hyperseek.types import Document

MOST_FIELDS = 256
"""Fields of a table; further keys stay in the documents, but filters cannot name them."""

LONGEST_NAME = 100
"""Characters of a field's name."""

# Keys of the table's configuration: metadata keys with values of several types, and others that are not fields.
_MIXED = "hyperseek.mixed"
_LEFT_OUT = "hyperseek.left_out"
_MOST_LEFT_OUT = 50  # names that are kept for messages

_NAME = re.compile(r"[^\W\d][\w -]*")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*")
_NAMES = {"double": "number", "bool": "boolean", "string": "string", "list<item: string>": "list of strings"}

# No plain name has a colon, so these collide with none. Names with a leading underscore are Lance's, as `_rowid`.
_PREFIX = "field:"
_DIGITS = "digits:"
_OWN_NAMES = ("id", "title", "text")
TEXT_FIELDS = {name: Field(name, "string") for name in _OWN_NAMES}
"""What every filter can name besides metadata."""


def field_types(documents: Iterable[Document]) -> tuple[dict[str, Any], set[str]]:
    """Find the metadata fields of documents.

    Args:
        documents: Any number.

    Returns:
        Arrow types by metadata key, and the keys that cannot be fields because their values' types differ.
    """
    found: dict[str, Any] = {}
    mixed: set[str] = set()
    for document in documents:
        for key, value in document.metadata.items():
            if value is None or key in mixed or not can_be_field(key):
                continue
            kind = _kind(value)
            if kind is None or found.setdefault(key, kind) != kind:
                found.pop(key, None)
                mixed.add(key)
    return found, mixed


def field_array(documents: Sequence[Document], column: str, kind: Any) -> Any:
    """Return the column of a field; null for documents that lack the key, and for NaN."""
    key = column.removeprefix(_DIGITS)
    values = [document.metadata.get(_key(key)) for document in documents]
    if column.startswith(_DIGITS):
        return digit_array(values)
    return number_array(values) if pa.types.is_floating(kind) else pa.array(values, kind)


def fields_of(schema: Any) -> dict[str, Field]:
    """Return the metadata fields of a table by name."""
    names = set(schema.names)
    found = {}
    for column in schema:
        if _is_field(column.name):
            digits = _DIGITS + column.name
            kind = _NAMES.get(str(column.type), str(column.type))
            found[_key(column.name)] = Field(column.name, kind, digits if digits in names else None)
    return found


def can_be_field(key: str) -> bool:
    """Whether filters could name a metadata key."""
    return key not in _OWN_NAMES and len(key) <= LONGEST_NAME and bool(_NAME.fullmatch(key))


def left_out_fields(dataset: Any) -> list[str]:
    """Return metadata keys of a Lance data set that are not fields because of their name or number; at most some."""
    names: list[str] = json.loads(dataset.config().get(_LEFT_OUT, "[]"))
    return names


def mixed_fields(dataset: Any) -> list[str]:
    """Return the metadata keys of a Lance data set whose values have several types."""
    names: list[str] = json.loads(dataset.config().get(_MIXED, "[]"))
    return names


def grow_fields(dataset: Any, documents: Sequence[Document]) -> bool:
    """Prepare a Lance data set for documents: add columns for new keys, drop those of keys with several types.

    Args:
        dataset: The table of an index.
        documents: The documents that will be added next.

    Returns:
        Whether the data set got a new version.
    """
    found, mixed = field_types(documents)
    fields = fields_of(dataset.schema)
    present = {name: dataset.schema.field(field.column).type for name, field in fields.items()}
    known = mixed_fields(dataset)
    clashing = {name for name, kind in found.items() if present.get(name, kind) != kind}
    unusable = (mixed | clashing) - {*known}
    new = [name for name in found if name not in {*present, *known, *unusable}]
    room = max(0, MOST_FIELDS - len(present))
    columns = [pa.field(_column(name), found[name]) for name in new[:room]]
    usable = {*present, *new[:room]} - unusable
    columns += [
        pa.field(digits, pa.string())
        for name in sorted(_rounded_fields(documents) & usable)
        if (digits := _DIGITS + (fields[name].column if name in fields else _column(name))) not in dataset.schema.names
    ]
    changed = _note_left_out(dataset, documents, new[room:])
    if unusable:
        dataset.update_config({_MIXED: json.dumps(sorted({*known, *unusable}))})
        gone = {fields[name].column for name in unusable & fields.keys()}
        if dropped := [name for name in dataset.schema.names if name.removeprefix(_DIGITS) in gone]:
            dataset.drop_columns(dropped)
    if columns:
        dataset.add_columns(columns)
    return bool(unusable or columns or changed)


def _note_left_out(dataset: Any, documents: Iterable[Document], beyond: Sequence[str]) -> bool:
    known = left_out_fields(dataset)
    odd = {key for document in documents for key in document.metadata if key != PASSAGE and not can_be_field(key)}
    new = sorted({_short(key) for key in (*odd, *beyond)} - {*known})[: max(0, _MOST_LEFT_OUT - len(known))]
    if new:
        dataset.update_config({_LEFT_OUT: json.dumps([*known, *new])})
    return bool(new)


def _rounded_fields(documents: Iterable[Document]) -> set[str]:
    return {key for document in documents for key, value in document.metadata.items() if is_rounded(value)}


def _short(key: str) -> str:
    return key if key.isprintable() and key.strip() == key != "" and len(key) <= LONGEST_NAME else shown(key)


def _is_field(column: str) -> bool:
    return column not in (*BASE_COLUMNS, *CHECKSUM_COLUMNS) and not column.startswith(_DIGITS)


def _column(key: str) -> str:
    plain = _PLAIN_NAME.fullmatch(key) and not key.startswith("_") and _is_field(key.lower())
    return key if plain else _PREFIX + key


def _key(column: str) -> str:
    return column.removeprefix(_PREFIX)


def _kind(value: Any) -> Any:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int | float):
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return pa.list_(pa.string())
    return None
