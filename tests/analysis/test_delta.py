"""Gromov's delta beside its definition and spaces where it is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import shortest_path

from hyperseek import HyperseekError
from hyperseek.analysis import delta_hyperbolicity
from hyperseek.analysis._radii import distances
from hyperseek.scoring import Space


def disk(kind: str, radius: float, count: int = 150) -> np.ndarray:
    generator = np.random.default_rng(0)
    angle, length = generator.uniform(0, 2 * np.pi, count), radius * np.sqrt(generator.random(count))
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if kind == "euclidean":
        points = torch.from_numpy(directions * length[:, None])
    else:
        points = torch.from_numpy(np.column_stack([directions, length, np.zeros(count)]))
    return distances(Space(kind, 2), points, points).numpy()


def by_definition(apart: np.ndarray) -> tuple[float, float]:
    """Greatest and mean delta of all quadruples."""
    deltas = []
    for a, b, c, d in itertools.combinations(range(len(apart)), 4):
        sums = sorted([apart[a, b] + apart[c, d], apart[a, c] + apart[b, d], apart[a, d] + apart[b, c]])
        deltas.append((sums[2] - sums[1]) / 2)
    return max(deltas), float(np.mean(deltas))


def test_a_tree_has_none() -> None:
    generator = np.random.default_rng(0)
    weights = np.zeros((80, 80))
    for node in range(1, 80):
        weights[node, generator.integers(node)] = generator.uniform(0.5, 3)
    found = delta_hyperbolicity(shortest_path(weights, directed=False), quadruples=20_000)
    assert found.greatest == pytest.approx(0, abs=1e-12)
    assert found.mean == pytest.approx(0, abs=1e-12)


def test_a_square_has_what_one_computes_by_hand() -> None:
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], dtype=float)
    apart = np.linalg.norm(square[:, None] - square[None], axis=-1)
    found = delta_hyperbolicity(apart, quadruples=100)
    assert found.greatest == pytest.approx(math.sqrt(2) - 1)
    assert found.mean == pytest.approx(math.sqrt(2) - 1)
    assert found.relative == pytest.approx(2 - math.sqrt(2))
    assert (found.points, found.bases, found.diameter) == (4, 4, pytest.approx(math.sqrt(2)))


def test_all_bases_give_the_greatest_of_all_quadruples() -> None:
    apart = disk("euclidean", 1.0, 14)
    greatest, mean = by_definition(apart)
    found = delta_hyperbolicity(apart, bases=14, quadruples=200_000)
    assert found.greatest == pytest.approx(greatest, abs=1e-12)
    assert found.mean == pytest.approx(mean, rel=0.02)


def test_hyperbolic_planes_stay_below_ln_2_and_flat_disks_do_not() -> None:
    hyperbolic = delta_hyperbolicity(disk("lorentz", 10.0))
    flat = delta_hyperbolicity(disk("euclidean", 10.0))
    assert 0.9 * math.log(2) < hyperbolic.greatest <= math.log(2) + 1e-9
    assert flat.greatest > 3
    assert hyperbolic.relative < 0.1 < 0.4 < flat.relative
    assert hyperbolic.mean_relative < flat.mean_relative / 2


def test_the_same_seed_gives_the_same_numbers() -> None:
    apart = disk("euclidean", 1.0)
    measure: Callable[[int], object] = lambda seed: delta_hyperbolicity(apart, bases=3, quadruples=1000, seed=seed)  # noqa: E731
    assert measure(1) == measure(1)
    assert measure(1) != measure(2)


@pytest.mark.parametrize("apart", [np.zeros((3, 3)), np.zeros((9, 9))])
def test_too_few_points_are_said(apart: np.ndarray) -> None:
    with pytest.raises(HyperseekError, match="at least 4 points"):
        delta_hyperbolicity(apart)
