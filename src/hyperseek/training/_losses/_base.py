"""What a loss is: a small module from a scored batch to one number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from hyperseek._config import Config
from hyperseek.training._losses._batch import ScoredBatch


class LossConfig(Config):
    """Fields that every loss has.

    Attributes:
        weight: Factor of this loss in the total, above 0.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    weight: float = Field(default=1.0, gt=0)


@dataclass(frozen=True, slots=True)
class Material:
    """What an example brings to its batch.

    Attributes:
        positive: Whether it has one.
        negatives: How many of its own negatives are drawn.
        scored_positive: Whether a positive has a teacher's score.
        scored_negatives: How many of the negatives drawn can have one.
        others: Whether the batch holds documents that are not its own.
    """

    positive: bool
    negatives: int = 0
    scored_positive: bool = False
    scored_negatives: int = 0
    others: bool = False


class Loss(nn.Module, ABC):
    """One loss; a subclass says what it reads."""

    needs_in_batch: bool = False
    needs_base: bool = False

    def learns_from(self, material: Material) -> bool:
        """Return whether an example can have a gradient: by its kind, not by its values; True if nobody says."""
        return True

    @abstractmethod
    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: At least one query.

        Returns:
            A scalar; 0 where no query of the batch has what the loss needs.
        """


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values under the mask; 0, still joined to the graph, where the mask is empty."""
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum() / mask.sum().clamp_min(1)
