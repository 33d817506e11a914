"""Documents and points as rows of the table: their columns, a checksum of each row, and which documents are accepted.

Files are compared whole only on request, or when they are small; checksums of rows are compared whenever texts or
points are read, however large the table is. Tables of earlier versions have no checksums and are read without them.

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
import pyarrow.compute as pc
import torch

from hyperseek.errors import InputError, StoreError, shown
from hyperseek.scoring import Points, Space, TokenPoints, VectorPoints
from hyperseek.store.info import Storage
from hyperseek.types import Document

TEXT_COLUMNS = ("id", "title", "text", "metadata")
"""Columns of a document's own fields."""

BASE_COLUMNS = ("key", *TEXT_COLUMNS, "vector")
"""Columns of every table; others are checksums, and metadata fields for filters."""

TEXT_CHECKSUM, VECTOR_CHECKSUM = "text_checksum", "vector_checksum"
CHECKSUM_COLUMNS = (TEXT_CHECKSUM, VECTOR_CHECKSUM)
"""Columns of int64: checksums of each row's texts and vectors."""

PASSAGE = "hyperseek:passage"
"""Key of the metadata of a passage: its place in its document, `start` and `end`, and `headings` and `title` if any.

Filters cannot name it, since it has a colon.
"""

_DEEPEST = 64  # levels of metadata
_LONGEST_INTEGER = 4_000  # digits of an integer in metadata
_MOST_VALUES = 1_000_000  # values of a metadata field, nested ones included
_ALLOWED = "metadata are values of JSON: None, booleans, numbers, strings, lists, and mappings from strings"

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}
_TORCH = {"float32": torch.float32, "float16": torch.float16}

_Words = npt.NDArray[np.uint64]
_KEY_FACTOR = np.uint64(0x9E3779B97F4A7C15)


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


def points_array(documents: Sequence[Document], points: Points, *, ragged: bool, storage: Storage) -> Any:
    """Return the column of points.

    Args:
        documents: `N` of them, for messages.
        points: Their points.
        ragged: Whether the table stores sets of vectors.
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
    if not ragged:
        return flat
    offsets = np.pad(points.lengths.cumsum(0).numpy(), (1, 0)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def checksum_columns(keys: npt.NDArray[np.int64], texts: Sequence[Any], vectors: Any) -> dict[str, Any]:
    """Return the columns of `CHECKSUM_COLUMNS` by name, for Arrow columns of texts and of vectors."""
    texts_of_rows = _text_checksums(keys.tolist(), [column.to_pylist() for column in texts])
    return {TEXT_CHECKSUM: pa.array(texts_of_rows), VECTOR_CHECKSUM: pa.array(_vector_checksums(keys, vectors))}


def encode_metadata(document: Document) -> str:
    """Return a document's metadata as JSON with sorted keys, or "" if there are none; InputError for other values."""
    if not document.metadata:
        return ""
    try:
        return json.dumps(dict(document.metadata), sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        check_documents([document])  # says what is wrong
        raise


def read_documents(rows: Any) -> list[Document]:
    """Return the documents of an Arrow table or batch that has `TEXT_COLUMNS`."""
    columns = [rows.column(name).to_pylist() for name in TEXT_COLUMNS]
    return [
        Document(identity, text, title, json.loads(metadata) if metadata else {})
        for identity, title, text, metadata in zip(*columns, strict=True)
    ]


def read_points(column: Any, width: int) -> Points:
    """Return a copy of the points of an Arrow column, float32."""
    ragged = pa.types.is_list(column.type)
    flat = column.flatten() if ragged else column
    numbers = flat.flatten().to_numpy(zero_copy_only=True).astype(np.float32)
    vectors = torch.from_numpy(numbers.reshape(-1, width))
    if not ragged:
        return VectorPoints(vectors)
    offsets = column.offsets.to_numpy().astype(np.int64)
    return TokenPoints(vectors, torch.from_numpy(offsets - offsets[0]))


def row_id(document_id: str, number: int) -> str:
    """Return the id of a passage, whatever that of its document is like."""
    return f"{document_id}#{number}"


def document_id_of(row: str) -> str:
    """Return the id of the document that a row is a passage of."""
    return row.rpartition("#")[0]


def document_ids(rows: Any) -> Any:
    """Return the ids of the documents that rows are passages of, for an Arrow array of the rows' ids."""
    return pc.utf8_slice_codeunits(pc.utf8_rtrim(rows, "0123456789"), 0, -1)  # twice as fast as a pattern


def as_documents(rows: Any) -> Any:
    """Return passages with the ids and titles of their documents, as filters name them.

    Args:
        rows: Arrow batch; `title` needs `metadata`.

    Returns:
        The batch.
    """
    names = rows.schema.names
    if "id" in names:
        rows = rows.set_column(names.index("id"), "id", document_ids(rows.column("id")))
    if "title" in names:
        pairs = zip(rows.column("title").to_pylist(), rows.column("metadata").to_pylist(), strict=True)
        titles = [json.loads(metadata)[PASSAGE].get("title", title) for title, metadata in pairs]
        rows = rows.set_column(names.index("title"), "title", pa.array(titles, pa.string()))
    return rows


def with_checksum(columns: Sequence[str], schema: Any) -> list[str]:
    """Return the columns to read, followed by those that they are checked against if the table has them."""
    name = _checksum_of(columns)
    return [*columns, "key", name] if name in schema.names else [*columns]


def check_rows(rows: Any, columns: Sequence[str], *, source: object) -> Any:
    """Compare rows with their checksums, if they have any.

    Args:
        rows: Arrow table or batch of `with_checksum`'s columns.
        columns: All columns of texts, or that of vectors.
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
        found = _vector_checksums(keys, _array(rows.column("vector")))
    else:
        found = np.array(_text_checksums(keys.tolist(), [rows.column(name).to_pylist() for name in columns]), np.int64)
    wrong = found != _array(rows.column(name)).to_numpy()
    if wrong.any():
        what = "vector" if name == VECTOR_CHECKSUM else "text"
        raise StoreError(
            f"the {what} of the document with key {keys[wrong.argmax()]} in {source} is damaged: it is not what was "
            f"stored; take the folder from a copy, or build the index again with --overwrite"
        )
    return rows


def check_documents(documents: Sequence[Document], start: int = 0) -> None:
    """Raise InputError if a document cannot be stored, or would be read back as a different one.

    Args:
        documents: Any number.
        start: Position of the first one in the corpus, for messages.
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
    """Raise InputError if a text has half a character (a lone surrogate), which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode ({error}); repair it or leave it out") from None


def check_id(given: object) -> None:
    """Raise InputError if a value cannot be the id of a document."""
    if not isinstance(given, str):
        raise InputError(f"the id of a document is a text, not {shown(given)}")
    check_text(f"the id {shown(given)}", given)


def _check_finite(documents: Sequence[Document], points: Points, stored: torch.Tensor) -> None:
    finite = stored.isfinite().all(dim=1)
    if finite.all():
        return
    row = int((~finite).nonzero()[0])
    place = points.document_of(row)
    if points.rows[row].isfinite().all():
        remedy = "use storage='float32'" if stored.dtype == torch.float16 else "give smaller numbers"
        raise InputError(
            f"the vector of document {documents[place].id!r} reaches {points.rows[row].abs().max():g}, which "
            f"{str(stored.dtype).removeprefix('torch.')} cannot hold (at most {torch.finfo(stored.dtype).max:.6g}); "
            f"{remedy}"
        )
    raise InputError(
        f"the vector of document {documents[place].id!r} has infinite or undefined numbers; an index only holds "
        f"finite ones. Is the model damaged, or its dtype too narrow?"
    )


def _checksum_of(columns: Sequence[str]) -> str:
    return VECTOR_CHECKSUM if "vector" in columns else TEXT_CHECKSUM


def _text_checksums(keys: Iterable[int], columns: Iterable[Iterable[str | None]]) -> list[int]:
    """Return the CRC-32 of each row's key and texts.

    Args:
        keys: `N` keys.
        columns: Columns of `N` texts each.

    Returns:
        `N` checksums.
    """
    return [_crc(key, texts) for key, *texts in zip(keys, *columns, strict=True)]


def _vector_checksums(keys: npt.NDArray[np.int64], column: Any) -> npt.NDArray[np.int64]:
    """Return the checksum of each row's key and stored vectors: the sum of all words, each times its own odd number.

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


def _crc(key: int, texts: Iterable[str | None]) -> int:
    value = zlib.crc32(key.to_bytes(8, "little", signed=True))
    for text in texts:
        encoded = (text or "").encode()
        value = zlib.crc32(encoded, zlib.crc32(len(encoded).to_bytes(8, "little"), value))
    return value


def _words(numbers: npt.NDArray[Any]) -> _Words:
    """Return rows of numbers as rows of words, the longest that divide a row (64, 32 or 16 bits), as uint64."""
    size = numbers.shape[1] * numbers.itemsize
    width = next(width for width in (8, 4, 2) if size % width == 0)
    words = np.ascontiguousarray(numbers).view(f"u{width}")
    return words if width == 8 else words.astype(np.uint64)


def _factors(count: int) -> _Words:
    # Any fixed odd numbers will do; they differ so that swapped words are noticed.
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95 & ~1) | np.uint64(1)


