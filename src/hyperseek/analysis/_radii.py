"""Distances and radii of stored points, the specificity of documents, and whether radii rise with it.

A document's specificity is a metadata field, its length, or its depth in a hierarchy.

Shapes: `N` documents, `n` and `m` points, `w` numbers of a stored point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._ancestors import Hierarchy
from hyperseek.errors import InputError, UnknownNameError, require
from hyperseek.index import Index
from hyperseek.scoring import Space
from hyperseek.types import Document

Floats = NDArray[np.float64]

DEPTH = "depth"
LENGTH = "length"

_MOST_LEVELS = 32
_GROUPS = 10
_BINS = 40  # of the histogram


def metric_of(space: Space) -> str:
    """Name the distance that points of a space are compared by.

    Args:
        space: Any space whose points are one vector each.

    Returns:
        The name, with the unit where it has one.

    Raises:
        InputError: The points are sets of tokens, between which there is no distance.
    """
    if space.distance_name is None:
        raise InputError(
            f"a {space.kind!r} space has no distance between documents, so its shape cannot be measured; "
            f"give an index of one vector per document"
        )
    return space.distance_name


def distances(space: Space, first: Tensor, second: Tensor) -> Tensor:
    """Return all distances, accurate for near points too.

    A `dot` space has no distance of its own; that of its vectors is taken. A `cosine` space has the angle.

    Args:
        space: Where the points lie.
        first: `(n, w)` stored points.
        second: `(m, w)` stored points.

    Returns:
        `(n, m)`, at least 0, in float64 if the points are.

    Raises:
        InputError: The points are sets of tokens.
    """
    metric_of(space)
    return space.distances(first, second)


def radii(space: Space, vectors: Tensor) -> Tensor:
    """Return the distances from the origin; in flat spaces the norms.

    Args:
        space: Where the points lie.
        vectors: `(n, w)` stored points.

    Returns:
        `(n,)`, at least 0.

    Raises:
        InputError: All points are equally far from the origin, or the space has no origin.
    """
    metric_of(space)
    if space.unit_norm:
        raise InputError(f"all vectors of a {space.kind} space have norm 1, so their radii carry no information")
    return space.radii(vectors)


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


@dataclass(frozen=True, slots=True)
class SpecificityLevel:
    """Documents of one specificity, or of a range of them.

    Attributes:
        low: Least specificity.
        high: Greatest specificity; equal to `low` for a single value.
        count: Documents.
        mean: Their mean radius.
        deviation: Standard deviation of their radii.
    """

    low: float
    high: float
    count: int
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class SpecificityReport:
    """Radius by specificity.

    Attributes:
        by: The measure of specificity.
        count: Documents that have a value.
        spearman: Rank correlation of radius and specificity, in -1 to 1; NaN where one of them is constant.
        p_value: Two-sided, for the hypothesis of no correlation.
        levels: From the most general.
    """

    by: str
    count: int
    spearman: float
    p_value: float
    levels: list[SpecificityLevel]


def radius_by_specificity(radii: Floats, values: Floats, *, by: str) -> SpecificityReport:
    """Compare radii with specificity.

    Up to 32 distinct values are levels of their own; more are cut into ten groups of about equal size.

    Args:
        radii: `(N,)`.
        values: `(N,)`, higher is more specific; NaN where there is none.
        by: Name of the values, for messages.

    Returns:
        The rank correlation and the levels.

    Raises:
        InputError: Fewer than three documents have a value.
        MissingExtraError: scipy is not installed.
    """
    known = np.isfinite(values)
    radii, values = radii[known], values[known]
    if len(values) < 3:
        raise InputError(f"{len(values)} documents have a number for {by}; at least 3 are needed to compare radii")
    constant = np.ptp(values) == 0 or np.ptp(radii) == 0
    found = None if constant else require("scipy.stats", extra="plot").spearmanr(values, radii)
    levels = [_level(radii[members], values[members]) for members in _groups(values)]
    spearman, p_value = (float("nan"), 1.0) if found is None else (float(found.statistic), float(found.pvalue))
    return SpecificityReport(by, len(values), spearman, p_value, levels)


def _groups(values: Floats) -> list[NDArray[np.bool_]]:
    distinct = np.unique(values)
    if len(distinct) <= _MOST_LEVELS:
        return [values == value for value in distinct]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _GROUPS + 1), method="inverted_cdf"))
    group = np.searchsorted(edges[1:-1], values, side="left")
    return [group == number for number in np.unique(group)]


def _level(radii: Floats, values: Floats) -> SpecificityLevel:
    return SpecificityLevel(
        float(values.min()), float(values.max()), len(radii), float(radii.mean()), float(radii.std())
    )


@dataclass(frozen=True, slots=True)
class RadiusReport:
    """Distances of the documents from the origin.

    Attributes:
        count: Documents.
        mean: Mean radius.
        deviation: Standard deviation.
        quantiles: The minimum, the 5th, 25th, 50th, 75th and 95th percentile, the maximum.
        edges: Bounds of the histogram's bins, one more than there are bins.
        histogram: Documents of each bin.
    """

    count: int
    mean: float
    deviation: float
    quantiles: list[float]
    edges: list[float]
    histogram: list[int]

    @classmethod
    def of(cls, radii: NDArray[np.float64]) -> RadiusReport:
        """Summarise `(N,)` radii, at least one."""
        counts, edges = np.histogram(radii, bins=_BINS)
        quantiles = np.quantile(radii, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        return cls(len(radii), float(radii.mean()), float(radii.std()), quantiles.tolist(), edges.tolist(),
                   counts.tolist())  # fmt: skip
