"""A hierarchy: children and their parents, by id. A tree, several trees, or a graph in which a child has many parents.

**Hops** are the edges of a shortest way from an id up to one of its ancestors, **depth** those up to the nearest root.
Far ancestors are far more numerous than near ones and harder to find, so results are shown by `HOP_RANGES`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from hyperseek.errors import InputError

HOP_RANGES: Mapping[str, tuple[int, int | None]] = {
    "1": (1, 1),
    "2": (2, 2),
    "3-4": (3, 4),
    "5-8": (5, 8),
    "9+": (9, None),
}
"""Ranges of hops by name, first and last; None for no end."""

_NEAREST_GRADE = 8  # of the query's own node
_SHOWN = 6  # ids of a circle that a message names


def hop_range(hops: int) -> str:
    """Return the name of the range of `HOP_RANGES` that a number of hops is in; of 0 hops, the first."""
    return next(name for name, (_, last) in HOP_RANGES.items() if last is None or hops <= last)


def hop_grade(hops: int) -> int:
    """Return the grade of an ancestor: 7 for a parent, 1 less for each further hop, at least 1; 8 at 0 hops."""
    return max(1, _NEAREST_GRADE - hops)


def path_parts(value: object) -> list[str]:
    """Return the names of a place in a hierarchy, the broadest first.

    Args:
        value: A list of names, a text with `>` between blanks or else `/` between names, or a single name; None for
            no place.

    Returns:
        The names without blanks around them; empty ones are left out.
    """
    if isinstance(value, str):
        value = re.split(r"\s+>\s+" if " > " in value else r"/", value)
    parts = value if isinstance(value, list | tuple) else [value]
    return [name for part in parts if part is not None and (name := str(part).strip())]


@dataclass(frozen=True)
class Hierarchy:
    """Children and their parents. Ids need not be documents.

    Attributes:
        parents: The parents of every id that has any, the principal one first. No id is its own ancestor.
    """

    parents: Mapping[str, Sequence[str]]

    @classmethod
    def from_edges(cls, edges: Iterable[tuple[str, str]]) -> Self:
        """Make a hierarchy of pairs of child and parent; one that appears twice counts once.

        Args:
            edges: At least one pair.

        Returns:
            The hierarchy.

        Raises:
            InputError: There are no edges, or some lead in a circle, which the message names.
        """
        parents: dict[str, dict[str, None]] = {}
        for child, parent in edges:
            parents.setdefault(child, {})[parent] = None
        if not parents:
            raise InputError("the hierarchy has no edges; give pairs of the id of a child and that of its parent")
        hierarchy = cls({child: list(above) for child, above in parents.items()})
        hierarchy.nodes  # noqa: B018 (raises for circles)
        return hierarchy

    @cached_property
    def nodes(self) -> list[str]:
        """All ids, every one after all of its parents."""
        waiting = {child: len(above) for child, above in self.parents.items()}
        found = list(self.roots)
        for name in found:  # grows
            for child in self.children.get(name, ()):
                waiting[child] -= 1
                if not waiting[child]:
                    found.append(child)
        if len(found) < len(self.roots) + len(self.parents):
            circle = self._circle({child for child, count in waiting.items() if count})
            shown = " < ".join(map(repr, circle[:_SHOWN])) + (" < …" if len(circle) > _SHOWN else "")
            raise InputError(
                f"the hierarchy has a circle of {len(circle) - 1} edges, each below the next: {shown}; leave one of "
                f"these edges out"
            )
        return found

    def _circle(self, left: set[str]) -> list[str]:
        """Return ids that lead from one up to itself; each of `left` has a parent in `left`."""
        path: dict[str, None] = {}
        name = next(child for child in self.parents if child in left)
        while name not in path:
            path[name] = None
            name = next(parent for parent in self.parents[name] if parent in left)
        walked = list(path)
        return [*walked[walked.index(name) :], name]

    @cached_property
    def children(self) -> Mapping[str, Sequence[str]]:
        """The children of every id that has any."""
        found: dict[str, list[str]] = {}
        for child, above in self.parents.items():
            for parent in above:
                found.setdefault(parent, []).append(child)
        return found

    @cached_property
    def roots(self) -> list[str]:
        """The ids that have children and no parents, in the order in which they are first named."""
        return [name for name in self.children if name not in self.parents]

    @property
    def leaves(self) -> list[str]:
        """The ids that have no children."""
        return [name for name in self.nodes if name not in self.children]

    @cached_property
    def _descent(self) -> dict[str, tuple[int, str | None]]:
        """Depth of every id, and the parent by which it is reached from the nearest root."""
        found: dict[str, tuple[int, str | None]] = dict.fromkeys(self.roots, (0, None))
        queue = deque(self.roots)
        while queue:
            name = queue.popleft()
            for child in self.children.get(name, ()):
                if child not in found:
                    found[child] = (found[name][0] + 1, name)
                    queue.append(child)
        return found

    @cached_property
    def depths(self) -> dict[str, int]:
        """Edges from each id up to the nearest root."""
        return {name: depth for name, (depth, _) in self._descent.items()}

    @cached_property
    def tree(self) -> dict[str, str | None]:
        """One parent of each id, the one on a shortest way up to a root; None for roots. Parents come first."""
        return {name: parent for name, (_, parent) in self._descent.items()}

    def path(self, name: str) -> list[str]:
        """Return the ids on a shortest way up to a root, the nearest first; none for an unknown id."""
        found = []
        above = self.tree.get(name)
        while above is not None:
            found.append(above)
            above = self.tree[above]
        return found

    def ancestors(self, name: str) -> dict[str, int]:
        """Return all ids above one, with their hops, the nearest first; none for roots and unknown ids."""
        return _reached(name, self.parents)

    def descendants(self, name: str) -> dict[str, int]:
        """Return all ids below one, with their hops, the nearest first; none for leaves and unknown ids."""
        return _reached(name, self.children)


def hops_above(hierarchy: Hierarchy, node: str, documents: Iterable[str]) -> dict[str, int]:
    """Return how far above a query documents are.

    Args:
        hierarchy: The hierarchy.
        node: The query's own node; if it is unknown, the query counts as a child of those documents that are above no
            other of them.
        documents: Ids of documents.

    Returns:
        The edges of a shortest way up to each of them, by id; without those that are not above the query.
    """
    wanted = list(dict.fromkeys(documents))
    if node in hierarchy.depths:
        found = {node: 0} | hierarchy.ancestors(node)
        return {name: found[name] for name in wanted if name in found}
    above = {name: hierarchy.ancestors(name) for name in wanted if name in hierarchy.depths}
    nearest = [{name: 0} | above[name] for name in above if not any(name in others for others in above.values())]
    # Every one of them is one of the nearest, or above some.
    return {name: 1 + min(ways[name] for ways in nearest if name in ways) for name in above}


def _reached(start: str, ways: Mapping[str, Sequence[str]]) -> dict[str, int]:
    found = {start: 0}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        for other in ways.get(name, ()):
            if other not in found:
                found[other] = found[name] + 1
                queue.append(other)
    del found[start]
    return found
