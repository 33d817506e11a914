"""The columns of the table: documents, points and numbers to Arrow and back, with nothing lost."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hyperseek.errors import InputError
from hyperseek.scoring import Points, Space, TokenPoints, VectorPoints
from hyperseek.store._row_checksums import CHECKSUM_COLUMNS
from hyperseek.store.documents import check_documents
from hyperseek.store.info import Storage
from hyperseek.types import Document

TEXT_COLUMNS = ("id", "title", "text", "metadata")
"""Columns that make a document."""

BASE_COLUMNS = ("key", *TEXT_COLUMNS, "vector")
"""Columns of every table; further ones are checksums, and metadata fields for filters."""

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}
_TORCH = {"float32": torch.float32, "float16": torch.float16}


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
    place = row
    if isinstance(points, TokenPoints):
        place = int(torch.searchsorted(points.offsets, torch.tensor(row), right=True)) - 1
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


Number: TypeAlias = int | float

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def rounded(value: Number) -> float:
    """Return the float64 next to a number; infinite beyond the largest."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def is_rounded(value: object) -> bool:
    """Whether a value is an integer that float64 cannot hold."""
    return isinstance(value, int) and not isinstance(value, bool) and rounded(value) != value


def number_array(values: Sequence[Number | None]) -> Any:
    """Return numbers as float64; what is no number (NaN) is null, as it is to be found by no comparison."""
    floats = [None if value is None else rounded(value) for value in values]
    return pa.array([value if value == value else None for value in floats], pa.float64())


def digit_array(values: Sequence[Number | None]) -> Any:
    """Return the digits of the integers that `number_array` rounds; null for other values."""
    return pa.array([str(value) if is_rounded(value) else None for value in values], pa.string())


@dataclass(frozen=True)
class Numbers:
    """A column of `n` numbers.

    Attributes:
        values: `(n,)` float64; anything where there is no number.
        valid: `(n,)`: where there is one.
        digits: Arrow strings, of integers that `values` has rounded; None where there are none.
    """

    values: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]
    digits: Any = None

    @classmethod
    def of(cls, column: Any, digits: Any = None) -> Numbers:
        """Make one of Arrow columns."""
        values = column.cast(pa.float64(), safe=False)
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        return cls(
            values.fill_null(0).to_numpy(zero_copy_only=False),
            valid,
            None if digits is None or digits.null_count == len(digits) else digits,
        )

    def compare(self, name: str, other: Number) -> Any:
        """Compare with one number, exactly; null where there is none here."""
        compare, near = OPERATORS[name], rounded(other)
        found = compare(self.values, near)
        ties = self.values == near
        found[ties] = compare(near, other)
        for place, value in self._rounded_ones(ties):
            found[place] = compare(value, other)
        return self._booleans(found)

    def among(self, others: Collection[Number]) -> Any:
        """Whether each is one of some numbers, exactly; null where there is none here."""
        exact = frozenset(others)
        near = np.array(sorted({rounded(other) for other in exact}))
        found = np.isin(self.values, near)
        for place in np.flatnonzero(found) if any(map(is_rounded, exact)) else ():
            found[place] = float(self.values[place]) in exact
        for row, value in self._rounded_ones(np.isin(self.values, near)):
            found[row] = value in exact
        return self._booleans(found)

    def compare_all(self, name: str, others: Numbers) -> Any:
        """Compare with as many numbers, exactly; null where one of the two is none."""
        compare = OPERATORS[name]
        found = compare(self.values, others.values)
        ties = self.values == others.values
        own, other = dict(self._rounded_ones(ties)), dict(others._rounded_ones(ties))
        for place in own.keys() | other.keys():
            found[place] = compare(
                own.get(place, float(self.values[place])), other.get(place, float(others.values[place]))
            )
        return pa.array(found, pa.bool_(), mask=~(self.valid & others.valid))

    def _rounded_ones(self, where: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
        if self.digits is None:
            return []
        places = np.flatnonzero(where & self.digits.is_valid().to_numpy(zero_copy_only=False))
        return [(int(place), int(self.digits[int(place)].as_py())) for place in places]

    def _booleans(self, found: npt.NDArray[np.bool_]) -> Any:
        return pa.array(found, pa.bool_(), mask=~self.valid)
