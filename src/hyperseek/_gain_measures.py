"""The three measures that validation needs, as trec_eval defines them.

The evaluation layer has all measures, and takes nDCG from here; it comes after this one, and validation runs too often
to build run files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hyperseek._errors import UnknownNameError
from hyperseek._relevance import is_relevant

_NAMES = ("nDCG", "RR", "R")


def measure(metric: str, ranked: Sequence[int], judged: Sequence[int]) -> float:
    """Measure the ranking of one query.

    Args:
        metric: `nDCG@K` (linear gain), `RR@K` or `R@K`; grades of 1 and more are relevant.
        ranked: Grades of the documents found, best first; 0 where a document is not judged.
        judged: Grades of all judged documents, at least one of them relevant.

    Returns:
        A number in [0, 1].

    Raises:
        UnknownNameError: It is another metric.
    """
    name, depth = cut_off(metric)
    top = ranked[:depth]
    if name == "nDCG":
        return normalized_gain(top, judged, depth)
    if name == "RR":
        return next((1 / rank for rank, grade in enumerate(top, start=1) if is_relevant(grade)), 0.0)
    return sum(map(is_relevant, top)) / sum(map(is_relevant, judged))


def cut_off(metric: str) -> tuple[str, int]:
    """Split `NAME@K` into name and K; UnknownNameError where it is none of the three."""
    name, at, depth = metric.partition("@")
    if name not in _NAMES or not at or not depth.isdigit() or int(depth) < 1:
        raise UnknownNameError("validation metric", metric, [f"{known}@10" for known in _NAMES])
    return name, int(depth)


def normalized_gain(ranked: Sequence[float], judged: Sequence[float], depth: int | None) -> float:
    """Return nDCG with linear gain: the discounted gains of a ranking over those of the best one.

    Args:
        ranked: Gains of the documents found, best first; 0 where a document is not judged.
        judged: Gains of all judged documents.
        depth: How many documents of a ranking count; None for all.

    Returns:
        A number in [0, 1]; 0 where no gain is above 0.
    """
    # Relative to the largest, so that no gain is too large for a float64.
    largest = max(judged, default=0)
    if largest <= 0:
        return 0.0
    best = _discounted(sorted(judged, reverse=True)[:depth], largest)
    return _discounted(ranked[:depth], largest) / best


def _discounted(gains: Sequence[float], largest: float) -> float:
    return math.fsum(max(gain, 0) / largest / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
