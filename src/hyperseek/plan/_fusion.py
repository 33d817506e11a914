"""One ranking from several whose scores cannot be compared as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hyperseek._order import NOTHING, without_rounding
from hyperseek.errors import InputError
from hyperseek.plan._open_index import Candidates
from hyperseek.scoring import EMPTY_SCORE

Method: TypeAlias = Literal["rrf", "weighted", "minmax"]
"""How scores are made comparable: by rank; not at all; by moving each query's scores to [0, 1]."""

HEAVIEST = 1e100
"""Largest weight of a ranking: products of heavier ones and scores would overflow."""

_Scores: TypeAlias = npt.NDArray[np.float64]


def fuse(
    parts: Sequence[Candidates], *, method: Method = "rrf", weights: Sequence[float] | None = None, rrf_k: int = 60
) -> Candidates:
    """Fuse rankings of the same queries.

    * `rrf`: the sum of weight / (`rrf_k` + rank), ranks from 1 (Cormack, Clarke and Büttcher, SIGIR 2009).
    * `weighted`: the weighted sum of scores; a ranking that lacks a document adds its own lowest score.
    * `minmax`: the weighted sum of scores after each ranking's own of a query were moved to [0, 1]; a ranking that
      lacks a document adds 0.

    Lowest and highest are those of real, finite scores. A document without tokens, which late interaction gives a
    filler for a score, counts as one that the ranking lacks; plus infinity counts as the highest, minus infinity as the
    lowest.

    Args:
        parts: At least one ranking.
        method: See above.
        weights: One per ranking, finite and at most `HEAVIEST`; None for equal ones.
        rrf_k: Larger values flatten the differences between first ranks; at least 0.

    Returns:
        Each query's distinct rows by fused score, float64; equal sums by row.

    Raises:
        InputError: There are no rankings, the number of weights is not theirs, a weight is out of range, `rrf_k` is
            below 0, or a score is not a number.
    """
    chosen = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if not parts or len(chosen) != len(parts):
        raise InputError(
            f"{len(parts)} rankings and {len(chosen)} weights cannot be fused; give one weight per ranking"
        )
    if not all(abs(weight) <= HEAVIEST for weight in chosen):
        raise InputError(f"weights must be finite numbers up to {HEAVIEST:g}, not {chosen}")
    if rrf_k < 0:
        raise InputError(f"rrf_k must be at least 0, not {rrf_k}; 60 is usual")
    scale = {"rrf": lambda scores: _by_rank(scores, rrf_k), "weighted": _as_they_are, "minmax": _to_unit}[method]
    rows, fused = [], []
    for query in range(len(parts[0])):
        present = [part.rows[query] != NOTHING for part in parts]
        own = [part.rows[query][there].numpy() for part, there in zip(parts, present, strict=True)]
        distinct, places = np.unique(np.concatenate(own), return_inverse=True)
        contributions = np.empty((len(parts), len(distinct)))
        start = 0
        for number, (part, there) in enumerate(zip(parts, present, strict=True)):
            scores = part.scores[query][there].double().numpy()
            if np.isnan(scores).any():
                raise InputError(f"ranking {number} (from 0) has scores that are not numbers for query {query}")
            values, lacking = scale(scores)
            contributions[number] = chosen[number] * lacking
            contributions[number, places[start : start + len(scores)]] = chosen[number] * values
            start += len(scores)
        rows.append(torch.from_numpy(distinct))
        fused.append(torch.from_numpy(_sums(contributions)))
    return Candidates.of_lists(rows, fused)


def _sums(contributions: _Scores) -> _Scores:
    """Sum `(parts, n)` over the parts; equal sums of unlike parts come out equal."""
    largest = float(np.abs(contributions).sum(axis=0).max(initial=0.0))
    return without_rounding(np.sort(contributions, axis=0).sum(axis=0), scale=largest)


def _by_rank(scores: _Scores, rrf_k: int) -> tuple[_Scores, float]:
    return 1 / (rrf_k + np.arange(1, len(scores) + 1, dtype=np.float64)), 0.0


def _as_they_are(scores: _Scores) -> tuple[_Scores, float]:
    low, high = _range(scores)
    return np.where(scores == EMPTY_SCORE, low, scores.clip(low, high)), low


def _to_unit(scores: _Scores) -> tuple[_Scores, float]:
    low, high = _range(scores)
    # A ranking of one document, or of equal ones, says that they are all good.
    unit = (scores.clip(low, high) - low) / (high - low) if high > low else np.where(scores >= low, 1.0, 0.0)
    return np.where(scores == EMPTY_SCORE, 0.0, unit), 0.0


def _range(scores: _Scores) -> tuple[float, float]:
    """Return the lowest and the highest real score; 0 and 1 where none is finite, which parts infinite ones."""
    real = scores[np.isfinite(scores) & (scores != EMPTY_SCORE)]
    return (float(real.min()), float(real.max())) if len(real) else (0.0, 1.0 if np.isinf(scores).any() else 0.0)
