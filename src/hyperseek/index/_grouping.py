"""Grouping of hits by a metadata field, such as their place in a hierarchy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hyperseek._ancestors import path_parts
from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.types import Hit


@dataclass(frozen=True, slots=True)
class HitGroup:
    """Hits with the same value of a field, or the same beginning of a path.

    Attributes:
        path: The value, as names from the root of a hierarchy; empty for hits without the field.
        hits: In the order of their ranks.
    """

    path: tuple[str, ...]
    hits: list[Hit] = field(default_factory=list)


def grouped(hits: Iterable[Hit], by: str = "path", *, depth: int | None = None) -> list[HitGroup]:
    """Group the hits of a query by a metadata field.

    Args:
        hits: With their documents.
        by: The field. A list of names from the root, or a text of names separated by `" > "` or else by `"/"`, is a
            path; other values are paths of one name.
        depth: Names from the root that hits of a group share, at least 1; None for whole paths.

    Returns:
        The groups in the order of their best hits, those without the field included.

    Raises:
        InputError: The hits carry no documents, or `depth` is not a whole number of at least 1.
        UnknownNameError: No hit has the field.
    """
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
        raise InputError(f"depth must be a whole number of at least 1, or None for whole paths; given {shown(depth)}")
    groups: dict[tuple[str, ...], HitGroup] = {}
    known: set[str] = set()
    for hit in hits:
        if hit.document is None:
            raise InputError(
                "these hits carry no documents, so they have no fields to group by; search with texts=True"
            )
        known |= set(hit.document.metadata)
        path = tuple(path_parts(hit.document.metadata.get(by)))[:depth]
        groups.setdefault(path, HitGroup(path)).hits.append(hit)
    if groups and by not in known:
        raise UnknownNameError("metadata field of these hits", by, sorted(known))
    return list(groups.values())
