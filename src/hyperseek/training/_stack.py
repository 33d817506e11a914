"""The model as the trainer sees it, the losses beside it, and what is logged of a step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperseek.geometry.polar import split_polar
from hyperseek.models import Retriever
from hyperseek.models.retriever import Side
from hyperseek.scoring import Points, Scorer, vectors_of
from hyperseek.training._collate import Batch
from hyperseek.training._routes import before_training, is_frozen
from hyperseek.training.losses import Objective, ScoredBatch


class TrainedStack(SentenceTransformer):
    """A retriever's modules in one container whose forward pass runs the part of each route that is trained.

    Args:
        retriever: The model; the container shares its modules.
        starts: Where each route's features begin: 0 for tokenised texts, the length of the frozen prefix for
            cached features.
        mini_batch: Texts that go through at once, or None for all.
    """

    def __init__(self, retriever: Retriever, starts: dict[Side, int], *, mini_batch: int | None = None) -> None:
        super().__init__(modules=list(retriever.model.children()), device=str(retriever.device))
        self.retriever = retriever
        self.starts = starts
        self.mini_batch = mini_batch
        self._frozen = {side: all(map(is_frozen, retriever.route(side))) for side in starts}

    def forward(  # type: ignore[override]
        self, query: dict[str, Any], document: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run what is left of both routes, in one call, as data-parallel wrappers want it.

        Args:
            query: Tokenised or cached features of `Q` queries.
            document: The same of `D` documents.

        Returns:
            The features that each route ends with, of `Q` queries and of `D` documents.
        """
        return self._through(query, "query"), self._through(document, "document")

    def train(self, mode: bool = True) -> TrainedStack:
        """Switch dropout on, but not in modules that are frozen: what is cached must be what is computed."""
        super().train(mode)
        for module in itertools.chain.from_iterable(map(self.retriever.route, self.starts)):
            if is_frozen(module):
                module.eval()
        return self

    def _through(self, features: dict[str, Any], side: Side) -> dict[str, Tensor]:
        """Run a route, in parts of `mini_batch` texts if there are more.

        Each part's activations are dropped and computed again in the backward pass. That is gradient caching
        (arXiv 2101.06983) with the bookkeeping left to autograd: memory is that of one part, and the gradients are
        those of the whole batch.
        """
        count = next(value.shape[0] for value in features.values() if isinstance(value, Tensor))
        parts = [features] if self.mini_batch is None else list(_split(features, count, self.mini_batch))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen[side]):
            if len(parts) == 1:
                return self._run(features, side)
            if not torch.is_grad_enabled():
                return _joined([self._run(part, side) for part in parts])
            return _joined([checkpoint(self._run, part, side, use_reentrant=False) for part in parts])

    def _run(self, features: dict[str, Any], side: Side) -> dict[str, Tensor]:
        found = self.retriever.forward(dict(features), side, start=self.starts[side])
        # Nothing else is kept: states of a trunk would take the memory that small parts are to save.
        return {name: found[name] for name in self.retriever.outputs}


class TrainingModule(nn.Module):
    """Model and losses together: everything that may hold parameters to train.

    Args:
        model: The model.
        objective: The losses.
    """

    def __init__(self, model: TrainedStack, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the total loss, its parts, and what else is worth a look.

        Args:
            model: The model as wrapped for this run: itself, or a data-parallel wrapper around it.
            batch: From the collator, on the model's device.

        Returns:
            As `Objective.__call__`, with `diagnose`'s numbers among the parts.
        """
        retriever = self.model.retriever
        queries, documents = model(batch["query"], batch["document"])
        # Scores are float32 whatever the trunk computes in.
        with torch.autocast(retriever.device.type, enabled=False):
            scorer, points = retriever.scorer(queries), retriever.points(documents)
            total, parts = self.objective(_scored(retriever, scorer, points, batch))
            parts |= diagnose(retriever, scorer, points)
        return total, parts

    def trainable_state(self) -> dict[str, Tensor]:
        """Return every parameter that is trained, by name."""
        return {name: parameter.detach() for name, parameter in self._trainable()}

    @torch.no_grad()
    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `trainable_state` returned; KeyError where a parameter is missing."""
        for name, parameter in self._trainable():
            parameter.copy_(state[name])

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


def _scored(retriever: Retriever, scorer: Scorer, points: Points, batch: Batch) -> ScoredBatch:
    base_scorer, base_points = before_training(retriever, batch["base_query"], batch["base_document"])
    return ScoredBatch(
        scorer=scorer,
        points=points,
        documents=batch["numbers"],
        items=batch["items"],
        known=batch["known"],
        spared=batch["spared"],
        labels=batch["scores"],
        base_scorer=base_scorer,
        base_points=base_points,
    )


def _split(features: dict[str, Any], count: int, size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, count, size):
        yield {
            key: value[start : start + size] if isinstance(value, Tensor) and value.shape[0] == count else value
            for key, value in features.items()
        }


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the features of successive texts; those with fewer tokens are padded with zeros."""
    joined = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        joined[name] = torch.cat([_widened(tensor, sizes) for tensor in tensors])
    return joined


def _widened(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    wanted = [(0, size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)]
    return nn.functional.pad(tensor, [number for pair in reversed(wanted) for number in pair])


def diagnose(retriever: Retriever, scorer: Scorer, points: Points) -> dict[str, Tensor]:
    """Return the mean distances of queries and documents from the origin, and what the model says of itself.

    Args:
        retriever: The model.
        scorer: Of a batch's queries.
        points: Of its documents.

    Returns:
        0-dim tensors without gradient, by name; none for flat spaces whose model says nothing.
    """
    own = getattr(retriever.route("document")[-1], "diagnostics", None)
    values: dict[str, Tensor] = {} if own is None else own()
    space = retriever.space
    if space.hyperbolic:
        radius = math.sqrt(space.radius_squared)
        values["document_radius"] = split_polar(vectors_of(points).detach())[1].mean() * radius
        queries = scorer.linear()
        if queries is not None:
            values["query_radius"] = split_polar(queries.detach())[1].mean() * radius
    return values
