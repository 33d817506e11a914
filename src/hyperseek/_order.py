"""The one order of rankings: scores descending, equal ones in the order they stand in.

An index, BM25 and a scan give documents in the order of the corpus, and a file in the order of its lines; whatever
ranks them again keeps that order among equals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-12
"""Relative differences up to this come from the order of float64 sums: such numbers are equal."""


def best_first(ranking: Mapping[str, float]) -> list[str]:
    """Return the documents of a ranking, best first; equal scores in the ranking's own order."""
    return sorted(ranking, key=ranking.__getitem__, reverse=True)  # stable, reversed too


def best_places(scores: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.intp]:
    """Return the places of the best `count` (at least 1) of `(n,)` scores, best first; equal ones by place."""
    if count < len(scores):
        last = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= last)  # all that tie with the last one, until the sort has put them in order
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:count]


def without_rounding(values: npt.NDArray[np.float64], *, scale: float | None = None) -> npt.NDArray[np.float64]:
    """Make numbers equal that differ by rounding alone.

    Args:
        values: `(n,)`, finite.
        scale: Largest magnitude of what they were computed from; None for their own.

    Returns:
        `(n,)`: of neighbours closer than `ROUNDING` times the scale all have the largest's value.
    """
    if len(values) < 2:
        return values
    largest = float(np.abs(values).max()) if scale is None else scale
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    apart = falling[:-1] - falling[1:] > ROUNDING * largest
    # Each stands where its group of equals begins; a grid instead would part equals that lie beside one of its lines.
    first = np.maximum.accumulate(np.where(np.concatenate([[True], apart]), np.arange(len(values)), 0))
    result = np.empty_like(values)
    result[order] = falling[first]
    return result
