"""The loop of every training run: clock, epochs, checkpoints, exact resuming, progress, and Ctrl-C."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from zipfile import is_zipfile

from pydantic import ConfigDict, Field
from safetensors import safe_open
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._config import Config
from hyperseek._files import check_checksum, read_json, reading, take_umask, write_json
from hyperseek._fingerprint import fingerprint_file
from hyperseek._long_work import Progress, progress, stop_asked, stop_here, stoppable
from hyperseek.errors import DataError, brief
from hyperseek.runs.recipe import SCHEDULES, LoopConfig
from hyperseek.runs.record import CHECKPOINTS, RunRecord, Validated, earlier_run, run_folder

_FILES = "files.json"
_PROGRESS = "progress.json"
_STATE = "trainer_state.json"

logger = logging.getLogger(__name__)


def resumable_run(
    recipe: Config,
    folder: str | os.PathLike[str] | None,
    carry_out: Callable[[Path, RunRecord | None], RunRecord],
    *,
    resume: bool,
) -> RunRecord:
    """Run a recipe in its folder, unless an earlier run there has finished it.

    Args:
        recipe: The recipe.
        folder: The run's folder; variables in it are filled in.
        carry_out: Runs it, given the folder and the record of an unfinished earlier run, if there is one.
        resume: See `earlier_run`.

    Returns:
        The record of the run, or of the finished earlier one.

    Raises:
        ConfigError: There is no folder, or it holds a run of another recipe.
    """
    place = run_folder(folder)
    earlier = earlier_run(recipe, place, resume=resume)
    if earlier is not None and earlier.status == "finished":
        return earlier
    with _stoppable_run(place):
        return carry_out(place, earlier)


def run_with_progress(trainer: Loop, title: str) -> int:
    """Train from the last checkpoint, if there is one, with a progress bar, until the end or Ctrl-C.

    Args:
        trainer: Its checkpoints are in its `output_dir`.
        title: Title of the bar.

    Returns:
        Optimiser steps done, including those before the checkpoint.
    """
    checkpoint = last_checkpoint(Path(str(trainer.args.output_dir)))
    done = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    total = None if trainer.config.max_seconds is not None else trainer.args.max_steps
    with progress(title, total, unit="steps", done=done) as bar:
        trainer.add_callback(ShowProgress(bar))
        trainer.add_callback(StopOnInterrupt())
        return trainer.run(checkpoint).global_step


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
        """Time used so far, in seconds, without pauses."""
        return self._before + (0.0 if self._start is None else self._now() - self._start)

    def set(self, seconds: float) -> None:
        """Stop, and set the reading to that of an earlier run."""
        self._before, self._start = seconds, None

    def start(self) -> None:
        """Resume from the current reading."""
        self._before, self._start = self.seconds, self._now()

    def stop(self) -> None:
        """Stop at the current reading."""
        self.set(self.seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause during the block."""
        running = self._start is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Record the wall time of the block, a part of a run, under its name, unless it fails."""
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


def learning_rate_factor(config: LoopConfig, *, step: int, progress: float) -> float:
    """Return the factor of the highest learning rate.

    Args:
        config: Warm-up and schedule.
        step: Optimiser steps done.
        progress: Fraction of the run that is done, in [0, 1].

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
    """The common part of all trainers; set the attributes before its constructor runs.

    Attributes:
        config: Schedule and limits.
        clock: Counts training time.
        batches: Groups examples into batches; `EpochOfBatches` sets the epoch they are drawn for.
    """

    config: LoopConfig
    clock: Clock
    batches: BatchSampler
    state: TrainerState

    def run(self, checkpoint: Path | None = None) -> TrainerState:
        """Train, from the beginning or from a checkpoint.

        Args:
            checkpoint: Checkpoint to resume from, or None.

        Returns:
            The state at the end: steps done, log.
        """
        if checkpoint is not None:
            state: TrainerState = TrainerState.load_from_json(str(checkpoint / _STATE))
            if state.global_step >= self.args.max_steps:
                # The underlying trainer would take one more step.
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                self.callback_handler.on_train_end(self.args, self.state, self.control)
                return self.state
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return self.state

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that decay: matrices, not biases, gains, temperatures or curvatures."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # Every process has written files.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_checkpoint(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of our batches, distributed over processes."""
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
        """Make the schedule; with a time limit, progress is the larger fraction of steps and time."""
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


