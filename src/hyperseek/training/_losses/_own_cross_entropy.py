"""Cross-entropy of the positive among the query's own items."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.training._losses._base import Loss, LossConfig, Material, masked_mean
from hyperseek.training._losses._batch import ScoredBatch


class OwnCrossEntropyConfig(LossConfig):
    """Cross-entropy of item 0 among the query's own items; no other query's documents are seen.

    Attributes:
        temperature: Scores are divided by it, above 0.
    """

    temperature: float = Field(default=1.0, gt=0)


class OwnCrossEntropyLoss(Loss):
    """The loss of `OwnCrossEntropyConfig`; queries without a positive do not count.

    Args:
        config: Its options.
    """

    def __init__(self, config: OwnCrossEntropyConfig) -> None:
        super().__init__()
        self.config = config

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive and a negative of its own."""
        return material.positive and material.negatives > 0

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: Any batch.

        Returns:
            A scalar, at least 0.
        """
        logits = batch.own / self.config.temperature
        logits = logits.masked_fill(~batch.own_mask, torch.finfo(logits.dtype).min)
        return masked_mean(logits.logsumexp(1) - logits[:, 0], batch.has_positive)
