"""Hierarchies as data: their edges, read from files and from metadata, and the pairs of nodes that are told from them.

The pairs of a child and an ancestor, and their splits, are those of HiT (arXiv 2401.11374). **Multi-hop inference**
trains on all edges and asks for ancestors further up, which follow from them. **Mixed-hop prediction** holds out edges
too: nothing in training implies them. Of the edges, and of the further pairs, 5 % each are for validation and for the
test. Entities are not held out; `held_out_leaves` does that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

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


T = TypeVar("T")
Pair: TypeAlias = tuple[str, str, int]
"""A child, one of its ancestors, and the hops between them."""

Negatives: TypeAlias = Literal["random", "hard"]
"""Any nodes that are not above the child, or its siblings, and others if these are too few."""

NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)
"""Their kinds."""

SPLITS = ("train", "validation", "test")


class NegativeSampler:
    """Draws nodes that are neither a given one nor above it.

    Args:
        hierarchy: The hierarchy.
        seed: Seed of the draws, which depend on the order in which they are asked for.
        without: Nodes that are never drawn.
    """

    def __init__(self, hierarchy: Hierarchy, *, seed: int, without: Collection[str] = ()) -> None:
        self._hierarchy = hierarchy
        self._without = frozenset(without)
        self._nodes = [name for name in hierarchy.nodes if name not in self._without]
        self._draw = random.Random(f"{seed}-negatives")

    def sample(self, child: str, count: int, kind: Negatives) -> list[str]:
        """Draw negatives of a child.

        Args:
            child: A node.
            count: How many; fewer if there are no more.
            kind: Of which nodes.

        Returns:
            Distinct nodes, siblings first.
        """
        above = {child, *self._hierarchy.ancestors(child)}
        count = min(count, len(self._nodes))
        found: dict[str, None] = {}
        if kind == "hard":
            siblings = dict.fromkeys(
                sibling
                for parent in self._hierarchy.parents.get(child, ())
                for sibling in self._hierarchy.children[parent]
                if sibling not in above and sibling not in self._without
            )
            found |= dict.fromkeys(self._draw.sample(list(siblings), min(count, len(siblings))))
        # Nearly all nodes can be drawn; where few can, they are listed.
        tries = 10 * count
        while len(found) < count and tries and self._nodes:
            tries -= 1
            name = self._draw.choice(self._nodes)
            if name not in above:
                found[name] = None
        if len(found) < count:
            left = [name for name in self._nodes if name not in above and name not in found]
            found |= dict.fromkeys(self._draw.sample(left, min(count - len(found), len(left))))
        return list(found)


@dataclass(frozen=True, slots=True)
class PairSplits:
    """The pairs of one task.

    Attributes:
        train: Pairs to train on.
        validation: Pairs to choose settings on.
        test: Pairs to report.
    """

    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]


def split_pairs(hierarchy: Hierarchy, *, share: float = 0.05, seed: int = 42) -> dict[str, PairSplits]:
    """Split the pairs of a hierarchy.

    Args:
        hierarchy: The hierarchy.
        share: Share of the edges, and of the pairs further apart, for validation and for the test, each; in (0, 0.5).
        seed: Seed of the draws.

    Returns:
        `multi_hop` and `mixed_hop`; the second alone where no ancestor is further than one hop away.

    Raises:
        InputError: There are too few pairs for the share.
    """
    pairs = [(child, name, hops) for child in hierarchy.nodes for name, hops in hierarchy.ancestors(child).items()]
    edges = [pair for pair in pairs if pair[2] == 1]
    further = [pair for pair in pairs if pair[2] > 1]
    kept, *edges_held = _parts(edges, share, random.Random(f"{seed}-edges"), "edges")
    if not further:
        return {"mixed_hop": PairSplits(kept, *edges_held)}
    _, *further_held = _parts(further, share, random.Random(f"{seed}-further"), "pairs of two hops and more")
    validation, test = ([*one, *other] for one, other in zip(edges_held, further_held, strict=True))
    return {"multi_hop": PairSplits(edges, *further_held), "mixed_hop": PairSplits(kept, validation, test)}


def held_out_leaves(hierarchy: Hierarchy, *, share: float = 0.05, seed: int = 42) -> tuple[set[str], set[str]]:
    """Draw leaves for validation and for the test; nothing is below them, so no other node needs them.

    Args:
        hierarchy: The hierarchy.
        share: Share of the leaves in each, in (0, 0.5).
        seed: Seed of the draw.

    Returns:
        Their ids; at least one each.

    Raises:
        InputError: There are too few leaves for the share.
    """
    _, validation, test = _parts(hierarchy.leaves, share, random.Random(f"{seed}-leaves"), "leaves")
    return set(validation), set(test)


def _parts(items: Sequence[T], share: float, draw: random.Random, what: str) -> tuple[list[T], list[T], list[T]]:
    """Return what is left, in order, and two drawn parts of at least one each."""
    if not 0 < share < 0.5:
        raise InputError(f"share must be above 0 and below 0.5, not {share}")
    count = max(1, round(share * len(items)))
    if len(items) <= 2 * count:
        raise InputError(f"a hierarchy with {len(items)} {what} is too small to hold out {count} twice")
    drawn = draw.sample(range(len(items)), 2 * count)
    held = set(drawn)
    left = [item for place, item in enumerate(items) if place not in held]
    first, second = ([items[place] for place in sorted(part)] for part in (drawn[:count], drawn[count:]))
    return left, first, second
