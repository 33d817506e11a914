"""The base class of losses, and the batch of scored queries that every loss reads.

Shapes: `Q` queries, `D` distinct documents of the batch, `n` own items per query, `P` known positives, `S`
spared documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.distributed as dist
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from hyperseek._config import Config
from hyperseek.runs.recipe import is_distributed
from hyperseek.scoring import Points, Scorer


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
        positive: Whether it has a positive.
        negatives: How many of its own negatives are drawn.
        scored_positive: Whether a positive has a teacher's score.
        scored_negatives: How many of the negatives drawn can have one.
        others: Whether the batch holds documents of other examples.
        coarse: Whether it has a coarse positive besides the positive.
    """

    positive: bool
    negatives: int = 0
    scored_positive: bool = False
    scored_negatives: int = 0
    others: bool = False
    coarse: bool = False


C = TypeVar("C", bound=LossConfig)


class Loss(nn.Module, ABC, Generic[C]):
    """One loss. A subclass sets the class of its options, and is registered with `register_loss`.

    Args:
        config: Its options, an instance of `config_class`.

    Attributes:
        config_class: Class of the options: the section of a recipe that has the loss's name.
        needs_in_batch: Whether it reads the scores of every query with every document of the batch.
        needs_base: Whether it reads the scores before training.
        needs_coarse: Whether it reads the coarse positives, which are then among the documents of the batch.
        needs_wrong_card: Whether it reads the queries under the card of another task, in models with cards.
        needs_views: Whether it reads what two cards of each of several tasks condition, in models with cards.
    """

    config_class: ClassVar[type[LossConfig]] = LossConfig
    needs_in_batch: bool = False
    needs_base: bool = False
    needs_coarse: bool = False
    needs_wrong_card: bool = False
    needs_views: bool = False

    def __init__(self, config: C) -> None:
        super().__init__()
        self.config = config

    def learns_from(self, material: Material) -> bool:
        """Return whether an example of this kind can have a gradient; True unless a subclass overrides it."""
        return True

    @abstractmethod
    def forward(self, batch: ScoredBatch) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: At least one query.

        Returns:
            A scalar; 0 if no query of the batch has what the loss needs.
        """


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values under the mask; 0, still part of the graph, if the mask is empty."""
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum() / mask.sum().clamp_min(1)


NO_DOCUMENT = -1
"""Padding of `items`, `known` and `spared` for queries that have fewer than others."""


