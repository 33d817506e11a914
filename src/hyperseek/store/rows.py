"""Documents and points as rows of the table: the documents it takes, their columns, and checksums of each row.

Files are compared whole only on request, or when they are small; checksums of rows are compared whenever texts or
points are read, however large the table is. Tables of earlier versions have none, and are read as they are.

Shapes: `N` rows, `T` tokens of all rows together, `w` numbers of a vector.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hyperseek.errors import InputError, StoreError, shown
from hyperseek.scoring import Points, Space, TokenPoints, VectorPoints
from hyperseek.store.info import Storage
from hyperseek.types import Document

TEXT_COLUMNS = ("id", "title", "text", "metadata")
"""Columns that make a document."""

BASE_COLUMNS = ("key", *TEXT_COLUMNS, "vector")
"""Columns of every table; further ones are checksums, and metadata fields for filters."""

TEXT_CHECKSUM, VECTOR_CHECKSUM = "text_checksum", "vector_checksum"
CHECKSUM_COLUMNS = (TEXT_CHECKSUM, VECTOR_CHECKSUM)
"""Columns of int64, beside what they are the checksums of."""

DEEPEST = 64
"""Levels of metadata."""

LONGEST_INTEGER = 4_000
"""Digits of an integer in metadata."""

MOST_VALUES = 1_000_000
"""Values of a field, those within others counted."""

_ALLOWED = "metadata are values of JSON: None, booleans, numbers, strings, lists, and mappings from strings"

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}
_TORCH = {"float32": torch.float32, "float16": torch.float16}

_Words = npt.NDArray[np.uint64]
_KEY_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def check_documents(documents: Sequence[Document], start: int = 0) -> None:
    """Raise InputError where a document could not be stored, or would come back as another.

    Args:
        documents: Any number.
        start: Position of the first one in its corpus, for messages.
    """
    for position, document in enumerate(documents, start=start):
        for name in ("id", "title", "text"):
            _check(document, position, name, getattr(document, name), strings_only=True)
        if not isinstance(document.metadata, Mapping):
            raise InputError(f"{_where(document, position)} has a {type(document.metadata).__name__} as metadata")
        for key, value in document.metadata.items():
            _check(document, position, f"metadata {shown(key, 60)}", key, strings_only=True)
            _check(document, position, f"metadata {shown(key, 60)}", value)


def check_text(what: str, text: str) -> None:
    """Raise InputError where a text holds half of a character (a lone surrogate), which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode ({error}); repair it or leave it out") from None


def check_id(given: object) -> None:
    """Raise InputError where something cannot be the id of a document."""
    if not isinstance(given, str):
        raise InputError(f"the id of a document is a text, and not {shown(given)}")
    check_text(f"the id {shown(given)}", given)


def _check(document: Document, position: int, name: str, given: object, *, strings_only: bool = False) -> None:
    # Level by level and without recursion: strangers' values may be nested without end.
    level: list[Any] = [given]
    count = 0
    for _ in range(DEEPEST):
        inner: list[Any] = []
        count += len(level)
        if count > MOST_VALUES:
            _refuse(document, position, name, given, f"a field has at most {MOST_VALUES:,} values")
        for value in level:
            if isinstance(value, str):
                _check_unicode(document, position, name, value)
            elif strings_only:
                _refuse(document, position, name, value, "it must be a string")
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, dict):
                inner += value.values()
                for key in value:
                    if not isinstance(key, str):
                        _refuse(document, position, name, key, _ALLOWED)
                    _check_unicode(document, position, name, key)
            elif isinstance(value, int):
                if abs(value) >= 10**LONGEST_INTEGER:
                    _refuse(document, position, name, value, f"an integer has at most {LONGEST_INTEGER:,} digits")
            elif value is not None and not isinstance(value, float):
                _refuse(document, position, name, value, _ALLOWED)
        level = inner
        if not level:
            return
    _refuse(document, position, name, given, f"metadata have at most {DEEPEST} levels")


def _check_unicode(document: Document, position: int, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"document {shown(document.id)} has {name} that is not valid Unicode (position {position:,}; {error}); "
            f"repair it or leave it out"
        ) from None


def _refuse(document: Document, position: int, name: str, value: object, rule: str) -> None:
    # What is nested without end would be written without end.
    example = "" if isinstance(value, Mapping | list | tuple | set | frozenset) else f", {shown(value)},"
    raise InputError(
        f"{name} of {_where(document, position)} is or holds a {type(value).__name__}{example} and cannot be stored "
        f"as it is: {rule}"
    )


def _where(document: Document, position: int) -> str:
    return f"document {shown(document.id)} (position {position:,})"


def base_schema(space: Space, storage: Storage) -> Any:
    """Return the Arrow schema of a table without metadata fields."""
    vector = pa.list_(_NUMBERS[storage], space.width)
    if space.ragged:
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
    stored = points.rows.to(_TORCH[storage])
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
        return VectorPoints(vectors)
    offsets = column.offsets.to_numpy().astype(np.int64)
    return TokenPoints(vectors, torch.from_numpy(offsets - offsets[0]))


