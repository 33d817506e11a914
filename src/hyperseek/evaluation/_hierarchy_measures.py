"""Measures of how points follow a hierarchy: ancestors told from others by a threshold, and the order of their radii.

Pairs are classified as HiT (arXiv 2401.11374) does. The score of a child and a candidate is
-(distance + λ (radius of the candidate - radius of the child)); at least the threshold means ancestor. Both λ and the
threshold are chosen on validation pairs alone: the best F1 there, of equal ones the smaller λ. A λ of 0 is a weight
like any other. Intervals draw groups, since pairs of one child are not independent.

Radii are compared with depth by their correlation, and within pairs of a node and an ancestor. Intervals of ordered
pairs draw ancestors, each with all nodes below it: a few general ones are in most pairs, and with nodes drawn instead,
the luck of their radii would look certain.

Shapes: `n` pairs or nodes, `g` groups of pairs, one per child, `p` pairs of a node and an ancestor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._ancestors import HOP_RANGES, Hierarchy, hop_range
from hyperseek._bounded import existing_file
from hyperseek._config import Config
from hyperseek.data.reading import Faults, json_lines
from hyperseek.errors import DataError, InputError, require
from hyperseek.evaluation._significance import RESAMPLES, Floats, percentiles, resampled
from hyperseek.evaluation.hierarchy_rankings import LevelPair
from hyperseek.scoring import Space

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 3.0, 5.0)
"""The values of λ that are tried unless others are given."""

Labelled: TypeAlias = "dict[str, dict[str, bool]]"
"""For each child its candidates, and whether each is an ancestor."""


class EntityPairs:
    """Pairs of a child and a candidate, and what decides whether it is an ancestor.

    Args:
        distances: `(n,)`.
        radii: `(n, 2)`: of the child and of the candidate; in spaces without radii all equal.
        labels: `(n,)`: whether the candidate is an ancestor.
        groups: `(n,)` number of each pair's child, from 0.

    Raises:
        InputError: There is no pair of one of the two classes, or a number is not finite.
    """

    def __init__(self, distances: Floats, radii: Floats, labels: NDArray[np.bool_], groups: NDArray[np.int64]) -> None:
        positive = int(labels.sum())
        if positive in (0, len(labels)):
            raise InputError(
                f"pairs need ancestors and others to be told apart; {positive} of these {len(labels)} are ancestors"
            )
        if not (np.isfinite(distances).all() and np.isfinite(radii).all()):
            raise InputError("distances and radii of pairs must be finite numbers")
        self.distances, self.labels, self.groups = distances, labels.astype(bool), groups
        self.outward: Floats = radii[:, 1] - radii[:, 0]

    def scores(self, weight: float) -> Floats:
        """Return the `(n,)` scores with a λ."""
        scores: Floats = -(self.distances + weight * self.outward)
        return scores


class PairScores(Config):
    """How well ancestors are told from others.

    Attributes:
        weight: λ, as chosen on validation pairs or given.
        threshold: The least score of an ancestor, as chosen on validation pairs.
        validation_f1: F1 of the validation pairs.
        pairs: Pairs that the values below are of; none of them was used to choose.
        ancestors: How many of them are ancestors.
        precision: Share of the ancestors among those classified as such; 0 if there are none.
        recall: Share of ancestors that are classified as such.
        f1: Harmonic mean of the two.
        precision_interval: Bootstrap interval.
        recall_interval: Bootstrap interval.
        f1_interval: Bootstrap interval.
    """

    weight: float
    threshold: float
    validation_f1: float
    pairs: int
    ancestors: int
    precision: float
    recall: float
    f1: float
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    f1_interval: tuple[float, float]


def read_entity_pairs(folder: str | os.PathLike[str]) -> tuple[Labelled, Labelled]:
    """Read pairs for validation and test, as `hyperseek prepare hierarchy ... entities=id` writes them for HiT's tasks.

    Args:
        folder: With `validation.jsonl` and `test.jsonl`, plain or `.gz`: objects of `child`, `parent` and `negative`.

    Returns:
        For each child its candidates, and whether each is an ancestor; for validation and for the test.

    Raises:
        DataError: A file is missing, empty, or has a line that is no such object.
    """
    found = []
    for split in ("validation", "test"):
        names = [Path(folder) / f"{split}.jsonl.gz", Path(folder) / f"{split}.jsonl"]
        path = next((name for name in names if name.is_file()), names[0])
        listed: Labelled = {}
        for line, row in json_lines(existing_file(path), Faults()):
            values = [row.get(name) for name in ("child", "parent", "negative")]
            child, parent, negative = (str(value) for value in values)
            if not all(isinstance(value, str) and value for value in values):
                raise DataError("a pair has the ids child, parent and negative", path=path, line=line)
            listed.setdefault(child, {})[parent] = True
            listed[child].setdefault(negative, False)
        if not listed:
            raise DataError("contains no pairs", path=path)
        found.append(listed)
    return found[0], found[1]


def entity_pairs(
    space: Space, points: Tensor, listed: Sequence[tuple[int, Sequence[int], Sequence[bool]]], levels: LevelPair
) -> EntityPairs:
    """Measure distances and radii of children and candidates.

    Args:
        space: Where the points lie.
        points: `(n, w)` stored points.
        listed: For each child its row, the rows of its candidates, and whether each of them is an ancestor.
        levels: Of children and of candidates.

    Returns:
        The pairs, one group for each child.

    Raises:
        InputError: As for `EntityPairs`.
    """
    one = space.one_level
    children, candidates = (space.at_level(points, level) for level in levels)
    apart, radii = [], []
    for row, others, _ in listed:
        own, beside = children[row : row + 1].double(), candidates[list(others)].double()
        apart.append(one.distances(own, beside)[0])
        # In spaces without radii all are equal, and no weight changes anything.
        both = torch.ones(2, len(others)) if one.unit_norm else torch.stack(
            [one.radii(own).expand(len(others)), one.radii(beside)]
        )  # fmt: skip
        radii.append(both.T.double())
    return EntityPairs(
        torch.cat(apart).double().numpy(),
        torch.cat(radii).numpy(),
        np.concatenate([np.array(labels, bool) for _, _, labels in listed]),
        np.repeat(np.arange(len(listed)), [len(others) for _, others, _ in listed]),
    )


def classify_pairs(
    validation: EntityPairs,
    test: EntityPairs,
    *,
    weights: float | Sequence[float] = WEIGHTS,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairScores:
    """Choose λ and the threshold on some pairs, and classify others.

    Args:
        validation: What to choose on.
        test: What to classify.
        weights: The values of λ to choose from; a single number is used as it is. At least 0.
        confidence: Of the intervals.
        resamples: Of the intervals.
        seed: Of the intervals.

    Returns:
        Precision, recall and F1 of the test pairs.

    Raises:
        InputError: There are no weights, or one is negative or not finite.
    """
    tried = [float(weights)] if isinstance(weights, int | float) else [float(weight) for weight in weights]
    if not tried or not all(0 <= weight < np.inf for weight in tried):
        raise InputError(f"the weights of radii must be at least one number of at least 0, not {tried}")
    best, negative, threshold = max(
        (f1, -weight, threshold)
        for weight in tried
        for f1, threshold in [best_threshold(validation.scores(weight), validation.labels)]
    )
    weight = abs(negative)  # -0.0 too
    chosen = test.scores(weight) >= threshold
    right, wrong, missed = (
        np.bincount(test.groups, mask.astype(float))
        for mask in (chosen & test.labels, chosen & ~test.labels, ~chosen & test.labels)
    )
    counts = np.stack([right, wrong, missed], axis=1)  # (g, 3)
    [values] = _rates(counts.sum(axis=0)[None])
    draws = resampled(len(counts), resamples=resamples, seed=seed)
    intervals = percentiles(np.concatenate([_rates(times @ counts) for times in draws]), confidence)
    return PairScores(
        weight=weight,
        threshold=threshold,
        validation_f1=best,
        pairs=len(test.labels),
        ancestors=int(test.labels.sum()),
        precision=float(values[0]),
        recall=float(values[1]),
        f1=float(values[2]),
        precision_interval=tuple(intervals[0].tolist()),
        recall_interval=tuple(intervals[1].tolist()),
        f1_interval=tuple(intervals[2].tolist()),
    )


def best_threshold(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the best F1 that a threshold reaches, and the threshold: midway to the next lower score.

    Args:
        scores: `(n,)`, higher means ancestor; equal ones fall on one side together.
        labels: `(n,)`, at least one true.

    Returns:
        F1, in 0 to 1, and the highest threshold that reaches it.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    right = np.cumsum(labels[order])
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + labels.sum())
    f1[:-1][sorted_scores[:-1] == sorted_scores[1:]] = -1  # a threshold cannot part equal scores
    place = int(f1.argmax())
    lower = sorted_scores[place + 1] if place + 1 < len(scores) else sorted_scores[place]
    middle = (sorted_scores[place] + lower) / 2
    # Between neighbouring floating-point numbers there is no middle.
    return float(f1[place]), float(middle if middle > lower else sorted_scores[place])


def _rates(counts: Floats) -> Floats:
    """Return the `(m, 3)` precision, recall and F1 of `(m, 3)` right, wrong and missed pairs."""
    right, wrong, missed = counts.T
    found, wanted = right + wrong, right + missed
    rates = [np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in
             ((right, found), (right, wanted), (2 * right, found + wanted))]  # fmt: skip
    result: Floats = np.stack(rates, axis=1)
    return result


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
