"""Distillation: from a teacher's distribution (KL) or score differences (MarginMSE, arXiv 2010.02666), or from the
scores before training, which anchors a model to its start.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean

_SMALL = 1e-8  # as in PyLate


class KLConfig(LossConfig):
    """Kullback-Leibler divergence from the teacher's distribution over the query's own items to the student's.

    Attributes:
        temperature: Student scores are divided by it, above 0.
        teacher_temperature: Teacher scores are divided by it; None means the same as `temperature`.
        normalize_scores: Whether each query's student scores are first mapped onto [0, 1], its lowest to 0 and its
            highest to 1, as PyLate's `Distillation` does; for teachers whose scores lie in that range.
    """

    temperature: float = Field(default=1.0, gt=0)
    teacher_temperature: float | None = Field(default=None, gt=0)
    normalize_scores: bool = False


class KLLoss(Loss[KLConfig]):
    """The loss of `KLConfig`, times `temperature` squared so that gradients keep their size.

    Items without a teacher score are left out of both distributions; queries with fewer than two scored items do
    not count.

    Args:
        config: Its options.
    """

    config_class = KLConfig

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has two items that a teacher scored."""
        return material.scored_positive + material.scored_negatives > 1

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean divergence.

        Args:
            batch: One whose labels are teacher scores.

        Returns:
            A scalar, at least 0.
        """
        taught = batch.own_mask & ~batch.labels.isnan()
        teacher = batch.labels.nan_to_num() / (self.config.teacher_temperature or self.config.temperature)
        own = _spread(batch.own, taught) if self.config.normalize_scores else batch.own
        divergence = divergence_of(teacher, own / self.config.temperature, taught)
        return masked_mean(divergence, taught.sum(1) > 1) * self.config.temperature**2


def divergence_of(wanted: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """Return `(Q,)` divergences between the softmaxes of two `(Q, D)` score matrices over the masked columns."""
    lowest = torch.finfo(given.dtype).min
    wanted_log = wanted.masked_fill(~mask, lowest).log_softmax(1)
    given_log = given.masked_fill(~mask, lowest).log_softmax(1)
    terms = wanted_log.exp() * (wanted_log - given_log)
    return torch.where(mask, terms, torch.zeros_like(terms)).sum(1)


def _spread(scores: Tensor, mask: Tensor) -> Tensor:
    """Map the masked columns of `(Q, n)` scores onto [0, 1], row by row; the gradient passes through both ends."""
    mask = mask | ~mask.any(1, keepdim=True)  # rows without scores do not count, and must not give NaN
    lowest = scores.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    highest = scores.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    spread = (scores - lowest) / (highest - lowest + _SMALL)
    return torch.where(mask, spread, torch.zeros_like(spread))


class MarginMSEConfig(LossConfig):
    """Squared error between the student's and the teacher's margins, as in the original Hypencoder."""


class MarginMSELoss(Loss[MarginMSEConfig]):
    """The mean over all pairs (item 0, item j) of a batch that have teacher scores.

    Args:
        config: Its options.
    """

    config_class = MarginMSEConfig

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive and a negative that a teacher scored."""
        return material.scored_positive and material.scored_negatives > 0

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean squared difference of margins.

        Args:
            batch: One whose labels are teacher scores.

        Returns:
            A scalar, at least 0.
        """
        pairs = batch.own_mask[:, :1] & batch.own_mask[:, 1:]
        taught = batch.labels[:, :1] - batch.labels[:, 1:]
        pairs = pairs & ~taught.isnan()
        errors = batch.own[:, :1] - batch.own[:, 1:] - taught.nan_to_num()
        return masked_mean(errors.square(), pairs)


class AnchorConfig(LossConfig):
    """Divergence from the base similarity's distribution over the batch's documents to the model's.

    The scores before training are the teacher: the divergence keeps the ranking of the batch's documents close to
    theirs, whether or not a document is relevant, so that training on one domain does not lose the others. This is
    the regulariser of "Learning without Forgetting" (arXiv 1606.09282).

    Attributes:
        temperature: Both scores are divided by it, above 0; the contrastive loss's temperature is a good value.
        deviation: Factor of a second term: the variance, over the batch's documents, of the difference between the
            score and the base similarity. At least 0. A shift common to all documents changes no ranking and costs
            nothing.
        queries: Which queries are anchored: `all`, or only the `unlabelled` ones, those of sources with `anchor_only`;
            labelled queries are then free to move.
        skip_positives: Whether known positives are left out, so that the anchor does not work against the labels.
    """

    temperature: float = Field(default=0.05, gt=0)
    deviation: float = Field(default=0.0, ge=0)
    queries: Literal["all", "unlabelled"] = "all"
    skip_positives: bool = False


class AnchorLoss(Loss[AnchorConfig]):
    """The loss of `AnchorConfig`; every query counts, even without a positive.

    Args:
        config: Its options.
    """

    config_class = AnchorConfig
    needs_in_batch = True
    needs_base = True

    def learns_from(self, material: Material) -> bool:
        """Return whether an example is anchored, among at least two documents."""
        return (self.config.queries == "all" or not material.positive) and (
            material.others or material.positive + material.negatives > 1
        )

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over the anchored queries.

        Args:
            batch: One with a `base_scorer`.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: The batch does not hold the scores before training.
        """
        base = batch.base
        if base is None:
            raise InputError("the anchor loss needs the scores before training, which this batch does not hold")
        mask = ~batch.positives if self.config.skip_positives else torch.ones_like(batch.positives)
        temperature = self.config.temperature
        loss = divergence_of(base / temperature, batch.in_batch / temperature, mask)
        if self.config.deviation:
            loss = loss + self.config.deviation * (batch.in_batch - base).var(1, unbiased=False)
        if self.config.queries == "unlabelled":
            pulled = ~batch.positives.any(1)
            return (loss * pulled).sum() / pulled.sum().clamp_min(1)
        return loss.mean()
