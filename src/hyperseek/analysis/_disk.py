"""Points of hyperbolic space on a disk: every radius is kept, and angles are chosen.

Of a point's polar form only the direction has to lose dimensions. `project` keeps the plane through the origin in which
the logarithmic map (direction times radius) varies most, a principal component analysis in the tangent space of the
origin that is not centred, so that the origin stays where it is. In two dimensions it is a rotation and loses nothing.
`fan` takes angles from a hierarchy instead: each subtree has a sector as wide as it has leaves.

Median radii of 5 lie within 1.4 per cent of the rim of the Poincaré disk. So pictures scale radii: what is drawn at
tanh(scale * radius / 2) is the disk of a space of another curvature. Shapes: `n` points, `w` numbers of a stored one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek import geometry
from hyperseek.analysis._radii import HYPERBOLIC
from hyperseek.errors import InputError, require
from hyperseek.scoring import Space

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_PAIRS = 20_000
_RIM = 0.93  # where a picture puts the point that 95 per cent of all are nearer than


@dataclass(frozen=True, slots=True)
class DiskFit:
    """How true a picture is.

    Attributes:
        layout: Where angles come from: `"projection"` or `"hierarchy"`.
        variance: Share of the tangent variance that lies in the picture's plane, in 0 to 1; None for a hierarchy.
        spearman: Rank correlation of distances in the picture, radii not scaled, and in the space.
        pairs: Random pairs of points that this is over.
        scale: What radii are multiplied by before they are drawn.
    """

    layout: str
    variance: float | None
    spearman: float
    pairs: int
    scale: float


def project(space: Space, vectors: Tensor) -> tuple[Floats, Floats, float]:
    """Project points to a disk.

    Args:
        space: A hyperbolic space.
        vectors: `(n, w)` stored points, at least one.

    Returns:
        Angles `(n,)` in -pi to pi, radii `(n,)` in units of the curvature radius, and the share of the tangent
        variance in the plane, in 0 to 1.

    Raises:
        InputError: The space is flat.
    """
    if space.kind not in HYPERBOLIC:
        raise InputError(
            f"a Poincaré disk shows points of hyperbolic spaces ({', '.join(HYPERBOLIC)}), not of a {space.kind!r} one"
        )
    directions, rho = geometry.split_polar(vectors.double())
    tangent = (directions * rho).numpy()
    values, axes = np.linalg.eigh(tangent.T @ tangent)
    axes = axes[:, ::-1][:, :2]
    # Eigenvectors have no sign of their own; the mean points to the right and up, so that pictures do not flip.
    axes = axes * np.where(tangent.sum(axis=0) @ axes < 0, -1, 1)
    flat = np.zeros((len(tangent), 2))
    flat[:, : axes.shape[1]] = tangent @ axes
    total = float(values.sum())
    share = float(values[::-1][:2].sum() / total) if total > 0 else 1.0
    return np.arctan2(flat[:, 1], flat[:, 0]), rho[:, 0].numpy(), share


def fan(parents: Rows, angles: Floats) -> Floats:
    """Choose angles by a hierarchy: each subtree gets a sector as wide as its share of leaves, a node its middle.

    Args:
        parents: `(n,)` row of each point's parent, -1 for none.
        angles: `(n,)` angles by which siblings are ordered.

    Returns:
        Angles `(n,)` in 0 to 2 pi.
    """
    count = len(parents)
    order, children = top_down(parents)
    leaves = np.zeros(count)
    directions = np.exp(1j * angles)
    for row in reversed(order):
        leaves[row] = max(leaves[row], 1)
        if parents[row] >= 0:
            leaves[parents[row]] += leaves[row]
            directions[parents[row]] += directions[row]
    roots = np.flatnonzero(parents < 0)
    starts = np.zeros(count)
    _divide(roots, 0.0, starts, leaves, directions)
    for row in order:
        _divide(np.array(children[row], np.int64), starts[row], starts, leaves, directions)
    middles: Floats = (starts + leaves / 2) * (2 * np.pi / leaves[roots].sum())
    return middles


def best_scale(rho: Floats) -> float:
    """Return what to multiply radii by so that a disk shows them well: the 95th per cent lies at 0.93 of it."""
    far = float(np.quantile(rho, 0.95)) if len(rho) else 0.0
    return 2 * float(np.arctanh(_RIM)) / far if far > 0 else 1.0


def to_disk(angles: Floats, rho: Floats, scale: float) -> NDArray[np.complex128]:
    """Return `(n,)` points of the unit disk, as complex numbers."""
    points: NDArray[np.complex128] = np.tanh(scale * rho / 2) * np.exp(1j * angles)
    return points


def arcs(first: NDArray[np.complex128], second: NDArray[np.complex128], steps: int = 12) -> NDArray[np.complex128]:
    """Return `(n, steps)` points on the geodesics of the Poincaré disk between pairs of `(n,)` points."""
    seen = (second - first) / (1 - first.conj() * second)
    length = np.abs(seen)
    toward = np.divide(seen, length, out=np.zeros_like(seen), where=length > 0)
    rapidity = np.arctanh(length.clip(max=1 - 1e-15))
    along = np.tanh(np.linspace(0, 1, steps) * rapidity[:, None]) * toward[:, None]
    points: NDArray[np.complex128] = (along + first[:, None]) / (1 + first.conj()[:, None] * along)
    return points


def agreement(vectors: Tensor, angles: Floats, rho: Floats, *, seed: int = 0) -> tuple[float, int]:
    """Compare distances in the picture with those in the space.

    Args:
        vectors: `(n, w)` stored points of a hyperbolic space.
        angles: `(n,)` in the picture.
        rho: `(n,)` radii in units of the curvature radius.
        seed: Of the pairs.

    Returns:
        The rank correlation over random pairs, NaN for fewer than three points, and how many pairs there are.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    count = len(vectors)
    if count < 3:
        return float("nan"), 0
    generator = np.random.default_rng(seed)
    first = generator.integers(0, count, _PAIRS)
    second = (first + generator.integers(1, count, _PAIRS)) % count
    flat = np.stack([np.cos(angles), np.sin(angles), rho, np.zeros(count)], axis=1)
    drawn = torch.from_numpy(flat)
    pictured, actual = (
        geometry.half_chord_own(points[first], points[second][:, None])[:, 0].numpy()
        for points in (drawn, vectors.double())
    )
    found = require("scipy.stats", extra="eval").spearmanr(pictured, actual)
    return float(found.statistic), _PAIRS


def top_down(parents: Rows) -> tuple[list[int], list[list[int]]]:
    """Return all rows, parents before their children, and the children of each."""
    children: list[list[int]] = [[] for _ in parents]
    for row, parent in enumerate(parents.tolist()):
        if parent >= 0:
            children[parent].append(row)
    order = np.flatnonzero(parents < 0).tolist()
    for row in order:
        order.extend(children[row])
    return order, children


def _divide(family: Rows, start: float, starts: Floats, leaves: Floats, directions: NDArray[np.complex128]) -> None:
    """Give siblings their places, one after the other, in the order of their mean directions."""
    if not len(family):
        return
    mean = directions[family]
    # Angles are measured from that of the whole family, so that the cut falls on its far side.
    ordered = family[np.argsort(np.angle(mean * np.conj(mean.sum())), kind="stable")]
    starts[ordered] = start + np.concatenate([[0.0], np.cumsum(leaves[ordered])[:-1]])
