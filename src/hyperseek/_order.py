"""The one order of rankings: scores descending, equal ones by position.

An index, BM25 and a scan return documents in the order of the corpus, and a file in the order of its lines; reranking
preserves that order for equal scores.

Shapes: `Q` queries, `n` scores of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

NOTHING = -1
"""Position for no document; its score is minus infinity."""

ROUNDING = 1e-12
"""Relative differences up to this come from the order of float64 sums: such numbers are equal."""

# Fewest scores of a row for which numpy's partition is faster than torch's topk, which is three times slower for many.
_LONG = 1024
# Fewest folds for which it pays to fold scores.
_FOLDS = 8


def best_first(ranking: Mapping[str, float]) -> list[str]:
    """Return the documents of a ranking, best first; equal scores in the ranking's own order."""
    return sorted(ranking, key=ranking.__getitem__, reverse=True)  # stable, reversed too


def best_places(scores: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.intp]:
    """Return the places of the best `count` (at least 1) of `(n,)` scores, best first: NaN, then equals by place."""
    if count < len(scores):
        last = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(~(scores < last))  # with all that tie with the last one, until they are sorted
    else:
        places = np.arange(len(scores))
    chosen = scores[places]
    order = np.argsort(-chosen, kind="stable")
    if len(order) and np.isnan(chosen[order[-1]]):  # numpy sorts NaN last
        order = np.roll(order, np.isnan(chosen).sum())
    return places[order][:count]


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Choose the best scores of each row.

    Args:
        scores: `(Q, n)`, floating; NaN comes before all others.
        k: How many, at least 1; may exceed `n`.

    Returns:
        Scores and columns `(Q, min(k, n))`, best first, equal scores by column.
    """
    import torch

    width = min(k, scores.shape[1])
    wide = scores.dtype in (torch.float32, torch.float64)  # numpy has no bfloat16
    if wide and scores.device.type == "cpu" and scores.shape[1] >= _LONG:
        if width and (folds := math.isqrt(scores.shape[1] // width)) >= _FOLDS:
            return _best_folded(scores, width, folds)
        columns = torch.empty(len(scores), width, dtype=torch.int64)
        for row, own in zip(columns.numpy(), scores.detach().numpy(), strict=True):
            row[:] = best_places(own, k)
        return scores.gather(1, columns), columns
    top, columns = scores.topk(width, dim=1, sorted=False)
    if width:
        # topk breaks ties at the cut-off arbitrarily; if there are any, sort in full.
        last = top.amin(dim=1, keepdim=True)
        unsure = ((scores == last).sum(dim=1) > (top == last).sum(dim=1)).nonzero()[:, 0]
        if len(unsure):
            columns[unsure] = scores[unsure].sort(dim=1, descending=True, stable=True).indices[:, :width]
    columns = columns.sort(dim=1).values
    top, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return top, columns.gather(1, order)


def _best_folded(scores: Tensor, width: int, folds: int) -> tuple[Tensor, Tensor]:
    """Return `best_columns` after reading the scores only once: folded, each place shows the highest of its folds.

    The best `width` scores lie behind the best `width` places, unless a further place ties with the last of these.
    """
    import torch

    size = scores.shape[1] // folds
    whole = folds * size
    highest = scores[:, :whole].view(len(scores), folds, size).amax(dim=1)
    top, places = highest.topk(width, dim=1, sorted=False)
    apart = (highest >= top.amin(dim=1, keepdim=True)).sum(dim=1) == width  # False where one is NaN
    starts = size * torch.arange(folds)
    columns = (starts[None, :, None] + places.sort(dim=1).values[:, None, :]).flatten(1)  # in order
    rest = torch.arange(whole, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([columns, rest], dim=1)
    best, chosen = best_columns(scores.gather(1, columns), width)
    columns = columns.gather(1, chosen)
    for row in (~apart).nonzero()[:, 0].tolist():
        columns[row] = torch.from_numpy(best_places(scores[row].detach().numpy(), width))
        best[row] = scores[row, columns[row]]
    return best, columns


def best_positions(scores: Tensor, positions: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Sort positions by their scores.

    Args:
        scores: `(Q, n)`.
        positions: `(Q, n)` integers; below 0 for no document.
        k: How many to keep; None for all.

    Returns:
        Scores and positions `(Q, min(k, n))`, best first, equal scores by position; those below 0 come last, with minus
        infinity as their score.
    """
    import torch

    nothing = positions < 0
    scores = scores.masked_fill(nothing, -torch.inf)
    last = torch.iinfo(positions.dtype).max
    by_position = positions.masked_fill(nothing, last).argsort(dim=1, stable=True)
    scores, positions = scores.gather(1, by_position), positions.gather(1, by_position)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores[:, :k], positions.gather(1, order[:, :k])


def without_rounding(values: npt.NDArray[np.float64], *, scale: float | None = None) -> npt.NDArray[np.float64]:
    """Make numbers equal that differ only by rounding.

    Args:
        values: `(n,)`, finite.
        scale: Largest magnitude of what they were computed from; None for their own.

    Returns:
        `(n,)`: of neighbours closer than `ROUNDING` times the scale all have the largest's value.
    """
    if len(values) < 2:
        return values
    largest = float(np.abs(values).max()) if scale is None else scale
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    apart = falling[:-1] - falling[1:] > ROUNDING * largest
    # Each number gets the position where its group begins; rounding to a grid would split groups at its lines.
    first = np.maximum.accumulate(np.where(np.concatenate([[True], apart]), np.arange(len(values)), 0))
    result = np.empty_like(values)
    result[order] = falling[first]
    return result
