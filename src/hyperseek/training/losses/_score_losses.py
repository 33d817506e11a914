"""Losses of scores: the cross-entropy of the positive, and distillation.

The cross-entropy is taken among the documents of the whole batch, or among the query's own items. Distillation is from
a teacher's distribution (KL) or score differences (MarginMSE, arXiv 2010.02666), or from the scores before training,
which anchors a model to its start.
"""

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

_SMALL = 1e-8  # as in PyLate


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