def _check_finite(documents: Sequence[Document], points: Points, stored: torch.Tensor) -> None:
    finite = stored.isfinite().all(dim=1)
    if finite.all():
        return
    row = int((~finite).nonzero()[0])
    place = int((points.lengths.cumsum(0) <= row).sum())
    if points.rows[row].isfinite().all():
        remedy = "use storage='float32'" if stored.dtype == torch.float16 else "give smaller ones"
        raise InputError(
            f"the vector of document {documents[place].id!r} reaches {points.rows[row].abs().max():g}, which "
            f"{str(stored.dtype).removeprefix('torch.')} cannot hold (at most {torch.finfo(stored.dtype).max:.6g}); "
            f"{remedy}"
        )
    raise InputError(
        f"the vector of document {documents[place].id!r} has infinite or undefined numbers; an index holds finite "
        f"ones only. Is the model damaged, or its dtype too narrow?"
    )


def text_checksums(keys: Iterable[int], columns: Iterable[Iterable[str | None]]) -> list[int]:
    """Return CRC-32s of keys and texts.

    Args:
        keys: `N` keys.
        columns: Columns of `N` texts each.

    Returns:
        `N` checksums.
    """
    return [_crc(key, texts) for key, *texts in zip(keys, *columns, strict=True)]


def vector_checksums(keys: npt.NDArray[np.int64], column: Any) -> npt.NDArray[np.int64]:
    """Return checksums of keys and stored vectors: sums of all words, each times an odd number of its own.

    A change of a single word always changes the sum, since odd numbers have inverses modulo 2^64.

    Args:
        keys: `(N,)`.
        column: Arrow array of `N` vectors, or of `N` lists of vectors.

    Returns:
        `(N,)` checksums.
    """
    ragged = pa.types.is_list(column.type)
    flat = column.flatten() if ragged else column
    numbers = flat.flatten().to_numpy(zero_copy_only=True)
    words = _words(numbers.reshape(-1, flat.type.list_size))
    with np.errstate(over="ignore"):
        sums: _Words = np.einsum("ij,j->i", words, _factors(words.shape[1]))
        if ragged:
            offsets = column.offsets.to_numpy().astype(np.int64)
            offsets -= offsets[0]
            sums = _sums_of_lists(sums, offsets)
        sums += keys.astype(np.uint64) * _KEY_FACTOR
    return sums.view(np.int64)


def checksum_columns(keys: npt.NDArray[np.int64], texts: Sequence[Any], vectors: Any) -> dict[str, Any]:
    """Return the columns of `CHECKSUM_COLUMNS` by name, of Arrow columns of texts and of vectors."""
    texts_of_rows = text_checksums(keys.tolist(), [column.to_pylist() for column in texts])
    return {TEXT_CHECKSUM: pa.array(texts_of_rows), VECTOR_CHECKSUM: pa.array(vector_checksums(keys, vectors))}


def with_checksum(columns: Sequence[str], schema: Any) -> list[str]:
    """Return the names of columns to read, and of those that they are checked by where the table has any."""
    name = _checksum_of(columns)
    return [*columns, "key", name] if name in schema.names else [*columns]


def check_rows(rows: Any, columns: Sequence[str], *, source: object) -> Any:
    """Compare rows with their checksums, where they have any.

    Args:
        rows: Arrow table or batch of `with_checksum`'s columns.
        columns: All columns of texts, or the one of vectors.
        source: The table, for the message.

    Returns:
        The rows.

    Raises:
        StoreError: A row is not what was stored; the message names its key.
    """
    name = _checksum_of(columns)
    if name not in rows.schema.names:
        return rows
    keys = _array(rows.column("key")).to_numpy()
    if name == VECTOR_CHECKSUM:
        found = vector_checksums(keys, _array(rows.column("vector")))
    else:
        found = np.array(text_checksums(keys.tolist(), [rows.column(name).to_pylist() for name in columns]), np.int64)
    wrong = found != _array(rows.column(name)).to_numpy()
    if wrong.any():
        what = "vector" if name == VECTOR_CHECKSUM else "text"
        raise StoreError(
            f"the {what} of the document with key {keys[wrong.argmax()]} in {source} is damaged: it is not what was "
            f"stored; take the folder from a copy, or build the index again with --overwrite"
        )
    return rows


def _checksum_of(columns: Sequence[str]) -> str:
    return VECTOR_CHECKSUM if "vector" in columns else TEXT_CHECKSUM


def _crc(key: int, texts: Iterable[str | None]) -> int:
    value = zlib.crc32(key.to_bytes(8, "little", signed=True))
    for text in texts:
        encoded = (text or "").encode()
        value = zlib.crc32(encoded, zlib.crc32(len(encoded).to_bytes(8, "little"), value))
    return value


def _words(numbers: npt.NDArray[Any]) -> _Words:
    """Return rows of numbers as rows of words, of 64 bits where these fill them."""
    size = numbers.shape[1] * numbers.itemsize
    width = next(width for width in (8, 4, 2) if size % width == 0)
    words = np.ascontiguousarray(numbers).view(f"u{width}")
    return words if width == 8 else words.astype(np.uint64)


def _factors(count: int) -> _Words:
    # Different numbers, so that words that changed places are noticed; any fixed odd ones will do.
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95 & ~1) | np.uint64(1)


def _sums_of_lists(sums: _Words, offsets: npt.NDArray[np.int64]) -> _Words:
    """Add up the sums of each list's vectors, each times an odd number of its place in the list, and the length."""
    lengths = np.diff(offsets)
    places = np.arange(len(sums)) - np.repeat(offsets[:-1], lengths)
    totals = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sums * (2 * places + 1).astype(np.uint64))])
    result: _Words = totals[offsets[1:]] - totals[offsets[:-1]] + lengths.astype(np.uint64) * np.uint64(3)
    return result


def _array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
