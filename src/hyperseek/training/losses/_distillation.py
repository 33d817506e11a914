"""Distillation: the teacher's distribution (KL), and its score differences (MarginMSE, arXiv 2010.02666)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean


class KLConfig(LossConfig):
    """Kullback-Leibler divergence from the teacher's distribution over the query's own items to the student's.

    Attributes:
        temperature: Student scores are divided by it, above 0.
        teacher_temperature: Teacher scores are divided by it; None means as `temperature`.
    """

    temperature: float = Field(default=1.0, gt=0)
    teacher_temperature: float | None = Field(default=None, gt=0)


class KLLoss(Loss):
    """The loss of `KLConfig`, times `temperature` squared so that gradients keep their size.

    Items without a teacher score are left out of both distributions; queries with fewer than two scored items do
    not count.

    Args:
        config: Its options.
    """

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config

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
        divergence = divergence_of(teacher, batch.own / self.config.temperature, taught)
        return masked_mean(divergence, taught.sum(1) > 1) * self.config.temperature**2


def divergence_of(wanted: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """Return `(Q,)` divergences between the softmaxes of two `(Q, D)` score matrices over the masked columns."""
    lowest = torch.finfo(given.dtype).min
    wanted_log = wanted.masked_fill(~mask, lowest).log_softmax(1)
    given_log = given.masked_fill(~mask, lowest).log_softmax(1)
    terms = wanted_log.exp() * (wanted_log - given_log)
    return torch.where(mask, terms, torch.zeros_like(terms)).sum(1)


class MarginMSEConfig(LossConfig):
    """Squared error between the student's and the teacher's margins, as the original Hypencoder takes it."""


class MarginMSELoss(Loss):
    """The mean over all pairs (item 0, item j) of a batch that have teacher scores.

    Args:
        config: Its options.
    """

    def __init__(self, config: MarginMSEConfig) -> None:
        super().__init__()
        self.config = config

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
