"""Cross-entropy of the positive: among the documents of the whole batch, or among the query's own items."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Generic, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hyperseek.errors import InputError
from hyperseek.nn.token_pooling import PoolingConfig, TokenPooling
from hyperseek.scoring import TokenPoints
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch, masked_mean


class NegativesConfig(LossConfig):
    """Fields of losses that tell positives from the documents of a batch.

    Attributes:
        temperature: Scores are divided by it, above 0.
        learned_temperature: Whether the temperature is trained, starting from `temperature`.
        lowest_temperature: Lower bound of a learned one; the original's `logit_max`, 100, is its inverse. Without a
            bound, memorised pairs would drive it to 0.
        mask_known: Whether documents known not to be negatives are left out of the negatives: known positives other
            than the target, documents judged relevant that are not positives, the query itself. The original
            Hypencoder leaves out nothing.
        false_negative_margin: Negatives scored more than this above the query's own positive are taken for unjudged
            positives and left out; None keeps all.
        guide: Whose scores `false_negative_margin` compares: the model's own, or those before training (`base`).
        across_devices: Whether documents of all processes serve as negatives.
    """

    temperature: float = Field(default=1.0, gt=0)
    learned_temperature: bool = False
    lowest_temperature: float = Field(default=0.01, gt=0)
    mask_known: bool = True
    false_negative_margin: float | None = None
    guide: Literal["self", "base"] = "self"
    across_devices: bool = True

    @model_validator(mode="after")
    def _check_temperatures(self) -> Self:
        if self.learned_temperature and self.temperature < self.lowest_temperature:
            raise ValueError(
                f"a learned temperature cannot start at {self.temperature}, below lowest_temperature "
                f"{self.lowest_temperature}"
            )
        return self


N = TypeVar("N", bound=NegativesConfig)


class NegativesLoss(Loss[N], Generic[N]):
    """A temperature, and the documents of a batch that serve as negatives.

    Args:
        config: Its options.
    """

    def __init__(self, config: N) -> None:
        super().__init__(config)
        self.needs_base = config.guide == "base" and config.false_negative_margin is not None
        log_temperature = torch.tensor(math.log(config.temperature))
        if config.learned_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def clamp_temperature(self) -> None:
        """Keep a learned temperature above its bound: outside autograd, as an optimiser does, so it can rise again."""
        if self.training and self.config.learned_temperature:
            self.log_temperature.data.clamp_(min=math.log(self.config.lowest_temperature))

    def negatives(self, batch: ScoredBatch, targets: Tensor, scores: Tensor) -> Tensor:
        """Return the documents that the targets are told from.

        Args:
            batch: The batch.
            targets: `(Q, D)` booleans: documents that are asked for.
            scores: `(Q, D)` the model's own scores.

        Returns:
            `(Q, D)` booleans.

        Raises:
            InputError: `guide` is `base`, and the batch does not hold the scores before training.
        """
        negatives = ~(targets | batch.never_negatives if self.config.mask_known else targets)
        if self.config.false_negative_margin is None:
            return negatives
        guide = batch.base if self.config.guide == "base" else scores.detach()
        if guide is None:
            raise InputError("guide='base' needs the scores before training, which this batch does not hold")
        own = guide.gather(1, batch.items[:, :1].clamp_min(0))
        return negatives & ~(guide > own + self.config.false_negative_margin)


class ContrastiveConfig(NegativesConfig):
    """Cross-entropy of the positive among the batch's documents.

    Attributes:
        temperature: As in `NegativesConfig`. 1 is the original Hypencoder; cosines want 0.01 to 0.1.
        positives: `own` asks for the query's item 0 alone; `mean` averages that over all known positives of the
            batch; `log_sum` asks for the summed probability of all known positives.
        only_first_item: Whether only items 0 of the queries serve as documents, not their negatives.
    """

    temperature: float = Field(default=1.0, gt=0)
    positives: Literal["own", "mean", "log_sum"] = "own"
    only_first_item: bool = False


class ContrastiveLoss(NegativesLoss[ContrastiveConfig]):
    """The loss of `ContrastiveConfig`; queries without a positive do not count.

    Args:
        config: Its options.
    """

    config_class = ContrastiveConfig
    needs_in_batch = True

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive and documents to tell it from."""
        return material.positive and (material.others or (material.negatives > 0 and not self.config.only_first_item))

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: Any batch.

        Returns:
            A scalar, at least 0.
        """
        if self.config.across_devices:
            batch = batch.across_devices()
        self.clamp_temperature()
        logits = batch.in_batch / self.log_temperature.exp()
        positives, negatives = self._masks(batch)
        lowest = torch.finfo(logits.dtype).min
        all_negatives = logits.masked_fill(~negatives, lowest).logsumexp(1, keepdim=True)
        if self.config.positives == "log_sum":
            targets = logits.masked_fill(~positives, lowest).logsumexp(1, keepdim=True)
            losses = torch.logaddexp(targets, all_negatives) - targets
            return masked_mean(losses[:, 0], batch.has_positive)
        losses = torch.logaddexp(logits, all_negatives) - logits
        counts = positives.sum(1).clamp_min(1)
        per_query = torch.where(positives, losses, torch.zeros_like(losses)).sum(1) / counts
        return masked_mean(per_query, batch.has_positive)

    def _masks(self, batch: ScoredBatch) -> tuple[Tensor, Tensor]:
        """Return `(Q, D)` booleans: the targets, and the negatives they are told from."""
        asked = batch.own_positives
        if self.config.positives != "own":
            asked = asked | batch.positives
        negatives = self.negatives(batch, asked, batch.in_batch)
        if self.config.only_first_item:
            return asked & batch.first_columns, negatives & batch.first_columns
        return asked, negatives


class PooledConfig(ContrastiveConfig):
    """The contrastive loss with the documents' token vectors pooled: it trains a model for pooling.

    Attributes:
        pooling: How they are pooled, as in `late.pooling`.
    """

    pooling: PoolingConfig = PoolingConfig()


class PooledLoss(ContrastiveLoss):
    """The loss of `PooledConfig`, in addition to the loss of the unpooled documents.

    Args:
        config: Its options.
    """

    config_class = PooledConfig
    needs_in_batch = False  # it reads the scores of other points

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.pooling = TokenPooling(**config.pooling.model_dump(exclude_unset=True))

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: One whose documents are sets of token vectors.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: Documents have one vector each.
        """
        if not isinstance(batch.points, TokenPoints):
            raise InputError("losses.pooled pools token vectors, and this model has one vector per text; leave it out")
        return super().forward(replace(batch, points=self.pooling.pool_points(batch.points)))


class OwnCrossEntropyConfig(LossConfig):
    """Cross-entropy of item 0 among the query's own items; no other query's documents are seen.

    Attributes:
        temperature: Scores are divided by it, above 0.
    """

    temperature: float = Field(default=1.0, gt=0)


class OwnCrossEntropyLoss(Loss[OwnCrossEntropyConfig]):
    """The loss of `OwnCrossEntropyConfig`; queries without a positive do not count.

    Args:
        config: Its options.
    """

    config_class = OwnCrossEntropyConfig

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
