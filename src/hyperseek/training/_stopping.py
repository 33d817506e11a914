"""Ctrl-C while a model is trained: the step under way becomes a checkpoint, and the user is told how to resume."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._long_work import stop_asked, stop_here, stoppable
from hyperseek.runs.loop import last_checkpoint
from hyperseek.training.record import CHECKPOINTS


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
