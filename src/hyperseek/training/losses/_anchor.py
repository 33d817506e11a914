"""A pull towards the warm start, so that training on one domain does not lose the others.

The scores before training are the teacher: the divergence keeps the ranking of the batch's documents near theirs,
whether or not a document is relevant. It is the regulariser of learning without forgetting (arXiv 1606.09282).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch
from hyperseek.training.losses._distillation import divergence_of


class AnchorConfig(LossConfig):
    """Divergence from the base similarity's distribution over the batch's documents to the model's.

    Attributes:
        temperature: Both scores are divided by it, above 0; the contrastive loss's temperature is a good value.
        deviation: Factor of a second term: the variance, over the batch's documents, of the difference between the
            score and the base similarity. At least 0. A shift common to all documents changes no ranking and costs
            nothing.
        queries: Which queries are pulled: `all`, or only the `unlabelled` ones, those of sources with `anchor_only`.
            Queries that have labels are then free to move, and unlike ones are not.
        skip_positives: Whether known positives are left out, so that the pull does not work against the labels.
    """

    temperature: float = Field(default=0.05, gt=0)
    deviation: float = Field(default=0.0, ge=0)
    queries: Literal["all", "unlabelled"] = "all"
    skip_positives: bool = False


class AnchorLoss(Loss):
    """The loss of `AnchorConfig`; every query counts, also those without a positive.

    Args:
        config: Its options.
    """

    needs_in_batch = True
    needs_base = True

    def __init__(self, config: AnchorConfig) -> None:
        super().__init__()
        self.config = config

    def learns_from(self, material: Material) -> bool:
        """Return whether an example is pulled, among at least two documents."""
        return (self.config.queries == "all" or not material.positive) and (
            material.others or material.positive + material.negatives > 1
        )

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over the queries that are pulled.

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
