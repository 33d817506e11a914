"""Do radii rise with specificity? Rank correlation, and the mean radius of each level.

Shapes: `N` documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperseek._errors import InputError, require

Floats = NDArray[np.float64]

_MOST_LEVELS = 32
_GROUPS = 10


@dataclass(frozen=True, slots=True)
class Level:
    """Documents of one specificity, or of a range of them.

    Attributes:
        low: Least specificity.
        high: Greatest; the same for a single one.
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
        by: What was taken for specificity.
        count: Documents that have a value.
        spearman: Rank correlation of radius and specificity, in -1 to 1; NaN where one of them is constant.
        p_value: Of the hypothesis that there is none, two-sided.
        levels: From the most general.
    """

    by: str
    count: int
    spearman: float
    p_value: float
    levels: list[Level]


def radius_by_specificity(radii: Floats, values: Floats, *, by: str) -> SpecificityReport:
    """Compare radii with specificity.

    Up to 32 distinct values are levels of their own; more are cut into ten groups of about as many documents.

    Args:
        radii: `(N,)`.
        values: `(N,)`, higher is more specific; NaN where there is none.
        by: What the values are, for people.

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
    found = None if constant else require("scipy.stats", extra="eval").spearmanr(values, radii)
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


def _level(radii: Floats, values: Floats) -> Level:
    return Level(float(values.min()), float(values.max()), len(radii), float(radii.mean()), float(radii.std()))
