"""Losses that order the general and the specific: cones and radii of hyperbolic spaces, and levels from coarse to fine.

Shapes: `Q` queries, `D` distinct documents of the batch, `K` negatives per query, `M` levels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Generic, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import logsigmoid

from hyperseek._config import meaningless
from hyperseek.errors import InputError
from hyperseek.geometry import exterior_angle, half_aperture
from hyperseek.geometry.polar import split_polar
from hyperseek.nn.levels import fine_shares, weights_of_levels
from hyperseek.scoring import Scorer, vectors_of
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean
from hyperseek.training.losses._score_losses import NegativesConfig, NegativesLoss


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


Pair = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class CoarseToFineConfig(NegativesConfig):
    """Cross-entropy of a coarse and of a fine positive, in other shares at each level.

    The total is the sum of w_m ((1 - alpha_m) NCE_m(coarse) + alpha_m NCE_m(fine)) over the levels m. The fine
    positive is item 0 of a query. A query without a coarse positive asks for the fine one alone.

    Attributes:
        temperature: As in `NegativesConfig`.
        alpha_segments: Alpha, the share of the fine positive at each level, 0 to 1; None for (m - 1) / (M - 1).
        w_segments: Weight of each level, at least 0, divided by their sum; None for m.
        negatives: `batch` tells positives from all documents of the batch; `own` from the query's own negatives, as the
            original does.
        levels: `same` compares queries and documents at the same level. `documents_coarser` adds queries at level M
            with documents at every level, so that a narrow query finds a general document. Or pairs of the levels of
            queries and documents, in place of these. Alpha and w are those of the documents' level.
        apart: Weight, at least 0, of telling the two positives from each other: cross-entropy of the share that the
            fine one has of both, which is to be alpha_m. Level 1 then ranks what is coarse first, level M what is fine.
            The original leaves their order open.
    """

    temperature: float = Field(default=0.05, gt=0)
    alpha_segments: tuple[float, ...] | str | None = None
    w_segments: tuple[float, ...] | str | None = None
    negatives: Literal["batch", "own"] = "batch"
    levels: Literal["same", "documents_coarser"] | tuple[Pair, ...] = "same"
    apart: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.levels:
            raise ValueError("levels: give at least one pair of levels, same, or documents_coarser")
        if self.negatives == "own" and self.false_negative_margin is not None:
            raise meaningless("false_negative_margin", "with negatives: batch, not own")
        return self

    def pairs(self, levels: int) -> list[tuple[int, int]]:
        """Return the levels of queries and documents that are compared; InputError if there is no such level."""
        if isinstance(self.levels, str):
            same = [(level, level) for level in range(1, levels + 1)]
            coarser = [(levels, level) for level in range(1, levels)]
            return same + (coarser if self.levels == "documents_coarser" else [])
        for pair in self.levels:
            if max(pair) > levels:
                raise InputError(f"losses.coarse_to_fine.levels has the pair {pair}, but the model has {levels} levels")
        return list(self.levels)


class CoarseToFineLoss(NegativesLoss[CoarseToFineConfig]):
    """The loss of `CoarseToFineConfig`; queries without a positive do not count.

    Args:
        config: Its options.
    """

    config_class = CoarseToFineConfig
    needs_coarse = True

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive, and documents to tell it from or a coarse positive."""
        told_apart = self.config.apart > 0 and material.coarse
        others = material.others and self.config.negatives == "batch"
        return material.positive and (others or material.negatives > 0 or told_apart)

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: One whose queries can be compared at every level.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: The queries have no levels, or the options are for another number of levels.
        """
        if self.config.across_devices and self.config.negatives == "batch":
            batch = batch.across_devices()
        self.clamp_temperature()
        levels = batch.scorer.space.levels
        shares = fine_shares(self.config.alpha_segments, levels)
        weights = weights_of_levels(self.config.w_segments, levels)
        pairs = self.config.pairs(levels)
        total = sum(weights[document_level - 1] for _, document_level in pairs)
        if not total:
            raise InputError("losses.coarse_to_fine: all levels that are compared have a weight of 0 in w_segments")
        parts = [
            weights[document_level - 1]
            / total
            * self._of_level(batch, level, document_level, shares[document_level - 1])
            for level, document_level in pairs
        ]
        return masked_mean(torch.stack(parts).sum(0), batch.has_positive)

    def _of_level(self, batch: ScoredBatch, level: int, document_level: int, share: float) -> Tensor:
        """Return the `(Q,)` losses of a pair of levels."""
        scorer = batch.scorer.at(level=level, document_level=document_level)
        scores = self._own if self.config.negatives == "own" else self._in_batch
        fine, coarse, others = scores(batch, scorer)
        loss = (1 - share) * _cross_entropy(coarse, others) + share * _cross_entropy(fine, others)
        if not self.config.apart:
            return loss
        finer = fine - coarse
        apart = -(share * logsigmoid(finer) + (1 - share) * logsigmoid(-finer))
        return loss + self.config.apart * torch.where(batch.coarse_or_own != batch.items[:, 0], apart, 0.0)

    def _own(self, batch: ScoredBatch, scorer: Scorer) -> tuple[Tensor, Tensor, Tensor]:
        columns = torch.cat([batch.coarse_or_own[:, None], batch.items], 1)
        logits = scorer.score_own(batch.points[columns.clamp_min(0).flatten()]) / self.log_temperature.exp()
        others = _masked(logits[:, 2:], batch.own_mask[:, 1:])
        return logits[:, 1], logits[:, 0], others

    def _in_batch(self, batch: ScoredBatch, scorer: Scorer) -> tuple[Tensor, Tensor, Tensor]:
        scores = scorer.score(batch.points)
        logits = scores / self.log_temperature.exp()
        coarse = batch.coarse_or_own[:, None].clamp_min(0)
        targets = batch.own_positives.scatter(1, coarse, batch.has_positive[:, None])
        fine = logits.gather(1, batch.items[:, :1].clamp_min(0))[:, 0]
        others = _masked(logits, self.negatives(batch, targets, scores))
        return fine, logits.gather(1, coarse)[:, 0], others


def _masked(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~kept, torch.finfo(logits.dtype).min)


def _cross_entropy(positive: Tensor, others: Tensor) -> Tensor:
    """Return `(Q,)` losses of `(Q,)` positives among `(Q, K)` others, those of them that are masked left out."""
    if not others.shape[1]:
        return torch.zeros_like(positive)
    return torch.logaddexp(positive, others.logsumexp(1)) - positive