def _sums_of_lists(sums: _Words, offsets: npt.NDArray[np.int64]) -> _Words:
    """Add up each list's sums, each times an odd number that depends on its place in the list, and add the length."""
    lengths = np.diff(offsets)
    places = np.arange(len(sums)) - np.repeat(offsets[:-1], lengths)
    totals = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sums * (2 * places + 1).astype(np.uint64))])
    result: _Words = totals[offsets[1:]] - totals[offsets[:-1]] + lengths.astype(np.uint64) * np.uint64(3)
    return result


def _array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _check(document: Document, position: int, name: str, given: object, *, strings_only: bool = False) -> None:
    # Level by level instead of by recursion: values from strangers may be nested without end.
    level: list[Any] = [given]
    count = 0
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        count += len(level)
        if count > _MOST_VALUES:
            _refuse(document, position, name, given, f"a field has at most {_MOST_VALUES:,} values")
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
                if abs(value) >= 10**_LONGEST_INTEGER:
                    _refuse(document, position, name, value, f"an integer has at most {_LONGEST_INTEGER:,} digits")
            elif value is not None and not isinstance(value, float):
                _refuse(document, position, name, value, _ALLOWED)
        level = inner
        if not level:
            return
    _refuse(document, position, name, given, f"metadata have at most {_DEEPEST} levels")


def _check_unicode(document: Document, position: int, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"document {shown(document.id)} has {name} that is not valid Unicode (position {position:,}; {error}); "
            f"repair it or leave it out"
        ) from None


def _refuse(document: Document, position: int, name: str, value: object, rule: str) -> None:
    # A value that is nested without end would make the message endless.
    example = "" if isinstance(value, Mapping | list | tuple | set | frozenset) else f", {shown(value)},"
    raise InputError(
        f"{name} of {_where(document, position)} is or contains a {type(value).__name__}{example} and cannot be "
        f"stored: {rule}"
    )


def _where(document: Document, position: int) -> str:
    return f"document {shown(document.id)} (position {position:,})"
