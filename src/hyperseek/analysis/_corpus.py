"""What is read of an index to look at its space: radii, specificity, hierarchy, some points.

Shapes: `N` documents, `n` chosen ones, `w` numbers of a stored point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import InputError, UnknownNameError
from hyperseek.analysis._hierarchy import Hierarchy, read_hierarchy
from hyperseek.index import Index
from hyperseek.records import Document

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

DEPTH = "depth"
LENGTH = "length"


@dataclass(frozen=True)
class Specificity:
    """How specific each document is.

    Attributes:
        by: What was taken for it.
        values: `(N,)`, higher is more specific; NaN where there is none.
    """

    by: str
    values: Floats


def open_hierarchy(index: Index, source: str) -> Hierarchy:
    """Read the hierarchy of an index.

    Args:
        index: The documents.
        source: A file of children and parents, or the metadata field that names each document's parent or parents.

    Returns:
        The hierarchy.

    Raises:
        UnknownNameError: There is neither such a file nor such a field.
        InputError: The field holds no ids, or the edges form a circle.
        DataError: The file cannot be read.
    """
    if Path(source).is_file():
        hierarchy = read_hierarchy(source)
        if not any(name in hierarchy.tree for name in index.ids):
            some = next(iter(hierarchy.parents))
            raise InputError(f"{source} names no document of the index; its ids are like {some!r}, those of the index "
                             f"like {index.ids[0]!r}")  # fmt: skip
        return hierarchy
    if source not in index.fields:
        raise UnknownNameError("hierarchy, neither a file nor a metadata field:", source, index.fields)
    return Hierarchy.from_edges(_edges(index, source))


def read_specificity(index: Index, hierarchy: Hierarchy | None, by: str | None) -> Specificity:
    """Find out how specific each document is.

    Args:
        index: The documents.
        hierarchy: Of their ids, or None.
        by: A metadata field of numbers, `"depth"` in the hierarchy, or `"length"` of title and text in characters.
            None takes the depth if there is a hierarchy, else the length.

    Returns:
        A value for each document.

    Raises:
        UnknownNameError: There is no such field.
        InputError: The field holds no numbers, or a depth was asked for without a hierarchy.
    """
    by = by or (LENGTH if hierarchy is None else DEPTH)
    if by == LENGTH and by not in index.fields:
        return Specificity("length in characters", _each(index, lambda document: len(document.full_text)))
    if by == DEPTH and hierarchy is not None:
        depths = hierarchy.depths
        return Specificity(by, np.array([depths.get(name, np.nan) for name in index.ids], np.float64))
    if by not in index.fields:
        if by == DEPTH:
            raise InputError("depth needs a hierarchy: give a file of children and parents, or the field of parents")
        raise UnknownNameError("specificity", by, [*index.fields, DEPTH, LENGTH])
    if index.fields[by] != "number":
        raise InputError(f"specificity must be a number, and the field {by!r} is a {index.fields[by]}")
    return Specificity(by, _each(index, lambda document: document.metadata.get(by)))


def read_points(index: Index, rows: Rows, measure: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Floats | None]:
    """Read all points once.

    Args:
        index: The points.
        rows: `(n,)` rows to keep, ascending.
        measure: Takes `(m, w)` points and returns `(m,)` numbers, as radii; None for nothing.

    Returns:
        The kept points `(n, w)`, and the numbers of all `(N,)`.
    """
    kept, numbers, first = [], [], 0
    for names, points in index.points():
        here = rows[(rows >= first) & (rows < first + len(names))] - first
        kept.append(points.vectors[torch.from_numpy(here)])
        if measure is not None:
            numbers.append(measure(points.vectors))
        first += len(names)
    return torch.cat(kept), torch.cat(numbers).double().numpy() if numbers else None


def title_of(document: Document) -> str:
    """Return what a person would call a document: its title, else how its text begins, else its id."""
    return document.title or " ".join(document.text[:200].split())[:80] or document.id


def _each(index: Index, value: Callable[[Document], Any]) -> Floats:
    found = (value(document) for document in index.documents())
    return np.array([np.nan if one is None else float(one) for one in found], np.float64)


def _edges(index: Index, field: str) -> Iterator[tuple[str, str]]:
    for document in index.documents():
        value = document.metadata.get(field)
        above = value if isinstance(value, list) else [value]
        for parent in above:
            # A number may be an id that was read as one; a root has no parent, an empty one, or itself.
            name = "" if parent is None else f"{parent:g}" if isinstance(parent, float) else str(parent)
            if name and name != document.id:
                yield document.id, name
