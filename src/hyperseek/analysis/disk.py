"""Points of hyperbolic space on a disk, which preserves every radius and chooses angles.

Only the direction of a point's polar form has to lose dimensions. `project` keeps the plane through the origin in which
the logarithmic map (direction times radius) varies most, a principal component analysis in the tangent space of the
origin that is not centred, so that the origin stays where it is. In two dimensions it is a rotation and loses nothing.
`fan` takes angles from a hierarchy instead: each subtree has a sector as wide as it has leaves.

A radius of 5 lies within 1.4 per cent of the rim of the Poincaré disk. So pictures scale radii: drawing points at
tanh(scale * radius / 2) shows the disk of a space of another curvature. Shapes: `n` points of `w` stored numbers each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._ancestors import Hierarchy
from hyperseek.analysis._radii import Specificity, title_of
from hyperseek.errors import InputError, require
from hyperseek.geometry.polar import half_chord_own, split_polar
from hyperseek.index import Index
from hyperseek.scoring import Space

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

PALETTE = (
    "#4cc9f0", "#ff7096", "#ffd166", "#80ed99", "#b892ff", "#ff9f5a",
    "#38d9a9", "#f1f3f9", "#a9e34b", "#748ffc", "#ffc9a3",
)  # fmt: skip
"""One colour a branch, the largest first."""


GRADIENT = ("#fcd225", "#fca636", "#f2844b", "#e16462", "#cc4778", "#b12a90", "#8f0da4", "#6a00a8")
"""Colours for ranges of a number, lowest first."""
BRANCHES = 11
"""Most branches that have a colour of their own."""

_PAIRS = 20_000
_RIM = 0.93  # where a picture puts the 95th percentile of radii


@dataclass(frozen=True)
class Layout:
    """Angles of the points of a disk.

    Attributes:
        name: As in `"the space"`.
        angles: `(n,)`.
        note: What was lost, for people.
    """

    name: str
    angles: Floats
    note: str


@dataclass(frozen=True)
class Disk:
    """Points on a disk.

    Attributes:
        title: What is shown.
        notes: Lines below it.
        ids: `n` ids of documents.
        titles: Their titles.
        rho: `(n,)` radii in units of the curvature radius.
        unit: The curvature radius.
        scale: Factor on radii before they are drawn.
        parents: `(n,)` place of each one's parent, -1 for none.
        groups: `(n,)` group of each, -1 for none.
        names: Names of the groups.
        palette: Their colours.
        values: `(n,)` specificity, NaN where there is none.
        by: What specificity is.
        layouts: At least one.
    """

    title: str
    notes: list[str]
    ids: list[str]
    titles: list[str]
    rho: Floats
    unit: float
    scale: float
    parents: Rows
    groups: Rows
    names: list[str]
    palette: Sequence[str]
    values: Floats
    by: str
    layouts: list[Layout]


@dataclass(frozen=True)
class View:
    """The part of a corpus that is shown.

    Attributes:
        rows: `(n,)` rows in the index, ascending.
        parents: `(n,)` place among the shown of each one's nearest shown ancestor, -1 for none.
        groups: `(n,)` branch of each, -1 for none.
        names: Ids of the branches that are shown, the largest first; without a hierarchy there are none.
    """

    rows: Rows
    parents: Rows
    groups: Rows
    names: list[str]


def choose_view(ids: Sequence[str], hierarchy: Hierarchy | None, *, sample: int, seed: int) -> View:
    """Choose the documents to show: random ones and, with a hierarchy, all their ancestors.

    Args:
        ids: Of all documents, in order.
        hierarchy: Of the ids; None shows points alone.
        sample: Most documents.
        seed: Of the choice.

    Returns:
        The view.
    """
    drawn = np.random.default_rng(seed).permutation(len(ids))
    if hierarchy is None:
        rows = np.sort(drawn[:sample])
        nothing = np.full(len(rows), -1)
        return View(rows, nothing, nothing.copy(), [])
    place = {identity: row for row, identity in enumerate(ids)}
    chosen: set[int] = set()
    for row in drawn:
        above = [place[name] for name in hierarchy.path(ids[row]) if name in place]
        wanted = {int(row), *above} - chosen
        if len(chosen) + len(wanted) <= sample:
            chosen |= wanted
        if len(chosen) >= sample:
            break
    rows = np.array(sorted(chosen), np.int64)
    shown = {ids[row]: number for number, row in enumerate(rows)}
    parents = [next((shown[name] for name in hierarchy.path(ids[row]) if name in shown), -1) for row in rows]
    largest = _largest_branches(hierarchy, place)
    branches = [_branch(ids[row], hierarchy, largest) for row in rows]
    names = [name for name in largest if name in branches]
    number = {name: branch for branch, name in enumerate(names)}
    groups = [-1 if name is None else number[name] for name in branches]
    return View(rows, np.array(parents, np.int64), np.array(groups, np.int64), names)


def _branch(name: str, hierarchy: Hierarchy, branches: Sequence[str]) -> str | None:
    if name in branches:
        return name
    return next((above for above in hierarchy.path(name) if above in branches), None)


def _largest_branches(hierarchy: Hierarchy, documents: Mapping[str, int]) -> list[str]:
    """Split the largest branch into those below it, from the roots on, until there are enough."""
    size = {name: int(name in documents) for name in hierarchy.tree}
    children: dict[str, list[str]] = {}
    for name, parent in reversed(hierarchy.tree.items()):
        if parent is not None:
            size[parent] += size[name]
            children.setdefault(parent, []).append(name)
    branches = list(hierarchy.roots)
    while len(branches) < BRANCHES:
        inner = [name for name in branches if name in children]
        if not inner:
            break
        largest = max(inner, key=size.__getitem__)
        branches.remove(largest)
        branches += children[largest]
    return sorted(branches, key=lambda name: -size[name])[:BRANCHES]


def fit_disk(
    index: Index, view: View, vectors: Tensor, specificity: Specificity, *, seed: int
) -> tuple[Disk, list[DiskFit]]:
    """Lay out a view.

    Args:
        index: The documents.
        view: Which of them are shown.
        vectors: `(n, w)` their points.
        specificity: Of all documents.
        seed: Of the pairs whose distances are compared.

    Returns:
        The disk with a layout by the space and, where the view has edges, one by the hierarchy; and how true each is.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    ids = index.ids
    shown = [ids[row] for row in view.rows]
    documents = index.get([*shown, *view.names])
    angles, rho, variance = project(index.space, vectors)
    scale = best_scale(rho)
    values = specificity.values[view.rows]
    layouts, fits = [], []
    for kind, around in _layouts(view, angles).items():
        spearman, pairs = agreement(vectors, around, rho, seed=seed)
        fits.append(DiskFit(kind, variance if kind == "projection" else None, spearman, pairs, scale))
        layouts.append(_layout(fits[-1], around, index.space.dimension))
    groups, names = view.groups, [title_of(documents[name]) if name in documents else name for name in view.names]
    palette: Sequence[str] = PALETTE
    notes = [
        f"{len(shown):,} of {len(ids):,} documents",
        f"{index.space.kind} space of {index.space.dimension} dimensions",
    ]
    if not names:
        by, numbers = (specificity.by, values) if np.isfinite(values).any() else ("radius", rho)
        groups, names = _ranges(numbers)
        notes.append(f"coloured by {by}")
        palette = GRADIENT
    title = index.info.name or index.path.name
    disk = Disk(
        title=title,
        notes=notes,
        ids=shown,
        titles=[title_of(documents[name]) for name in shown],
        rho=rho,
        unit=float(index.space.radius_squared) ** 0.5,
        scale=scale,
        parents=view.parents,
        groups=groups,
        names=names,
        palette=palette,
        values=values,
        by=specificity.by,
        layouts=layouts,
    )
    return disk, fits


