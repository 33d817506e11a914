"""The module that is trained, and its trainer: both routes' trained parts, the losses, sentence-transformers' loop.

The trainer is sentence-transformers' own, with our batches, losses, schedule and checkpoints.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._files import read_tensors, write_tensors
from hyperseek.errors import ModelError
from hyperseek.geometry.polar import split_polar
from hyperseek.models import Retriever
from hyperseek.models.retriever import Side
from hyperseek.runs.loop import Clock, EpochOfBatches, Loop, Reached, TimeLimit
from hyperseek.runs.recipe import OutputConfig, is_distributed, loop_arguments, one_gpu_a_process
from hyperseek.scoring import Points, Scorer, vectors_of
from hyperseek.training._cards import card_head
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._routes import before_training, is_frozen
from hyperseek.training._training_set import Batch, BatchCards, Collator, TrainingSet
from hyperseek.training._validation import KeepBest
from hyperseek.training.losses import Objective, ScoredBatch

_WEIGHTS = "trainable.safetensors"


class TrainedStack(SentenceTransformer):
    """A retriever's modules in one container whose forward pass runs the part of each route that is trained.

    Args:
        retriever: The model; the container shares its modules.
        starts: First module to run in each route: 0 for tokenised texts, the length of the frozen prefix for
            cached features.
        mini_batch: Texts per forward pass, or None for all.
    """

    def __init__(self, retriever: Retriever, starts: dict[Side, int], *, mini_batch: int | None = None) -> None:
        super().__init__(modules=list(retriever.model.children()), device=str(retriever.device))
        self.retriever = retriever
        self.starts = starts
        self.mini_batch = mini_batch
        # Shorter texts of a batch are padded only to the longest of their part, unless the model reads padding.
        self._trims = {
            side: not any(getattr(module, "reads_padding", False) for module in retriever.route(side))
            for side in starts
        }
        self._compiles_cards = card_head(retriever) is not None
        self._frozen = {side: all(map(is_frozen, retriever.route(side))) for side in starts}

    def forward(  # type: ignore[override]
        self, query: dict[str, Any], document: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the rest of both routes, in one call, as data-parallel wrappers require.

        Args:
            query: Tokenised or cached features of `Q` queries.
            document: The same for `D` documents.

        Returns:
            The output features of each route, of `Q` queries and of `D` documents.
        """
        queries, documents = self._through(query, "query"), self._through(document, "document")
        if self._compiles_cards and is_distributed():
            # Data-parallel wrappers expect gradients of what their output depends on, each once. Cards are compiled
            # outside, and one without examples does not even use all parameters.
            trained = [parameter.sum() for parameter in self.parameters() if parameter.requires_grad]
            queries["sentence_embedding"] = queries["sentence_embedding"] + 0 * torch.stack(trained).sum()
        return queries, documents

    def train(self, mode: bool = True) -> TrainedStack:
        """Switch dropout on, but not in frozen modules, whose output must equal the cached features."""
        super().train(mode)
        for module in itertools.chain.from_iterable(map(self.retriever.route, self.starts)):
            if is_frozen(module):
                module.eval()
        return self

    def _through(self, features: dict[str, Any], side: Side) -> dict[str, Tensor]:
        """Run a route, in parts of `mini_batch` texts of similar length if there are more.

        Each part's activations are dropped and computed again in the backward pass. That is gradient caching
        (arXiv 2101.06983) with the bookkeeping left to autograd: memory is bounded by one part, and the gradients are
        those of the whole batch.
        """
        count = next(value.shape[0] for value in features.values() if isinstance(value, Tensor))
        order: Tensor | None = None
        if self.mini_batch is None or count <= self.mini_batch:
            parts = [features]
        else:
            order = _by_length(features, count)
            parts = list(_split(features, order, self.mini_batch))
            if self._trims[side]:
                parts = list(map(_trimmed, parts))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen[side]):
            if order is None:
                return self._run(features, side)
            if not torch.is_grad_enabled():
                return _joined([self._run(part, side) for part in parts], order)
            return _joined([checkpoint(self._run, part, side, use_reentrant=False) for part in parts], order)

    def _run(self, features: dict[str, Any], side: Side) -> dict[str, Tensor]:
        found = self.retriever.forward(dict(features), side, start=self.starts[side])
        # Nothing else is kept: the trunk's states would take the memory that small parts save.
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
        """Compute the total loss, its parts, and diagnostics.

        Args:
            model: The model as wrapped for this run: itself, or a data-parallel wrapper around it.
            batch: From the collator, on the model's device.

        Returns:
            As `Objective.__call__`, with the numbers of `diagnose` among the parts.
        """
        retriever = self.model.retriever
        queries, documents = model(batch["query"], batch["document"])
        # Scores are float32 whatever the trunk's number format.
        with torch.autocast(retriever.device.type, enabled=False):
            cards, points = batch["cards"], retriever.points(documents)
            with card_head(retriever).learning_confidence() if cards and cards["stranger"] else nullcontext():
                scorer = retriever.scorer(queries, None if cards is None else {"card": cards["own"]})
            scored = _scored(retriever, scorer, points, batch)
            if cards is not None:
                scored = replace(scored, **_under_other_cards(retriever, queries, cards))
            total, parts = self.objective(scored)
            parts |= diagnose(retriever, scorer, points)
        return total, parts

    def trainable_state(self) -> dict[str, Tensor]:
        """Return every parameter that is trained, by name."""
        return {name: parameter.detach() for name, parameter in self._trainable()}

    @torch.no_grad()
    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Load what `trainable_state` returned; KeyError if a parameter is missing."""
        for name, parameter in self._trainable():
            parameter.copy_(state[name])

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


def diagnose(retriever: Retriever, scorer: Scorer, points: Points) -> dict[str, Tensor]:
    """Return the mean distances of queries and documents from the origin, and the model's own diagnostics.

    Args:
        retriever: The model.
        scorer: Compiled queries of a batch.
        points: Its documents.

    Returns:
        0-dim tensors without gradient, by name; empty for flat spaces if the model has no diagnostics.
    """
    own = getattr(retriever.route("document")[-1], "diagnostics", None)
    values: dict[str, Tensor] = {} if own is None else own()
    space = retriever.space
    if space.hyperbolic:
        radius = math.sqrt(space.radius_squared)
        values["document_radius"] = split_polar(space.at_level(vectors_of(points).detach()))[1].mean() * radius
        queries = scorer.linear()
        if queries is not None:
            values["query_radius"] = split_polar(space.at_level(queries.detach()))[1].mean() * radius
    return values


def training_arguments(
    config: TrainConfig, output: OutputConfig, folder: Path, *, batches: int, device: torch.device
) -> SentenceTransformerTrainingArguments:
    """Translate our configuration into the underlying trainer's arguments; see `loop_arguments`."""
    values = loop_arguments(config, output, folder, batches=batches, device=device)
    return one_gpu_a_process(SentenceTransformerTrainingArguments(**values))


