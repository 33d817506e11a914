"""The trainer: sentence-transformers' own, with our batches, losses, schedule and checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._errors import ModelError
from hyperseek._files import atomic_write, read_json, write_json
from hyperseek.training._callbacks import KeepBest, TimeLimit, Validated
from hyperseek.training._clock import Clock
from hyperseek.training._collate import Collator
from hyperseek.training._losses._gather import is_distributed
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._schedule import learning_rate_factor
from hyperseek.training._stack import TrainingModule
from hyperseek.training._training_set import EpochBatches, TrainingSet

_WEIGHTS = "trainable.safetensors"
_PROGRESS = "progress.json"

logger = logging.getLogger(__name__)


class RetrieverTrainer(SentenceTransformerTrainer):
    """Trains a retriever's scorers.

    Checkpoints hold the trained parameters alone, those of losses included; frozen modules are not written.

    Args:
        module: Model and losses.
        args: Arguments of the underlying trainer; see `training_arguments`.
        training_set: The examples.
        batches: Which of them make a batch.
        collator: Makes tensors of them.
        config: Schedule and limits.
        clock: Counts training time.
        keeper: Validates and keeps the best weights; None for no validation.
        callbacks: Further ones.
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
            _EpochOfBatches(batches),
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
        self.state: TrainerState
        if keeper is not None:
            keeper.log = self.log

    def run(self, checkpoint: Path | None = None) -> TrainerState:
        """Train, from the beginning or from a checkpoint.

        Args:
            checkpoint: What to go on from, or None.

        Returns:
            The state at the end: steps done, log.
        """
        if checkpoint is not None:
            state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:
                # The underlying trainer would take one step more.
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                self.callback_handler.on_train_end(self.args, self.state, self.control)
                return self.state
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return self.state

    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        """Return the data set as it is."""
        return dataset

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing: what a run was trained on is in its `run.json`."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of our batches, shared out between processes."""
        # Filling up the last round with repeated batches would count their examples twice.
        self.accelerator.even_batches = False
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_num_workers > 0,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Return the total loss, and keep its parts for the log."""
        total, parts = self.module.loss(model, inputs)
        self.track_loss_components(parts)
        return (total, {}) if return_outputs else total

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """Make the schedule; where time is limited, the share of it that is used counts if it is the larger one."""
        if self.lr_scheduler is None:

            def factor(step: int) -> float:
                progress = step / max(1, num_training_steps)
                if self.config.max_seconds is not None:
                    progress = max(progress, self.clock.seconds / self.config.max_seconds)
                return learning_rate_factor(self.config, step=step, progress=min(1.0, progress))

            chosen = self.optimizer if optimizer is None else optimizer
            assert chosen is not None  # the trainer makes the optimiser first
            self.lr_scheduler = LambdaLR(chosen, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.module.trainable_state().items()}
        with atomic_write(folder / _WEIGHTS, "wb") as file:
            file.write(save(tensors))
        history = [] if self.keeper is None else [entry.model_dump() for entry in self.keeper.history]
        write_json(folder / _PROGRESS, {"seconds": self.clock.seconds, "history": history})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        try:
            self.module.load_trainable_state(load_file(folder / _WEIGHTS))
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"the checkpoint {folder} is of another model ({error}); "
                f"use the recipe it was made with, or start anew with --no-resume"
            ) from error
        progress = read_json(folder / _PROGRESS)
        self.clock.set(progress["seconds"])
        if self.keeper is not None:
            self.keeper.history[:] = [Validated(**entry) for entry in progress["history"]]


class _EpochOfBatches(TrainerCallback):
    # The trainer tells wrapped samplers their epoch in some of its paths only, and not when it resumes.
    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.batches.set_epoch(int(state.epoch or 0))


class _SharedLosses(TrainerCallback):
    # Data-parallel wrappers average the gradients of the model; a learned temperature is outside of it.
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


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, and delete those that a kill left incomplete.

    Args:
        folder: Where checkpoints are.

    Returns:
        Its path, or None if there is none.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            # The trainer writes this file last.
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            logger.info("deleting the incomplete checkpoint %s", path)
            shutil.rmtree(path, ignore_errors=True)
        else:
            return path
    return None
