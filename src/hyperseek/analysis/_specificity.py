"""Specificity of documents: a metadata field, their length, or their depth in a hierarchy.

Shapes: `N` documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperseek._ancestors import Hierarchy
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.index import Index
from hyperseek.types import Document

Floats = NDArray[np.float64]

DEPTH = "depth"
LENGTH = "length"


@dataclass(frozen=True)
class Specificity:
    """How specific each document is.

    Attributes:
        by: The measure of specificity.
        values: `(N,)`, higher is more specific; NaN where there is none.
    """

    by: str
    values: Floats


def read_specificity(index: Index, hierarchy: Hierarchy | None, by: str | None) -> Specificity:
    """Measure the specificity of each document.

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


def title_of(document: Document) -> str:
    """Return a name for a document: its title, or else the beginning of its text, or else its id."""
    return document.title or " ".join(document.text[:200].split())[:80] or document.id


def _each(index: Index, value: Callable[[Document], Any]) -> Floats:
    found = (value(document) for document in index.documents())
    return np.array([np.nan if one is None else float(one) for one in found], np.float64)
