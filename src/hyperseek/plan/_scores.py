"""Exact scores of each query's own candidates.

Shapes: `Q` queries, `n` candidates of a query at most, `w` numbers of a stored point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.plan._candidates import NOTHING
from hyperseek.scoring import Scorer
from hyperseek.store._snapshot import Snapshot

# Points of candidates that are gathered at a time.
_GATHERED_BYTES = 16 << 20


def exact_scores(snapshot: Snapshot, scorer: Scorer, rows: Tensor) -> Tensor:
    """Score candidates, each by the query that it belongs to.

    Args:
        snapshot: The documents.
        scorer: `Q` compiled queries.
        rows: `(Q, n)`; `NOTHING` anywhere.

    Returns:
        `(Q, n)` float32 on the CPU; minus infinity for `NOTHING`.
    """
    scores = torch.full(rows.shape, -torch.inf)
    if (rows == NOTHING).all():
        return scores
    distinct, places = torch.unique(rows.clamp_min(0), return_inverse=True)
    points = snapshot.points(distinct)
    with torch.inference_mode():
        if scorer.linear() is not None:
            width = rows.shape[1] * points.dimension * 4
            step = max(1, _GATHERED_BYTES // width)
            for start in range(0, len(rows), step):
                own = points.vectors[places[start : start + step]].to(scorer.device)
                scores[start : start + step] = scorer[start : start + step].score_own(own).float().cpu()
            return scores.masked_fill(rows == NOTHING, -torch.inf)
        for query, own in enumerate(places):
            present = rows[query] != NOTHING
            if present.any():
                part = points[own[present]].to(scorer.device)
                scores[query, present] = scorer[query : query + 1].score(part)[0].float().cpu()
    return scores.clone()
