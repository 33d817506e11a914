"""Feedback: queries are moved towards the best documents that they found, and ask once more.

It is pseudo-relevance feedback on vectors ("Pseudo Relevance Feedback with Deep Language Models and Dense Retrievers",
arXiv 2108.11044), for every kind of queries that can be moved: see `Scorer.moved_towards`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from hyperseek._order import NOTHING
from hyperseek.plan._open_index import Candidates, Search, union
from hyperseek.plan._plan import Source, Stage, Step, found_by
from hyperseek.plan.exhaustive import exact_scores


class Feedback(Step):
    """The stages before, asked again with each query moved towards its own best documents.

    Later stages continue with the moved queries. Documents that a search leaves out are no feedback.

    Attributes:
        n: How many of the best documents.
        weight: How far, as a share of the way to their mean.
        softmax: None counts the documents alike; else their weights are those of the softmax of score / `softmax`.
    """

    kind: Literal["feedback"] = "feedback"
    n: int = Field(default=1, ge=1)
    weight: float = Field(default=0.2, gt=0, lt=1)
    softmax: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Score the candidates by the moved queries."""
        return self.follow(search, candidates, ())[1]

    def follow(self, search: Search, candidates: Candidates, before: Sequence[Stage]) -> tuple[Search, Candidates]:
        """Move the queries and ask the stages before again; what these found with the first queries is kept in mind."""
        moved = self._moved(search, candidates)
        if not before:
            return moved, _scored(moved, candidates.rows)
        source, *steps = before
        found = found_by(cast("Source", source), moved)
        for step in cast("list[Step]", steps):
            found = step.follow(moved, found, ())[1]
        if not before[-1].exact:
            return moved, found
        # An engine may have missed with the moved queries what it found with the first ones.
        again = (candidates.rows[:, :, None] == found.rows[:, None]).any(dim=2)
        missed = candidates.rows.masked_fill(again, NOTHING)
        if (missed == NOTHING).all():
            return moved, found
        width = max(candidates.rows.shape[1], found.rows.shape[1])
        return moved, union([found, _scored(moved, missed)]).first(width)

    def _moved(self, search: Search, candidates: Candidates) -> Search:
        """Return the search with moved queries."""
        known = candidates if search.unwanted is None else candidates.without(search.unwanted)
        best = known.first(self.n)
        weights = self._weights(best)
        if not weights.any():
            return replace(search, notes={}, found=[])
        documents = search.snapshot.points(best.rows.clamp_min(0).flatten())
        device = search.scorer.device
        scorer = search.scorer.moved_towards(documents.to(device), weights.to(device))
        return replace(search, scorer=scorer, notes={}, found=[])

    def _weights(self, best: Candidates) -> Tensor:
        """Return the `(Q, n)` weights of the best documents; 0 where there is none."""
        present = (best.rows != NOTHING) & best.scores.isfinite()
        shares = present.float()
        if self.softmax is not None and shares.shape[1]:
            scores = (best.scores.double() / self.softmax).masked_fill(~present, -torch.inf)
            shares = scores.softmax(dim=1).nan_to_num().float()
        return self.weight * shares / shares.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _scored(search: Search, rows: Tensor) -> Candidates:
    return Candidates.ranked(rows, exact_scores(search.snapshot, search.scorer, rows))