@dataclass(eq=False)
class ScoredBatch:
    """Queries, the distinct documents of their batch, and scores between them, computed when first asked for.

    Attributes:
        scorer: The `Q` compiled queries.
        points: The `D` documents.
        documents: `(D,)` integers; equal numbers mean the same document, on every process.
        items: `(Q, n)` positions among the `D` documents; item 0 is the positive; padded with `NO_DOCUMENT`.
        known: `(Q, P)` numbers, as in `documents`, of all positives; padded with `NO_DOCUMENT`.
        labels: `(Q, n)` teacher scores; NaN if missing.
        base_scorer: The queries as they were before training, or None.
        base_points: The documents as they were before training; None means the same as `points`.
        spared: `(Q, S)` numbers of documents that are never negatives, in addition to `known`; padded with
            `NO_DOCUMENT`; None if there are no others than `known`.
        firsts: `(F,)` numbers of the documents that are item 0 of a query; None to derive them.
        coarse: `(Q,)` positions of the coarse positives among the `D` documents, `NO_DOCUMENT` for none; None if no
            loss reads them.
        weights: `(Q,)` how much the queries' examples count, above 0; None for all alike.
        wrong_scorer: The queries compiled with the card of another task, or None.
        views: `(T, 2, w)` conditioning vectors of two cards of each of `T` tasks, or None.
    """

    scorer: Scorer
    points: Points
    documents: Tensor
    items: Tensor
    known: Tensor
    labels: Tensor
    base_scorer: Scorer | None = None
    base_points: Points | None = None
    spared: Tensor | None = None
    firsts: Tensor | None = None
    coarse: Tensor | None = None
    weights: Tensor | None = None
    wrong_scorer: Scorer | None = None
    views: Tensor | None = None

    @cached_property
    def in_batch(self) -> Tensor:
        """`(Q, D)` scores of every query with every document of the batch."""
        return self.scorer.score(self.points)

    @cached_property
    def own(self) -> Tensor:
        """`(Q, n)` scores of each query with its own items; arbitrary if `own_mask` is False."""
        filled = self.items.clamp_min(0)
        if "in_batch" in self.__dict__:
            return self.in_batch.gather(1, filled)
        return self.scorer.score_own(self.points[filled.flatten()])

    @cached_property
    def base(self) -> Tensor | None:
        """`(Q, D)` scores before training, without gradient; None if they are not kept."""
        if self.base_scorer is None:
            return None
        points = self.points if self.base_points is None else self.base_points
        with torch.no_grad():
            return self.base_scorer.score(points)

    @property
    def own_mask(self) -> Tensor:
        """`(Q, n)` booleans: which items exist."""
        return self.items >= 0

    @property
    def has_positive(self) -> Tensor:
        """`(Q,)` booleans: which queries have a positive item."""
        return self.items[:, 0] >= 0

    @cached_property
    def positives(self) -> Tensor:
        """`(Q, D)` booleans: which documents are positives of which query."""
        return self._among(self.known)

    @cached_property
    def own_positives(self) -> Tensor:
        """`(Q, D)` booleans: which document is item 0 of which query."""
        own = self.items[:, :1]
        return torch.zeros_like(self.positives).scatter(1, own.clamp_min(0), own >= 0)

    @cached_property
    def coarse_or_own(self) -> Tensor:
        """`(Q,)` positions of the coarse positives; of item 0 for queries without one."""
        own = self.items[:, 0]
        return own if self.coarse is None else torch.where(self.coarse >= 0, self.coarse, own)

    @cached_property
    def never_negatives(self) -> Tensor:
        """`(Q, D)` booleans: which documents are never negatives of which query, the positives included."""
        return self.positives if self.spared is None else self.positives | self._among(self.spared)

    @cached_property
    def first_columns(self) -> Tensor:
        """`(D,)` booleans: which documents are item 0 of a query."""
        return torch.isin(self.documents, self._first_numbers())

    def across_devices(self) -> ScoredBatch:
        """Return this process's queries with the distinct documents of all processes; itself in a single process."""
        if not is_distributed():
            return self
        numbers = gather_rows(self.documents)
        kept = _first_occurrences(numbers)
        base = None if self.base_points is None else self.base_points.gather(gather_rows)[kept]
        documents = numbers[kept]
        return replace(
            self,
            points=self.points.gather(gather_rows)[kept],
            documents=documents,
            items=_positions(self.documents, documents, self.items),
            base_points=base,
            firsts=gather_rows(self._first_numbers()),
            coarse=None if self.coarse is None else _positions(self.documents, documents, self.coarse),
        )

    def _among(self, numbers: Tensor) -> Tensor:
        return (self.documents[None, :, None] == numbers[:, None, :]).any(-1)

    def _first_numbers(self) -> Tensor:
        if self.firsts is not None:
            return self.firsts
        return self.documents[self.items[:, 0][self.has_positive]]


def _first_occurrences(numbers: Tensor) -> Tensor:
    """Return the positions of the first of each distinct number, in order."""
    distinct, inverse = torch.unique(numbers, return_inverse=True)
    positions = torch.arange(len(numbers), device=numbers.device)
    firsts = torch.full_like(distinct, len(numbers)).scatter_reduce(0, inverse, positions, "amin")
    return firsts.sort().values


def _positions(old: Tensor, new: Tensor, items: Tensor) -> Tensor:
    """Translate positions among the documents `old` to positions among the documents `new`."""
    order = new.argsort()
    found = order[torch.searchsorted(new[order], old[items.clamp_min(0)])]
    return torch.where(items >= 0, found, items)


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of their ranks.

    Every process must call this. The gradient of each row is the sum of the gradients from all processes: averaged over
    processes, as in data-parallel training, it is the gradient of the mean of all losses.

    Args:
        rows: `(D, ...)`; `D` may differ between processes, the other sizes may not.

    Returns:
        `(D_0 + D_1 + ..., ...)`; `rows` itself in a single process.
    """
    if not is_distributed():
        return rows
    count = torch.tensor([rows.shape[0]], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    # Collectives need equal shapes, so every process pads to the longest and cuts the padding off again.
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: rows.shape[0]] = rows
    gathered: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
