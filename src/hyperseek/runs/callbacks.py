"""What happens between the steps of any run: the time limit, the progress bar, and Ctrl-C; and a run with them."""

from __future__ import annotations

import json
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._config import Config
from hyperseek._files import write_json
from hyperseek._long_work import Progress, progress, stop_asked, stop_here, stoppable
from hyperseek.runs.loop import Clock, Loop, last_checkpoint
from hyperseek.runs.record import CHECKPOINTS, Validated

logger = logging.getLogger(__name__)


class Reached(Config):
    """How far a run had come when a checkpoint was written.

    Attributes:
        seconds: Training time.
        history: Validations.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    seconds: float = Field(ge=0)
    history: tuple[Validated, ...] = ()

    def write(self, path: Path) -> None:
        """Write it into a checkpoint."""
        write_json(path, json.loads(self.model_dump_json()))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it from a checkpoint; DataError where it is damaged."""
        return cls.from_json(path, "the progress of a checkpoint", remedy="start anew with --no-resume")


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
    """Stops training when Ctrl-C was pressed, after the step under way and with a checkpoint of it."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint, or stop where there are none."""
        if stop_asked():
            control.should_save = args.save_strategy != "no"
            if not control.should_save:
                stop_here()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop, now that the checkpoint is there."""
        stop_here()


def run_with_progress(trainer: Loop, title: str) -> int:
    """Train from the last checkpoint, if there is one, with a progress bar, until the end or Ctrl-C.

    Args:
        trainer: Its checkpoints are in its `output_dir`.
        title: Of the bar.

    Returns:
        Optimiser steps done, those before the checkpoint included.
    """
    checkpoint = last_checkpoint(Path(str(trainer.args.output_dir)))
    done = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    total = None if trainer.config.max_seconds is not None else trainer.args.max_steps
    with progress(title, total, unit="steps", done=done) as bar:
        trainer.add_callback(ShowProgress(bar))
        trainer.add_callback(StopOnInterrupt())
        return trainer.run(checkpoint).global_step


def stoppable_run(folder: Path) -> AbstractContextManager[None]:
    """Return a context in which Ctrl-C ends a run as `StopOnInterrupt` says.

    Args:
        folder: Of the run.

    Returns:
        The context. It does nothing in one of several processes: they would stop at different steps.
    """

    def stored() -> str:
        checkpoint = last_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            return f"no step of {folder} is stored yet, but what was encoded or tokenised is; run the same again"
        return f"{checkpoint.name.rpartition('-')[2]} steps are stored in {folder}; run the same again to resume"

    return nullcontext() if "WORLD_SIZE" in os.environ else stoppable(stored)
