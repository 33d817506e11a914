"""Distillation of the teacher's distribution over a query's own items."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.training._losses._base import Loss, LossConfig, Material, masked_mean
from hyperseek.training._losses._batch import ScoredBatch


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
