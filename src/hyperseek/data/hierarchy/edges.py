"""Reading hierarchies: files of edges, and metadata that name a document's parents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._ancestors import Hierarchy
from hyperseek._bounded import PathLike, existing_file
from hyperseek.data.reading import ErrorReport, Faults, OnError, numbered_lines
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.data._dataset import Dataset
    from hyperseek.index import Index

_HEADERS = frozenset(
    {"id", "node", "code", "name", "source", "target", "from", "to", "parents", "children", "child", "parent"}
    | {"child_id", "parent_id", "hyponym", "hypernym", "narrower", "broader"}
)
"""Usual names of the columns of edges; two of them in a first line are no edge."""


def read_hierarchy(path: PathLike, *, on_error: OnError = "raise", report: ErrorReport | None = None) -> Hierarchy:
    """Read a tab-separated file of children and parents.

    The columns are those that a first line names `child` and `parent`, or else the first two; others are ignored.

    Args:
        path: The file, plain or `.gz`.
        on_error: Stop at a line that is no edge and at a circle, or leave out the line, and the edge that closes the
            circle, and count them.
        report: Where to count; None makes one that is logged at the end.

    Returns:
        The hierarchy.

    Raises:
        DataError: The file is missing, contains no edges, a line has fewer columns or an empty id, or edges lead in
            a circle.
    """
    source = existing_file(path)
    faults = Faults(on_error, report)
    edges = list(_edges(source, faults))
    if not edges:
        raise DataError("contains no edges; each line is a child's id, a tab, and its parent's id", path=source)
    if on_error == "skip":
        edges = _without_circles(edges, source, faults)
    faults.finish(source)
    try:
        return Hierarchy.from_edges(edges)
    except InputError as error:
        raise DataError(str(error), path=source) from None


def _edges(path: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    places = (0, 1)
    for place, (number, line) in enumerate(numbered_lines(path, faults)):
        cells = line.split("\t")
        if place == 0:
            names = [cell.strip().casefold() for cell in cells]
            if {"child", "parent"} <= set(names):
                places = (names.index("child"), names.index("parent"))
                continue
            # Read as an edge, a line of other names would be two nodes that nobody meant.
            if set(names[:2]) <= _HEADERS:
                raise DataError(
                    f"its first line, {shown(line)}, seems to name columns; call them child and parent, or leave the "
                    f"line out, and put children before parents",
                    path=path,
                    line=number,
                )
        ids = [cells[place] for place in places if place < len(cells)]
        # Lines of other systems may end in a carriage return alone; in an id it would join two lines.
        if len(ids) < 2 or not all(ids) or "\r" in line:
            message = f"an edge is the id of a child, a tab, and the id of its parent, not {line[:80]!r}"
            faults.found("bad_edge", message, path=path, line=number)
            continue
        yield ids[0], ids[1]


def _without_circles(edges: Iterable[tuple[str, str]], path: Path, faults: Faults) -> list[tuple[str, str]]:
    """Return the edges without those that close a circle, as a walk up from each child in turn meets them."""
    parents: dict[str, dict[str, None]] = {}
    for child, parent in edges:
        parents.setdefault(child, {})[parent] = None
    kept: list[tuple[str, str]] = []
    done: set[str] = set()
    for start in parents:
        if start in done:
            continue
        walked = {start: iter(parents[start])}  # from a child up, with the parents that are left to visit
        while walked:
            child = next(reversed(walked))
            parent = next(walked[child], "")  # no id is empty
            if not parent:
                done.add(child)
                del walked[child]
            elif parent in walked:
                faults.found("circle", f"{child!r} below {parent!r} closes a circle", path=path)
            else:
                kept.append((child, parent))
                if parent not in done:
                    walked[parent] = iter(parents.get(parent, ()))
    return kept


def hierarchy_of(dataset: Dataset, source: str, documents: Iterable[str]) -> Hierarchy:
    """Read what is above documents of a collection.

    Args:
        dataset: The collection.
        source: A file of children and parents, or the metadata field that names each document's parent or parents.
            Environment variables are filled in.
        documents: Ids of documents that the hierarchy is read for.

    Returns:
        The hierarchy.

    Raises:
        InputError: There is neither such a file nor such a field, or the hierarchy knows none of the documents.
    """
    place = os.path.expandvars(source)
    if os.path.isfile(place):
        hierarchy = read_hierarchy(place)
    else:
        edges = list(parent_edges(dataset.documents(), source))
        if not edges:
            raise InputError(
                f"qrels.hierarchy {source!r} is neither a file nor a metadata field of {dataset.name} that names "
                f"parents"
            )
        hierarchy = Hierarchy.from_edges(edges)
    known = set(hierarchy.nodes)
    wanted = list(documents)
    if wanted and not any(one in known for one in wanted):
        raise InputError(
            f"qrels.hierarchy {source!r} has none of the judged documents of {dataset.name}: its ids are like "
            f"{hierarchy.nodes[0]!r}, theirs like {wanted[0]!r}"
        )
    return hierarchy


def open_hierarchy(index: Index, source: str) -> Hierarchy:
    """Read the hierarchy of an index.

    Args:
        index: The documents.
        source: A file of children and parents, or the metadata field that names each document's parent or parents.

    Returns:
        The hierarchy.

    Raises:
        UnknownNameError: There is neither such a file nor such a field.
        InputError: The field holds no ids, the edges lead in a circle, or they name no document of the index.
        DataError: The file cannot be read.
    """
    if Path(source).is_file():
        hierarchy = read_hierarchy(source)
        known = set(hierarchy.nodes)
        if not any(name in known for name in index.ids):
            some = next(iter(hierarchy.parents))
            raise InputError(f"{source} names no document of the index; its ids are like {some!r}, those of the index "
                             f"like {index.ids[0]!r}")  # fmt: skip
        return hierarchy
    if source not in index.fields:
        raise UnknownNameError("hierarchy, neither a file nor a metadata field:", source, index.fields)
    return Hierarchy.from_edges(parent_edges(index.documents(), source))


def parent_edges(documents: Iterable[Document], field: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of a document's id and a parent's, from the metadata field that holds one parent or a list."""
    for document in documents:
        value = document.metadata.get(field)
        above = value if isinstance(value, list) else [value]
        for parent in above:
            # A number may be an id that was read as one; a root has no parent, an empty one, or itself.
            name = "" if parent is None else f"{parent:.15g}" if isinstance(parent, float) else str(parent)
            if name and name != document.id:
                yield document.id, name
