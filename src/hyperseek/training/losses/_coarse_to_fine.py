"""From coarse to fine: early levels answer with what is coarser, late levels with what is finer.

Shapes: `Q` queries, `D` distinct documents of the batch, `K` negatives per query, `M` levels.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import logsigmoid

from hyperseek._config import meaningless
from hyperseek.errors import InputError
from hyperseek.nn.levels import fine_shares, weights_of_levels
from hyperseek.scoring import Scorer
from hyperseek.training.losses._base import Material, ScoredBatch, masked_mean
from hyperseek.training.losses._contrastive import NegativesConfig, NegativesLoss

Pair = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class CoarseToFineConfig(NegativesConfig):
    """Cross-entropy of a coarse and of a fine positive, in other shares at each level.

    The total is the sum of w_m ((1 - alpha_m) NCE_m(coarse) + alpha_m NCE_m(fine)) over the levels m. The fine
    positive is item 0 of a query. A query without a coarse positive asks for the fine one alone.

    Attributes:
        temperature: As in `NegativesConfig`.
        alpha_segments: Alpha, the share of the fine positive at each level, 0 to 1; None for (m - 1) / (M - 1).
        w_segments: Weight of each level, at least 0, divided by their sum; None for m.
        negatives: `batch` tells positives from all documents of the batch; `own` from the query's own negatives, as the
            original does.
        levels: `same` compares queries and documents at the same level. `documents_coarser` adds queries at level M
            with documents at every level, so that a narrow query finds a general document. Or pairs of the levels of
            queries and documents, in place of these. Alpha and w are those of the documents' level.
        apart: Weight, at least 0, of telling the two positives from each other: cross-entropy of the share that the
            fine one has of both, which is to be alpha_m. Level 1 then ranks what is coarse first, level M what is fine.
            The original leaves their order open.
    """

    temperature: float = Field(default=0.05, gt=0)
    alpha_segments: tuple[float, ...] | str | None = None
    w_segments: tuple[float, ...] | str | None = None
    negatives: Literal["batch", "own"] = "batch"
    levels: Literal["same", "documents_coarser"] | tuple[Pair, ...] = "same"
    apart: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.levels:
            raise ValueError("levels: give at least one pair of levels, same, or documents_coarser")
        if self.negatives == "own" and self.false_negative_margin is not None:
            raise meaningless("false_negative_margin", "with negatives: batch, not own")
        return self

    def pairs(self, levels: int) -> list[tuple[int, int]]:
        """Return the levels of queries and documents that are compared; InputError if there is no such level."""
        if isinstance(self.levels, str):
            same = [(level, level) for level in range(1, levels + 1)]
            coarser = [(levels, level) for level in range(1, levels)]
            return same + (coarser if self.levels == "documents_coarser" else [])
        for pair in self.levels:
            if max(pair) > levels:
                raise InputError(f"losses.coarse_to_fine.levels has the pair {pair}, but the model has {levels} levels")
        return list(self.levels)


class CoarseToFineLoss(NegativesLoss[CoarseToFineConfig]):
    """The loss of `CoarseToFineConfig`; queries without a positive do not count.

    Args:
        config: Its options.
    """

    config_class = CoarseToFineConfig
    needs_coarse = True

    def learns_from(self, material: Material) -> bool:
        """Return whether an example has a positive, and documents to tell it from or a coarse positive."""
        told_apart = self.config.apart > 0 and material.coarse
        others = material.others and self.config.negatives == "batch"
        return material.positive and (others or material.negatives > 0 or told_apart)

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the mean over queries that have a positive.

        Args:
            batch: One whose queries can be compared at every level.

        Returns:
            A scalar, at least 0.

        Raises:
            InputError: The queries have no levels, or the options are for another number of levels.
        """
        if self.config.across_devices and self.config.negatives == "batch":
            batch = batch.across_devices()
        self.clamp_temperature()
        levels = batch.scorer.space.levels
        shares = fine_shares(self.config.alpha_segments, levels)
        weights = weights_of_levels(self.config.w_segments, levels)
        pairs = self.config.pairs(levels)
        total = sum(weights[document_level - 1] for _, document_level in pairs)
        if not total:
            raise InputError("losses.coarse_to_fine: all levels that are compared have a weight of 0 in w_segments")
        parts = [
            weights[document_level - 1]
            / total
            * self._of_level(batch, level, document_level, shares[document_level - 1])
            for level, document_level in pairs
        ]
        return masked_mean(torch.stack(parts).sum(0), batch.has_positive)

    def _of_level(self, batch: ScoredBatch, level: int, document_level: int, share: float) -> Tensor:
        """Return the `(Q,)` losses of a pair of levels."""
        scorer = batch.scorer.at(level=level, document_level=document_level)
        scores = self._own if self.config.negatives == "own" else self._in_batch
        fine, coarse, others = scores(batch, scorer)
        loss = (1 - share) * _cross_entropy(coarse, others) + share * _cross_entropy(fine, others)
        if not self.config.apart:
            return loss
        finer = fine - coarse
        apart = -(share * logsigmoid(finer) + (1 - share) * logsigmoid(-finer))
        return loss + self.config.apart * torch.where(batch.coarse_or_own != batch.items[:, 0], apart, 0.0)

    def _own(self, batch: ScoredBatch, scorer: Scorer) -> tuple[Tensor, Tensor, Tensor]:
        columns = torch.cat([batch.coarse_or_own[:, None], batch.items], 1)
        logits = scorer.score_own(batch.points[columns.clamp_min(0).flatten()]) / self.log_temperature.exp()
        others = _masked(logits[:, 2:], batch.own_mask[:, 1:])
        return logits[:, 1], logits[:, 0], others

    def _in_batch(self, batch: ScoredBatch, scorer: Scorer) -> tuple[Tensor, Tensor, Tensor]:
        scores = scorer.score(batch.points)
        logits = scores / self.log_temperature.exp()
        coarse = batch.coarse_or_own[:, None].clamp_min(0)
        targets = batch.own_positives.scatter(1, coarse, batch.has_positive[:, None])
        fine = logits.gather(1, batch.items[:, :1].clamp_min(0))[:, 0]
        others = _masked(logits, self.negatives(batch, targets, scores))
        return fine, logits.gather(1, coarse)[:, 0], others


def _masked(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~kept, torch.finfo(logits.dtype).min)


def _cross_entropy(positive: Tensor, others: Tensor) -> Tensor:
    """Return `(Q,)` losses of `(Q,)` positives among `(Q, K)` others, those of them that are masked left out."""
    if not others.shape[1]:
        return torch.zeros_like(positive)
    return torch.logaddexp(positive, others.logsumexp(1)) - positive
