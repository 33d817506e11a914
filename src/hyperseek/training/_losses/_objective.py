"""The weighted sum of the losses that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hyperseek._config import Config
from hyperseek._errors import ConfigError
from hyperseek.training._losses._anchor import AnchorConfig, AnchorLoss
from hyperseek.training._losses._base import Loss, LossConfig, Material
from hyperseek.training._losses._batch import ScoredBatch
from hyperseek.training._losses._contrastive import ContrastiveConfig, ContrastiveLoss
from hyperseek.training._losses._hierarchy import EntailmentConfig, EntailmentLoss, RadiusConfig, RadiusLoss
from hyperseek.training._losses._kl import KLConfig, KLLoss
from hyperseek.training._losses._margin_mse import MarginMSEConfig, MarginMSELoss
from hyperseek.training._losses._matryoshka import MatryoshkaConfig, shortened
from hyperseek.training._losses._own_cross_entropy import OwnCrossEntropyConfig, OwnCrossEntropyLoss


class LossesConfig(Config):
    """Which losses are summed; at least one must be given.

    Attributes:
        contrastive: Cross-entropy among the documents of the batch.
        own_cross_entropy: Cross-entropy among the query's own items.
        margin_mse: Distillation of score differences.
        kl: Distillation of distributions over own items.
        anchor: The pull towards the scores before training.
        entailment: The specific one of a query and its positive lies in the cone of the general one.
        radius: The specific one of a query and its positive lies farther out.
        matryoshka: No loss of its own: all others once more at fewer dimensions.
    """

    contrastive: ContrastiveConfig | None = None
    own_cross_entropy: OwnCrossEntropyConfig | None = None
    margin_mse: MarginMSEConfig | None = None
    kl: KLConfig | None = None
    anchor: AnchorConfig | None = None
    entailment: EntailmentConfig | None = None
    radius: RadiusConfig | None = None
    matryoshka: MatryoshkaConfig | None = None

    @property
    def chosen(self) -> dict[str, LossConfig]:
        """The losses that are given, by name."""
        return {name: value for name in _LOSSES if (value := getattr(self, name)) is not None}


_LOSSES: dict[str, Callable[[Any], Loss]] = {
    "contrastive": ContrastiveLoss,
    "own_cross_entropy": OwnCrossEntropyLoss,
    "margin_mse": MarginMSELoss,
    "kl": KLLoss,
    "anchor": AnchorLoss,
    "entailment": EntailmentLoss,
    "radius": RadiusLoss,
}


class Objective(nn.Module):
    """The sum of weighted losses, and each of them for the log.

    Args:
        config: The losses.

    Raises:
        ConfigError: No loss is given.
    """

    def __init__(self, config: LossesConfig) -> None:
        super().__init__()
        chosen = config.chosen
        if not chosen:
            raise ConfigError(f"losses: at least one is needed; known: {', '.join(_LOSSES)}")
        self.weights = {name: options.weight for name, options in chosen.items()}
        self.shorter = {} if config.matryoshka is None else config.matryoshka.weighted
        self.losses = nn.ModuleDict({name: _LOSSES[name](options) for name, options in chosen.items()})

    @property
    def needs_base(self) -> bool:
        """Whether a loss reads the scores before training."""
        return any(loss.needs_base for loss in self._each())

    def learns_from(self, material: Material) -> bool:
        """Return whether any loss can learn from an example."""
        return any(loss.learns_from(material) for loss in self._each())

    def forward(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses of a batch.

        Args:
            batch: At least one query.

        Returns:
            The total, and every loss before weighting, detached, by name; `NAME@DIMENSION` for those at fewer.
        """
        total, parts = self._at(batch)
        for dimension, weight in self.shorter.items():
            added, more = self._at(shortened(batch, dimension))
            total = total + weight * added
            parts |= {f"{name}@{dimension}": value for name, value in more.items()}
        return total, parts

    def _at(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if any(loss.needs_in_batch for loss in self._each()):
            # Own-item losses then read from these scores instead of scoring again.
            _ = batch.in_batch
        values = {name: loss(batch) for name, loss in self.losses.items()}
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}

    def _each(self) -> list[Loss]:
        return [loss for loss in self.losses.values() if isinstance(loss, Loss)]
