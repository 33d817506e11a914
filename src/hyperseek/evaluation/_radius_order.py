"""Do radii order the general before the specific? Their correlation with depth, and the order of ancestors.

Intervals of ordered pairs draw ancestors, each with all nodes below it: a few general ones are in most pairs, and with
nodes drawn instead, the luck of their radii would look certain. Shapes: `n` nodes, `p` pairs of a node and an ancestor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hyperseek._ancestors import HOP_RANGES, Hierarchy, hop_range
from hyperseek._config import Config
from hyperseek.errors import require
from hyperseek.evaluation._significance import RESAMPLES, Floats, percentiles, resampled

Rows = NDArray[np.int64]


class OrderedShare(Config):
    """Pairs of a node and an ancestor in the right order.

    Attributes:
        pairs: How many pairs there are.
        share: Share of those whose ancestor is nearer to the origin, 0 to 1; equally far counts as one half.
        interval: Its bootstrap interval.
    """

    pairs: int
    share: float
    interval: tuple[float, float]


class RadiusOrder(Config):
    """How well radii follow a hierarchy.

    Attributes:
        level: The level whose radii these are; 1 in spaces without levels.
        nodes: Nodes of the hierarchy that are documents.
        spearman: Rank correlation of radius and depth, -1 to 1.
        spearman_interval: Its bootstrap interval; ranks are those among all nodes.
        ordered: Pairs of all hops.
        by_hops: The same by range of hops.
    """

    level: int
    nodes: int
    spearman: float
    spearman_interval: tuple[float, float]
    ordered: OrderedShare
    by_hops: dict[str, OrderedShare]


class AncestorPairs:
    """All pairs of a document and an ancestor that is a document.

    Args:
        hierarchy: Of the ids.
        names: Ids of the documents; others are left out.

    Attributes:
        names: The nodes that are documents, in the order given.
        place: Their places, by id.
        depths: `(n,)` of the nodes.
        children: `(p,)` places among the nodes.
        ancestors: `(p,)` likewise.
        ranges: `(p,)` places of the pairs' ranges of hops in `HOP_RANGES`.
    """

    def __init__(self, hierarchy: Hierarchy, names: Sequence[str]) -> None:
        known = hierarchy.depths
        self.names = [name for name in names if name in known]
        self.depths: Floats = np.array([known[name] for name in self.names], np.float64)
        self.place = place = {name: row for row, name in enumerate(self.names)}
        ranges = {name: row for row, name in enumerate(HOP_RANGES)}
        found = [
            (place[name], place[ancestor], ranges[hop_range(hops)])
            for name in self.names
            for ancestor, hops in hierarchy.ancestors(name).items()
            if ancestor in place
        ]
        pairs: Rows = np.array(found, np.int64).reshape(-1, 3)
        self.children, self.ancestors, self.ranges = pairs.T


def radius_order(
    pairs: AncestorPairs,
    radii: Floats,
    *,
    level: int = 1,
    rounding: float = 1e-6,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RadiusOrder | None:
    """Compare radii with a hierarchy.

    Args:
        pairs: Nodes and their ancestors, at least one pair.
        radii: `(n,)` of the nodes, distances from the origin or norms.
        level: To record.
        rounding: Relative differences up to it are none.
        confidence: Of the intervals.
        resamples: Of the intervals.
        seed: Of the intervals.

    Returns:
        The comparison; None where all radii are equal, or all depths.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if np.ptp(radii) <= rounding * radii.max() or np.ptp(pairs.depths) == 0:
        return None
    settings = {"confidence": confidence, "resamples": resamples, "seed": seed}
    child, ancestor = radii[pairs.children], radii[pairs.ancestors]
    equal = np.abs(child - ancestor) <= rounding * np.maximum(child, ancestor)
    right = np.where(equal, 0.5, ancestor < child)
    shares = {}
    for place, name in enumerate(HOP_RANGES):
        chosen = pairs.ranges == place
        if chosen.any():
            shares[name] = _share(pairs.ancestors[chosen], right[chosen], settings)
    rank = require("scipy.stats", extra="eval").rankdata
    ranks = np.stack([rank(pairs.depths), rank(_groups(radii, rounding))], axis=1)
    ranks = (ranks - ranks.mean(axis=0)) / ranks.std(axis=0)
    return RadiusOrder(
        level=level,
        nodes=len(pairs.names),
        spearman=float((ranks[:, 0] * ranks[:, 1]).mean()),
        spearman_interval=_correlation_interval(ranks, settings),
        ordered=_share(pairs.ancestors, right, settings),
        by_hops=shares,
    )


def _groups(radii: Floats, rounding: float) -> Rows:
    """Number radii from the least, those with the same number where they differ by rounding."""
    order = np.argsort(radii)
    ordered, starts = radii[order], [0]
    while starts[-1] < len(radii):
        starts.append(int(np.searchsorted(ordered, ordered[starts[-1]] * (1 + rounding), side="right")))
    groups = np.empty(len(radii), np.int64)
    groups[order] = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return groups


def _share(ancestors: Rows, right: Floats, settings: Mapping[str, float]) -> OrderedShare:
    _, group = np.unique(ancestors, return_inverse=True)
    counts = np.stack([np.bincount(group, right), np.bincount(group).astype(float)], axis=1)
    sums = np.concatenate([times @ counts for times in _draws(len(counts), settings)])
    [ends] = percentiles((sums[:, 0] / sums[:, 1])[:, None], settings["confidence"])
    return OrderedShare(pairs=len(right), share=float(right.mean()), interval=tuple(ends.tolist()))


def _correlation_interval(ranks: Floats, settings: Mapping[str, float]) -> tuple[float, float]:
    x, y = ranks.T
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1)
    sums = np.concatenate([times @ moments for times in _draws(len(moments), settings)]) / len(moments)
    mean_x, mean_y, square_x, square_y, product = sums.T
    spread = np.sqrt(np.maximum((square_x - mean_x**2) * (square_y - mean_y**2), 0))
    # A sample of few nodes may have one depth alone, and no correlation.
    values = np.divide(product - mean_x * mean_y, spread, out=np.zeros_like(spread), where=spread > 0)
    [(low, high)] = percentiles(values[:, None], settings["confidence"])
    return float(low), float(high)


def _draws(count: int, settings: Mapping[str, float]) -> Iterator[Floats]:
    return resampled(count, resamples=int(settings["resamples"]), seed=int(settings["seed"]))
