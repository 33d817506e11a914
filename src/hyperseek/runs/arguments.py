"""Translates our configuration for the underlying trainer, its trackers, and its processes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from hyperseek._machine import check_device
from hyperseek.errors import ConfigError, require
from hyperseek.runs.recipe import LoopConfig, OutputConfig
from hyperseek.runs.record import CHECKPOINTS, LOGS

_ENDLESS = 10**9
_EXTRAS = {"tensorboard": "train", "wandb": "wandb"}
_Arguments = TypeVar("_Arguments", bound=TrainingArguments)


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