class RetrieverTrainer(Loop, SentenceTransformerTrainer):
    """Trains a retriever's scorers.

    Checkpoints hold only trained parameters, those of losses included; frozen modules are not written.

    Args:
        module: Model and losses.
        args: Arguments of the underlying trainer; see `training_arguments`.
        training_set: The examples.
        batches: Groups them into batches.
        collator: Turns them into tensors.
        config: Schedule and limits.
        clock: Counts training time.
        keeper: Validates and keeps the best weights; None for no validation.
        callbacks: Additional callbacks.
    """

    def __init__(
        self,
        module: TrainingModule,
        args: SentenceTransformerTrainingArguments,
        *,
        training_set: TrainingSet,
        batches: EpochBatches,
        collator: Collator,
        config: TrainConfig,
        clock: Clock,
        keeper: KeepBest | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.batches = batches
        self.clock = clock
        self.config = config
        self.module = module
        self.keeper = keeper
        own = [
            EpochOfBatches(batches),
            _SharedLosses(module.objective),
            TimeLimit(clock, config.max_seconds),
            *([] if keeper is None else [keeper]),
        ]
        super().__init__(
            model=module.model,
            args=args,
            train_dataset=training_set,
            loss=module,
            data_collator=collator,  # type: ignore[arg-type]
            callbacks=[*own, *callbacks],
        )
        self.remove_callback(PrinterCallback)
        if keeper is not None:
            keeper.log = self.log

    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        """Return the data set as it is."""
        return dataset

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing: the training data of a run is recorded in its `run.json`."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Return the total loss, and record its parts for the log."""
        total, parts = self.module.loss(model, inputs)
        self.track_loss_components(parts)
        return (total, {}) if return_outputs else total

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        write_tensors(folder / _WEIGHTS, self.module.trainable_state())
        history = () if self.keeper is None else tuple(self.keeper.history)
        Reached(seconds=self.clock.seconds, history=history).write(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        try:
            self.module.load_trainable_state(read_tensors(folder / _WEIGHTS, "the weights of a checkpoint")[0])
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"the checkpoint {folder} is of another model ({error}); "
                f"use the recipe it was made with, or start from scratch with --no-resume"
            ) from error
        reached = Reached.read(folder)
        self.clock.set(reached.seconds)
        if self.keeper is not None:
            self.keeper.restore(reached.history)


class _SharedLosses(TrainerCallback):
    # Data-parallel wrappers average the gradients of the model; a learned temperature is not part of it.
    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if is_distributed():
            for parameter in self.objective.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()


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
        coarse=batch["coarse"],
        weights=batch["weights"],
    )


