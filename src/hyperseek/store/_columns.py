"""The columns of the table: documents and points to Arrow and back.

Shapes: `N` documents, `w` numbers of a stored point, `T` tokens of all documents together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hyperseek._errors import InputError
from hyperseek.records import Document
from hyperseek.scoring import Points, Space, TokenPoints
from hyperseek.store._documents import check_documents
from hyperseek.store._info import Storage
from hyperseek.store._row_checksums import CHECKSUM_COLUMNS

TEXT_COLUMNS = ("id", "title", "text", "metadata")
"""Columns that make a document."""

BASE_COLUMNS = ("key", *TEXT_COLUMNS, "vector")
"""Columns of every table; further ones are checksums, and metadata fields for filters."""

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}
_TORCH = {"float32": torch.float32, "float16": torch.float16}


def base_schema(space: Space, storage: Storage) -> Any:
    """Return the Arrow schema of a table without metadata fields."""
    vector = pa.list_(_NUMBERS[storage], space.width)
    if space.kind == "tokens":
        vector = pa.list_(pa.field("item", vector))
    texts = [pa.field(name, pa.string()) for name in TEXT_COLUMNS]
    checksums = [pa.field(name, pa.int64()) for name in CHECKSUM_COLUMNS]
    return pa.schema([pa.field("key", pa.int64()), *texts, pa.field("vector", vector), *checksums])


def text_arrays(documents: Sequence[Document]) -> list[Any]:
    """Return the columns of `TEXT_COLUMNS`."""
    return [
        pa.array([document.id for document in documents], pa.string()),
        pa.array([document.title for document in documents], pa.string()),
        pa.array([document.text for document in documents], pa.string()),
        pa.array([encode_metadata(document) for document in documents], pa.string()),
    ]


def read_documents(rows: Any) -> list[Document]:
    """Return the documents of an Arrow table or batch that has `TEXT_COLUMNS`."""
    columns = [rows.column(name).to_pylist() for name in TEXT_COLUMNS]
    return [
        Document(identity, text, title, json.loads(metadata) if metadata else {})
        for identity, title, text, metadata in zip(*columns, strict=True)
    ]


def encode_metadata(document: Document) -> str:
    """Return a document's metadata as JSON with sorted keys; an empty string for none; InputError for other values."""
    if not document.metadata:
        return ""
    try:
        return json.dumps(dict(document.metadata), sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        check_documents([document])  # says what is wrong
        raise


def points_array(documents: Sequence[Document], points: Points, storage: Storage) -> Any:
    """Return the column of points.

    Args:
        documents: `N` of them, for messages.
        points: Theirs.
        storage: Number type.

    Returns:
        An Arrow array.

    Raises:
        InputError: A number is not finite in the stored number type; the message names the document.
    """
    stored = points.vectors.to(_TORCH[storage])
    _check_finite(documents, points, stored)
    numbers = stored.numpy().reshape(-1)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(numbers), points.dimension)
    if not isinstance(points, TokenPoints):
        return flat
    return pa.ListArray.from_arrays(pa.array(points.offsets.numpy().astype(np.int32)), flat)


def read_points(column: Any, width: int) -> Points:
    """Return the points of an Arrow column, float32, with their own memory."""
    ragged = pa.types.is_list(column.type)
    flat = column.flatten() if ragged else column
    numbers = flat.flatten().to_numpy(zero_copy_only=True).astype(np.float32)
    vectors = torch.from_numpy(numbers.reshape(-1, width))
    if not ragged:
        return Points(vectors)
    offsets = column.offsets.to_numpy().astype(np.int64)
    return TokenPoints(vectors, torch.from_numpy(offsets - offsets[0]))


def _check_finite(documents: Sequence[Document], points: Points, stored: torch.Tensor) -> None:
    finite = stored.isfinite().all(dim=1)
    if finite.all():
        return
    row = int((~finite).nonzero()[0])
    place = row
    if isinstance(points, TokenPoints):
        place = int(torch.searchsorted(points.offsets, torch.tensor(row), right=True)) - 1
    if points.vectors[row].isfinite().all():
        remedy = "use storage='float32'" if stored.dtype == torch.float16 else "give smaller ones"
        raise InputError(
            f"the vector of document {documents[place].id!r} reaches {points.vectors[row].abs().max():g}, which "
            f"{str(stored.dtype).removeprefix('torch.')} cannot hold (at most {torch.finfo(stored.dtype).max:.6g}); "
            f"{remedy}"
        )
    raise InputError(
        f"the vector of document {documents[place].id!r} has infinite or undefined numbers; an index holds finite "
        f"ones only. Is the model damaged, or its dtype too narrow?"
    )
