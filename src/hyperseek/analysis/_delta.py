"""Gromov's delta: how far distances are from those of a tree.

Of four points, take the three sums of opposite distances; delta is half the difference of the two largest. A tree has
0, the hyperbolic plane of curvature -1 at most ln 2, and a flat space as much as its diameter allows. So what says
something is delta relative to the diameter: 2 delta / diameter lies in 0 to 1 and is small where distances are those of
a tree. Shapes: `n` points of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperseek.errors import InputError

Floats = NDArray[np.float64]

_CHUNK = 1 << 18  # quadruples at a time: some 20 MiB


@dataclass(frozen=True, slots=True)
class DeltaEstimate:
    """Delta-hyperbolicity of a sample; the greatest is a lower bound of that of all points.

    Attributes:
        points: Points of the sample.
        diameter: Their greatest distance.
        bases: For so many of the points every quadruple that holds one of them was looked at.
        greatest: Greatest delta of these quadruples.
        relative: Twice that, divided by the diameter; in 0 to 1.
        quadruples: Random quadruples that the mean is over.
        mean: Mean delta.
        mean_relative: Twice that, divided by the diameter.
        seed: Of both samples.
    """

    points: int
    diameter: float
    bases: int
    greatest: float
    relative: float
    quadruples: int
    mean: float
    mean_relative: float
    seed: int


def delta_hyperbolicity(
    distances: Floats, *, bases: int = 10, quadruples: int = 1_000_000, seed: int = 0
) -> DeltaEstimate:
    """Estimate Gromov's delta by the four-point condition.

    Args:
        distances: `(n, n)`, symmetric, 0 on the diagonal; `n` of some hundreds.
        bases: Points of which all quadruples are looked at, which takes `n³` operations each.
        quadruples: Random quadruples for the mean.
        seed: Of the choice of both.

    Returns:
        Greatest and mean delta.

    Raises:
        InputError: There are fewer than four points, or all are one.
    """
    count = len(distances)
    diameter = float(distances.max()) if count else 0.0
    if count < 4 or diameter == 0:
        raise InputError(f"delta needs at least 4 points that are not all one; the sample has {count}")
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(count)[:bases]
    greatest = max(0.0, *(_delta_at(distances, int(base)) for base in chosen))
    total = 0.0
    for start in range(0, quadruples, _CHUNK):
        total += float(_deltas(distances, _quadruples(count, min(_CHUNK, quadruples - start), generator)).sum())
    mean = total / quadruples
    return DeltaEstimate(
        points=count,
        diameter=diameter,
        bases=len(chosen),
        greatest=greatest,
        relative=2 * greatest / diameter,
        quadruples=quadruples,
        mean=mean,
        mean_relative=2 * mean / diameter,
        seed=seed,
    )


def _delta_at(distances: Floats, base: int) -> float:
    """Return the greatest delta of all quadruples that hold a point: max over x, y, z of min((x,z), (z,y)) - (x,y)."""
    products = (distances[base][:, None] + distances[base][None] - distances) / 2
    worst, least = 0.0, np.empty_like(products)
    for row in products:
        np.minimum(products, row, out=least)
        worst = max(worst, float((least.max(axis=1) - row).max()))
    return worst


def _quadruples(count: int, number: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw `(4, number)` points, of which no two of a column are one: each shifts behind those before it."""
    drawn = np.stack([generator.integers(0, count - taken, number) for taken in range(4)])
    for place in range(1, 4):
        for earlier in np.sort(drawn[:place], axis=0):
            drawn[place] += drawn[place] >= earlier
    return drawn


def _deltas(distances: Floats, quadruples: NDArray[np.int64]) -> Floats:
    a, b, c, d = quadruples
    sums = np.stack(
        [distances[a, b] + distances[c, d], distances[a, c] + distances[b, d], distances[a, d] + distances[b, c]]
    )
    sums.sort(axis=0)
    deltas: Floats = (sums[2] - sums[1]) / 2
    return deltas
