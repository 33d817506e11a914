"""Losses at several dimensions at once, so that a model can be cut to fewer ("Matryoshka", arXiv 2205.13147)."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from hyperseek._config import Config
from hyperseek._errors import InputError
from hyperseek.scoring import LinearScorer, Points
from hyperseek.training._losses._batch import ScoredBatch


class MatryoshkaConfig(Config):
    """All losses once more at fewer dimensions. Points of hyperbolic spaces are cut and lifted again.

    Attributes:
        dimensions: Below the model's own, which is always trained.
        weights: Factor of each dimension's losses, above 0; None for 1.
    """

    dimensions: tuple[int, ...] = Field(min_length=1)
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if min(self.dimensions) < 1 or len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError(f"dimensions must be distinct and at least 1, not {self.dimensions}")
        if self.weights is not None and (len(self.weights) != len(self.dimensions) or min(self.weights) <= 0):
            raise ValueError(f"{len(self.dimensions)} dimensions need as many weights above 0, not {self.weights}")
        return self

    @property
    def weighted(self) -> dict[int, float]:
        """The weight of each dimension."""
        return dict(zip(self.dimensions, self.weights or (1.0,) * len(self.dimensions), strict=True))


def shortened(batch: ScoredBatch, dimension: int) -> ScoredBatch:
    """Return a batch whose queries and documents are cut to their first dimensions.

    Args:
        batch: One whose queries are points.
        dimension: At most the space's.

    Returns:
        The batch, not yet scored. Scores before training stay those of all dimensions.

    Raises:
        InputError: The queries are no points, or have fewer dimensions.
    """
    scorer = batch.scorer
    if not isinstance(scorer, LinearScorer):
        raise InputError(f"only queries that are points can be cut to {dimension} dimensions, not {scorer.kind!r} ones")
    space = scorer.space
    queries = LinearScorer(space.shortened(dimension), space.shorten(scorer.queries, dimension), factor=scorer.factor)
    return replace(batch, scorer=queries, points=Points(space.shorten(batch.points.vectors, dimension)))
