"""Checksums of rows: what is read of a document is what was stored under its key.

Files are compared whole only when somebody asks for it, or when they are small; these columns are compared whenever
texts or points are read, however large the table is. Tables of before have none, and are read as they are.

Shapes: `N` rows, `T` tokens of all rows together, `w` numbers of a vector.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperseek.errors import StoreError

TEXT_CHECKSUM, VECTOR_CHECKSUM = "text_checksum", "vector_checksum"
CHECKSUM_COLUMNS = (TEXT_CHECKSUM, VECTOR_CHECKSUM)
"""Columns of int64, beside what they are the checksums of."""

_Words = npt.NDArray[np.uint64]
_KEY_FACTOR = np.uint64(0x9E3779B97F4A7C15)


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
