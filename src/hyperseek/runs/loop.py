"""What our trainers share: schedule, clock, batches by epoch, checkpoints, and an exact way to resume."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self
from zipfile import is_zipfile

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from safetensors import safe_open
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._config import Config
from hyperseek._files import check_checksum, read_json, reading, take_umask, write_json
from hyperseek._fingerprint import fingerprint_file
from hyperseek._registry import Registry, check_function
from hyperseek.errors import DataError, brief

_FILES = "files.json"
_STATE = "trainer_state.json"

logger = logging.getLogger(__name__)

Schedule = Callable[[float], float]
"""From the share of the run that is left after the warm-up, 1 to 0, to a factor of the learning rate in [0, 1]."""

_OURS = {name: f"{__name__}:_{name}" for name in ("constant", "linear", "cosine")}
SCHEDULES: Registry[Schedule] = Registry("schedule", "hyperseek.schedules", _OURS, check=check_function)


def register_schedule(name: str) -> Callable[[Schedule], Schedule]:
    """Register a schedule of the learning rate, as a decorator.

    Args:
        name: What recipes give as `train.schedule`.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        InputError: The name is taken.
    """
    return SCHEDULES.register(name)


def _constant(left: float) -> float:
    return 1.0


def _linear(left: float) -> float:
    return left


def _cosine(left: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * left)


class LoopConfig(Config):
    """How a training loop goes.

    Attributes:
        epochs: Stop after this many passes.
        max_steps: Stop after this many optimiser steps.
        max_seconds: Stop after this much time in training steps (not in caching or validation).
        clock: What `max_seconds` counts: `wall` time, or `cpu` time of this process over all its threads.
        batch_size: Examples of a batch, for each process.
        gradient_accumulation: Batches of an optimiser step.
        learning_rate: Highest learning rate.
        weight_decay: Of AdamW.
        schedule: What follows the warm-up: `constant`, `linear` or `cosine` fall to zero at the end, or another name
            that `register_schedule` or an entry point of `hyperseek.schedules` gave.
        warmup: Steps of linear warm-up if 1 or more, a share of the run if below 1.
        max_grad_norm: Gradients are clipped to this norm; 0 for never.
        precision: `bfloat16` or `float16` for mixed precision; weights and scores stay float32. `float16` scales the
            loss and needs a GPU.
        tf32: Whether a GPU may round matrix products to tf32.
        seed: Decides order, draws and dropout.
        save_every: Steps between checkpoints; None for none.
        log_every: Steps between log lines.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        device: `cpu`, `cuda`; None takes a GPU if there is one.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    clock: Literal["wall", "cpu"] = "wall"
    batch_size: int = Field(default=64, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Annotated[str, AfterValidator(SCHEDULES.checked)] = "linear"
    warmup: float = Field(default=0.05, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = False
    seed: int = Field(default=0, ge=0)
    save_every: int | None = Field(default=500, ge=1)
    log_every: int = Field(default=10, ge=1)
    workers: int = Field(default=0, ge=0)
    device: str | None = None

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.epochs is None and self.max_steps is None and self.max_seconds is None:
            raise ValueError("one of epochs, max_steps and max_seconds is needed, or training never ends")
        return self


class Clock:
    """A stopwatch that can be paused and resumes from an earlier run's reading.

    Args:
        kind: `wall` time, or `cpu` time of this process over all its threads.
    """

    def __init__(self, kind: Literal["wall", "cpu"] = "wall") -> None:
        self._now = time.perf_counter if kind == "wall" else time.process_time
        self._before = 0.0
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Time used so far, in seconds, pauses left out."""
        return self._before + (0.0 if self._start is None else self._now() - self._start)

    def set(self, seconds: float) -> None:
        """Stop at a given reading, that of an earlier run."""
        self._before, self._start = seconds, None

    def start(self) -> None:
        """Resume from the present reading."""
        self._before, self._start = self.seconds, self._now()

    def stop(self) -> None:
        """Stop at the present reading."""
        self.set(self.seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        running = self._start is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Note the wall time of the block, a part of a run, under its name; nothing if it fails."""
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


def learning_rate_factor(config: LoopConfig, *, step: int, progress: float) -> float:
    """Return what the highest learning rate is multiplied by.

    Args:
        config: Warm-up and schedule.
        step: Optimiser steps done.
        progress: Share of the run that is done, in [0, 1].

    Returns:
        A number in [0, 1].
    """
    if config.warmup >= 1:
        warm, start = (step + 1) / config.warmup, progress * min(1.0, config.warmup / max(1, step))
    else:
        # A schedule that starts at exactly 0 would waste its first step.
        warm, start = max(progress, 0.01 * config.warmup) / max(config.warmup, 1e-9), config.warmup
    left = 1 - max(0.0, progress - start) / max(1e-9, 1 - start)
    return min(1.0, warm if config.warmup else 1.0) * SCHEDULES[config.schedule](left)


class Loop(Trainer):
    """The part of a trainer that does not depend on what is trained; set the attributes before its constructor runs.

    Attributes:
        config: Schedule and limits.
        clock: Counts training time.
        batches: Which examples make a batch; the epoch they are drawn for is set by `EpochOfBatches`.
    """

    config: LoopConfig
    clock: Clock
    batches: BatchSampler
    state: TrainerState

    def run(self, checkpoint: Path | None = None) -> TrainerState:
        """Train, from the beginning or from a checkpoint.

        Args:
            checkpoint: What to resume from, or None.

        Returns:
            The state at the end: steps done, log.
        """
        if checkpoint is not None:
            state: TrainerState = TrainerState.load_from_json(str(checkpoint / _STATE))
            if state.global_step >= self.args.max_steps:
                # The underlying trainer would take one step more.
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                self.callback_handler.on_train_end(self.args, self.state, self.control)
                return self.state
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return self.state

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # Every process has written something of its own.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_checkpoint(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")

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


class _Epochs(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


class EpochOfBatches(TrainerCallback):
    """Tells batches their epoch; the trainer tells wrapped samplers in some of its paths only, not when it resumes.

    Args:
        batches: Has `set_epoch`.
    """

    def __init__(self, batches: _Epochs) -> None:
        self.batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch."""
        self.batches.set_epoch(int(state.epoch or 0))


class _Files(Config):
    """What a checkpoint holds: the checksum of each file, by its path inside."""

    checksums: dict[str, str] = Field(min_length=1)


def finish_checkpoint(folder: Path) -> None:
    """Say what a checkpoint consists of; written last, it also tells a whole one from one that a kill cut short."""
    take_umask(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _FILES)
    write_json(
        folder / _FILES, {"checksums": {str(path.relative_to(folder)): fingerprint_file(path) for path in files}}
    )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, and delete those that are newer: cut short by a kill, or damaged since.

    Args:
        folder: Where checkpoints are.

    Returns:
        Its path, or None if there is none.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        listed = (path / _FILES).exists()
        problem = _problem(path) if listed else _problem_by_form(path)
        if problem is None:
            if not listed:
                logger.warning("the checkpoint %s, of an earlier version, has no checksums to compare it with", path)
            return path
        logger.warning("passing over the checkpoint %s, and deleting it: %s", path, problem)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return None


def _problem(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, by the list of its files; None for a whole one."""
    try:
        files = _Files.from_json(checkpoint / _FILES, "the list of a checkpoint's files")
        for name, checksum in files.checksums.items():
            with reading(checkpoint / name, "a file of a checkpoint"):
                if fingerprint_file(checkpoint / name) != checksum:
                    return f"its file {name} is damaged"
    except DataError as error:
        return brief(error)
    return None


def _problem_by_form(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint without a list, as earlier versions wrote them; None where nothing shows.

    The trainer writes its state last, and files of tensors that were cut have lost the table at their end, or are
    shorter than the one at their beginning says.
    """
    if not (checkpoint / _STATE).is_file():
        return "it was not finished"
    try:
        read_json(checkpoint / _STATE, "the state of a checkpoint")
        for path in checkpoint.rglob("*"):
            if path.suffix in (".pt", ".pth") and not is_zipfile(path):
                return f"its file {path.name} is damaged"
            if path.suffix == ".safetensors":
                check_checksum(path)
                with reading(path, "a file of tensors"), safe_open(path, framework="pt"):
                    pass
    except DataError as error:
        return brief(error)
    return None
