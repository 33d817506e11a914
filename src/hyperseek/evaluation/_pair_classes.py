"""Is one entity an ancestor of another? Pairs classified by a score and a threshold, as HiT (arXiv 2401.11374) does.

The score of a child and a candidate is -(distance + λ (radius of the candidate - radius of the child)); at least the
threshold means ancestor. Both λ and the threshold are chosen on validation pairs alone: the best F1 there, of equal
ones the smaller λ. A λ of 0 is a weight like any other.

Shapes: `n` pairs, `g` groups of pairs, one per child. Intervals draw groups, since pairs of one child are not
independent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._bounded import existing_file
from hyperseek._config import Config
from hyperseek.data.reading import Faults, json_lines
from hyperseek.errors import DataError, InputError
from hyperseek.evaluation._significance import RESAMPLES, Floats, percentiles, resampled
from hyperseek.evaluation.level_rankings import LevelPair
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
