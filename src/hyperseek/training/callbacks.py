"""What happens between training steps: validation, the time limit, the progress bar."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._config import Config
from hyperseek._files import read_tensors, reading, write_json, write_tensors
from hyperseek._long_work import Progress
from hyperseek.errors import DataError
from hyperseek.runs.loop import Clock
from hyperseek.training._recipe import ValidationConfig
from hyperseek.training._validation import Validator

logger = logging.getLogger(__name__)


class Validated(Config):
    """One validation.

    Attributes:
        step: Optimiser steps before it.
        seconds: Training time before it.
        scores: The metric for each dev set, and `mean`.
        eligible: Whether no set had fallen too far for this to be the best.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    step: int = Field(ge=0)
    seconds: float
    scores: dict[str, float] = Field(min_length=1)
    eligible: bool = True


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


class KeepBest(TrainerCallback):
    """Validates before, during and after training, keeps the best weights on disk, and stops when none gets better.

    Args:
        config: When to validate and stop.
        validator: Measures the present model.
        clock: Paused meanwhile.
        path: Where the best weights go.
        trainable_state: Returns the present weights.

    Attributes:
        history: All validations, in order.
        log: Takes metrics for the trackers.
    """

    def __init__(
        self,
        config: ValidationConfig,
        validator: Validator,
        clock: Clock,
        path: Path,
        trainable_state: Callable[[], dict[str, Tensor]],
    ) -> None:
        self.config = config
        self.validator = validator
        self.clock = clock
        self.path = path
        self.history: list[Validated] = []
        self._trainable_state = trainable_state
        self.log: Callable[[dict[str, float]], None] = logger.debug

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate the untrained model, unless this run was resumed."""
        if not any(entry.eligible for entry in self.history):
            self._validate(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate when it is time, and stop when patience has run out."""
        if self.config.every is not None and state.global_step % self.config.every == 0:
            self._validate(state)
            control.should_training_stop |= self._out_of_patience()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate the last step if that has not been done."""
        if not any(entry.eligible for entry in self.history) or self.history[-1].step != state.global_step:
            self._validate(state)

    @property
    def best(self) -> Validated:
        """The best validation so far; the earlier one of equals."""
        return max((entry for entry in self.history if entry.eligible), key=lambda entry: entry.scores["mean"])

    def best_state(self) -> tuple[int, dict[str, Tensor]]:
        """Return the step of the best weights and the weights."""
        tensors, metadata = read_tensors(self.path, "the best weights so far")
        with reading(self.path, "the best weights so far"):
            return int(metadata["step"]), tensors

    def restore(self, history: Sequence[Validated]) -> None:
        """Go on from the validations of an earlier run; where its best weights are lost, one of those to come is best.

        Args:
            history: All validations, in order.
        """
        self.history[:] = history
        try:
            self.best_state()
        except DataError as error:
            logger.warning("the best weights so far are lost, and those of the checkpoint measured anew: %s", error)
            self.history[:] = [entry.model_copy(update={"eligible": False}) for entry in history]

    def _validate(self, state: TrainerState) -> None:
        with self.clock.paused():
            scores = self.validator()
            entry = Validated(
                step=state.global_step, seconds=self.clock.seconds, scores=scores, eligible=self._eligible(scores)
            )
            self.history.append(entry)
            logger.info("step %d: %s %s", entry.step, self.validator.metric, scores)
            self.log({f"validation/{name}/{self.validator.metric}": score for name, score in scores.items()})
            if self.best is entry and state.is_world_process_zero:
                write_tensors(self.path, self._trainable_state(), {"step": str(entry.step)})

    def _eligible(self, scores: dict[str, float]) -> bool:
        # Where parts of what was learned are tried at the end, it is the part that must not cost too much.
        if self.config.max_drop is None or self.config.interpolate:
            return True
        if not any(entry.eligible for entry in self.history):
            return True
        start = self.history[0].scores
        return all(scores[name] >= value - self.config.max_drop for name, value in start.items())

    def _out_of_patience(self) -> bool:
        if self.config.patience is None:
            return False
        return len(self.history) - 1 - self.history.index(self.best) >= self.config.patience
