"""Conditions as trees, and their values for a batch of rows, in the three-valued logic of SQL.

Every node has a `kind`, that of its values: "number", "string", "boolean" or "list of strings". A batch is an Arrow
record batch with the columns that the tree's fields name. Only these nodes are ever evaluated; no library is given SQL.

Numbers are exact: they are stored as float64, with the digits of integers that float64 rounds (those of more than 53
bits) in a second column. Rounding keeps the order, so numbers whose float64 differ are in that order, and the digits
are read only where the float64 agree. As in Python, integers and floats are compared by value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Number: TypeAlias = int | float

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
MIRRORED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def rounded(value: Number) -> float:
    """Return the float64 nearest to a number; infinite beyond the largest."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def is_rounded(value: object) -> bool:
    """Whether a value is an integer that float64 cannot hold."""
    return isinstance(value, int) and not isinstance(value, bool) and rounded(value) != value


def number_array(values: Sequence[Number | None]) -> Any:
    """Return numbers as float64; NaN becomes null, so that no comparison finds it."""
    floats = [None if value is None else rounded(value) for value in values]
    return pa.array([value if value == value else None for value in floats], pa.float64())


def digit_array(values: Sequence[Number | None]) -> Any:
    """Return the digits of the integers that `number_array` rounds; null for other values."""
    return pa.array([str(value) if is_rounded(value) else None for value in values], pa.string())


@dataclass(frozen=True)
class Numbers:
    """A column of `n` numbers.

    Attributes:
        values: `(n,)` float64; arbitrary in rows without a number.
        valid: `(n,)` booleans: which rows have a number.
        digits: Arrow strings, of integers that `values` rounds; None if there are none.
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
        """Compare with one number, exactly; null in rows without a number."""
        compare, near = OPERATORS[name], rounded(other)
        found = compare(self.values, near)
        ties = self.values == near
        found[ties] = compare(near, other)
        for place, value in self._rounded_ones(ties):
            found[place] = compare(value, other)
        return self._booleans(found)

    def among(self, others: Collection[Number]) -> Any:
        """Whether each is one of `others`, exactly; null in rows without a number."""
        exact = frozenset(others)
        near = np.array(sorted({rounded(other) for other in exact}))
        found = np.isin(self.values, near)
        for place in np.flatnonzero(found) if any(map(is_rounded, exact)) else ():
            found[place] = float(self.values[place]) in exact
        for row, value in self._rounded_ones(np.isin(self.values, near)):
            found[row] = value in exact
        return self._booleans(found)

    def compare_all(self, name: str, others: Numbers) -> Any:
        """Compare with another column, row by row and exactly; null where either has no number."""
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


class Node:
    """A part of a condition."""

    kind: str
    parts: tuple[Node, ...]

    def evaluate(self, batch: Any) -> Any:
        """Return the values: `Numbers` for numbers, an Arrow array for other kinds."""
        raise NotImplementedError

    def columns(self) -> Iterator[str]:
        """Yield the names of the columns that are read; one may come twice."""
        for part in self.parts:
            yield from part.columns()


@dataclass(frozen=True)
class Literal(Node):
    """A value that is written in the condition."""

    value: str | bool | Number

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Kind of the value."""
        return {str: "string", bool: "boolean"}.get(type(self.value), "number")

    def evaluate(self, batch: Any) -> Any:
        """Return the value once for each row."""
        assert isinstance(self.value, bool), "other literals are part of comparisons"
        return pa.array(np.full(batch.num_rows, self.value))

    def columns(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())


@dataclass(frozen=True)
class Field(Node):
    """A column, and for numbers the column of their digits if there is one."""

    column: str
    kind: str
    digits: str | None = None

    def evaluate(self, batch: Any) -> Any:
        """Return the column's values."""
        column = batch.column(self.column)
        if self.kind != "number":
            return column
        return Numbers.of(column, None if self.digits is None else batch.column(self.digits))

    def columns(self) -> Iterator[str]:
        """Yield the columns."""
        yield from (self.column,) if self.digits is None else (self.column, self.digits)


@dataclass(frozen=True)
class Function(Node):
    """A function of one part, and perhaps of a text that is written in the condition."""

    name: str
    kind: str
    parts: tuple[Node, ...]
    text: str | None = None

    def evaluate(self, batch: Any) -> Any:
        """Return the function's values."""
        values = self.parts[0].evaluate(batch)
        match self.name:
            case "lower":
                return pc.utf8_lower(values)
            case "upper":
                return pc.utf8_upper(values)
            case "length":
                return Numbers.of(pc.utf8_length(values))
            case "starts_with":
                return pc.starts_with(values, pattern=self.text)
            case "ends_with":
                return pc.ends_with(values, pattern=self.text)
            case "contains":
                return pc.match_substring(values, pattern=self.text)
            case "array_length":
                return Numbers.of(pc.list_value_length(values))
            case _:
                return _has(values, self.text)