class Reached(Config):
    """The progress of a run when a checkpoint was written.

    Attributes:
        seconds: Training time.
        history: Validations.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    seconds: float = Field(ge=0)
    history: tuple[Validated, ...] = ()

    def write(self, checkpoint: Path) -> None:
        """Write it into the folder of a checkpoint."""
        write_json(checkpoint / _PROGRESS, json.loads(self.model_dump_json()))

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read it from the folder of a checkpoint; DataError if it is damaged."""
        return cls.from_json(
            checkpoint / _PROGRESS, "the progress of a checkpoint", remedy="start from scratch with --no-resume"
        )


class EpochOfBatches(TrainerCallback):
    """Sets the epoch of batches; the trainer does so for wrapped samplers only in some of its paths, not on resuming.

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


class TimeLimit(TrainerCallback):
    """Stops training when the clock has run out.

    Args:
        clock: Started by this callback.
        seconds: The limit; None only keeps the clock running.
    """

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        self.clock = clock
        self.seconds = seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.clock.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop training, with a checkpoint, when time is up."""
        if self.seconds is not None and self.clock.seconds >= self.seconds:
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock."""
        self.clock.stop()


class ShowProgress(TrainerCallback):
    """Moves the progress bar.

    Args:
        bar: Opened by the caller, so that an error closes it.
    """

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count a step."""
        self.bar.advance()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss, and log everything."""
        logger.info("step %d: %s", state.global_step, logs)
        if logs and "loss" in logs:
            self.bar.describe(f"training (loss {logs['loss']:.4f})")


class StopOnInterrupt(TrainerCallback):
    """Stops training after Ctrl-C, once the current step is done and saved in a checkpoint."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint, or stop if checkpoints are off."""
        if stop_asked():
            control.should_save = args.save_strategy != "no"
            if not control.should_save:
                stop_here()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop, now that the checkpoint is written."""
        stop_here()


def finish_checkpoint(folder: Path) -> None:
    """List a checkpoint's files with checksums; written last, the list also marks the checkpoint as complete."""
    take_umask(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _FILES)
    write_json(
        folder / _FILES, {"checksums": {str(path.relative_to(folder)): fingerprint_file(path) for path in files}}
    )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest valid checkpoint, and delete newer ones, which are incomplete or damaged.

    Args:
        folder: Folder of checkpoints.

    Returns:
        Its path, or None if there is none.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        listed = (path / _FILES).exists()
        problem = _problem(path) if listed else _problem_by_form(path)
        if problem is None:
            if not listed:
                logger.warning("the checkpoint %s, of an earlier version, has no checksums to verify", path)
            return path
        logger.warning("deleting the unusable checkpoint %s: %s", path, problem)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return None


def _stoppable_run(folder: Path) -> AbstractContextManager[None]:
    """Return a context in which Ctrl-C ends a run as in `StopOnInterrupt`.

    Args:
        folder: The run's folder.

    Returns:
        The context. It does nothing with several processes, which would stop at different steps.
    """

    def stored() -> str:
        checkpoint = last_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            return f"no step of {folder} is stored yet, but encoded and tokenised texts are; run the same command again"
        steps = checkpoint.name.rpartition("-")[2]
        return f"{steps} steps are stored in {folder}; run the same command again to resume"

    return nullcontext() if "WORLD_SIZE" in os.environ else stoppable(stored)


class _Epochs(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


class _Files(Config):
    """A checkpoint's files: the checksum of each, by its relative path."""

    checksums: dict[str, str] = Field(min_length=1)


def _problem(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, by the list of its files; None if nothing is."""
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
    """Return what is wrong with a checkpoint without a list, of an earlier version; None if nothing is evident.

    The trainer writes its state last, and truncated tensor files lack the table at their end, or are shorter than
    the table at their beginning states.
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