def _under_other_cards(retriever: Retriever, queries: dict[str, Tensor], cards: BatchCards) -> dict[str, Any]:
    """Return the fields of a `ScoredBatch` that cards of other tasks are needed for."""
    found: dict[str, Any] = {}
    if cards["wrong"] is not None:
        found["wrong_scorer"] = retriever.scorer(queries, {"card": cards["wrong"]})
    if cards["views"]:
        head = card_head(retriever)
        features = [[head.card_features(head.find(text)) for text in views] for views in cards["views"]]
        found["views"] = torch.stack([torch.stack([head.compiler.vector(one) for one in own]) for own in features])
    return found


def _by_length(features: dict[str, Any], count: int) -> Tensor:
    """Return `(B,)` positions of texts, those with fewer tokens first; in the given order without an attention mask."""
    mask: Tensor | None = features.get("attention_mask")
    if mask is None:
        return torch.arange(count)
    return mask.sum(dim=1).argsort(stable=True).cpu()


def _split(features: dict[str, Any], order: Tensor, size: int) -> Iterator[dict[str, Any]]:
    for rows in torch.split(order, size):
        yield {
            key: value[rows.to(value.device)] if isinstance(value, Tensor) and value.shape[0] == len(order) else value
            for key, value in features.items()
        }


def _trimmed(features: dict[str, Any]) -> dict[str, Any]:
    """Cut off trailing columns without any token; leading ones must stay, as they determine the tokens' positions."""
    mask = features.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return features
    expansion = features.get("query_expansion_positions")
    used = (mask.bool() if expansion is None else mask.bool() | expansion.bool()).any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else mask.shape[1]
    return {
        key: value[:, :width] if isinstance(value, Tensor) and value.shape[:2] == mask.shape else value
        for key, value in features.items()
    }


def _joined(parts: Sequence[dict[str, Tensor]], order: Tensor) -> dict[str, Tensor]:
    """Join the features of parts and undo their order; features of texts with fewer tokens are padded with zeros."""
    joined, back = {}, order.argsort()
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        rows = torch.cat([_widened(tensor, sizes) for tensor in tensors])
        joined[name] = rows[back.to(rows.device)]
    return joined


def _widened(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    wanted = [(0, size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)]
    return nn.functional.pad(tensor, [number for pair in reversed(wanted) for number in pair])
