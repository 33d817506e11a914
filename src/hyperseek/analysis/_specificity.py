"""Specificity of documents: a metadata field, their length, or their depth in a hierarchy.

Shapes: `N` documents, `n` chosen ones, `w` numbers of a stored point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hyperseek._bounded import PathLike, existing_file
from hyperseek.data.reading import Faults, numbered_lines
from hyperseek.errors import DataError, InputError, UnknownNameError
from hyperseek.index import Index
from hyperseek.types import Document

Floats = NDArray[np.float64]

DEPTH = "depth"
LENGTH = "length"


@dataclass(frozen=True)
class Specificity:
    """How specific each document is.

    Attributes:
        by: The measure of specificity.
        values: `(N,)`, higher is more specific; NaN where there is none.
    """

    by: str
    values: Floats


def open_hierarchy(index: Index, source: str) -> Hierarchy:
    """Read the hierarchy of an index.

    Args:
        index: The documents.
        source: A file of children and parents, or the metadata field that names each document's parent or parents.

    Returns:
        The hierarchy.

    Raises:
        UnknownNameError: There is neither such a file nor such a field.
        InputError: The field holds no ids, or the edges form a circle.
        DataError: The file cannot be read.
    """
    if Path(source).is_file():
        hierarchy = read_hierarchy(source)
        if not any(name in hierarchy.tree for name in index.ids):
            some = next(iter(hierarchy.parents))
            raise InputError(f"{source} names no document of the index; its ids are like {some!r}, those of the index "
                             f"like {index.ids[0]!r}")  # fmt: skip
        return hierarchy
    if source not in index.fields:
        raise UnknownNameError("hierarchy, neither a file nor a metadata field:", source, index.fields)
    return Hierarchy.from_edges(_index_edges(index, source))


def read_specificity(index: Index, hierarchy: Hierarchy | None, by: str | None) -> Specificity:
    """Measure the specificity of each document.

    Args:
        index: The documents.
        hierarchy: Of their ids, or None.
        by: A metadata field of numbers, `"depth"` in the hierarchy, or `"length"` of title and text in characters.
            None takes the depth if there is a hierarchy, else the length.

    Returns:
        A value for each document.

    Raises:
        UnknownNameError: There is no such field.
        InputError: The field holds no numbers, or a depth was asked for without a hierarchy.
    """
    by = by or (LENGTH if hierarchy is None else DEPTH)
    if by == LENGTH and by not in index.fields:
        return Specificity("length in characters", _each(index, lambda document: len(document.full_text)))
    if by == DEPTH and hierarchy is not None:
        depths = hierarchy.depths
        return Specificity(by, np.array([depths.get(name, np.nan) for name in index.ids], np.float64))
    if by not in index.fields:
        if by == DEPTH:
            raise InputError("depth needs a hierarchy: give a file of children and parents, or the field of parents")
        raise UnknownNameError("specificity", by, [*index.fields, DEPTH, LENGTH])
    if index.fields[by] != "number":
        raise InputError(f"specificity must be a number, and the field {by!r} is a {index.fields[by]}")
    return Specificity(by, _each(index, lambda document: document.metadata.get(by)))


def title_of(document: Document) -> str:
    """Return a name for a document: its title, or else the beginning of its text, or else its id."""
    return document.title or " ".join(document.text[:200].split())[:80] or document.id


def _each(index: Index, value: Callable[[Document], Any]) -> Floats:
    found = (value(document) for document in index.documents())
    return np.array([np.nan if one is None else float(one) for one in found], np.float64)


def _index_edges(index: Index, field: str) -> Iterator[tuple[str, str]]:
    for document in index.documents():
        value = document.metadata.get(field)
        above = value if isinstance(value, list) else [value]
        for parent in above:
            # A number may be an id that was read as one; a root has no parent, an empty one, or itself.
            name = "" if parent is None else f"{parent:g}" if isinstance(parent, float) else str(parent)
            if name and name != document.id:
                yield document.id, name


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
            raise InputError("the hierarchy has no edges; give pairs of the id of a child and that of its parent")
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
            raise InputError(f"no path leads from a root down to {lost!r}: its ancestors form a circle")
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

    The columns are those that a first line names `child` and `parent`, or else the first two; others are ignored.

    Args:
        path: The file, plain or `.gz`.

    Returns:
        The hierarchy.

    Raises:
        DataError: The file is missing, contains no edges, or a line has fewer columns or an empty id.
    """
    source = existing_file(path)
    edges = list(_edges(source))
    if not edges:
        raise DataError("contains no edges; each line is a child's id, a tab, and its parent's id", path=source)
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
