"""Fusion: one ranking from several whose scores cannot be compared as they are.

Shapes: `Q` queries, `n` candidates of a query at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek.plan._candidates import NOTHING, Candidates

Method: TypeAlias = Literal["rrf", "weighted", "minmax"]
"""How scores are made comparable: by rank; not at all; by moving each query's scores to [0, 1]."""


def fuse(
    parts: Sequence[Candidates], *, method: Method = "rrf", weights: Sequence[float] | None = None, rrf_k: int = 60
) -> Candidates:
    """Fuse rankings of the same queries.

    * `rrf`: the sum of weight / (`rrf_k` + rank), ranks from 1 (Cormack, Clarke and Büttcher, SIGIR 2009).
    * `weighted`: the weighted sum of scores; a ranking that lacks a document adds its own lowest score.
    * `minmax`: the weighted sum of scores after each ranking's own of a query were moved to [0, 1]; a ranking that
      lacks a document adds 0.

    Args:
        parts: At least one ranking.
        method: See above.
        weights: One a ranking; None for equal ones.
        rrf_k: Larger values flatten the differences between first ranks; at least 0.

    Returns:
        Each query's distinct rows by fused score.

    Raises:
        InputError: There are no rankings, or the number of weights is not theirs.
    """
    chosen = [1.0] * len(parts) if weights is None else list(weights)
    if not parts or len(chosen) != len(parts):
        raise InputError(f"{len(parts)} rankings and {len(chosen)} weights cannot be fused; give one weight a ranking")
    if method == "rrf":
        values = [weight / (rrf_k + _ranks(part)) for part, weight in zip(parts, chosen, strict=True)]
        missing = [torch.zeros(len(parts[0])) for _ in parts]
    elif method == "minmax":
        values = [weight * _to_unit(part) for part, weight in zip(parts, chosen, strict=True)]
        missing = [torch.zeros(len(parts[0])) for _ in parts]
    else:
        values = [weight * part.scores for part, weight in zip(parts, chosen, strict=True)]
        missing = [weight * _lowest(part) for part, weight in zip(parts, chosen, strict=True)]
    rows, fused = [], []
    for query in range(len(parts[0])):
        own = [part.rows[query][part.rows[query] != NOTHING] for part in parts]
        distinct, places = torch.unique(torch.cat(own), return_inverse=True)
        total = torch.zeros(len(distinct))
        for part, value, lack, place in zip(own, values, missing, places.split([len(o) for o in own]), strict=True):
            contribution = torch.full_like(total, float(lack[query]))
            contribution[place] = value[query, : len(part)]
            total += contribution
        rows.append(distinct)
        fused.append(total)
    return Candidates.of_lists(rows, fused)


def _ranks(part: Candidates) -> Tensor:
    return torch.arange(1, part.rows.shape[1] + 1, dtype=torch.float32).expand(part.rows.shape)


def _lowest(part: Candidates) -> Tensor:
    present = part.rows != NOTHING
    if not present.shape[1]:
        return torch.zeros(len(part))
    lowest = part.scores.masked_fill(~present, torch.inf).amin(dim=1)
    return torch.where(lowest.isinf(), 0.0, lowest)


def _to_unit(part: Candidates) -> Tensor:
    if not part.rows.shape[1]:
        return part.scores
    low = _lowest(part)[:, None]
    high = part.scores.amax(dim=1, keepdim=True)
    spread = high - low
    # A ranking of one document, or of equal ones, says that they are all good.
    return torch.where(spread > 0, (part.scores - low) / spread.clamp_min(1e-30), 1.0).clamp(0, 1)