@dataclass(frozen=True)
class Comparison(Node):
    """A comparison of two parts of one kind; a literal is always on the right."""

    operator: str
    parts: tuple[Node, ...]
    kind: str = "boolean"

    def evaluate(self, batch: Any) -> Any:
        """Return in which rows it holds."""
        left, right = self.parts
        values = left.evaluate(batch)
        if isinstance(values, Numbers):
            if isinstance(right, Literal):
                assert not isinstance(right.value, str)
                return values.compare(self.operator, right.value)
            return values.compare_all(self.operator, right.evaluate(batch))
        other = pa.scalar(right.value) if isinstance(right, Literal) else right.evaluate(batch)
        return _COMPARISONS[self.operator](values, other)


@dataclass(frozen=True)
class Membership(Node):
    """Whether a part is one of some literals."""

    parts: tuple[Node, ...]
    values: frozenset[Any]
    kind: str = "boolean"

    def evaluate(self, batch: Any) -> Any:
        """Return in which rows it holds."""
        values = self.parts[0].evaluate(batch)
        if isinstance(values, Numbers):
            return values.among(self.values)
        found = pc.is_in(values, value_set=pa.array(list(self.values), values.type))
        return pc.if_else(values.is_valid(), found, None)


@dataclass(frozen=True)
class Like(Node):
    """Whether a text matches a pattern, in which % stands for any characters and _ for one."""

    parts: tuple[Node, ...]
    pattern: str
    ignore_case: bool
    kind: str = "boolean"

    def evaluate(self, batch: Any) -> Any:
        """Return in which rows it holds."""
        form = _regular_expression(self.pattern)
        return pc.match_substring_regex(self.parts[0].evaluate(batch), pattern=form, ignore_case=self.ignore_case)


@dataclass(frozen=True)
class Is(Node):
    """Whether a part is null, true or false; never null itself."""

    parts: tuple[Node, ...]
    what: bool | None
    kind: str = "boolean"

    def evaluate(self, batch: Any) -> Any:
        """Return in which rows it holds."""
        values = self.parts[0].evaluate(batch)
        if isinstance(values, Numbers):
            return pa.array(~values.valid)
        if self.what is None:
            return values.is_null()
        return pc.equal(values, self.what).fill_null(False)


@dataclass(frozen=True)
class Not(Node):
    """The opposite of a condition."""

    parts: tuple[Node, ...]
    kind: str = "boolean"

    def evaluate(self, batch: Any) -> Any:
        """Return in which rows it holds."""
        return pc.invert(self.parts[0].evaluate(batch))


@dataclass(frozen=True)
class Joined(Node):
    """Conditions of which all hold, or at least one."""

    every: bool
    parts: tuple[Node, ...]
    kind: str = "boolean"

    def evaluate(self, batch: Any) -> Any:
        """Return in which rows it holds."""
        join = pc.and_kleene if self.every else pc.or_kleene
        found = self.parts[0].evaluate(batch)
        for part in self.parts[1:]:
            found = join(found, part.evaluate(batch))
        return found


def comparison(operator: str, left: Node, right: Node) -> Node:
    """Return a comparison of two parts of one kind; that of two literals is a literal."""
    if isinstance(left, Literal):
        if isinstance(right, Literal):
            return Literal(bool(OPERATORS[operator](left.value, right.value)))
        operator, left, right = MIRRORED[operator], right, left
    return Comparison(operator, (left, right))


def opposite(node: Node) -> Node:
    """Return the opposite of a condition."""
    if isinstance(node, Not):
        return node.parts[0]
    if isinstance(node, Literal):
        return replace(node, value=not node.value)
    return Not((node,))


def _has(lists: Any, text: str | None) -> Any:
    found = np.zeros(len(lists), dtype=np.bool_)
    same = pc.equal(pc.list_flatten(lists), text).fill_null(False)
    found[pc.list_parent_indices(lists).filter(same).to_numpy()] = True
    return pa.array(found, mask=lists.is_null().to_numpy(zero_copy_only=False))


def _regular_expression(pattern: str) -> str:
    parts, quoted = [], False
    for sign in pattern:
        if quoted or sign not in "%_\\":
            parts.append(sign if sign.isalnum() else f"\\x{{{ord(sign):x}}}")
            quoted = False
        elif sign == "\\":
            quoted = True
        elif sign == "_":
            parts.append(".")
        elif parts[-1:] != [".*"]:
            parts.append(".*")
    return f"(?s)^{''.join(parts)}\\z"
