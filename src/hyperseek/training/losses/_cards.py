"""Losses of models with cards: preferences between documents, wrong cards, and cards of different tasks kept apart.

Shapes: `Q` queries, `D` distinct documents of the batch, `n` own items per query, `T` cards, `w` numbers that condition
a head.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from hyperseek._config import meaningless
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean


class PreferenceConfig(LossConfig):
    """How clearly the positive is preferred to each of the query's other items.

    Attributes:
        form: `log_sigmoid` is the loss of Bradley and Terry, log(1 + exp(-x)) of the difference x of two scores,
            divided by `temperature`; `margin` is max(0, `margin` - x).
        temperature: Above 0.
        margin: For `form: margin` only; None means 1.
        weights: What a pair counts in the mean: `examples` takes the examples' own weights, the confidence of their
            teachers; `differences` the difference of the teacher's scores of its two documents, so that pairs without
            scores do not count; `equal` counts all alike.
        least_difference: Smaller differences are raised to it, at least 0. In Hydra, 0.1: above every difference of
            its fused ranks, so that all of its weights are 1.
    """

    form: Literal["log_sigmoid", "margin"] = "log_sigmoid"
    temperature: float = Field(default=0.05, gt=0)
    margin: float | None = Field(default=None, gt=0)
    weights: Literal["examples", "differences", "equal"] = "examples"
    least_difference: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.margin is not None and self.form != "margin":
            raise meaningless("margin", f"with form: margin, not {self.form}")
        if self.least_difference and self.weights != "differences":
            raise meaningless("least_difference", f"with weights: differences, not {self.weights}")
        return self


class PreferenceLoss(Loss[PreferenceConfig]):
    """The weighted mean over all pairs (item 0, item j) of a batch.

    Args:
        config: Its options.
    """

    config_class = PreferenceConfig

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive and a negative of its own, scored by a teacher if that counts."""
        if self.config.weights == "differences":
            return material.scored_positive and material.scored_negatives > 0
        return material.positive and material.negatives > 0

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the weighted mean over pairs.

        Args:
            batch: Any batch.

        Returns:
            A scalar, at least 0.
        """
        difference = (batch.own[:, :1] - batch.own[:, 1:]) / self.config.temperature
        if self.config.form == "log_sigmoid":
            losses = softplus(-difference)
        else:
            losses = (1.0 if self.config.margin is None else self.config.margin) - difference
            losses = losses.clamp_min(0)
        pairs = batch.own_mask[:, :1] & batch.own_mask[:, 1:]
        weights = torch.where(pairs, self._weights(batch), torch.zeros_like(losses))
        total = weights.sum()
        # Where nothing counts the loss is 0, and not 0 / 0.
        return (losses * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))

    def _weights(self, batch: ScoredBatch) -> Tensor:
        """Return `(Q, n - 1)` weights, at least 0."""
        others = batch.own[:, 1:].detach()
        if self.config.weights == "differences":
            taught = batch.labels[:, :1] - batch.labels[:, 1:]
            raised = taught.nan_to_num().clamp_min(self.config.least_difference)
            return torch.where(taught.isnan(), torch.zeros_like(raised), raised)
        if self.config.weights == "equal" or batch.weights is None:
            return torch.ones_like(others)
        return batch.weights[:, None].expand_as(others)


class WrongCardConfig(LossConfig):
    """How far the positive's score under the task's own card lies above that under another task's card.

    Attributes:
        margin: By how much it shall; above 0. A difference of cosines: small ones will do.
        compare: `score` compares the scores themselves, as Hydra's author proposed; `lead` compares the positive's lead
            over the mean of the query's negatives, in which a change common to all documents counts nothing.
    """

    margin: float = Field(default=0.05, gt=0)
    compare: Literal["score", "lead"] = "score"


class WrongCardLoss(Loss[WrongCardConfig]):
    """The mean over queries that have a positive; 0 in batches that draw no wrong card, see `train.cards.wrong`.

    Args:
        config: Its options.
    """

    config_class = WrongCardConfig
    needs_wrong_card = True

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive, and documents to tell it from if they are read."""
        return material.positive and (self.config.compare == "score" or material.others or material.negatives > 0)

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: Any batch.

        Returns:
            A scalar, at least 0.
        """
        if batch.wrong_scorer is None:
            return batch.own.sum() * 0
        if self.config.compare == "score":
            firsts = batch.items[:, 0].clamp_min(0)
            wrong = batch.wrong_scorer.score_own(batch.points[firsts])[:, 0]
            gained = batch.own[:, 0] - wrong
        else:
            gained = self._lead(batch, batch.in_batch) - self._lead(batch, batch.wrong_scorer.score(batch.points))
        return masked_mean((self.config.margin - gained).clamp_min(0), batch.has_positive)

    def _lead(self, batch: ScoredBatch, scores: Tensor) -> Tensor:
        """Return `(Q,)` by how much positives score above the mean of the documents that may be negatives."""
        negatives = ~(batch.never_negatives | batch.own_positives)
        means = torch.where(negatives, scores, torch.zeros_like(scores)).sum(1) / negatives.sum(1).clamp_min(1)
        return scores.gather(1, batch.items[:, :1].clamp_min(0))[:, 0] - means


class CardContrastConfig(LossConfig):
    """Two cards of a task condition a head alike, and cards of different tasks otherwise.

    Cross-entropy, in both directions, between cosines of the conditioning vectors of two views of each task: cards with
    different examples.

    Attributes:
        temperature: Cosines are divided by it, above 0.
    """

    temperature: float = Field(default=0.2, gt=0)


class CardContrastLoss(Loss[CardContrastConfig]):
    """The mean over the tasks that a batch draws views of, see `train.cards.contrasted`.

    Args:
        config: Its options.
    """

    config_class = CardContrastConfig
    needs_views = True

    def learns_from(self, material: Material) -> bool:
        """Return False: it reads cards and no example."""
        return False

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over tasks.

        Args:
            batch: Any batch.

        Returns:
            A scalar, at least 0; 0 without views of at least two tasks.
        """
        if batch.views is None or len(batch.views) < 2:
            return batch.own.sum() * 0
        first, second = normalize(batch.views, dim=-1).unbind(1)
        logits = first @ second.T / self.config.temperature
        targets = torch.arange(len(logits), device=logits.device)
        return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2
