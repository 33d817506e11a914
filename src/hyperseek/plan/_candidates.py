"""Candidates: what one stage of a search hands to the next.

Shapes: `Q` queries, `n` candidates of a query at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hyperseek.scoring._best import best_first

NOTHING = -1
"""Row that stands for no document; its score is minus infinity."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows of documents for each query, best first.

    Attributes:
        rows: `(Q, n)` int64; `NOTHING` behind the last one where a query has fewer.
        scores: `(Q, n)` float32, float64 of a fusion, higher is better; equal ones by row.
    """

    rows: Tensor
    scores: Tensor

    @classmethod
    def ranked(cls, rows: Tensor, scores: Tensor, *, k: int | None = None) -> Self:
        """Sort rows by their scores, and equal scores by row.

        Args:
            rows: `(Q, n)`; `NOTHING` anywhere.
            scores: `(Q, n)`.
            k: Keep only so many; None for all.

        Returns:
            The candidates.
        """
        best, found = best_first(scores, rows, k)
        return cls(found, best)

    @classmethod
    def of_lists(cls, rows: Sequence[Tensor], scores: Sequence[Tensor], *, k: int | None = None) -> Self:
        """Make candidates of a list a query, of any lengths."""
        width = max((len(part) for part in rows), default=0)
        padded = torch.full((len(rows), width), NOTHING)
        values = torch.full((len(rows), width), -torch.inf, dtype=scores[0].dtype if len(scores) else None)
        for place, (own, their) in enumerate(zip(rows, scores, strict=True)):
            padded[place, : len(own)] = own
            values[place, : len(own)] = their
        return cls.ranked(padded, values, k=k)

    def __len__(self) -> int:
        return self.rows.shape[0]

    def first(self, k: int) -> Candidates:
        """Return the best `k` of each query."""
        return Candidates(self.rows[:, :k], self.scores[:, :k])

    def without(self, unwanted: Tensor) -> Candidates:
        """Leave out one row of each query: `(Q,)`, `NOTHING` for none."""
        rows = self.rows.masked_fill((self.rows == unwanted[:, None]) & (unwanted[:, None] != NOTHING), NOTHING)
        return Candidates.ranked(rows, self.scores)

    @property
    def counts(self) -> Tensor:
        """`(Q,)` numbers of candidates."""
        return (self.rows != NOTHING).sum(dim=1)


def union(parts: Sequence[Candidates]) -> Candidates:
    """Unite candidates; a document that several parts found keeps its highest score.

    Args:
        parts: At least one, of the same queries, whose scores are comparable.

    Returns:
        Each query's distinct rows.
    """
    rows = torch.cat([part.rows for part in parts], dim=1)
    scores = torch.cat([part.scores for part in parts], dim=1)
    ranked = Candidates.ranked(rows, scores)
    by_row = ranked.rows.sort(dim=1, stable=True)  # stable: of equal rows the best score comes first
    again = torch.zeros_like(by_row.values, dtype=torch.bool)
    again[:, 1:] = by_row.values[:, 1:] == by_row.values[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, by_row.indices, again)
    merged = Candidates.ranked(ranked.rows.masked_fill(repeated, NOTHING), ranked.scores)
    return merged.first(int(merged.counts.max()) if len(merged) else 0)
