"""Is one entity an ancestor of another? Pairs classified by a score and a threshold, as HiT (arXiv 2401.11374) does.

The score of a child and a candidate is -(distance + λ (radius of the candidate - radius of the child)); at least the
threshold means ancestor. Both λ and the threshold are chosen on validation pairs alone: the best F1 there, of equal
ones the smaller λ. A λ of 0 is a weight like any other.

Shapes: `n` pairs, `g` groups of pairs, one per child. Intervals draw groups, since pairs of one child are not
independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyperseek._config import Config
from hyperseek.errors import InputError
from hyperseek.evaluation._significance import RESAMPLES, Floats, percentiles, resampled

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 3.0, 5.0)
"""The values of λ that are tried unless others are given."""


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
