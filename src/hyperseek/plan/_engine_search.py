"""Asking a structure of the index: unite its rankings, and add documents that it does not know."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator
from torch import Tensor

from hyperseek._machine import one_core
from hyperseek._order import NOTHING
from hyperseek.engines import CandidateRequest
from hyperseek.engines.structure import EXHAUSTIVE
from hyperseek.plan._open_index import Candidates, Search, union
from hyperseek.plan.exhaustive import exact_scores
from hyperseek.scoring import Points, Scorer
from hyperseek.store.attachments import Attached
from hyperseek.store.snapshot import Snapshot

ENOUGH = 0.95
"""Engines that were measured to find a smaller share of the best are not chosen without being asked for."""

# Plans that were written before say "scan" for it.
EngineName: TypeAlias = Annotated[str | None, AfterValidator(lambda name: EXHAUSTIVE if name == "scan" else name)]
"""Name of an engine in a stage's options; None for the newest, `EXHAUSTIVE` for none."""


def search_linear(search: Search, scorer: Scorer, *, n: int, engine: str | None, effort: int | None) -> Candidates:
    """Find candidates by a scorer that engines can search by.

    Args:
        search: The search.
        scorer: What to search by; its queries are those of the search.
        n: Candidates of each query.
        engine: Name of an engine; None for the newest with a chart for such a scorer that was not measured to
            find too little, or a scan where there is none; `EXHAUSTIVE` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.

    Returns:
        The candidates.
    """
    if engine is None:
        found = search.index.suitable(scorer)
        good = next((item for item in found if item.recall is None or item.recall.share >= ENOUGH), None)
        engine = EXHAUSTIVE if good is None else good.name
    if engine == EXHAUSTIVE:
        return search.scan(scorer, k=n)
    return search_structure(search, scorer, n=n, name=engine, effort=effort)


def search_structure(
    search: Search,
    scorer: Scorer,
    *,
    n: int,
    name: str | None = None,
    kind: str | None = None,
    **settings: Any,
) -> Candidates:
    """Find candidates with a structure of the index.

    Args:
        search: The search.
        scorer: What to search by; its queries are those of the search.
        n: Candidates of each query.
        name: Of the structure; None for the newest.
        kind: Of the structure; None for any.
        **settings: Of its search, as `effort`.

    Returns:
        The united candidates. Scores are the structure's where it returns one ranking and knows all documents. Else
        they say who came first and no more, since rankings and scans do not share a scale.

    Raises:
        InputError: The index has no such structure, or it cannot search by this scorer.
    """
    attached = search.index.attached(name, kind)
    rows, allowed = _positions(search, attached)
    request = CandidateRequest(
        name=attached.record.name,
        scorer=scorer,
        n=n,
        k=search.k,
        allowed=allowed,
        points=_points_at(search.snapshot, rows),
        exact=lambda places: exact_scores(search.snapshot, scorer, _rows_at(rows, places)),
        texts=search.texts,
        notes=search.notes,
    )
    found = attached.structure.search(request, **settings)
    with one_core():
        parts = [Candidates(_rows_at(rows, places), scores) for scores, places in found]
    if len(unknown := _unknown_rows(search, attached)):
        parts.append(search.scan(scorer, k=n, rows=unknown))
    with one_core():
        return parts[0] if len(parts) == 1 else union([_by_rank(part) for part in parts])


def _positions(search: Search, attached: Attached) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Return the row of each position of an attachment, and which positions may be found; None for all."""
    rows = attached.rows
    allowed = rows >= 0
    if search.allowed is not None:
        allowed[allowed] = search.allowed[rows[allowed]]
    return rows, None if allowed.all() else allowed


def _unknown_rows(search: Search, attached: Attached) -> npt.NDArray[np.int64]:
    """Return the rows, of those that may be found, of documents that an attachment does not know."""
    unknown = attached.unknown
    if search.allowed is not None:
        unknown = unknown[search.allowed[unknown]]
    if len(unknown):
        search.notes[f"unknown to {attached.record.name!r}"] = len(unknown)
    return unknown


def _rows_at(rows: npt.NDArray[np.int64], places: Tensor) -> Tensor:
    """Return the rows of `(Q, n)` positions; `NOTHING` stays."""
    if not len(rows):
        return places
    return torch.where(places == NOTHING, NOTHING, torch.from_numpy(rows)[places.clamp_min(0)])


def _by_rank(part: Candidates) -> Candidates:
    """Replace scores by ones that fall with the rank, so that lists of unlike scales take turns."""
    ranks = torch.arange(part.rows.shape[1], dtype=torch.float32).expand(part.rows.shape)
    return Candidates(part.rows, (-ranks).masked_fill(part.rows == NOTHING, -torch.inf))


class _PointsAt:
    """The part of `Points` that graph search reads, fetched as it is read."""

    def __init__(self, snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        # A document that is gone is walked through as if it were another one; it is never returned.
        self._rows = torch.from_numpy(np.maximum(rows, 0))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> Points:
        self._snapshot.load()  # who reads points walks over many
        return self._snapshot.points(self._rows[index])

    @property
    def dimension(self) -> int:
        return self._snapshot.space.width


def _points_at(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> Points:
    """Return points by position.

    Args:
        snapshot: The documents.
        rows: The row of each position; below 0 for documents that are gone.

    Returns:
        Something that has a length and gives points by positions, as `Points` does.
    """
    snapshot.load(scan=False)
    return cast("Points", _PointsAt(snapshot, rows))
