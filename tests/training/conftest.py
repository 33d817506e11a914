"""Batches whose scores are given outright: a linear scorer over the unit vectors scores what it is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyperseek.scoring import LinearScorer, Points, Space
from hyperseek.training import NO_DOCUMENT, ScoredBatch


def _scored(scores: Tensor) -> tuple[LinearScorer, Points]:
    return LinearScorer(Space("dot", scores.shape[1]), scores), Points(torch.eye(scores.shape[1]))


@pytest.fixture
def make_batch() -> Callable[..., ScoredBatch]:
    """Make a batch from a (Q, D) matrix of scores; by default items are the documents in order, item 0 is known."""

    def make(
        scores: Tensor,
        *,
        items: Tensor | None = None,
        known: Tensor | None = None,
        labels: Tensor | None = None,
        base: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> ScoredBatch:
        queries, count = scores.shape
        items = torch.arange(count).view(queries, -1) if items is None else items
        documents = torch.arange(count) + 100 if documents is None else documents
        if known is None:
            known = torch.where(items[:, :1] >= 0, documents[items[:, :1].clamp_min(0)], NO_DOCUMENT)
        scorer, points = _scored(scores)
        return ScoredBatch(
            scorer=scorer,
            points=points,
            documents=documents,
            items=items,
            known=known,
            labels=torch.full(items.shape, torch.nan) if labels is None else labels,
            base_scorer=None if base is None else _scored(base)[0],
        )

    return make
