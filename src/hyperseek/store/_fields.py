"""Metadata fields: plain values of documents as columns of the table, so that filters need not read JSON.

Every metadata key whose values are numbers, strings, booleans or lists of strings becomes a column by itself. A key
whose values are of several types stays in the documents but cannot be filtered by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from hyperseek.records import Document
from hyperseek.store._columns import BASE_COLUMNS
from hyperseek.store._row_checksums import CHECKSUM_COLUMNS

MOST_FIELDS = 256
"""Fields of a table; further keys stay in the documents but cannot be filtered by."""

# Key of the table's configuration that lists metadata keys with values of several types.
_MIXED = "hyperseek.mixed"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*")
_NAMES = {"double": "number", "bool": "boolean", "string": "string", "list<item: string>": "list of strings"}


def field_types(documents: Iterable[Document]) -> tuple[dict[str, Any], set[str]]:
    """Find the fields of some documents.

    Args:
        documents: Any number.

    Returns:
        Arrow types by metadata key, and the keys that cannot be fields because their values' types differ.
    """
    found: dict[str, Any] = {}
    mixed: set[str] = set()
    for document in documents:
        for key, value in document.metadata.items():
            if value is None or key in mixed or not _is_field(key) or not _NAME.fullmatch(key):
                continue
            kind = _kind(value)
            if kind is None or found.setdefault(key, kind) != kind:
                found.pop(key, None)
                mixed.add(key)
    return found, mixed


def field_array(documents: Sequence[Document], name: str, kind: Any) -> Any:
    """Return the column of a field; null where a document has no such key."""
    values = [document.metadata.get(name) for document in documents]
    if pa.types.is_floating(kind):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)


def describe_fields(schema: Any) -> dict[str, str]:
    """Return the fields of a table by name, each with its type in words."""
    return {field.name: _NAMES.get(str(field.type), str(field.type)) for field in schema if _is_field(field.name)}


def mixed_fields(dataset: Any) -> list[str]:
    """Return the metadata keys of a Lance data set whose values are of several types."""
    names: list[str] = json.loads(dataset.config().get(_MIXED, "[]"))
    return names


def grow_fields(dataset: Any, documents: Sequence[Document]) -> bool:
    """Prepare a Lance data set for documents: add columns for new keys, drop those of keys with several types.

    Args:
        dataset: Of an index.
        documents: What will be appended next.

    Returns:
        Whether the data set got a new version.
    """
    found, mixed = field_types(documents)
    present = {field.name: field.type for field in dataset.schema if _is_field(field.name)}
    known = mixed_fields(dataset)
    clashing = {name for name, kind in found.items() if present.get(name, kind) != kind}
    unusable = (mixed | clashing) - {*known}
    new = {name: kind for name, kind in found.items() if name not in {*present, *known, *unusable}}
    columns = [pa.field(name, kind) for name, kind in new.items()][: max(0, MOST_FIELDS - len(present))]
    if unusable:
        dataset.update_config({_MIXED: json.dumps(sorted({*known, *unusable}))})
        if dropped := sorted(unusable & present.keys()):
            dataset.drop_columns(dropped)
    if columns:
        dataset.add_columns(columns)
    return bool(unusable or columns)


def _is_field(name: str) -> bool:
    return name not in BASE_COLUMNS and name not in CHECKSUM_COLUMNS


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