def _layouts(view: View, angles: Floats) -> dict[str, Floats]:
    if (view.parents < 0).all():
        return {"projection": angles}
    return {"projection": angles, "hierarchy": fan(view.parents, angles)}


def _layout(fit: DiskFit, angles: Floats, dimension: int) -> Layout:
    true = f"rank correlation of distances with those in the space {fit.spearman:.2f}"
    if fit.variance is None:
        return Layout("the hierarchy", angles, f"radii from the space, angles from the hierarchy; {true}")
    if dimension <= 2:
        return Layout("the space", angles, "nothing is lost: the space has two dimensions")
    return Layout(
        "the space", angles, f"angles from the plane that holds {fit.variance:.0%} of the tangent variance; {true}"
    )


def _ranges(values: Floats) -> tuple[Rows, list[str]]:
    """Cut numbers into ranges of about equally many documents, one range per colour."""
    known = values[np.isfinite(values)]
    if np.ptp(known) <= 1e-6 * np.abs(known).max():  # nothing but rounding
        values = np.where(np.isfinite(values), np.median(known), np.nan)
        known = values[np.isfinite(values)]
    bounds = np.unique(np.quantile(known, np.linspace(0, 1, len(GRADIENT) + 1), method="inverted_cdf"))
    groups = np.searchsorted(bounds[1:-1], values, side="left")
    groups[~np.isfinite(values)] = -1
    names = []
    for number in range(max(1, len(bounds) - 1)):
        inside = values[groups == number]
        low, high = f"{inside.min():.4g}", f"{inside.max():.4g}"
        names.append(low if low == high else f"{low} to {high}")
    return groups, names


@dataclass(frozen=True, slots=True)
class DiskFit:
    """Measures of a picture's faithfulness.

    Attributes:
        layout: Source of the angles: `"projection"` or `"hierarchy"`.
        variance: Share of the tangent variance that lies in the picture's plane, in 0 to 1; None for a hierarchy.
        spearman: Rank correlation of distances in the picture, radii not scaled, and in the space.
        pairs: Random pairs of points that this is over.
        scale: Factor on radii before they are drawn.
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
    if not space.hyperbolic:
        raise InputError(f"a Poincaré disk shows points of hyperbolic spaces, not of a {space.kind!r} one")
    directions, rho = split_polar(space.at_level(vectors).double())
    tangent = (directions * rho).numpy()
    axes, share = plane_of(tangent)
    flat = np.zeros((len(tangent), 2))
    flat[:, : axes.shape[1]] = tangent @ axes
    return np.arctan2(flat[:, 1], flat[:, 0]), rho[:, 0].numpy(), share


def plane_of(tangents: Floats) -> tuple[Floats, float]:
    """Return the plane through the origin in which tangent vectors vary most.

    Args:
        tangents: `(n, d)`, at least one.

    Returns:
        Its axes `(d, 2)`, `(d, 1)` for d = 1, and the share of the variance in it, in 0 to 1.
    """
    values, axes = np.linalg.eigh(tangents.T @ tangents)
    axes = axes[:, ::-1][:, :2]
    # Eigenvectors have no sign of their own; the mean points to the right and up, so that pictures do not flip.
    axes = axes * np.where(tangents.sum(axis=0) @ axes < 0, -1, 1)
    total = float(values.sum())
    return axes, float(values[::-1][:2].sum() / total) if total > 0 else 1.0


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
    """Return the factor on radii that shows them well: it puts the 95th percentile at 0.93 of the disk."""
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
        half_chord_own(points[first], points[second][:, None])[:, 0].numpy() for points in (drawn, vectors.double())
    )
    found = require("scipy.stats", extra="plot").spearmanr(pictured, actual)
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
