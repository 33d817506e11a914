"""The scorer of every bi-encoder: a query is one point of the space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek.scoring._points import Points
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space


class LinearScorer(Scorer):
    """Queries as points, compared by the space's own similarity.

    Args:
        space: The geometry.
        queries: `(Q, w)` stored points, as `Space.canonical` makes them.
        factor: 0-dim, multiplies every score. It is 1, and carries the gradient of a curvature in training; scorers
            that are cut, moved or saved do without. None for none.

    Raises:
        InputError: The queries are no floating tensor of the space's width.
    """

    kind = "linear"

    def __init__(self, space: Space, queries: Tensor, *, factor: Tensor | None = None) -> None:
        space.check(queries)
        if queries.ndim != 2:
            raise InputError(f"queries must have the shape (queries, numbers), not {tuple(queries.shape)}")
        self.factor = factor
        self.space = space
        self.queries = queries

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` similarities."""
        return self._scaled(self.space.score(self.queries, points))

    def score_own(self, documents: Tensor) -> Tensor:
        """Return `(Q, n)` similarities of each query with its own `(Q, n, w)` documents."""
        return self._scaled(self.space.score_own(self.queries, documents))

    def _scaled(self, scores: Tensor) -> Tensor:
        # What float64 held and float32 does not is the largest number that it has.
        largest = torch.finfo(torch.float32).max
        scores = scores if scores.dtype == torch.float32 else scores.clamp(-largest, largest).float()
        return scores if self.factor is None else scores * self.factor

    def linear(self) -> Tensor:
        """Return the queries themselves."""
        return self.queries

    def tensors(self) -> dict[str, Tensor]:
        """Return `queries`."""
        return {"queries": self.queries}

    def config(self) -> dict[str, Any]:
        """Return the space."""
        return {"space": self.space.to_json()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from `queries` and the space."""
        return cls(Space.from_json(config["space"]), tensors["queries"])
