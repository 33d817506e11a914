"""Losses that order the general and the specific in hyperbolic spaces: cones and radii.

Shapes: `Q` queries.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.geometry import exterior_angle, half_aperture
from hyperseek.geometry.polar import split_polar
from hyperseek.scoring import Scorer, vectors_of
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean


class HierarchyConfig(LossConfig):
    """Fields of losses that order a query and its positive by generality.

    Attributes:
        general: The more general side: `document` if documents are ancestors of their queries; `query` if queries are
            short and documents more specific; `coarse` for the coarse positive, the specific side being the positive.
        levels: At which levels of a model with levels; empty for all.
    """

    general: Literal["query", "document", "coarse"] = "document"
    levels: tuple[Annotated[int, Field(ge=1)], ...] = ()


class EntailmentConfig(HierarchyConfig):
    """How far the specific point lies outside the general one's cone, as in MERU (arXiv 2304.09172).

    Attributes:
        least_radius: K of the cones' aperture asin(2 K / sinh rho), positive; nearer the origin, cones are half spaces.
        aperture_scale: Factor of the aperture, above 0; below 1 for narrower cones.
    """

    least_radius: float = Field(default=0.1, gt=0)
    aperture_scale: float = Field(default=1.0, gt=0)


class RadiusConfig(HierarchyConfig):
    """How far the specific point is from lying `margin` farther out: the centripetal loss of HiT (arXiv 2401.11374).

    Attributes:
        margin: In units of the curvature radius, at least 0.
    """

    margin: float = Field(default=0.1, ge=0)


H = TypeVar("H", bound=HierarchyConfig)


class HierarchyLoss(Loss[H], Generic[H]):
    """The mean over queries that have a positive, and over levels; item 0 counts.

    Args:
        config: Its options.
    """

    def __init__(self, config: H) -> None:
        super().__init__(config)
        self.needs_coarse = config.general == "coarse"

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive, and a coarse one if that is the general side."""
        return material.positive and (material.coarse or not self.needs_coarse)

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: One whose queries are points of a hyperbolic space.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: The queries are not points, or the space is flat.
        """
        space = batch.scorer.space
        levels = self.config.levels or range(1, space.levels + 1)
        if max(levels) > space.levels:
            raise InputError(f"levels: {tuple(levels)} are asked for, but the model has {space.levels}")
        counts = batch.has_positive
        if self.config.general == "coarse":
            counts = counts & (batch.coarse_or_own != batch.items[:, 0])
        return torch.stack([masked_mean(self._at_level(batch, level), counts) for level in levels]).mean()

    def _at_level(self, batch: ScoredBatch, level: int) -> Tensor:
        space, documents = batch.scorer.space, vectors_of(batch.points)
        queries = _queries_at(batch.scorer, level)
        positives = space.at_level(documents[batch.items[:, 0].clamp_min(0)], level)
        if self.config.general == "coarse":
            return self.each(space.at_level(documents[batch.coarse_or_own.clamp_min(0)], level), positives)
        queries = queries.to(positives.dtype)
        return self.each(*((queries, positives) if self.config.general == "query" else (positives, queries)))

    @abstractmethod
    def each(self, general: Tensor, specific: Tensor) -> Tensor:
        """Return `(Q,)` losses of pairs of `(Q, d + 2)` polar points."""


def _queries_at(scorer: Scorer, level: int) -> Tensor:
    """Return the `(Q, d + 2)` polar points of queries at a level."""
    space = scorer.space
    # Points that are compared with documents of the last level, whatever their own.
    points = scorer.at(level=level, document_level=space.levels).linear() if space.hyperbolic else None
    if points is None:
        raise InputError(
            f"losses that order by generality need queries that are points of a hyperbolic space, not {scorer.kind!r} "
            f"scorers of a {space.kind!r} space"
        )
    return space.at_level(points, space.levels)


class EntailmentLoss(HierarchyLoss[EntailmentConfig]):
    """The loss of `EntailmentConfig`.

    Args:
        config: Its options.
    """

    config_class = EntailmentConfig

    def each(self, general: Tensor, specific: Tensor) -> Tensor:
        """Return the angle by which each specific point lies outside the cone."""
        aperture = half_aperture(general, least_radius=self.config.least_radius)
        return (exterior_angle(general, specific) - self.config.aperture_scale * aperture).clamp_min(0)


class RadiusLoss(HierarchyLoss[RadiusConfig]):
    """The loss of `RadiusConfig`.

    Args:
        config: Its options.
    """

    config_class = RadiusConfig

    def each(self, general: Tensor, specific: Tensor) -> Tensor:
        """Return the distance by which each general point lies too far out."""
        radii = [split_polar(points)[1][:, 0] for points in (general, specific)]
        return (radii[0] - radii[1] + self.config.margin).clamp_min(0)
