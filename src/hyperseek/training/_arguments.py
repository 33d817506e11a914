"""Our configuration in the words of the underlying trainer, and the trackers it reports to."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from sentence_transformers import SentenceTransformerTrainingArguments

from hyperseek.training._recipe import TrainConfig

_ENDLESS = 10**9


def training_arguments(
    config: TrainConfig,
    folder: Path,
    *,
    batches: int,
    device: torch.device,
    report_to: list[str],
    run_name: str,
) -> SentenceTransformerTrainingArguments:
    """Translate our configuration into the underlying trainer's.

    Args:
        config: Ours.
        folder: For checkpoints.
        batches: Of an epoch.
        device: Where the model is.
        report_to: Trackers.
        run_name: The run's name for them.

    Returns:
        The arguments.
    """
    on_gpu = device.type == "cuda"
    steps_of_epoch = max(1, batches // config.gradient_accumulation)
    limits = [config.max_steps, None if config.epochs is None else config.epochs * steps_of_epoch]
    # Where neither is given the clock ends the run.
    max_steps = min((limit for limit in limits if limit is not None), default=_ENDLESS)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        max_steps=max_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        tf32=True if config.tf32 and on_gpu else None,
        seed=config.seed,
        save_strategy="no" if config.save_every is None else "steps",
        save_steps=config.save_every or 500,
        save_total_limit=2,
        logging_steps=config.log_every,
        report_to=report_to,
        run_name=run_name,
        disable_tqdm=True,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=on_gpu,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
    )
    # Several GPUs are used by several processes; the trainer would otherwise replicate the model in one.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def trackers(chosen: tuple[str, ...] | Literal["auto"]) -> tuple[str, ...]:
    """Resolve `auto`: every tracker that is installed and can work without asking."""
    if chosen != "auto":
        return chosen
    usable: dict[str, Callable[[], bool]] = {
        "tensorboard": lambda: True,
        # Without a key or a mode it would stop and ask.
        "wandb": lambda: "WANDB_API_KEY" in os.environ or "WANDB_MODE" in os.environ,
    }
    return tuple(name for name, ready in usable.items() if importlib.util.find_spec(name) and ready())
