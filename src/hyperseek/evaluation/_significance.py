"""Paired tests and intervals over queries.

Shapes: `n` queries, `m` columns that are tested one by one (pairs of measure and system). `differences` is system
minus baseline, float64 `(n, m)`. All tests are two-sided. Resampling is seeded and draws the same queries or signs for
all columns, so a column's result does not depend on the others.

Differences that come from the order of floating-point sums do not count: `settled` makes them 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hyperseek._order import ROUNDING, without_rounding
from hyperseek.errors import InputError, UnknownNameError, require

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK = 1 << 21  # random numbers drawn at once: 16 MB


def permutation_test(differences: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Test by flipping signs: how often would the mean difference be at least as far from 0 if the systems were equal?

    If a column has so few nonzero differences that there are at most `resamples` sign patterns, all are
    tried and the value is exact. Otherwise random ones are drawn, and the observed one is counted among them, so that
    the value is never 0.

    Args:
        differences: `(n, m)`.
        resamples: How many sign patterns to try.
        seed: Seed of the random patterns.

    Returns:
        `(m,)` p-values, in 0 to 1.
    """
    # Mathematically equal sums may differ in the last bits.
    bars = np.abs(differences.sum(axis=0)) - 1e-9 * np.abs(differences).sum(axis=0)
    extreme = np.zeros(differences.shape[1])
    generator = np.random.default_rng(seed)
    for rows in _chunks(resamples, len(differences)):
        signs = 2.0 * generator.integers(0, 2, size=(rows, len(differences))) - 1
        extreme += np.count_nonzero(np.abs(signs @ differences) >= bars, axis=0)
    p_values: Floats = (extreme + 1) / (resamples + 1)
    for column, bar in enumerate(bars):
        values = differences[differences[:, column] != 0, column]  # flipping the sign of 0 has no effect
        if len(values) < resamples.bit_length():  # at most `resamples` patterns; 2.0**1024 would overflow
            patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
            p_values[column] = np.mean(np.abs((2.0 * patterns - 1) @ values) >= bar)
    return p_values


def t_test(differences: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Student's paired t-test; 1 for a single query or no difference. `resamples` and `seed` are ignored."""
    if len(differences) < 2:
        return np.ones(differences.shape[1])
    stats = require("scipy.stats", extra="eval")
    error = differences.std(axis=0, ddof=1) / np.sqrt(len(differences))
    mean = np.abs(differences.mean(axis=0))
    # An equal difference at every query makes the statistic infinite, and no difference makes it 0 / 0.
    statistic = np.divide(mean, error, out=np.where(mean > 0, np.inf, 0.0), where=error > 0)
    return np.asarray(2 * stats.t.sf(statistic, df=len(differences) - 1), dtype=np.float64)


def wilcoxon_test(differences: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Wilcoxon's signed-rank test without zeros; 1 if nothing differs. `resamples` and `seed` are ignored."""
    stats = require("scipy.stats", extra="eval")
    # Mathematically equal sizes share a rank.
    others = [np.sign(column) * without_rounding(np.abs(column)) for column in differences.T]
    others = [column[column != 0] for column in others]
    return np.array([float(stats.wilcoxon(column).pvalue) if len(column) else 1.0 for column in others])


TESTS: Mapping[str, Callable[..., Floats]] = {
    "permutation": permutation_test,
    "t": t_test,
    "wilcoxon": wilcoxon_test,
}
"""The paired tests by name."""


def paired_test(
    name: str, differences: Sequence[float] | Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Run a paired test.

    Args:
        name: One of `TESTS`.
        differences: `(n, m)`, or `(n,)` for one column; system minus baseline, at least one query. See `settled`.
        resamples: How many patterns a resampling test tries, at least 1.
        seed: Seed of a resampling test.

    Returns:
        `(m,)` two-sided p-values.

    Raises:
        UnknownNameError: There is no such test.
        InputError: There are no queries.
    """
    if name not in TESTS:
        raise UnknownNameError("paired test", name, TESTS)
    columns = settled(differences)
    largest = np.abs(columns).max(axis=0)
    # The tests are invariant to scale, and squares of such numbers would overflow.
    return TESTS[name](columns / np.where(largest > 1e100, largest, 1.0), resamples=resamples, seed=seed)


def settled(differences: Sequence[float] | Floats) -> Floats:
    """Make differences of measures 0 if they are rounding: up to 1e-12 of their column's largest, or of 1.

    Args:
        differences: `(n, m)`, or `(n,)` for one column.

    Returns:
        `(n, m)`.

    Raises:
        InputError: There are no queries, or a difference is not a finite number.
    """
    columns = _columns(differences)
    sizes = np.abs(columns)
    result: Floats = np.where(sizes <= ROUNDING * np.maximum(sizes.max(axis=0), 1), 0.0, columns)
    return result


def bootstrap_intervals(
    values: Sequence[float] | Floats, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Return percentile bootstrap intervals of the means.

    Args:
        values: `(n, m)`, or `(n,)` for one column; differences, or one system's values.
        confidence: Fraction of intervals that contain the true mean, between 0 and 1.
        resamples: How many samples to draw with replacement, at least 1.
        seed: Seed of the draws.

    Returns:
        `(m, 2)`: lower and upper ends.

    Raises:
        InputError: `confidence` is not between 0 and 1, or there are no queries.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, not {confidence}; 0.95 is usual")
    columns = _columns(values)
    means = [times @ columns / len(columns) for times in resampled(len(columns), resamples=resamples, seed=seed)]
    return percentiles(np.concatenate(means), confidence)


def resampled(count: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """Draw bootstrap samples, for statistics that are computed from how often each query was drawn.

    Args:
        count: How many queries to draw from, and to draw, at least 1.
        resamples: How many samples, at least 1.
        seed: Seed of the draws.

    Yields:
        `(r, count)`: how often each query is in each of the next `r` samples. One matrix product with them replaces
        gathering the values of every sample.
    """
    generator = np.random.default_rng(seed)
    for rows in _chunks(resamples, count):
        drawn = generator.integers(0, count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times.astype(np.float64)


def percentiles(samples: Floats, confidence: float) -> Floats:
    """Return the `(m, 2)` percentile intervals of `(resamples, m)` values of a statistic."""
    tail = (1 - confidence) / 2
    return np.asarray(np.quantile(samples, [tail, 1 - tail], axis=0).T, dtype=np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons by Holm's step-down method, in the given order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [1.0] * len(p_values)
    floor = 0.0
    for step, place in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - step) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def _columns(values: Sequence[float] | Floats) -> Floats:
    array: Floats = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not len(array):
        raise InputError(f"needs one number per query, for at least one query, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        query = int((~np.isfinite(array)).any(axis=1).argmax())
        raise InputError(f"needs finite numbers, but query {query} (from 0) has {array[query].tolist()!s:.80}")
    return array


def _chunks(rows: int, width: int) -> Iterator[int]:
    if rows < 1:
        raise InputError(f"resamples must be at least 1, not {rows}; 10,000 is usual")
    step = max(1, _CHUNK // width)
    for start in range(0, rows, step):
        yield min(step, rows - start)
