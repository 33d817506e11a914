"""What a picture of a space shows: points, edges and colours, laid out on a disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperseek.analysis._corpus import Hierarchy, Specificity, title_of
from hyperseek.analysis._disk import DiskFit, agreement, best_scale, fan, project
from hyperseek.analysis._pictures import GRADIENT, PALETTE, Disk, Layout
from hyperseek.index import Index

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BRANCHES = 11
"""Most branches that have a colour of their own."""


@dataclass(frozen=True)
class View:
    """The shown part of a corpus.

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
    """Choose what to show: random documents, with a hierarchy all their ancestors, too.

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
        above = [place[name] for name in hierarchy.ancestors(ids[row]) if name in place]
        wanted = {int(row), *above} - chosen
        if len(chosen) + len(wanted) <= sample:
            chosen |= wanted
        if len(chosen) >= sample:
            break
    rows = np.array(sorted(chosen), np.int64)
    shown = {ids[row]: number for number, row in enumerate(rows)}
    parents = [next((shown[name] for name in hierarchy.ancestors(ids[row]) if name in shown), -1) for row in rows]
    largest = _largest_branches(hierarchy, place)
    branches = [_branch(ids[row], hierarchy, largest) for row in rows]
    names = [name for name in largest if name in branches]
    number = {name: branch for branch, name in enumerate(names)}
    groups = [-1 if name is None else number[name] for name in branches]
    return View(rows, np.array(parents, np.int64), np.array(groups, np.int64), names)


def _branch(name: str, hierarchy: Hierarchy, branches: Sequence[str]) -> str | None:
    if name in branches:
        return name
    return next((above for above in hierarchy.ancestors(name) if above in branches), None)


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
    """Cut numbers into as many ranges of about as many documents as there are colours."""
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
