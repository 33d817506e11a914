"""What all recipes share: sections, schedules, and their translation for the underlying trainer and its processes."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
import torch.distributed as dist
from pydantic import AfterValidator, ConfigDict, Field, model_validator
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._machine import check_device
from hyperseek._registry import Registry, check_function
from hyperseek.errors import ConfigError, require
from hyperseek.runs.record import CHECKPOINTS, LOGS

_UNSET = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MEANING = {"HYPERSEEK_DATA": "the folder that holds the collections, each a folder in BEIR form"}

Schedule = Callable[[float], float]
"""From the remaining fraction of the run after the warm-up, 1 to 0, to a factor of the learning rate in [0, 1]."""

_OURS = {name: f"{__name__}:_{name}" for name in ("constant", "linear", "cosine")}
SCHEDULES: Registry[Schedule] = Registry("schedule", "hyperseek.schedules", _OURS, check=check_function)

_ENDLESS = 10**9
_EXTRAS = {"tensorboard": "train", "wandb": "wandb"}
_Arguments = TypeVar("_Arguments", bound=TrainingArguments)


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


def is_distributed() -> bool:
    """Return whether this process belongs to a group of more than one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def loop_arguments(
    config: LoopConfig, output: OutputConfig, folder: Path, *, batches: int, device: torch.device
) -> dict[str, Any]:
    """Translate our configuration into the underlying trainer's arguments that every kind of training shares.

    Args:
        config: Our configuration.
        output: Trackers, and the run's name for them.
        folder: The run's folder.
        batches: Batches per epoch, over all processes.
        device: Device of the model.

    Returns:
        The trainer's arguments, by name.

    Raises:
        ConfigError: The device does not support the precision or the optimiser.
        MissingExtraError: The optimiser's package is not installed.
    """
    on_gpu = device.type == "cuda"
    if config.precision == "float16" and not on_gpu:
        raise ConfigError(f"train.precision: float16 needs a GPU, and the device is {device}; use bfloat16 or float32")
    if config.optimizer == "adamw_8bit":
        if not on_gpu:
            raise ConfigError(f"train.optimizer: adamw_8bit needs a GPU, and the device is {device}; use adamw")
        require("bitsandbytes", extra="8bit")
    steps = most_steps(batches, config, processes=process_count())
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "max_steps": _ENDLESS if steps is None else steps,
        **({"optim": "adamw_bnb_8bit"} if config.optimizer == "adamw_8bit" else {}),
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.precision == "bfloat16",
        "fp16": config.precision == "float16",
        "tf32": True if config.tf32 and on_gpu else None,
        "seed": config.seed,
        "save_strategy": "no" if config.save_every is None else "steps",
        "save_steps": config.save_every or 500,
        "save_total_limit": 2,
        "logging_steps": config.log_every,
        "report_to": ["wandb"] if "wandb" in trackers(output.report_to) else [],  # for TensorBoard see `board`
        "run_name": output.name or folder.name,
        "disable_tqdm": True,
        "dataloader_num_workers": config.workers,
        "dataloader_pin_memory": on_gpu,
        "dataloader_drop_last": True,
        "remove_unused_columns": False,
        "use_cpu": device.type == "cpu",
    }


def steps_per_epoch(batches: int, config: LoopConfig, *, processes: int) -> int:
    """Return the number of optimiser steps per epoch; the last one may accumulate fewer batches.

    Args:
        batches: Batches per epoch, over all processes.
        config: How many a step accumulates.
        processes: How many processes share them.

    Returns:
        At least 1.
    """
    return max(1, -(-(batches // processes) // config.gradient_accumulation))


def most_steps(batches: int, config: LoopConfig, *, processes: int) -> int | None:
    """Return the number of optimiser steps that `epochs` and `max_steps` allow; None if only the clock ends the run.

    Args:
        batches: Batches per epoch, over all processes.
        config: The limits.
        processes: How many processes share the batches.

    Returns:
        The smaller limit.
    """
    limits = [config.max_steps]
    if config.epochs is not None:
        limits.append(config.epochs * steps_per_epoch(batches, config, processes=processes))
    return min((limit for limit in limits if limit is not None), default=None)


def prepare_process(config: LoopConfig) -> None:
    """Connect the processes of a run, if it has several, and seed this one."""
    if "WORLD_SIZE" in os.environ:
        from accelerate import PartialState

        # They must be connected before they share the work of caching.
        PartialState(cpu=config.device == "cpu")
    set_seed(config.seed)


def one_gpu_a_process(arguments: _Arguments) -> _Arguments:
    """Keep the trainer from replicating the model over all GPUs: each process uses one."""
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def device_of_process(chosen: str | None) -> str | None:
    """Return this process's device, once checked: with several processes on a machine, each takes its own GPU."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and chosen in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{rank}"
    return check_device(chosen)


def board(output: OutputConfig, folder: Path) -> list[TrainerCallback]:
    """Return the callbacks that write to TensorBoard from a run's folder; empty unless it was chosen.

    Only the first process writes.
    """
    if "tensorboard" not in trackers(output.report_to) or not is_first_process():
        return []
    require("tensorboard", extra="train")
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoardCallback(SummaryWriter(str(folder / LOGS)))]  # type: ignore[no-untyped-call]


def trackers(chosen: tuple[str, ...] | Literal["auto"]) -> tuple[str, ...]:
    """Resolve `auto`: every tracker that is installed and does not need to prompt.

    Args:
        chosen: The recipe's choice.

    Returns:
        Names of trackers.

    Raises:
        MissingExtraError: A tracker that the recipe names is not installed.
    """
    if chosen != "auto":
        for name in chosen:
            require(name, extra=_EXTRAS[name])
        return chosen
    usable: dict[str, Callable[[], bool]] = {
        "tensorboard": lambda: True,
        # Without a key or a mode it would prompt.
        "wandb": lambda: "WANDB_API_KEY" in os.environ or "WANDB_MODE" in os.environ,
    }
    return tuple(name for name, ready in usable.items() if importlib.util.find_spec(name) and ready())


def process_count() -> int:
    """Return how many processes share this run, as torchrun counts them, even before they are connected."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Return whether this process is the only one of a run or the first of several, as torchrun counts them."""
    return os.environ.get("RANK", "0") == "0"


def recompute_activations(model: nn.Module) -> None:
    """Recompute activations of layers in the backward pass; ConfigError if the architecture does not support it."""
    # Renamed within transformers 5.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise ConfigError(f"train.gradient_checkpointing: a {type(model).__name__} does not support it")
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"train.gradient_checkpointing: {error}") from error
