"""Our configuration in the words of the underlying trainer, its trackers, and its processes."""

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
    """Translate our configuration into what every kind of training tells the underlying trainer.

    Args:
        config: Ours.
        output: Trackers, and the run's name for them.
        folder: Of the run.
        batches: Of an epoch, over all processes.
        device: Where the model is.

    Returns:
        The trainer's arguments, by name.

    Raises:
        ConfigError: The device cannot compute in the precision, or with the optimiser, asked for.
        MissingExtraError: The optimiser is of a package that is not installed.
    """
    on_gpu = device.type == "cuda"
    if config.precision == "float16" and not on_gpu:
        raise ConfigError(f"train.precision: float16 needs a GPU, and the device is {device}; use bfloat16 or float32")
    if config.optimizer == "adamw_8bit":
        if not on_gpu:
            raise ConfigError(f"train.optimizer: adamw_8bit needs a GPU, and the device is {device}; use adamw")
        require("bitsandbytes", extra="8bit")
    steps_of_epoch = steps_per_epoch(batches, config, processes=process_count())
    limits = [config.max_steps, None if config.epochs is None else config.epochs * steps_of_epoch]
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        # Where neither is given the clock ends the run.
        "max_steps": min((limit for limit in limits if limit is not None), default=_ENDLESS),
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
    """Return how many optimiser steps go through an epoch; the last one may accumulate fewer batches.

    Args:
        batches: Of an epoch, over all processes.
        config: How many a step accumulates.
        processes: How many share them out.

    Returns:
        At least 1.
    """
    return max(1, -(-(batches // processes) // config.gradient_accumulation))


def prepare_process(config: LoopConfig) -> None:
    """Let the processes of a run meet, where it has several, and seed this one."""
    if "WORLD_SIZE" in os.environ:
        from accelerate import PartialState

        # They must know each other before they share out the work of caching.
        PartialState(cpu=config.device == "cpu")
    set_seed(config.seed)


def one_gpu_a_process(arguments: _Arguments) -> _Arguments:
    """Keep the trainer from replicating the model over all GPUs in one process: several are used by several."""
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def device_of_process(chosen: str | None) -> str | None:
    """Return the device for this process, which is there: of several on one machine each takes a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and chosen in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{rank}"
    return check_device(chosen)


def board(output: OutputConfig, folder: Path) -> list[TrainerCallback]:
    """Return the callbacks that write to TensorBoard from a run's folder; none unless it was chosen.

    Only the first process writes.
    """
    if "tensorboard" not in trackers(output.report_to) or not is_first_process():
        return []
    require("tensorboard", extra="train")
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoardCallback(SummaryWriter(str(folder / LOGS)))]  # type: ignore[no-untyped-call]


def trackers(chosen: tuple[str, ...] | Literal["auto"]) -> tuple[str, ...]:
    """Resolve `auto`: every tracker that is installed and can work without asking.

    Args:
        chosen: What the recipe says.

    Returns:
        Their names.

    Raises:
        MissingExtraError: One that the recipe names is not installed.
    """
    if chosen != "auto":
        for name in chosen:
            require(name, extra=_EXTRAS[name])
        return chosen
    usable: dict[str, Callable[[], bool]] = {
        "tensorboard": lambda: True,
        # Without a key or a mode it would stop and ask.
        "wandb": lambda: "WANDB_API_KEY" in os.environ or "WANDB_MODE" in os.environ,
    }
    return tuple(name for name, ready in usable.items() if importlib.util.find_spec(name) and ready())


def process_count() -> int:
    """Return how many processes share this run, as torchrun counts them, whether or not they have met yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Return whether this process is the only one of a run or the first of several, as torchrun counts them."""
    return os.environ.get("RANK", "0") == "0"


def recompute_activations(model: nn.Module) -> None:
    """Keep no activations of layers for the backward pass; ConfigError where an architecture cannot."""
    # Its name changes during transformers 5.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise ConfigError(f"train.gradient_checkpointing: a {type(model).__name__} has no layers that can recompute")
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"train.gradient_checkpointing: {error}") from error
