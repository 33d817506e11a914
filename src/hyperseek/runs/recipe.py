"""Shared parts of all recipes: sections, schedules, removed settings, and environment variables in sources."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._registry import Registry, check_function
from hyperseek.errors import ConfigError

_UNSET = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MEANING = {"HYPERSEEK_DATA": "the folder that holds the collections, each a folder in BEIR form"}

Schedule = Callable[[float], float]
"""From the remaining fraction of the run after the warm-up, 1 to 0, to a factor of the learning rate in [0, 1]."""

_OURS = {name: f"{__name__}:_{name}" for name in ("constant", "linear", "cosine")}
SCHEDULES: Registry[Schedule] = Registry("schedule", "hyperseek.schedules", _OURS, check=check_function)


def register_schedule(name: str) -> Callable[[Schedule], Schedule]:
    """Register a learning rate schedule, as a decorator.

    Args:
        name: The value of `train.schedule` in recipes.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        InputError: The name is taken.
    """
    return SCHEDULES.register(name)


class LoopConfig(Config):
    """Settings of a training loop.

    Attributes:
        epochs: Stop after this many passes.
        max_steps: Stop after this many optimiser steps.
        max_seconds: Stop after this much time in training steps (without caching and validation).
        clock: The time that `max_seconds` counts: `wall` time, or `cpu` time of this process over all its threads.
        batch_size: Examples of a batch, for each process.
        gradient_accumulation: Batches of an optimiser step.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay of AdamW.
        optimizer: `adamw`, or `adamw_8bit`, whose averages take 8 bits, a quarter of the memory. It needs a
            GPU and the package bitsandbytes.
        schedule: The schedule after the warm-up: `constant`, `linear` or `cosine` (to zero at the end), or another name
            registered by `register_schedule` or an entry point of `hyperseek.schedules`.
        warmup: Steps of linear warm-up if 1 or more, a fraction of the run if below 1.
        max_grad_norm: Gradients are clipped to this norm; 0 for never.
        precision: `bfloat16` or `float16` for mixed precision; weights and scores stay float32. `float16` scales the
            loss and needs a GPU.
        tf32: Whether a GPU may round matrix products to tf32.
        seed: Seed of order, draws and dropout.
        save_every: Steps between checkpoints; None for none.
        log_every: Steps between log lines.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        device: `cpu` or `cuda`; None takes a GPU if there is one.
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
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    schedule: Annotated[str, AfterValidator(SCHEDULES.checked)] = "linear"
    warmup: float = Field(default=0.05, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = False
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    save_every: int | None = Field(default=500, ge=1)
    log_every: int = Field(default=10, ge=1)
    workers: int = Field(default=0, ge=0)
    device: str | None = None

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.epochs is None and self.max_steps is None and self.max_seconds is None:
            raise ValueError("one of epochs, max_steps and max_seconds is needed, or training never ends")
        return self


class OutputConfig(Config):
    """Where results go.

    Attributes:
        folder: Model, checkpoints and `run.json`; None means `runs/NAME` for a recipe `NAME.yaml`.
        name: Name of the run for trackers; None takes the folder's.
        report_to: `tensorboard` and `wandb`, or `auto`: those that are installed (W&B if a key or mode is set).
    """

    folder: str | None = None
    name: str | None = None
    report_to: tuple[Literal["tensorboard", "wandb"], ...] | Literal["auto"] = "auto"


def without_removed(values: Any) -> Any:
    """Leave out entries set to null, with which a recipe removes its base's entries; null itself removes all."""
    if values is None:
        return {}
    return {k: v for k, v in values.items() if v is not None} if isinstance(values, Mapping) else values


def with_default(values: Any, setting: str, default: Any, *, where: tuple[str, Any]) -> Any:
    """Write out a setting's default if another setting's value makes it apply, so that records state it."""
    other, value = where
    if isinstance(values, Mapping) and values.get(other) == value and values.get(setting) is None:
        return {**values, setting: default}
    return values


def cache_folder(chosen: str | None) -> Path:
    """Return the cache folder, variables filled in: the chosen one, `$HYPERSEEK_CACHE`, or `~/.cache/hyperseek`."""
    place = chosen or os.environ.get("HYPERSEEK_CACHE") or "~/.cache/hyperseek"
    return Path(os.path.expandvars(place)).expanduser()


def expanded(source: str) -> str:
    """Fill in environment variables.

    Args:
        source: A source, as a recipe names it.

    Returns:
        The source without variables.

    Raises:
        ConfigError: A variable is not set; the message says what to set.
    """
    filled = os.path.expandvars(source)
    unset = _UNSET.search(filled)
    if unset is None or os.path.exists(filled):
        return filled
    name = unset[1] or unset[2]
    meaning = _MEANING.get(name, "the part of the path that it stands for")
    raise ConfigError(
        f"the source {source!r} needs the environment variable {name}, which is not set; set it to {meaning}, as in "
        f"`export {name}=/path/to/data`, or name another source"
    )


def _constant(left: float) -> float:
    return 1.0


def _linear(left: float) -> float:
    return left


def _cosine(left: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * left)
