"""The best `k` of many scores: descending, equal ones by position.

Shapes: `Q` queries, `n` scores of each.
"""

from __future__ import annotations

import torch
from torch import Tensor


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Choose the best scores of each row.

    Args:
        scores: `(Q, n)`; what is not a number comes before all others.
        k: How many, at least 1; may exceed `n`.

    Returns:
        Scores and columns `(Q, min(k, n))`, best first, equal scores by column.
    """
    top, columns = scores.topk(min(k, scores.shape[1]), dim=1, sorted=False)
    if top.shape[1]:
        # topk takes any of the scores that equal the last one it takes; where it had a choice, sort in full.
        last = top.amin(dim=1, keepdim=True)
        unsure = ((scores == last).sum(dim=1) > (top == last).sum(dim=1)).nonzero()[:, 0]
        if len(unsure):
            exact = scores[unsure].sort(dim=1, descending=True, stable=True).indices
            columns[unsure] = exact[:, : columns.shape[1]]
    columns = columns.sort(dim=1).values
    top, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return top, columns.gather(1, order)


def best_first(scores: Tensor, positions: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Sort positions by their scores.

    Args:
        scores: `(Q, n)`.
        positions: `(Q, n)` integers; below 0 where there is nothing.
        k: Keep only so many; None for all.

    Returns:
        Scores and positions `(Q, min(k, n))`, best first, equal scores by position. What is nothing comes behind all
        others, with minus infinity for a score.
    """
    nothing = positions < 0
    scores = scores.masked_fill(nothing, -torch.inf)
    by_position = torch.where(nothing, torch.iinfo(positions.dtype).max, positions).argsort(dim=1, stable=True)
    scores, positions = scores.gather(1, by_position), positions.gather(1, by_position)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores[:, :k], positions.gather(1, order[:, :k])
