"""Losses that order the general and the specific in hyperbolic spaces: cones and radii.

Shapes: `Q` queries.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, Literal, TypeVar

from pydantic import Field
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.geometry import exterior_angle, half_aperture
from hyperseek.geometry.polar import split_polar
from hyperseek.scoring import vectors_of
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean


class HierarchyConfig(LossConfig):
    """Fields of losses that order a query and its positive by generality.

    Attributes:
        general: The more general side: `document` if documents are ancestors of their queries; `query` if queries are
            short and documents more specific.
    """

    general: Literal["query", "document"] = "document"


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
    """The mean over queries that have a positive; item 0 counts.

    Args:
        config: Its options.
    """

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive."""
        return material.positive

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: One whose queries are points of a hyperbolic space.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: The queries are not points, or the space is flat.
        """
        scorer = batch.scorer
        points = scorer.linear() if scorer.space.hyperbolic else None
        if points is None:
            raise InputError(
                f"losses that order by generality need queries that are points of a hyperbolic space, "
                f"not {scorer.kind!r} scorers of a {scorer.space.kind!r} space"
            )
        space = scorer.space
        positives = space.at_level(vectors_of(batch.points)[batch.items[:, 0].clamp_min(0)])
        queries = space.at_level(points).to(positives.dtype)
        pair = (queries, positives) if self.config.general == "query" else (positives, queries)
        return masked_mean(self.each(*pair), batch.has_positive)

    @abstractmethod
    def each(self, general: Tensor, specific: Tensor) -> Tensor:
        """Return `(Q,)` losses of pairs of `(Q, d + 2)` polar points."""


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
