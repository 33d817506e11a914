"""The weighted sum of a recipe's losses, optionally at several dimensions (Matryoshka, arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hyperseek._config import Config, OpenConfig
from hyperseek._registry import Registry
from hyperseek.errors import ConfigError, InputError, shown
from hyperseek.scoring import VectorPoints, vectors_of
from hyperseek.training.losses._base import Loss, LossConfig, Material, ScoredBatch

L = TypeVar("L", bound=Loss[Any])
_HOME = "hyperseek.training.losses"


def _check_loss(name: str, value: Any) -> None:
    if not (isinstance(value, type) and issubclass(value, Loss) and issubclass(value.config_class, LossConfig)):
        raise InputError(
            f"a loss is a subclass of Loss whose config_class is a subclass of LossConfig; {name!r} is {shown(value)}"
        )
    if name in LossesConfig.model_fields:
        raise InputError(f"the name {name!r} is taken by another section of losses; choose a different name")


_OURS = {
    "contrastive": f"{_HOME}._score_losses:ContrastiveLoss",
    "pooled": f"{_HOME}._score_losses:PooledLoss",
    "own_cross_entropy": f"{_HOME}._score_losses:OwnCrossEntropyLoss",
    "margin_mse": f"{_HOME}._score_losses:MarginMSELoss",
    "kl": f"{_HOME}._score_losses:KLLoss",
    "anchor": f"{_HOME}._score_losses:AnchorLoss",
    "entailment": f"{_HOME}._hierarchy:EntailmentLoss",
    "radius": f"{_HOME}._hierarchy:RadiusLoss",
    "coarse_to_fine": f"{_HOME}._hierarchy:CoarseToFineLoss",
    "preference": f"{_HOME}._cards:PreferenceLoss",
    "wrong_card": f"{_HOME}._cards:WrongCardLoss",
    "card_contrast": f"{_HOME}._cards:CardContrastLoss",
}
LOSSES: Registry[type[Loss[Any]]] = Registry("loss", "hyperseek.losses", _OURS, check=_check_loss)
"""Classes of losses by the names that recipes give; packages add theirs as entry points of `hyperseek.losses`."""


def register_loss(name: str) -> Callable[[type[L]], type[L]]:
    """Register a loss, as a decorator: recipes then have a section `losses.NAME` with its options.

    Args:
        name: The name.

    Returns:
        The decorator, which returns the class unchanged.

    Raises:
        InputError: The name is taken, or the decorated object is not a loss.
    """
    return LOSSES.register(name)


class MatryoshkaConfig(Config):
    """All losses again at fewer dimensions. Points of hyperbolic spaces are truncated and lifted again.

    Attributes:
        dimensions: Below the model's own, which is always trained.
        weights: Factor of each dimension's losses, above 0; None for 1.
    """

    dimensions: tuple[int, ...] = Field(min_length=1)
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if min(self.dimensions) < 1 or len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError(f"dimensions must be distinct and at least 1, not {self.dimensions}")
        if self.weights is not None and (len(self.weights) != len(self.dimensions) or min(self.weights) <= 0):
            raise ValueError(f"{len(self.dimensions)} dimensions need as many weights above 0, not {self.weights}")
        return self

    @property
    def weighted(self) -> dict[int, float]:
        """The weight of each dimension."""
        return dict(zip(self.dimensions, self.weights or (1.0,) * len(self.dimensions), strict=True))


class XTRConfig(Config):
    """Scores of late interaction as XTR trains them (arXiv 2304.01982), in place of MaxSim.

    Attributes:
        top_k: How many document tokens a query token sees: the most similar ones of all documents of the batch. A
            document's score is the mean of the best that each query token sees of it, over those that see one.
    """

    top_k: int = Field(default=256, ge=1)


class LossesConfig(OpenConfig):
    """Which losses are summed, by their registered names; at least one must be given.

    Built in are `contrastive` (cross-entropy among the documents of the batch), `pooled` (the same with token vectors
    pooled), `own_cross_entropy` (among the query's own items), `margin_mse` and `kl` (distillation of score
    differences, and of distributions over own items), `anchor` (keeps scores close to those before training),
    `entailment` and `radius` (of a query and its positive, the specific one lies in the cone of the general one, or
    farther out), `coarse_to_fine` (early levels find the coarse positive, late levels the fine one), `preference` (of
    pairs of own items), and, for models with cards, `wrong_card` (the own card scores the positive higher than another
    task's) and `card_contrast` (cards of different tasks differ).

    Attributes:
        matryoshka: Not a loss itself: all others again at fewer dimensions.
        xtr: Not a loss itself: the others read the scores of XTR instead of MaxSim.
    """

    matryoshka: MatryoshkaConfig | None = None
    xtr: XTRConfig | None = None

    @classmethod
    def registered(cls) -> Mapping[str, type[Config]]:
        """Return the classes of the losses' options, by name."""
        return LOSSES.view(lambda loss: loss.config_class)

    @property
    def chosen(self) -> dict[str, LossConfig]:
        """The given losses, by name: built-in ones in a fixed order, for the sum to round alike, then others."""
        given = self.model_extra or {}
        return {name: given[name] for name in dict.fromkeys((*_OURS, *given)) if name in given}


class Objective(nn.Module):
    """The weighted sum of losses, and each of them for the log.

    Args:
        config: The losses.

    Raises:
        ConfigError: No loss is given.
    """

    def __init__(self, config: LossesConfig) -> None:
        super().__init__()
        chosen = config.chosen
        if not chosen:
            raise ConfigError(f"losses: at least one is needed; known: {', '.join(LOSSES)}")
        self.weights = {name: options.weight for name, options in chosen.items()}
        self.shorter = {} if config.matryoshka is None else config.matryoshka.weighted
        self.retrieved = None if config.xtr is None else config.xtr.top_k
        self.losses = nn.ModuleDict({name: LOSSES[name](options) for name, options in chosen.items()})

    @property
    def needs_base(self) -> bool:
        """Whether a loss reads the scores before training."""
        return any(loss.needs_base for loss in self._each())

    @property
    def needs_coarse(self) -> bool:
        """Whether a loss reads coarse positives."""
        return any(loss.needs_coarse for loss in self._each())

    @property
    def needs_wrong_card(self) -> bool:
        """Whether a loss reads the queries under the card of another task."""
        return any(loss.needs_wrong_card for loss in self._each())

    @property
    def needs_views(self) -> bool:
        """Whether a loss reads two cards of each of several tasks."""
        return any(loss.needs_views for loss in self._each())

    def learns_from(self, material: Material) -> bool:
        """Return whether any loss can learn from an example."""
        return any(loss.learns_from(material) for loss in self._each())

    def forward(self, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses of a batch.

        Args:
            batch: At least one query.

        Returns:
            The total, and every loss before weighting, detached, by name; `NAME@DIMENSION` at fewer dimensions.

        Raises:
            InputError: A loss returned something other than a scalar, or queries cannot be scored as asked.
        """
        if self.retrieved is not None:
            base = None if batch.base_scorer is None else batch.base_scorer.retrieving(self.retrieved)
            batch = replace(batch, scorer=batch.scorer.retrieving(self.retrieved), base_scorer=base)
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
        for name, value in values.items():
            if value.dim():
                # If summed, its weight would grow with the batch.
                raise InputError(f"the loss {name!r} must return a scalar, not a tensor of shape {tuple(value.shape)}")
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}

    def _each(self) -> list[Loss[Any]]:
        return [loss for loss in self.losses.values() if isinstance(loss, Loss)]


def shortened(batch: ScoredBatch, dimension: int) -> ScoredBatch:
    """Return a batch whose queries and documents are cut to their first `dimension` dimensions.

    Args:
        batch: One whose queries are points.
        dimension: At most the space's.

    Returns:
        The batch, not yet scored. Scores before training stay those of all dimensions.

    Raises:
        InputError: The queries are not points, or have fewer dimensions.
    """
    space = batch.scorer.space
    return replace(
        batch,
        scorer=batch.scorer.shortened(dimension),
        points=VectorPoints(space.shorten(vectors_of(batch.points), dimension)),
        wrong_scorer=None if batch.wrong_scorer is None else batch.wrong_scorer.shortened(dimension),
    )
