"""The trainer: sentence-transformers' own, with our batches, losses, schedule and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._files import read_tensors, write_tensors
from hyperseek.errors import ModelError
from hyperseek.runs.arguments import is_distributed, loop_arguments, one_gpu_a_process
from hyperseek.runs.callbacks import Reached, TimeLimit
from hyperseek.runs.loop import Clock, EpochOfBatches, Loop
from hyperseek.training._collate import Collator
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._stack import TrainingModule
from hyperseek.training._training_set import EpochBatches, TrainingSet
from hyperseek.training._validation import KeepBest

_WEIGHTS = "trainable.safetensors"
_PROGRESS = "progress.json"


def training_arguments(
    config: TrainConfig, folder: Path, *, batches: int, device: torch.device, report_to: list[str], run_name: str
) -> SentenceTransformerTrainingArguments:
    """Translate our configuration into the underlying trainer's arguments; see `loop_arguments`."""
    values = loop_arguments(config, folder, batches=batches, device=device, report_to=report_to, run_name=run_name)
    return one_gpu_a_process(SentenceTransformerTrainingArguments(**values))


class RetrieverTrainer(Loop, SentenceTransformerTrainer):
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
        """Do nothing: what a run was trained on is in its `run.json`."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Return the total loss, and keep its parts for the log."""
        total, parts = self.module.loss(model, inputs)
        self.track_loss_components(parts)
        return (total, {}) if return_outputs else total

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Name the parameters that decay: matrices, not biases, gains, temperatures and curvatures."""
        return [name for name, parameter in model.named_parameters() if parameter.dim() > 1]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        write_tensors(folder / _WEIGHTS, self.module.trainable_state())
        history = () if self.keeper is None else tuple(self.keeper.history)
        Reached(seconds=self.clock.seconds, history=history).write(folder / _PROGRESS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        try:
            self.module.load_trainable_state(read_tensors(folder / _WEIGHTS, "the weights of a checkpoint")[0])
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"the checkpoint {folder} is of another model ({error}); "
                f"use the recipe it was made with, or start anew with --no-resume"
            ) from error
        reached = Reached.read(folder / _PROGRESS)
        self.clock.set(reached.seconds)
        if self.keeper is not None:
            self.keeper.restore(reached.history)


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
