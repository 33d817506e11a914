"""What a picture of a space shows: points, the edges between them, and their colours.

Shapes: `n` shown points, `e` edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperseek.analysis._hierarchy import Hierarchy

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
