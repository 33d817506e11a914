"""Exact scores of each query's own candidates."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._machine import one_core
from hyperseek.plan._context import NOTHING
from hyperseek.plan._ties import FlatQueries, level, longest_norm, marks_of, without_rounding
from hyperseek.scoring import Points, Scorer, vectors_of
from hyperseek.store.snapshot import Snapshot

# Points of candidates that are gathered at a time.
_GATHERED_BYTES = 16 << 20


def exact_scores(snapshot: Snapshot, scorer: Scorer, rows: Tensor) -> Tensor:
    """Score candidates, each by the query that it belongs to.

    Args:
        snapshot: The documents.
        scorer: `Q` compiled queries.
        rows: `(Q, n)`; `NOTHING` anywhere.

    Returns:
        `(Q, n)` on the CPU, float32, or float64 where `wide_scan` ranks by it; minus infinity for `NOTHING`.
        Scores that differ by rounding alone are equal, and so are those of equal documents.
    """
    scores = torch.full(rows.shape, -torch.inf)
    if (rows == NOTHING).all():
        return scores
    with one_core():
        distinct, places = torch.unique(rows.clamp_min(0), return_inverse=True)
        points = snapshot.points(distinct)
    flat = FlatQueries.of(scorer)
    with torch.inference_mode():
        if flat is not None:
            return _score_exactly(flat, vectors_of(points).to(scorer.device), places, rows)
        if scorer.linear() is not None:
            _score_together(scorer, vectors_of(points), places, scores)
        else:
            _score_in_turn(scorer, points, places, rows != NOTHING, scores)
        levelled = level(scores, marks_of(points)[places])
    return levelled.masked_fill(rows == NOTHING, -torch.inf)


def _score_exactly(flat: FlatQueries, vectors: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    with one_core():
        scores = flat.score(vectors, places.to(vectors.device)).cpu().masked_fill(rows == NOTHING, -torch.inf)
        scale = flat.scale(longest_norm(flat.space, vectors))
        return without_rounding(scores, None if scale is None else scale.cpu())


def _score_together(scorer: Scorer, vectors: Tensor, places: Tensor, scores: Tensor) -> None:
    step = max(1, _GATHERED_BYTES // (places.shape[1] * vectors.shape[1] * 4))
    with one_core():
        for start in range(0, len(places), step):
            own = vectors[places[start : start + step]].to(scorer.device)
            scores[start : start + step] = scorer[start : start + step].score_own(own).float().cpu()


def _score_in_turn(scorer: Scorer, points: Points, places: Tensor, present: Tensor, scores: Tensor) -> None:
    for query, own in enumerate(places):
        if present[query].any():
            part = points[own[present[query]]].to(scorer.device)
            scores[query, present[query]] = scorer[query : query + 1].score(part)[0].float().cpu()


class _PointsAt:
    """What graph search needs of points, read when it is needed."""

    def __init__(self, snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        # A document that is gone is walked through as if it were another one; it is never returned.
        self._rows = torch.from_numpy(np.maximum(rows, 0))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> Points:
        return self._snapshot.points(self._rows[index])

    @property
    def dimension(self) -> int:
        return self._snapshot.space.width


def points_at(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> Points:
    """Return points by position.

    Args:
        snapshot: The documents.
        rows: The row of each position; below 0 for documents that are gone.

    Returns:
        Something that has a length and gives points by positions, as `Points` does.
    """
    snapshot.load()
    return cast("Points", _PointsAt(snapshot, rows))
