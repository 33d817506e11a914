"""The hierarchy of a corpus: which document is more general than which."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from hyperseek._errors import DataError, InputError
from hyperseek._text_files import PathLike, existing_file
from hyperseek.data._lines import numbered_lines
from hyperseek.data._report import Faults


@dataclass(frozen=True)
class Hierarchy:
    """Children and their parents, by id: a tree, several, or a graph without cycles. Ids need not be documents.

    Attributes:
        parents: The parents of every id that has any, the principal one first.
    """

    parents: Mapping[str, Sequence[str]]

    @classmethod
    def from_edges(cls, edges: Iterable[tuple[str, str]]) -> Self:
        """Make a hierarchy of pairs of child and parent; one that appears twice counts once."""
        parents: dict[str, dict[str, None]] = {}
        for child, parent in edges:
            parents.setdefault(child, {})[parent] = None
        if not parents:
            raise InputError("the hierarchy has no edge; each needs the id of a child and that of its parent")
        return cls({child: list(above) for child, above in parents.items()})

    @cached_property
    def roots(self) -> list[str]:
        """The ids that have children and no parents, in the order in which they are first named."""
        named = dict.fromkeys(parent for above in self.parents.values() for parent in above)
        return [name for name in named if name not in self.parents]

    @cached_property
    def _descent(self) -> dict[str, tuple[int, str | None]]:
        """Depth of every id and the parent by which it is reached from the nearest root."""
        children: dict[str, list[str]] = {}
        for child, above in self.parents.items():
            for parent in above:
                children.setdefault(parent, []).append(child)
        found: dict[str, tuple[int, str | None]] = dict.fromkeys(self.roots, (0, None))
        queue = deque(self.roots)
        while queue:
            name = queue.popleft()
            for child in children.get(name, ()):
                if child not in found:
                    found[child] = (found[name][0] + 1, name)
                    queue.append(child)
        lost = next((child for child in self.parents if child not in found), None)
        if lost is not None:
            raise InputError(f"no way leads from a root down to {lost!r}: its ancestors stand in a circle")
        return found

    @cached_property
    def depths(self) -> dict[str, int]:
        """Edges from each id up to the nearest root; InputError where ids have none, being their own ancestors."""
        return {name: depth for name, (depth, _) in self._descent.items()}

    @cached_property
    def tree(self) -> dict[str, str | None]:
        """One parent of each id, the one on a shortest way up to a root; None for roots. Parents come first."""
        return {name: parent for name, (_, parent) in self._descent.items()}

    def ancestors(self, name: str) -> Iterator[str]:
        """Yield the ids above one in `tree`, the nearest first; none for an unknown id."""
        above = self.tree.get(name)
        while above is not None:
            yield above
            above = self.tree[above]


def read_hierarchy(path: PathLike) -> Hierarchy:
    """Read a tab-separated file of children and parents.

    Columns named `child` and `parent` in a first line are taken, else the first two; others are left out.

    Args:
        path: The file, plain or `.gz`.

    Returns:
        The hierarchy.

    Raises:
        DataError: The file is missing, holds no edge, or a line has fewer columns or an empty id.
    """
    source = existing_file(path)
    edges = list(_edges(source))
    if not edges:
        raise DataError("holds no edge; give lines of a child's id, a tab, and its parent's id", path=source)
    return Hierarchy.from_edges(edges)


def _edges(path: Path) -> Iterator[tuple[str, str]]:
    places = (0, 1)
    for number, line in numbered_lines(path, Faults()):
        cells = line.split("\t")
        if number == 1 and {"child", "parent"} <= set(cells):
            places = (cells.index("child"), cells.index("parent"))
            continue
        if len(cells) <= max(places) or not cells[places[0]] or not cells[places[1]]:
            raise DataError(
                f"an edge is the id of a child, a tab, and the id of its parent, not {line[:80]!r}",
                path=path,
                line=number,
            )
        yield cells[places[0]], cells[places[1]]
