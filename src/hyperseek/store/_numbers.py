"""Numbers as columns that lose nothing: float64, and beside it the digits of integers that float64 rounds.

An integer of more than 53 bits is rounded, or infinite from 1e308 on. Rounding keeps the order, so two numbers whose
float64 differ are in that order, and only where they agree are the digits read. Python compares integers and floats by
their values, and so do these.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
