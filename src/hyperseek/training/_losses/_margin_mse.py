"""Distillation of score differences ("Improving Efficient Neural Ranking Models", arXiv 2010.02666)."""

from __future__ import annotations

from torch import Tensor

from hyperseek.training._losses._base import Loss, LossConfig, Material, masked_mean
from hyperseek.training._losses._batch import ScoredBatch


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
